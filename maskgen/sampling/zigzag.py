"""Zigzag: a step, a step back that masks what a less guided model doubts, and the step again."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from maskgen.sampling.base import Decision, DrawFn, Drawn, Sampler, State, StepFn, applied, keep_surest, ranked
from maskgen.sampling.draw import scattered
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.functions import LogitsFn


@dataclass(frozen=True, kw_only=True)
class ZigzagSampler(Sampler):
    """Takes each step of another sampler twice; between, it masks as many cells as the first try kept, those that the inverse logits doubt.

    Cost: three model calls per step, one of them of `inverse`. May revoke: every cell of the target, though a step ends with as many masked
    as a step of the inner sampler.

    Args:
        inner: Sampler of the steps; its own steps, temperature and cuts are not read. None keeps the surest cells, without noise.
        inverse: Logits of the step back: the same model at low guidance. It is asked for cells that are known; without it the decode
            does not start.

    Source: arXiv:2411.10781 (zigzag sampling). Differs: exact counts per row, and cells known before the decode are never masked.
    """

    inner: Sampler | None = None
    inverse: LogitsFn | None = None
    revokes: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("inverse",)

    def start(self, state: State) -> StepFn:
        if self.inverse is None:
            raise ValueError("the zigzag sampler needs logits for its step back; give inverse=guided_model(...) at low guidance")
        forth = self._surest if self.inner is None else self.inner.start(state)
        return partial(_zigzag, forth, self.inverse)

    def _surest(self, state: State, draw_cells: DrawFn) -> Decision:
        drawn = draw_cells(state.unknown)
        return keep_surest(state, drawn, drawn.logprobs, self.schedule)


def _zigzag(forth: StepFn, inverse: LogitsFn, state: State, draw_cells: Callable[..., Drawn]) -> Decision:
    """The decision of forth, back and forth, against the state before all three."""
    first = forth(state, draw_cells)
    tried = applied(state, first)
    back = Decision(first.drawn, torch.zeros_like(state.target), _doubtful(state, tried, inverse))
    between = dataclasses.replace(applied(tried, back), step=state.step)
    second = forth(between, lambda cells: draw_cells(cells, between))
    final = applied(between, second)
    cells = first.drawn.cells | second.drawn.cells
    logits = _joined(cells, first.drawn, second.drawn)
    drawn = Drawn(cells, final.codes.where(cells, UNKNOWN), final.logprobs.where(cells, 0), logits)
    return Decision(drawn, cells & ~final.unknown, final.unknown)


def _doubtful(before: State, after: State, inverse: LogitsFn) -> Bool[Tensor, "batch length"]:
    """Cells to mask again: in each row as many as the step kept, the least likely of all that this decode has set."""
    count = (before.unknown & ~after.unknown).sum(dim=1)
    asked = after.target & ~after.unknown & (count > 0)[:, None]
    if not bool(asked.any()):
        return asked
    logits = inverse(after.batch, asked, after.segment, before.progress)
    logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
    likely = logprobs.gather(-1, after.codes[asked][:, None])[:, 0]
    if bool(likely.isnan().any()):
        raise FloatingPointError(f"logits of the step back are not finite at step {before.step} of {before.steps}")
    return asked & (ranked(scattered(asked, likely, torch.inf)) < count[:, None])


def _joined(cells: Bool[Tensor, "batch length"], first: Drawn, second: Drawn) -> Tensor:
    """Logits of all cells that were drawn, of the second time where there were two."""
    logits = first.logits.new_zeros(int(cells.sum()), first.logits.shape[1])
    for drawn in (first, second):
        logits[drawn.cells[cells]] = drawn.logits.to(logits)
    return logits
