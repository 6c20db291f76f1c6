"""Lightning module that trains the network of the perceptual loss as an image classifier."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.autoencoders.image import channels_last
from maskgen.autoencoders.perceptual import KIND, FeatureNet
from maskgen.training.modules.optim import warmup_cosine


class ImageFeaturesModule(L.LightningModule):
    """Trains a FeatureNet to classify the attributes of images.

    Args:
        channels: Width of each stage.
        classes: Attribute name to the largest number of classes; the names and their order are those of the data module.
        max_steps: Length of the learning-rate schedule in steps; `maskgen fit` takes trainer.max_steps.
        lr: Highest learning rate.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of AdamW.
        shift: Largest shift of a training image in pixels, in any direction; the uncovered border is white.
    """

    def __init__(
        self,
        classes: Mapping[str, int],
        channels: Sequence[int] = (32, 64, 128, 192),
        max_steps: int = 1500,
        lr: float = 3e-3,
        warmup_steps: int = 100,
        weight_decay: float = 0.05,
        shift: int = 4,
    ) -> None:
        super().__init__()
        self.network = channels_last(FeatureNet(channels, dict(classes)))
        self.max_steps, self.lr, self.warmup_steps, self.weight_decay, self.shift = max_steps, lr, warmup_steps, weight_decay, shift

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(self.warmup_steps, self.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what `maskgen export` needs beside the weights."""
        checkpoint["maskgen"] = {"kind": KIND, "network": self.network.args}

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        """Mean cross-entropy over the attributes."""
        pixels, targets = batch
        losses = self.losses(_shifted(pixels, self.shift), targets)
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()}, prog_bar=True, sync_dist=True)
        return torch.stack(list(losses.values())).mean()

    def validation_step(self, batch: Sequence[Tensor], batch_index: int, dataloader_idx: int = 0) -> None:
        """Log the accuracy of each attribute on held-out images."""
        pixels, targets = batch
        for column, (name, logits) in enumerate(self.network(pixels).items()):
            right = (logits.argmax(-1) == targets[:, column]).float()
            self.log(f"val/{name}", right.mean(), prog_bar=True, batch_size=len(pixels), sync_dist=True)

    def losses(self, pixels: Float[Tensor, "batch 3 rows columns"], targets: Int[Tensor, "batch attribute"]) -> dict[str, Tensor]:
        """Cross-entropy by attribute."""
        logits = self.network(pixels.to(memory_format=torch.channels_last))
        return {name: functional.cross_entropy(found.float(), targets[:, column]) for column, (name, found) in enumerate(logits.items())}


def _shifted(pixels: Float[Tensor, "batch 3 rows columns"], most: int) -> Float[Tensor, "batch 3 rows columns"]:
    """The batch shifted by a random number of pixels; the uncovered border is white."""
    if not most:
        return pixels
    down, right = torch.randint(0, 2 * most + 1, (2,)).tolist()
    rows, columns = pixels.shape[-2:]
    return nn.functional.pad(pixels, (most, most, most, most), value=1.0)[..., down : down + rows, right : right + columns]
