"""Drawing style by a small convolutional network, trained on real training pictures at 64 pixels."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

VERSION = "style 2"
EPOCHS = 3
BATCH_SIZE = 128
LEARNING_RATE = 3e-3
WIDTHS = (32, 64, 128, 192)
LARGEST_SHIFT = 3


class StyleNet(nn.Module):
    """Four strided convolutions, the mean over the grid, one linear layer; 0.3 M parameters.

    Args:
        num_styles: Styles to tell apart.
    """

    def __init__(self, num_styles: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTHS[-1], num_styles)

    def forward(self, pixels: UInt8[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch styles"]:
        """Logits of the styles."""
        scaled = (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        found: Tensor = self.head(self.body(scaled).mean(dim=(2, 3)).float())
        return found


def train_style(
    pixels: UInt8[Tensor, "batch channels rows columns"], styles: Int[Tensor, " batch"], num_styles: int, seed: int, epochs: int = EPOCHS
) -> StyleNet:
    """Train the network on real pictures, each shifted by up to 3 pixels.

    Args:
        pixels: Training pictures.
        styles: Style of each, 0 to num_styles - 1.
        num_styles: Styles in all.
        seed: Start, order and shifts; the global generator is left as it was.
        epochs: Passes over the pictures.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = StyleNet(num_styles).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
        steps = epochs * -(-len(pixels) // BATCH_SIZE)
        slope = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
        network.train()
        for _ in range(epochs):
            for part in torch.split(torch.randperm(len(pixels)), BATCH_SIZE):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    logits = network(_shifted(pixels[part]))
                nn.functional.cross_entropy(logits.float(), styles[part]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                slope.step()
    trained: StyleNet = network.eval()
    return trained


@torch.inference_mode()
def predicted_style(network: StyleNet, pixels: UInt8[Tensor, "batch channels rows columns"]) -> Int[Tensor, " batch"]:
    """The likeliest style of each picture."""
    return torch.cat([network(part).argmax(dim=1) for part in torch.split(pixels, 256)])


def _shifted(pixels: UInt8[Tensor, "batch channels rows columns"]) -> UInt8[Tensor, "batch channels rows columns"]:
    """The batch moved by a few pixels on white."""
    down, right = (int(step) - LARGEST_SHIFT for step in torch.randint(2 * LARGEST_SHIFT + 1, (2,)))
    return nn.functional.pad(pixels, (right, -right, down, -down), value=255)
