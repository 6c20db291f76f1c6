"""From a model to the one function a sampler is handed: logits of chosen cells, guided if wished."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskgen.decoding.guidance import GuidanceSchedule, check_rescale, is_off, mixed, rescale_guided
from maskgen.tokens.batch import TokenBatch, stack
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.space import MASK, PAD, Segment

Transform = Callable[[TokenBatch], TokenBatch]
"""Turns the batch at hand into what the unconditional pass sees: hides the condition, or swaps in a negative prompt."""


@runtime_checkable
class TokenModel(Protocol):
    """What guidance needs of a transformer; `maskgen.networks.transformer.MaskTransformer` has it. The head must be linear without bias."""

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every cell."""
        ...

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """The linear head on chosen cells, for ids `offset` to `offset + size - 1`."""
        ...


@dataclass
class ModelCallCounter:
    """What a decode cost: hand one to `model_logits` or `guided_model` and read it afterwards.

    Args:
        rows: Rows the model was run on so far; both views of a guided row count, a remembered pass does not.
    """

    rows: int = 0


class _LastPass:
    """Hidden states of a model, remembered until something in the batch changes: levels that are decoded together share a pass."""

    def __init__(self, model: TokenModel, counter: ModelCallCounter | None) -> None:
        self.model, self.hidden = model, torch.zeros(0)
        self.counter = counter or ModelCallCounter()
        self.seen: TokenBatch | None = None

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch length dim"]:
        if self.seen is None or not torch.equal(self.seen.ids, batch.ids) or not self.seen.same_cells(batch):
            self.hidden, self.seen = self.model(batch), batch
            self.counter.rows += len(batch)
        return self.hidden


def model_logits(model: TokenModel, counter: ModelCallCounter | None = None, by_row: bool = False) -> LogitsFn:
    """The LogitsFn of a model: one call for the whole batch, the head on the chosen cells only.

    Args:
        model: The transformer.
        counter: Raised by the rows of every call.
        by_row: Run the head row by row, so that a row's product has the same shape in any batch.
    """
    hidden_of = _LastPass(model, counter)

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        return _head(model, hidden_of(_asked(model, batch, cells, segment))[cells], cells, segment, by_row)

    return logits_fn


def _asked(model: TokenModel, batch: TokenBatch, cells: Bool[Tensor, "batch length"], segment: Segment) -> TokenBatch:
    """The batch as the model is asked: without other unknown cells of the level where it learned so; see `PublishedNetwork.asked_alone`."""
    if segment.index not in getattr(model, "asked_alone", ()):
        return batch
    return batch.hide(batch.cells(segment.index) & (batch.ids[..., segment.level] == MASK) & ~cells)


def _head(
    model: TokenModel, hidden: Float[Tensor, "cells dim"], cells: Bool[Tensor, "batch length"], segment: Segment, by_row: bool
) -> Float[Tensor, "cells size"]:
    """The head on the chosen cells; `by_row` gives the product of each row the shape that it has alone, and so the same rounding."""
    counts = cells.sum(dim=1).tolist()
    if not by_row or len(counts) < 2:
        return model.logits(hidden, segment.offset, segment.size)
    return torch.cat([model.logits(part, segment.offset, segment.size) for part in torch.split(hidden, counts)])


def hide_condition(modality_indices: tuple[int, ...]) -> Transform:
    """The null condition: the cells of these modalities exist but nobody sees them, as under condition dropout in training."""

    def transform(batch: TokenBatch) -> TokenBatch:
        return batch.hide(torch.isin(batch.modality, torch.tensor(modality_indices, device=batch.modality.device)))

    return transform


