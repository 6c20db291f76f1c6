"""Which settings are tried, kept and chosen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgen.evaluation.tuning.search import affordable, choose, combinations, front, mean_quality, shortfalls, survivors, within_noise

POINTS = st.lists(st.tuples(st.integers(1, 8).map(float), st.integers(0, 6).map(lambda n: n / 6)), min_size=1, max_size=12)


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


@given(points=POINTS)
def test_the_front_is_what_no_other_point_beats(points: list[tuple[float, float]]) -> None:
    naive = {place for place, point in enumerate(points) if not any(beats(other, point) for other in points)}
    found = front(points)
    assert len(found) == len(naive)
    assert set(found) == naive
    assert [points[place][0] for place in found] == sorted(points[place][0] for place in found)


@given(points=POINTS)
def test_a_shortfall_is_what_the_best_that_is_no_dearer_has_more(points: list[tuple[float, float]]) -> None:
    naive = [max(quality for cost, quality in points if cost <= passes) - own for passes, own in points]
    assert shortfalls(points) == naive
    assert all(shortfalls(points)[place] == 0 for place in front(points))


@given(points=POINTS)
def test_survivors_are_the_front_and_at_least_half_and_no_one_left_out_is_nearer(points: list[tuple[float, float]]) -> None:
    kept, loss = survivors(points), shortfalls(points)
    assert kept == sorted(set(kept))
    assert set(front(points)) <= set(kept)
    assert 2 * len(kept) >= len(points)
    out = set(range(len(points))) - set(kept)
    half = sorted(loss)[: -(-len(points) // 2)]
    assert all(loss[place] >= half[-1] for place in out)
    assert len(kept) <= max(-(-len(points) // 2) + len(front(points)), 1)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), most=st.integers(1, 80), seed=st.integers(0, 9))
def test_combinations_are_all_or_a_seeded_subset_without_doubles(sizes: list[int], most: int, seed: int) -> None:
    grid = {f"name{place}": list(range(size)) for place, size in enumerate(sizes)}
    found = combinations(grid, most, seed)
    everything = [()]
    for size in sizes:
        everything = [(*one, value) for one in everything for value in range(size)]
    drawn = [tuple(one.values()) for one in found]
    assert all(list(one) == list(grid) for one in found)
    assert drawn == (everything if len(everything) <= most else sorted(set(drawn)))
    assert len(drawn) == min(most, len(everything))
    assert found == combinations(grid, most, seed)


def test_the_seed_decides_the_subset() -> None:
    grid = {"steps": list(range(50)), "scale": list(range(50))}
    assert combinations(grid, 5, 0) != combinations(grid, 5, 1)


@pytest.mark.parametrize(("grid", "most"), [({"steps": [1]}, 0), ({"steps": []}, 3)])
def test_nothing_to_try_is_refused(grid: dict[str, list[int]], most: int) -> None:
    with pytest.raises(ValueError, match="wanted at least one trial and a value for each name"):
        combinations(grid, most, 0)


def rows(mean: float, spread: float, seed: int = 0, count: int = 400) -> np.ndarray:
    return mean + spread * np.random.default_rng(seed).standard_normal(count)


def test_noise_is_of_the_paired_difference_not_of_the_scores() -> None:
    noisy, weight = rows(0.5, 1.0), np.ones(400)
    assert not within_noise(noisy, noisy - 0.01, weight)  # far less than the spread of the rows, but on every row
    assert within_noise(rows(0.52, 1.0, 1), rows(0.5, 1.0, 2), weight)
    assert within_noise(noisy, noisy, weight)


def test_a_row_without_weight_decides_nothing() -> None:
    best, other = np.array([1.0, 0.5, 9.0]), np.array([1.0, 0.5, 0.0])
    weight = np.array([2.0, 1.0, 0.0])
    assert mean_quality(best, weight) == pytest.approx(2.5 / 3)
    assert within_noise(best[:2], other[:2], weight[:2])
    assert mean_quality(best, weight) == mean_quality(other, weight)


def test_the_cheapest_within_the_noise_of_the_best_is_chosen() -> None:
    """Planted: 4 passes clearly worse; 16 and 12 better than 8 by less than the noise, 16 then by more."""
    weight, cheap, middle = np.ones(400), rows(0.2, 0.1, 1), rows(0.5, 0.1, 2)
    dear = rows(0.0, 0.1, 3)
    for gain, wanted in ((0.001, 1), (0.1, 3)):
        scores = np.stack([cheap, middle, middle - 0.0001, dear - dear.mean() + middle.mean() + gain])
        points = [(passes, float(one.mean())) for passes, one in zip([4.0, 8.0, 12.0, 16.0], scores, strict=True)]
        assert choose(points, scores, weight) == wanted
        assert choose(points, scores, weight, passes_at_most=12.0) == 1
        assert choose(points, scores, weight, passes_at_most=7.9) == 0


def test_too_few_passes_for_every_setting_is_refused() -> None:
    assert affordable([(4.0, 1.0), (2.0, 0.0)], 2.0) == [1]
    with pytest.raises(ValueError, match="at most 1 passes, the cheapest takes 2"):
        affordable([(4.0, 1.0), (2.0, 0.0)], 1.0)
