"""A small classifier on fixed features, used by the tone and the style evaluators."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskgen.evaluation.image.retrieval import Standardise

HIDDEN = 192
DROPOUT = 0.5
BATCH_SIZE = 256
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
SMALLEST_SPREAD = 0.05  # a colour seen in a single training image must not get a huge weight


class Probe(nn.Module):
    """Standardisation, one hidden layer, output layer.

    Args:
        width: Width of the features.
        num_classes: Number of classes.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.standardise = Standardise(width, SMALLEST_SPREAD)
        self.body = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, num_classes))

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Logits of the classes."""
        logits: Tensor = self.body(self.standardise(features))
        return logits

    @torch.inference_mode()
    def predict(self, features: Float[Tensor, "batch dim"]) -> Int[Tensor, " batch"]:
        """The most likely class."""
        logits: Tensor = self(features)
        return logits.argmax(dim=1)


def train_probe(features: Float[Tensor, "batch dim"], target: Int[Tensor, " batch"], num_classes: int, seed: int, epochs: int) -> Probe:
    """Train a probe on real training images.

    Args:
        features: Their features.
        target: Their classes, from 0.
        num_classes: Classes in all.
        seed: Seed of initialisation, order and dropout; the global generator is not changed.
        epochs: Passes over the rows.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        probe = Probe(features.shape[1], num_classes)
        probe.standardise.fit(features)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        slope = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(target) // BATCH_SIZE))
        for _ in range(epochs):
            for part in torch.split(torch.randperm(len(target)), BATCH_SIZE):
                optimizer.zero_grad()
                nn.functional.cross_entropy(probe(features[part]), target[part]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                slope.step()
    return probe.eval()