def remask(given: Bool[Tensor, "batch length"]) -> Transform:
    """The null condition that needs no training for it: what was given is seen as MASK, what was generated since stays.

    Any cells may be given, a part of the target too, so every conditioning pattern can be guided. Vectors of a text encoder that were given
    are hidden, because no mask stands for a vector.

    Args:
        given: Cells that were known before the decode; all their levels are masked. A row alone may lack the padding behind it.

    Returns:
        A Transform. It raises ValueError if the batch has other rows or longer ones than `given`.

    Source: UniDisc, arXiv:2503.20853; SMDM, arXiv:2410.18514. Coordinates stay, so a masked phoneme keeps its place in time.
    """

    def transform(batch: TokenBatch) -> TokenBatch:
        rows, length = batch.modality.shape
        if len(given) != rows or given.shape[1] < length:
            raise ValueError(f"given marks cells of {tuple(given.shape)} rows and places, the batch has {(rows, length)}; mark them there")
        masked = given[:, :length, None] & (batch.ids != PAD)
        blind = batch if batch.features is None else batch.hide(given[:, :length] & (batch.features != 0).any(dim=2))
        return blind.with_ids(batch.ids.masked_fill(masked, MASK))

    return transform


def alone(given: Bool[Tensor, "batch length"]) -> Transform:
    """The null condition of a model that learned to continue nothing: what was given is hidden, a known part of the target too.

    Args:
        given: Cells that were known before the decode. A row alone may lack the padding behind it.

    Source: OmniVoice (k2-fsa): the unconditional pass sees the codes that are generated, without text and recording.
    """

    def transform(batch: TokenBatch) -> TokenBatch:
        return batch.hide(given[:, : batch.modality.shape[1]])

    return transform


def against(negative: TokenBatch, modality_index: int) -> Transform:
    """A negative prompt: the unconditional pass sees `negative`, with the target as decoded so far copied into it.

    Args:
        negative: One row for each row of the batch, of any length; its cells of the target modality stand in the same order.
        modality_index: Number of the target modality in its space.

    Returns:
        A Transform. It raises ValueError if rows or target cells do not match.
    """
    target = negative.cells(modality_index)

    def transform(batch: TokenBatch) -> TokenBatch:
        ours = batch.cells(modality_index)
        _check_same_cells(ours, target)
        ids = negative.ids.clone()
        ids[target] = batch.ids[ours]
        return negative.with_ids(ids)

    return transform


def _check_same_cells(ours: Bool[Tensor, "batch length"], theirs: Bool[Tensor, "rows other"]) -> None:
    found, wanted = theirs.sum(dim=1).tolist(), ours.sum(dim=1).tolist()
    if found != wanted:
        raise ValueError(f"the unconditional batch has {found} target cells a row, the conditional one {wanted}; give both the same target")


def _same_cells(
    cells: Bool[Tensor, "batch length"], batch: TokenBatch, other: TokenBatch, modality_index: int
) -> Bool[Tensor, "batch other"]:
    """The chosen cells where they stand in the other batch: the n-th target cell of a row is the n-th there."""
    if other.modality is batch.modality:
        return cells
    ours, theirs = batch.cells(modality_index), other.cells(modality_index)
    _check_same_cells(ours, theirs)
    chosen = torch.zeros_like(theirs)
    chosen[theirs] = cells[ours]
    return chosen


