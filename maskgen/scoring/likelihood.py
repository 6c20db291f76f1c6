"""How likely a model finds given codes, in nats: two estimates of the log-likelihood, and candidates ranked by it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.decoding.acceleration.kv_cache import PrefixCacheModel
from maskgen.decoding.acceleration.local_attention import LocalAttentionModel
from maskgen.decoding.logits import ModelCallCounter, model_logits
from maskgen.decoding.settings import GenerationSettings
from maskgen.masking.masks import level_groups
from maskgen.networks.auto import Network
from maskgen.networks.transformer import MaskTransformer
from maskgen.tokens.batch import Codes, TokenBatch, pack
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.space import MASK, Segment, TokenSpace

Marks = Bool[Tensor, "..."]
"""Which codes of a target are scored: [*grid] for all levels of a cell alike, or [level, *grid]."""


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """How a log-likelihood is estimated.

    Args:
        estimator: "elbo", a bound from random masks of every size; or "pseudo", each fold of the codes from all the others.
        samples: Masks a level of "elbo", an even number: they come as pairs that together cover every code.
        folds: Parts of the codes that "pseudo" masks one after the other; None leaves one code out at a time.
        levels: Levels that are scored; None scores all.
        seed: Decides the masks. Rows with as many scored codes get the same ones, so candidates are compared on equal terms.
        batch_size: Masks of one row that go through the model at once. Another one rounds differently in the last bits.
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


@dataclass(frozen=True, kw_only=True)
class Score:
    """The log-likelihood of one row's target, in nats; of a difference, how much more likely it is than under the other condition.

    Args:
        levels: Of each level, given the coarser ones; 0 where no code was scored.
        codes: Codes that were scored, of each level.
        standard_error: Of the total, over the random masks, never too small in the mean; 0 where nothing is random, NaN where one draw
            cannot tell (two samples, or random folds).
        model_calls: Calls of the model for the row, those of the other condition included; equal masks are run once.
    """

    levels: tuple[float, ...]
    codes: tuple[int, ...]
    standard_error: float
    model_calls: int

    @property
    def total(self) -> float:
        """Log-likelihood of all scored codes together."""
        return math.fsum(self.levels)

    @property
    def mean(self) -> float:
        """Log-likelihood of the average scored code."""
        return self.total / sum(self.codes)


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One candidate in its place.

    Args:
        place: Its place in the list that was given.
        candidate: As it was given.
        probability: Its share of the candidates' likelihoods: Bayes' rule with every candidate equally probable before.
        score: Its score.
    """

    place: int
    candidate: Mapping[str, Any]
    probability: float
    score: Score


@dataclass(frozen=True)
class Masks:
    """Masks of one group of levels, and what the log-probabilities under each are multiplied by.

    Args:
        hidden: Scored codes that each mask hides.
        weights: One a mask; the estimate is the weighted sum.
    """

    hidden: Bool[Tensor, "masks codes"]
    weights: Float[Tensor, " masks"]


def elbo_masks(codes: int, samples: int, generator: torch.Generator) -> Masks:
    """Random masks of 1 to `codes` codes, every size equally often: the mean of (codes / size) x log-probability is the bound.

    The bound integrates (1 / r) E[log-probability of what is masked at rate r] over r from 0 to 1. At rate r exactly k of n codes are
    masked with binomial probability, whose integral over dr / r is 1 / k: so sizes may be drawn uniformly and no rate is left to chance.
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
    """Masks that hide every code exactly once, in random folds of nearly equal size; None hides one at a time.

    Source: pseudo-log-likelihood of masked language models, arXiv:1902.04094 and arXiv:1910.14659 (one at a time).
    """
    number = codes if folds is None else min(folds, codes)
    fold = torch.randperm(codes, generator=generator) % number
    return Masks(fold[None] == torch.arange(number)[:, None], torch.ones(number, dtype=torch.float64))


Values = Float[Tensor, "masks group"]
"""What each mask adds to the estimate of each level of a group, in float64."""


