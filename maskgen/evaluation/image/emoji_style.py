"""Judge of the emoji corpus: drawing style from EfficientNet-Lite0 features and the colour histogram together."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskgen.evaluation.image.probe import Probe, train_probe

VERSION = "style 3"
EPOCHS = 8


def style_inputs(features: Float[Tensor, "batch wide"], histograms: Float[Tensor, "batch 512"]) -> Float[Tensor, "batch dim"]:
    """What the style probe looks at.

    The histogram sees gradients ("3d" and "color" are one drawing, shaded otherwise), the features see shapes. On rows held out from
    training both reach .996, the histogram alone .97, and a small convolutional network trained for ten times as long .81.
    """
    return torch.cat([features, histograms], dim=1)


def train_style(inputs: Float[Tensor, "batch dim"], styles: Int[Tensor, " batch"], num_styles: int, seed: int) -> Probe:
    """Train a probe on `style_inputs` of real training images."""
    return train_probe(inputs, styles, num_styles, seed, EPOCHS)
