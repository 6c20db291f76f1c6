"""Frechet distance against the definition and the closed form."""

import math

import pytest
import torch

from maskgen.evaluation.image.frechet import frechet_distance, principal


def _draw(rows: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _whitened(features: torch.Tensor) -> torch.Tensor:
    """Rows whose mean is exactly 0 and whose covariance is exactly the identity."""
    centred = features - features.mean(dim=0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(centred.T)), centred.T, upper=False).T


def test_a_set_lies_at_distance_zero_from_itself() -> None:
    features = _draw(50, 6, 0)
    assert frechet_distance(features, features.flip(0)) == pytest.approx(0.0, abs=1e-9)


def test_gaussians_of_known_moments_give_the_closed_form() -> None:
    spread, shift = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.5, -1.0, 2.0]).double()
    left, right = _whitened(_draw(40, 3, 1)), _whitened(_draw(60, 3, 2)) * spread + shift
    wanted = float(shift.square().sum() + (1 - spread).square().sum())
    assert frechet_distance(left, right) == pytest.approx(wanted, rel=1e-9)


def test_covariances_that_do_not_commute_give_the_matrix_root_of_their_product() -> None:
    left, right = _draw(40, 4, 3) @ _draw(4, 4, 4), _draw(60, 4, 5) @ _draw(4, 4, 6)
    one, two = torch.cov(left.T), torch.cov(right.T)
    root = torch.linalg.eigvals(one @ two).sqrt().sum().real
    gap = (left.mean(dim=0) - right.mean(dim=0)).square().sum()
    wanted = float(gap + one.trace() + two.trace() - 2 * root)
    assert frechet_distance(left, right) == pytest.approx(wanted, rel=1e-8)
    assert frechet_distance(right, left) == pytest.approx(wanted, rel=1e-8)


def test_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(_draw(1, 3, 0), _draw(5, 3, 0))


def test_basis_keeps_the_directions_of_largest_spread() -> None:
    features = _draw(200, 5, 7) * torch.tensor([0.1, 5.0, 0.1, 3.0, 0.1]).double() + 4
    kept = principal(features, components=2)(features)
    assert kept.shape == (200, 2)
    total = float(torch.cov(features[:, [1, 3]].T).trace())
    assert math.isclose(float(torch.cov(kept.T).trace()), total, rel_tol=0.01)