class Scorer:
    """Scores rows of one target modality, level after level: coarser levels are seen, finer ones are MASK, as in training.

    Levels that the settings of the decode group together are masked together, and its windows count here too. A row goes through the
    model with its own masks alone, so on a CPU its score is the same to the last bit whatever else is scored. What was scored before
    is remembered.

    Args:
        model: The transformer.
        space: Its token space.
        target: Modality whose codes are scored; the model must have learned to guess it.
        settings: How.
        decoding: How the target is decoded: its groups of levels and windows.

    Raises:
        ValueError: If there is no such modality or level.
    """

    def __init__(
        self, model: Network, space: TokenSpace, target: str, settings: ScoreSettings, decoding: GenerationSettings | None = None
    ) -> None:
        self.model, self.space, self.target, self.settings = model, space, target, settings
        self.segments, self.decoding = space.of(target), decoding or GenerationSettings()
        self.groups = level_groups(self.decoding.groups, len(self.segments))
        self._remembered: dict[Any, tuple[list[Tensor], int]] = {}
        for level in settings.levels or ():
            space.segment(target, level)

    def __call__(self, row: Mapping[str, Codes], only: Marks | None = None, against: Mapping[str, Codes] | None = None) -> Score:
        """Score one row.

        Args:
            row: Codes of every modality, the target among them. UNKNOWN codes are MASK throughout and not scored.
            only: Codes of the target that are scored; the others are seen, all levels of them. None scores all that are known. Where
                anything of a cell is scored, what is not is seen only while finer levels are scored.
            against: The same row under another condition, whose score is subtracted, mask by mask.

        Raises:
            ValueError: If there is nothing to score, or `only` has a wrong shape or asks for an UNKNOWN code.
        """
        asked = self._asked(row, only)
        values, calls = self._values(row, asked)
        if against is not None:
            others, more = self._values(against, asked)
            values, calls = [ours - theirs for ours, theirs in zip(values, others, strict=True)], calls + more
        levels = [0.0] * len(self.segments)
        for group, found in zip(self.groups, values, strict=True):
            for level, value in zip(group, found.sum(dim=0).tolist(), strict=True):
                levels[level] = value
        counts = [int(asked[:, group].sum()) for group in self.groups]
        variance = math.fsum(self._variance(found, count) for found, count in zip(values, counts, strict=True))
        return Score(levels=tuple(levels), codes=tuple(asked.sum(dim=0).tolist()), standard_error=math.sqrt(variance), model_calls=calls)

    def _asked(self, row: Mapping[str, Codes], only: Marks | None) -> Bool[Tensor, "cells depth"]:
        """Codes of the target that are scored."""
        if self.target not in row:
            raise ValueError(f"a score needs the codes of its target {self.target!r}, the row has {', '.join(row) or 'nothing'}")
        codes = row[self.target]
        asked = codes >= 0
        if only is not None:
            _check_marks(only, codes, self.target)
            asked = asked & only
        if self.settings.levels is not None:
            chosen = torch.tensor([level in self.settings.levels for level in range(len(codes))])
            asked = asked & chosen.reshape(-1, *[1] * (codes.ndim - 1))
        if not bool(asked.any()):
            raise ValueError(f"there is nothing to score: no code of {self.target!r} is both known and asked for")
        return asked.flatten(1).T

    def _values(self, row: Mapping[str, Codes], asked: Bool[Tensor, "cells depth"]) -> tuple[list[Tensor], int]:
        """What each mask of each group adds to the estimate, and the model calls that it took."""
        parts = {**row, "": asked}
        key = tuple((name, part.dtype, part.shape, part.cpu().contiguous().numpy().tobytes()) for name, part in sorted(parts.items()))
        if key not in self._remembered:
            self._remembered[key] = self._run(row, asked)
        return self._remembered[key]

    def _run(self, row: Mapping[str, Codes], asked: Bool[Tensor, "cells depth"]) -> tuple[list[Tensor], int]:
        """`_values`, by the model."""
        batch = pack([row], self.space).to(self.model.embed.weight.device)
        counter, found = ModelCallCounter(), []
        prefix: PrefixCacheModel | None = None
        if isinstance(self.model, MaskTransformer) and self.model.config.blind_condition:
            prefix = PrefixCacheModel(self.model, self.segments[0].index)
        for group in self.groups:
            window = self.decoding.window_at(group[0])
            model = prefix or self.model
            logits_fn = model_logits(LocalAttentionModel(model, window) if window else model, counter)
            found.append(group_values(logits_fn, batch, [self.segments[level] for level in group], asked, self.settings))
        return found, counter.rows

    def _variance(self, values: Values, codes: int) -> float:
        """Square of the standard error of a group's sum; see `Score`."""
        if self.settings.estimator == "elbo":
            return pair_variance(values.sum(dim=1)) if codes > 1 else 0.0
        return 0.0 if len(values) == codes or len(values) <= 1 else math.nan


def _check_marks(only: Marks, codes: Codes, target: str) -> None:
    """Refuse marks of another grid, or of codes that are not there."""
    if only.shape not in (codes.shape, codes.shape[1:]):
        found, wanted = tuple(only.shape), tuple(codes.shape)
        raise ValueError(f"only has shape {found}, the codes of {target!r} have {wanted}; give that shape, or it without the levels")
    if bool((only & (codes < 0)).any()):
        raise ValueError(f"only asks for codes of {target!r} that are UNKNOWN; a score needs the codes themselves")


