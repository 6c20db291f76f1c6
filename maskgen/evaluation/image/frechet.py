"""Frechet distance between sets of features. On EfficientNet-Lite0 features it is called FD-EffLite0; it is not FID."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

COMPONENTS = 128


@dataclass(frozen=True)
class Basis:
    """Principal components of the features of real training images, in which features are compared."""

    mean: Float[Tensor, " dim"]
    components: Float[Tensor, "dim kept"]

    def __call__(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch kept"]:
        """Features in this basis, in float64."""
        return (features.double() - self.mean) @ self.components


def principal(features: Float[Tensor, "batch dim"], components: int = COMPONENTS) -> Basis:
    """The leading principal components (not whitened) of real features."""
    wide = features.double()
    _, vectors = torch.linalg.eigh(torch.cov(wide.T))
    return Basis(wide.mean(dim=0), vectors.flip(1)[:, :components].contiguous())


def frechet_distance(left: Float[Tensor, "batch dim"], right: Float[Tensor, "other dim"]) -> float:
    """Frechet distance between the Gaussians fitted to two sets of features.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), in float64. It grows when rows are few, so compare only sets of equal size.

    Args:
        left: One set.
        right: The other set.

    Raises:
        ValueError: If a set has fewer than two rows.

    Source: Heusel et al., arXiv:1706.08500 (FID), with other features and another name.
    """
    if min(len(left), len(right)) < 2:
        raise ValueError(f"found {len(left)} and {len(right)} rows, wanted at least 2 in each set; raise the limit")
    first, second = left.double(), right.double()
    gap = (first.mean(dim=0) - second.mean(dim=0)).square().sum()
    one, two = _covariance(first), _covariance(second)
    root = _square_root(one)
    # tr((S1 S2)^(1/2)) is the sum of the roots of the eigenvalues of the symmetric S1^(1/2) S2 S1^(1/2).
    shared = torch.linalg.eigvalsh(root @ two @ root).clamp(min=0).sqrt().sum()
    return max(0.0, float(gap + one.trace() + two.trace() - 2 * shared))


def _covariance(features: Float[Tensor, "batch dim"]) -> Float[Tensor, "dim dim"]:
    """Unbiased covariance, two-dimensional also for one feature."""
    return torch.cov(features.T).reshape(features.shape[1], features.shape[1])


def _square_root(matrix: Float[Tensor, "dim dim"]) -> Float[Tensor, "dim dim"]:
    """Symmetric root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
