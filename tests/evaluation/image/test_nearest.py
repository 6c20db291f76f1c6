"""The nearest training picture: planted twins are found."""

import pytest
import torch

from maskgen.evaluation.image.nearest import nearest_features, nearest_pixels, nearest_scores, thumbnails


def _pictures(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_a_planted_twin_is_found_at_distance_zero() -> None:
    training = _pictures(20, 0)
    found = nearest_pixels(thumbnails(training[[7, 3]].clone()), thumbnails(training))
    assert found.index.tolist() == [7, 3]
    assert found.distance.tolist() == [0.0, 0.0]


def test_a_slightly_changed_twin_is_found_and_its_distance_is_the_change() -> None:
    training = _pictures(20, 1) // 2
    found = nearest_pixels(thumbnails(training[[11]] + 51), thumbnails(training))
    assert found.index.tolist() == [11]
    assert float(found.distance) == pytest.approx(51 / 255, rel=1e-4)


def test_search_equals_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskgen.evaluation.image.nearest.BATCH_SIZE", 4)
    generator = torch.Generator().manual_seed(2)
    left, right = torch.randn(9, 5, generator=generator), torch.randn(13, 5, generator=generator)
    table = torch.cdist(torch.nn.functional.normalize(left, dim=-1), torch.nn.functional.normalize(right, dim=-1))
    found = nearest_features(left, right)
    assert torch.equal(found.index, table.argmin(dim=1))
    assert torch.allclose(found.distance, table.min(dim=1).values, atol=1e-5)


def test_scores_count_what_is_nearer_than_reality() -> None:
    scores = nearest_scores(torch.tensor([0.0, 0.2, 0.3, 0.5]), torch.tensor([0.1, 0.2, 0.2, 0.6]), near_copy=0.1)
    assert scores["share_nearer_than_real"] == 0.5
    assert scores["share_near_copy"] == 0.25
    assert scores["mean"] == pytest.approx(0.25)
