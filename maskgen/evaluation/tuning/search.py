"""Searching generation settings: which are tried, which lie on the front of quality and passes, which one is chosen. No model in sight."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from maskgen.evaluation.speech.scores import BOOTSTRAP_SEED, RESAMPLES

Point = tuple[float, float]
"""Passes and quality of one setting."""

RULE = (
    "Chosen is the cheapest setting, in passes, whose quality is within the noise of the best one's: the 95% interval of the paired "
    f"difference over rows ({RESAMPLES} bootstrap resamples, seed {BOOTSTRAP_SEED}) reaches 0. Of equally cheap ones the better is taken."
)


def combinations(grid: Mapping[str, Sequence[Any]], most: int, seed: int) -> list[dict[str, Any]]:
    """Every combination of the values, or a random subset where there are too many.

    Args:
        grid: Name to the values to try, at least one each.
        most: Most combinations.
        seed: Decides the subset.

    Returns:
        Combinations in the order of the grid, the last name changing fastest; none twice.

    Raises:
        ValueError: If `most` is below 1 or a name has no value.
    """
    if most < 1 or not all(grid.values()):
        raise ValueError(f"found most={most} and values {dict(grid)}, wanted at least one trial and a value for each name")
    total = math.prod(len(values) for values in grid.values())
    chosen: Sequence[int] = range(total) if total <= most else sorted(random.Random(seed).sample(range(total), most))
    return [_combination(grid, number) for number in chosen]


def _combination(grid: Mapping[str, Sequence[Any]], number: int) -> dict[str, Any]:
    """The combination of that number: its digits, each in the base of its name's values."""
    combination: dict[str, Any] = {}
    for name, values in reversed(list(grid.items())):
        number, place = divmod(number, len(values))
        combination[name] = values[place]
    return dict(reversed(combination.items()))


def shortfalls(points: Sequence[Point]) -> list[float]:
    """What each setting loses, in quality, against the best setting that is no dearer; 0 or more.

    The distance to the front that needs no exchange rate between passes and quality.

    Args:
        points: Passes and quality, both finite.
    """
    best, losses = -math.inf, [0.0] * len(points)
    for place in sorted(range(len(points)), key=lambda one: (points[one][0], -points[one][1])):
        best = max(best, points[place][1])
        losses[place] = best - points[place][1]
    return losses


def front(points: Sequence[Point]) -> list[int]:
    """Places of the settings that no other one beats: none is at least as good in passes and quality and better in one of them.

    Args:
        points: Passes and quality, both finite.

    Returns:
        Places, cheapest first; equal points are all there or all missing.
    """
    best, undominated = (math.inf, -math.inf), []
    for place in sorted(range(len(points)), key=lambda one: (points[one][0], -points[one][1])):
        if points[place][1] > best[1] or points[place] == best:
            undominated.append(place)
            best = points[place]
    return undominated


def survivors(points: Sequence[Point]) -> list[int]:
    """Places of the settings that go on to the second round: the half nearest to the front, and the whole front if that is more.

    Source: successive halving, arXiv:1502.07943. Differs: one halving; the front stays whole, for its dear end may be the best of all.
    """
    loss = shortfalls(points)
    order = sorted(range(len(points)), key=lambda place: (loss[place], points[place][0], place))
    kept = {*order[: -(-len(points) // 2)], *front(points)}
    return sorted(kept)


def affordable(points: Sequence[Point], passes_at_most: float | None) -> list[int]:
    """Places of the settings that take at most so many passes; all of them if None.

    Raises:
        ValueError: If there is none.
    """
    if passes_at_most is None:
        return list(range(len(points)))
    cheap = [place for place, (passes, _) in enumerate(points) if passes <= passes_at_most]
    if not cheap:
        least = min(passes for passes, _ in points)
        raise ValueError(f"no setting tried takes at most {passes_at_most:g} passes, the cheapest takes {least:g}; try fewer steps")
    return cheap


def mean_quality(quality: Float[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"]) -> float:
    """Weighted mean over rows."""
    return float((quality * weight).sum() / weight.sum())


def quality_interval(quality: Float[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"]) -> tuple[float, float]:
    """95% bootstrap interval of the weighted mean, rows drawn with replacement."""
    low, high = np.percentile(_resampled(quality, weight), (2.5, 97.5))
    return float(low), float(high)


def within_noise(best: Float[np.ndarray, " rows"], other: Float[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"]) -> bool:
    """Whether the rows cannot tell `other` from `best`: the paired difference's 95% interval begins at 0 or below."""
    return float(np.percentile(_resampled(best - other, weight), 2.5)) <= 0


def choose(
    points: Sequence[Point],
    rows: Float[np.ndarray, "trials rows"],
    weight: Float[np.ndarray, " rows"],
    passes_at_most: float | None = None,
) -> int:
    """Place of the setting to use, by `RULE`.

    Args:
        points: Passes and quality of each setting.
        rows: Quality of each row under each setting, the same rows in the same order.
        weight: Weight of each row.
        passes_at_most: Dearer settings are not looked at; None looks at all.

    Raises:
        ValueError: If every setting is dearer.
    """
    cheap = affordable(points, passes_at_most)
    best = min(cheap, key=lambda place: (-points[place][1], points[place][0]))
    equal = [place for place in cheap if within_noise(rows[best], rows[place], weight)]
    return min(equal, key=lambda place: (points[place][0], -points[place][1], place))


def _resampled(quality: Float[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " resamples"]:
    """Weighted means of resampled rows, the same rows for every setting."""
    draws = np.random.default_rng(BOOTSTRAP_SEED).integers(0, len(quality), (RESAMPLES, len(quality)))
    means: Float[np.ndarray, " resamples"] = (quality * weight)[draws].sum(axis=1) / weight[draws].sum(axis=1)
    return means