def pair_variance(values: Float[Tensor, " masks"]) -> float:
    """Variance of the sum of stratified pairs, from differences of neighbours in a ring: in the mean too large rather than too small.

    Source: estimators of successive differences for one draw a stratum (Wolter, Introduction to Variance Estimation, 2007). In a ring,
    for otherwise the first pair, which holds the largest weight, would count half.
    """
    pairs = values.reshape(-1, 2).sum(dim=1)
    return math.nan if len(pairs) < 2 else float((pairs - pairs.roll(1)).square().sum()) / 2


@torch.no_grad()
def group_values(
    logits_fn: LogitsFn,
    row: TokenBatch,
    segments: Sequence[Segment],
    asked: Bool[Tensor, "cells depth"],
    settings: ScoreSettings,
) -> Values:
    """What each mask adds to the estimate of each level of one group.

    Args:
        logits_fn: The model.
        row: One row, its known codes in place.
        segments: Levels that are masked together, coarse to fine.
        asked: Codes of the target that are scored.
        settings: How. The masks depend on the seed, the first level and the number of scored codes alone.
    """
    levels = [segment.level for segment in segments]
    cell, place = asked[:, levels].nonzero().T
    if not len(cell):
        return torch.zeros(0, len(segments), dtype=torch.float64)
    generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + levels[0]) % 2**63)
    if settings.estimator == "elbo":
        masks = elbo_masks(len(cell), settings.samples, generator)
    else:
        masks = fold_masks(len(cell), settings.folds, generator)
    different, which = masks.hidden.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    cells = row.cells(segments[0].index)[0].nonzero()[:, 0]
    start = _seen(row, cells, asked.to(cells.device), levels)
    spots = cells[cell.to(cells.device)], place.to(cells.device)
    sums = [_masked_sums(logits_fn, row, start, segments, spots, part) for part in different.to(cells.device).split(settings.batch_size)]
    return torch.cat(sums).cpu()[which] * masks.weights[:, None]


def _seen(
    row: TokenBatch, cells: Int[Tensor, " cells"], asked: Bool[Tensor, "cells depth"], levels: Sequence[int]
) -> Int[Tensor, "length level"]:
    """Ids of the row before any mask: in cells of which anything is scored, what is finer or of this group and not asked for is MASK."""
    number = torch.arange(asked.shape[1], device=asked.device)
    here = torch.isin(number, torch.tensor(levels, device=asked.device))
    hidden = asked.any(dim=1, keepdim=True) & ((number > levels[-1]) | (here & ~asked))
    ids = row.ids[0].clone()
    ids[cells, : asked.shape[1]] = ids[cells, : asked.shape[1]].masked_fill(hidden, MASK)
    return ids


def _masked_sums(
    logits_fn: LogitsFn,
    row: TokenBatch,
    start: Int[Tensor, "length level"],
    segments: Sequence[Segment],
    spots: tuple[Int[Tensor, " codes"], Int[Tensor, " codes"]],
    hidden: Bool[Tensor, "masks codes"],
) -> Values:
    """Log-probability of all that each mask hides, level by level.

    Args:
        logits_fn: The model.
        row: One row.
        start: Its ids before any mask.
        segments: Levels of the group.
        spots: Cell in the row, and place in the group, of each scored code.
        hidden: The masks.
    """
    cell, place = spots
    ids = start.expand(len(hidden), -1, -1).clone()
    for number, segment in enumerate(segments):
        ours = place == number
        ids[:, cell[ours], segment.level] = ids[:, cell[ours], segment.level].masked_fill(hidden[:, ours], MASK)
    batch, sums = row.repeat(len(hidden)).with_ids(ids), torch.zeros(len(hidden), len(segments), dtype=torch.float64)
    for number, segment in enumerate(segments):
        chosen = torch.zeros(ids.shape[:2], dtype=torch.bool, device=ids.device)
        chosen[:, cell[place == number]] = hidden[:, place == number]
        if not bool(chosen.any()):
            continue
        logits = logits_fn(batch, chosen, segment, 0.0)
        logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
        which, where = chosen.nonzero().T
        wanted = (start[where, segment.level] - segment.offset)[:, None]
        found = logprobs.gather(-1, wanted)[:, 0].double().cpu()
        if bool(found.isnan().any()):
            raise FloatingPointError(f"logits of {segment.modality} level {segment.level} are not finite")
        sums[:, number].index_add_(0, which.cpu(), found)
    return sums


def ranked(candidates: Sequence[Mapping[str, Any]], scores: Sequence[Score]) -> list[Ranked]:
    """Candidates by falling score, with their probabilities; of equal ones the earlier comes first."""
    totals = torch.tensor([score.total for score in scores], dtype=torch.float64)
    shares = totals.softmax(dim=0).tolist()
    order = sorted(range(len(scores)), key=lambda place: (-scores[place].total, place))
    return [Ranked(place=place, candidate=candidates[place], probability=shares[place], score=scores[place]) for place in order]
