"""A small convolutional image classifier, and the perceptual loss on its features."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from maskgen.autoencoders.losses import FeatureLoss
from maskgen.io.bundle import load_bundle, save_bundle
from maskgen.io.fitting import fitted
from maskgen.io.schema import Items, Record, Table, Text, Whole

KIND = "image_features"
FEATURES_SCHEMA = Record({"channels": Items(Whole(1, 65_536), least=1, most=32)})
CHECKPOINT_SCHEMA = Record({"kind": Text(), "network": Record({**FEATURES_SCHEMA.needed, "classes": Table(Whole(1, 65_536))})})


class FeatureNet(nn.Module):
    """Image classifier: convolutional stages, each at half the resolution of the one before, and a linear head per attribute.

    Args:
        channels: Channels of each stage; the first works at full resolution.
        classes: Attribute name to the number of classes of its head.

    Raises:
        ValueError: If there is no stage or no attribute.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128, 192), classes: Mapping[str, int] | None = None) -> None:
        super().__init__()
        if not channels or not classes:
            raise ValueError(f"a feature network needs a stage and an attribute, got channels={list(channels)}, classes={classes}")
        self.channels, self.classes = tuple(channels), dict(classes)
        self.stages = nn.ModuleList(_stage(source, width, stride) for source, width, stride in _plan(self.channels))
        self.heads = nn.ModuleDict({name: nn.Linear(2 * self.channels[-1], count) for name, count in self.classes.items()})

    @property
    def args(self) -> dict[str, Any]:
        """Arguments that rebuild the network, as plain data."""
        return {"channels": list(self.channels), "classes": self.classes}

    def forward(self, pixels: Float[Tensor, "batch 3 rows columns"]) -> dict[str, Float[Tensor, "batch classes"]]:
        """Logits for each attribute.

        Args:
            pixels: RGB in [0, 1].
        """
        hidden = pixels
        for stage in self.stages:
            hidden = stage(hidden)
        pooled = hidden.flatten(2)
        summary = nn.functional.dropout(torch.cat([pooled.mean(-1), pooled.amax(-1)], dim=-1), 0.3, self.training)
        return {name: head(summary) for name, head in self.heads.items()}


def _plan(channels: Sequence[int]) -> list[tuple[int, int, int]]:
    """Input width, output width and stride of each stage."""
    return [(3, channels[0], 1), *((source, width, 2) for source, width in pairwise(channels))]


def _stage(source: int, width: int, stride: int) -> nn.Sequential:
    """Two convolutions with batch norm; the first one halves the resolution where the stride is 2."""
    return nn.Sequential(
        nn.Conv2d(source, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


def save_features(network: FeatureNet, folder: Path | str) -> str:
    """Write the stages as a bundle, without the heads and in half precision; return the fingerprint."""
    stages = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in network.stages.state_dict().items()}
    return save_bundle(folder, KIND, {"channels": list(network.channels)}, stages)


class LearnedFeatures(FeatureLoss):
    """Perceptual loss on the stages of a FeatureNet trained on the user's own images.

    Batch norm is folded into the convolutions. Features are compared from half resolution down: at full resolution the pixel loss
    gives the same signal at a tenth of the cost.

    Args:
        bundle: Folder written by `maskgen export image-features`.

    Raises:
        ValueError: If the bundle is missing or damaged, or holds something else.
    """

    def __init__(self, bundle: str) -> None:
        found = load_bundle(bundle, KIND, FEATURES_SCHEMA)
        plans = list(_plan(found.config["channels"]))
        stages = fitted(lambda: nn.ModuleList(_stage(*plan) for plan in plans), found.tensors, bundle).eval()
        stages.load_state_dict(found.tensors)  # copies into the network's own precision
        folded = [_folded(stage) for stage in stages]
        super().__init__([nn.Sequential(*folded[:2]), *folded[2:]])


def _folded(stage: nn.Module) -> nn.Sequential:
    """A stage in evaluation mode with its batch norms folded into the convolutions."""
    layers: list[Any] = list(stage.children())
    conv1, norm1, _, conv2, norm2, _ = layers
    return nn.Sequential(fuse_conv_bn_eval(conv1, norm1), nn.ReLU(), fuse_conv_bn_eval(conv2, norm2), nn.ReLU())
