"""Estimators of a log-likelihood: the masks, their weights and the variance of the estimate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """Settings of the log-likelihood estimate.

    Args:
        estimator: "elbo", a bound from random masks of every size; or "pseudo", which predicts each fold of the codes from all others.
        samples: Masks per level for "elbo", an even number: the two masks of a pair together cover every code.
        folds: Number of folds of the codes for "pseudo", which masks one fold at a time; None masks one code at a time.
        levels: Levels to score; None scores all.
        seed: Seed of the masks. Rows with the same number of scored codes get the same masks, so candidates are comparable.
        batch_size: Masks of one row per model call. Another batch size can change the last bits of the result.
    """

    estimator: Literal["elbo", "pseudo"] = "elbo"
    samples: int = 16
    folds: int | None = None
    levels: Sequence[int] | None = None
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.estimator not in ("elbo", "pseudo"):
            raise ValueError(f'estimator must be "elbo" or "pseudo", got {self.estimator!r}')
        if self.samples < 2 or self.samples % 2:
            raise ValueError(f"samples must be an even number of at least 2, for masks come in pairs, got {self.samples}")
        if self.folds is not None and self.folds < 1:
            raise ValueError(f"folds must be at least 1, or None to leave one code out at a time, got {self.folds}")
        if self.folds is not None and self.estimator == "elbo":
            raise ValueError('folds belong to estimator="pseudo"; "elbo" takes samples')
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in [0, 2**63), got {self.seed}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


@dataclass(frozen=True)
class Masks:
    """Masks of one group of levels, and their weights.

    Args:
        hidden: Scored codes that each mask hides.
        weights: One per mask; the estimate is the weighted sum of the log-probabilities.
    """

    hidden: Bool[Tensor, "masks codes"]
    weights: Float[Tensor, " masks"]


def elbo_masks(codes: int, samples: int, generator: torch.Generator) -> Masks:
    """Random masks of 1 to `codes` codes, with uniform sizes: the mean of (codes / size) x log-probability is the bound.

    The bound integrates (1 / r) E[log-probability of the masked codes at rate r] over r from 0 to 1. At rate r exactly k of n codes are
    masked with binomial probability, whose integral over dr / r is 1 / k, so sizes can be drawn uniformly without sampling a rate.
    Half of the sizes are stratified; each mask has a partner that hides the other end of the same random order, one code in both.

    Source: schedule-free bound of MD4, arXiv:2406.04329, and RADD, arXiv:2406.03736; sizes instead of rates as in LLaDA,
    arXiv:2502.09992. The strata and the partner are ours.
    """
    pairs = samples // 2
    strata = (torch.arange(pairs) + torch.rand(pairs, dtype=torch.float64, generator=generator)) / samples
    size = (strata * codes).long().clamp(max=codes - 1)[:, None] + 1
    order = torch.rand(pairs, codes, generator=generator).argsort(dim=1).argsort(dim=1)
    hidden = torch.stack([order < size, order >= size - 1], dim=1).flatten(0, 1)
    return Masks(hidden, codes / hidden.sum(dim=1).double() / samples)


def fold_masks(codes: int, folds: int | None, generator: torch.Generator) -> Masks:
    """Masks that hide every code exactly once, in random folds of nearly equal size; None hides one code at a time.

    Source: pseudo-log-likelihood of masked language models, arXiv:1902.04094 and arXiv:1910.14659 (one at a time).
    """
    number = codes if folds is None else min(folds, codes)
    fold = torch.randperm(codes, generator=generator) % number
    return Masks(fold[None] == torch.arange(number)[:, None], torch.ones(number, dtype=torch.float64))


def pair_variance(values: Float[Tensor, " masks"]) -> float:
    """Variance of the sum of stratified pairs, from differences of neighbours in a ring; conservative: biased upwards, not downwards.

    Source: successive difference estimators for one draw per stratum (Wolter, Introduction to Variance Estimation, 2007). The ring is
    needed because otherwise the first pair, which has the largest weight, would count half.
    """
    pairs = values.reshape(-1, 2).sum(dim=1)
    return math.nan if len(pairs) < 2 else float((pairs - pairs.roll(1)).square().sum()) / 2