def seen_through(transform: Transform, logits_fn: LogitsFn) -> LogitsFn:
    """The same logits with another view of the batch: `seen_through(hide, model_logits(model))` is the unconditional function."""

    def transformed(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        other = transform(batch)
        return logits_fn(other, _same_cells(cells, batch, other, segment.index), segment, progress)

    return transformed


def _cell_scale(
    schedule: GuidanceSchedule, batch: TokenBatch, cells: Tensor, segment: Segment, progress: float
) -> float | Float[Tensor, "cells 1"]:
    """Scale of the step, or of each chosen cell where rows differ."""
    ours = batch.cells(segment.index)
    masked = (ours & (batch.ids[..., segment.level] == MASK)).sum(dim=1) / ours.sum(dim=1).clamp(min=1)
    scale = schedule.scale(progress, masked)
    return scale[cells.nonzero()[:, 0], None] if isinstance(scale, Tensor) else scale


def is_guided(schedule: GuidanceSchedule, batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> bool:
    """Whether a step runs the unconditional pass: some row's scale is not exactly 1."""
    return not is_off(_cell_scale(schedule, batch, cells, segment, progress))


def guided(conditional: LogitsFn, unconditional: LogitsFn, schedule: GuidanceSchedule, rescale: float = 0.0) -> LogitsFn:
    """Classifier-free guidance of any two functions: u + g (c - u). Where g is 1 in every row the unconditional one is not called.

    Args:
        conditional: c.
        unconditional: u.
        schedule: g over progress and over the share of a row that is masked.
        rescale: Share of the guided logits that is brought back to the spread of c, row by row; see
            `maskgen.decoding.guidance.rescale_guided`.

    Source: arXiv:2207.12598, in the convention in which 1 is off. Differs: Muse and Halton write (1 + w) c - w u, so g = 1 + w.
    """
    check_rescale(rescale)

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        scale = _cell_scale(schedule, batch, cells, segment, progress)
        wanted = conditional(batch, cells, segment, progress)
        if is_off(scale):
            return wanted
        found = mixed(wanted, unconditional(batch, cells, segment, progress), scale)
        return rescale_guided(found, wanted, cells.nonzero()[:, 0], rescale)

    return logits_fn


def guided_model(
    model: TokenModel,
    hide: Transform,
    schedule: GuidanceSchedule,
    rescale: float = 0.0,
    counter: ModelCallCounter | None = None,
    by_row: bool = False,
    rescale_states: bool = False,
) -> LogitsFn:
    """Guidance of one model in one pass: both views stacked as one batch, mixed before the head.

    The head is linear and has no bias, so mixing hidden states gives the mixed logits at half the head's cost. In half
    precision that would round the mix to 8 bits before the head, so there the logits are mixed, in float32; so they are where
    both logits are needed to rescale.

    Args:
        model: Transformer with a linear, bias-free head.
        hide: What the unconditional pass sees: `hide_condition(...)`, `remask(given)` or `against(negative, ...)`.
        schedule: Guidance scale over progress and masked share; a step at exactly 1 in every row runs the conditional pass alone.
        rescale: As in `guided`.
        counter: Raised by the rows of every call, two a guided row.
        by_row: As in `model_logits`.
        rescale_states: Rescale hidden states and not logits, by their spread over all cells of the target that both views see, as
            MaskGCT does (arXiv:2409.00750); row by row, where its code takes the spread over the batch.
    """
    check_rescale(rescale)
    plain, hidden_of = model_logits(model, counter, by_row), _LastPass(model, counter)

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        if is_off(_cell_scale(schedule, batch, cells, segment, progress)):
            return plain(batch, cells, segment, progress)
        other, chosen = hide(batch), cells
        if rescale and rescale_states:
            chosen = batch.cells(segment.index) & (other.valid if other.modality is batch.modality else batch.valid)
        theirs, scale = _same_cells(chosen, batch, other, segment.index), _cell_scale(schedule, batch, chosen, segment, progress)
        hidden = hidden_of(stack(_asked(model, batch, chosen, segment), _asked(model, other, theirs, segment)))
        conditional = hidden[: len(batch), : cells.shape[1]][chosen]
        unconditional = hidden[len(batch) :, : other.ids.shape[1]][theirs]
        if (rescale and rescale_states) or (rescale == 0 and hidden.dtype in (torch.float32, torch.float64)):
            states = mixed(conditional, unconditional, scale)
            states = rescale_guided(states, conditional, chosen.nonzero()[:, 0], rescale)[cells[chosen]].to(hidden.dtype)
            return _head(model, states, cells, segment, by_row)
        both = model.logits(torch.cat([conditional, unconditional]), segment.offset, segment.size)
        wanted = both[: len(conditional)]
        return rescale_guided(mixed(wanted, both[len(conditional) :], scale), wanted, cells.nonzero()[:, 0], rescale)

    return logits_fn
