"""Estimates the log-likelihood of given codes under a model, in nats, by an ELBO or a pseudo-log-likelihood."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from maskgen.scoring.estimators import ScoreSettings, elbo_masks, fold_masks, pair_variance
from maskgen.tokens.batch import Codes, TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Segment, TokenSpace

Marks = Bool[Tensor, "..."]
"""Mask of the target codes to score: [*grid] for all levels of a cell, or [level, *grid]."""

MOST_LOGITS = 2**25
"""Logits of a score that exist at a time."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Log-likelihood of one row's target, in nats, or its difference between two conditions.

    Args:
        levels: Log-likelihood of each level, given the coarser ones; 0 where no code was scored.
        codes: Number of scored codes of each level.
        standard_error: Standard error of the total over the random masks, not underestimated on average; 0 if nothing is random, NaN if
            it can't be estimated from one draw (two samples, or random folds).
        model_calls: Model calls for the row, including those of the other condition; identical masks are run once.
    """

    levels: tuple[float, ...]
    codes: tuple[int, ...]
    standard_error: float
    model_calls: int

    @property
    def total(self) -> float:
        """Total log-likelihood of all scored codes."""
        return math.fsum(self.levels)

    @property
    def mean(self) -> float:
        """Mean log-likelihood per scored code."""
        return self.total / sum(self.codes)


Values = Float[Tensor, "masks group"]
"""Contribution of each mask to the estimate of each level of a group, in float64."""


class Scorer:
    """Scores one target modality of rows, level by level: coarser levels are visible, finer ones are MASK, as in training.

    The level groups and windows of the decoding settings apply here too: levels of a group are masked together. A model call holds masks
    of one row only, so in float32 on a CPU a row's score is bit-identical whatever else is scored. Scores are cached.

    Args:
        model: The transformer.
        space: Its token space.
        target: Modality whose codes are scored; the model must be trained to predict it.
        settings: Settings of the estimate.
        decoding: Decoding settings of the target: its level groups and windows.

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
        """Scores one row.

        Args:
            row: Codes of every modality, including the target. UNKNOWN codes are always MASK and not scored.
            only: Codes of the target to score; None scores all known codes. Cells without a scored code are visible at all levels. In a
                cell with scored codes, the other codes are visible only while finer levels are scored.
            against: The same row under another condition; its score is subtracted, mask by mask.

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
        """Mask of the target codes to score."""
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
        """Contribution of each mask of each group to the estimate, and the number of model calls."""
        parts = {**row, "": asked}
        key = tuple((name, part.dtype, part.shape, part.cpu().contiguous().numpy().tobytes()) for name, part in sorted(parts.items()))
        if key not in self._remembered:
            self._remembered[key] = self._run(row, asked)
        return self._remembered[key]

    def _run(self, row: Mapping[str, Codes], asked: Bool[Tensor, "cells depth"]) -> tuple[list[Tensor], int]:
        """Contributions of the masks, computed by the model without the cache."""
        batch = pack([row], self.space).to(self.model.embed.weight.device)
        counter, found = ModelCallCounter(), []
        prefix: PrefixCacheModel | None = None
        if isinstance(self.model, MaskTransformer) and self.model.config.blind_condition:
            prefix = PrefixCacheModel(self.model, self.segments[0].index)
        for group in self.groups:
            window = self.decoding.window_at(group[0])
            model = prefix or self.model
            logits_fn = model_logits(LocalAttentionModel(model, window) if window else model, counter)
            # A network that is asked about each cell alone would answer otherwise in parts.
            most = None if self.segments[0].index in getattr(self.model, "asked_alone", ()) else MOST_LOGITS
            found.append(group_values(logits_fn, batch, [self.segments[level] for level in group], asked, self.settings, most))
        return found, counter.rows

    def _variance(self, values: Values, codes: int) -> float:
        """Squared standard error of a group's sum; see `Score`."""
        if self.settings.estimator == "elbo":
            return pair_variance(values.sum(dim=1)) if codes > 1 else 0.0
        return 0.0 if len(values) == codes or len(values) <= 1 else math.nan


def _check_marks(only: Marks, codes: Codes, target: str) -> None:
    """Raises a ValueError if `only` has a wrong shape or marks UNKNOWN codes."""
    if only.shape not in (codes.shape, codes.shape[1:]):
        found, wanted = tuple(only.shape), tuple(codes.shape)
        raise ValueError(f"only has shape {found}, the codes of {target!r} have {wanted}; give that shape, or it without the levels")
    if bool((only & (codes < 0)).any()):
        raise ValueError(f"only asks for codes of {target!r} that are UNKNOWN; a score needs the codes themselves")


@torch.no_grad()
def group_values(
    logits_fn: LogitsFn,
    row: TokenBatch,
    segments: Sequence[Segment],
    asked: Bool[Tensor, "cells depth"],
    settings: ScoreSettings,
    most_logits: int | None = None,
) -> Values:
    """Contribution of each mask to the estimate of each level of one group.

    Args:
        logits_fn: The model.
        row: One row with its known codes.
        segments: Levels that are masked together, coarse to fine.
        asked: Target codes to score.
        settings: Settings of the estimate. The masks depend only on the seed, the first level and the number of scored codes.
        most_logits: Most logits that are asked for at a time; None asks for all masked cells at once.
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
    parts = different.to(cells.device).split(settings.batch_size)
    sums = [_masked_sums(logits_fn, row, start, segments, spots, part, most_logits) for part in parts]
    return torch.cat(sums).cpu()[which] * masks.weights[:, None]


def _seen(
    row: TokenBatch, cells: Int[Tensor, " cells"], asked: Bool[Tensor, "cells depth"], levels: Sequence[int]
) -> Int[Tensor, "length level"]:
    """Ids of the row before masking: in cells with scored codes, finer levels and unscored codes of this group are MASK."""
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
    most_logits: int | None,
) -> Values:
    """Log-probability of the codes that each mask hides, level by level.

    Args:
        logits_fn: The model.
        row: One row.
        start: Its ids before masking.
        segments: Levels of the group.
        spots: Cell in the row, and index in the group, of each scored code.
        hidden: The masks.
        most_logits: See `group_values`.
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
        for part in _pieces(chosen, segment.size, most_logits):
            logits = logits_fn(batch, part, segment, 0.0)
            logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
            which, where = part.nonzero().T
            wanted = (start[where, segment.level] - segment.offset)[:, None]
            found = logprobs.gather(-1, wanted)[:, 0].double().cpu()
            if bool(found.isnan().any()):
                raise FloatingPointError(f"logits of {segment.modality} level {segment.level} are not finite")
            sums[:, number].index_add_(0, which.cpu(), found)
    return sums


def _pieces(chosen: Bool[Tensor, "masks length"], size: int, most_logits: int | None) -> list[Bool[Tensor, "masks length"]]:
    """Cells in parts of at most so many logits. The model remembers its pass, so each further part costs its own logits alone."""
    count = int(chosen.sum())
    if most_logits is None or count * size <= most_logits:
        return [chosen]
    number = chosen.flatten().cumsum(dim=0).view_as(chosen) - 1
    most = max(1, most_logits // size)
    return [chosen & (number // most == part) for part in range(-(-count // most))]
