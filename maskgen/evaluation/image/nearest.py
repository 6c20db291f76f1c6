"""Distance to the nearest training image, to detect memorisation."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

THUMBNAIL = 32
BATCH_SIZE = 512


@dataclass(frozen=True)
class Nearest:
    """For each image the index of its nearest training image, and the distance."""

    distance: Float[Tensor, " batch"]
    index: Int[Tensor, " batch"]


def thumbnails(pixels: UInt8[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch dim"]:
    """Flat images of 32 x 32 in [0, 1], by averaging, so that a sub-pixel shift or codec noise does not hide a copy."""
    parts = torch.split(pixels, BATCH_SIZE)
    return torch.cat([nn.functional.adaptive_avg_pool2d(part.float() / 255, THUMBNAIL).flatten(start_dim=1) for part in parts])


def nearest_pixels(pictures: Float[Tensor, "batch dim"], training: Float[Tensor, "other dim"]) -> Nearest:
    """Nearest training image by root-mean-square difference of `thumbnails`, in [0, 1]."""
    return _nearest(pictures, training, scale=training.shape[1])


def nearest_features(features: Float[Tensor, "batch dim"], training: Float[Tensor, "other dim"]) -> Nearest:
    """Nearest training image by Euclidean distance of unit-length features, in [0, 2]."""
    return _nearest(nn.functional.normalize(features, dim=-1), nn.functional.normalize(training, dim=-1), scale=1)


def _nearest(rows: Float[Tensor, "batch dim"], known: Float[Tensor, "other dim"], scale: int) -> Nearest:
    """Nearest row of `known` for every row; distances are divided by the root of `scale`."""
    length = known.square().sum(dim=1)
    # The search needs no |row|^2, and the distance is taken from the difference itself: |a|^2 - 2ab + |b|^2 cancels near zero.
    index = torch.cat([(length - 2 * part @ known.T).argmin(dim=1) for part in torch.split(rows, BATCH_SIZE)])
    return Nearest((rows - known[index]).square().sum(dim=1).div(scale).sqrt(), index)


def nearest_scores(distance: Float[Tensor, " batch"], real: Float[Tensor, " batch"], near_copy: float) -> dict[str, float]:
    """How close a row set is to the training images, compared with the real held-out images of the same rows.

    Args:
        distance: Nearest distance of each image of the row set.
        real: Nearest distance of the real held-out image of the same row.
        near_copy: Distance below which an image counts as a near copy.

    Returns:
        `mean`, `median`, `share_nearer_than_real` (0 for the real images; 0.5 means no more memorised than they are) and
        `share_near_copy`.
    """
    return {
        "mean": float(distance.mean()),
        "median": float(distance.median()),
        "share_nearer_than_real": float((distance < real).float().mean()),
        "share_near_copy": float((distance < near_copy).float().mean()),
    }
