"""The one decode loop. A file beside this one says which cells to keep."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.batch import UNKNOWN, TokenBatch
from maskgen.draw import draw, scattered
from maskgen.schedule import Cosine, MaskSchedule, masked_after, whole_floor
from maskgen.space import MASK, Segment

LogitsFn = Callable[[TokenBatch, Tensor, Segment, float], Tensor]
"""What `maskgen.logits.LogitsFn` documents; repeated because files of one floor do not import each other."""


def ranked(scores: Float[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """Place of each cell in its row's ascending order; ties go by position, so counts taken from it are exact."""
    return scores.argsort(dim=1, stable=True).argsort(dim=1)


@dataclass(frozen=True)
class State:
    """A decode between two steps; also what the callback sees.

    Args:
        batch: All rows as they stand.
        segment: The level being decoded.
        generators: One a row.
        step: Steps done.
        steps: Steps in all.
        target: Cells unknown at the start, the only ones that ever change.
        codes: Codes of the segment, local to it; UNKNOWN where masked and where the segment has no cell.
        logprobs: Log-probability of each drawn code at the time it was drawn; 0 elsewhere.
        changed: Cells whose code the last step set or took back.
    """

    batch: TokenBatch
    segment: Segment
    generators: tuple[torch.Generator, ...]
    step: int
    steps: int
    target: Bool[Tensor, "batch length"]
    codes: Int[Tensor, "batch length"]
    logprobs: Float[Tensor, "batch length"]
    changed: Bool[Tensor, "batch length"]

    @property
    def unknown(self) -> Bool[Tensor, "batch length"]:
        """Target cells that are masked now."""
        return self.target & (self.codes == UNKNOWN)

    @property
    def total(self) -> Int[Tensor, " batch"]:
        """Cells of each row that were unknown at the start."""
        return self.target.sum(dim=1)

    @property
    def progress(self) -> float:
        """Steps done over steps in all."""
        return self.step / self.steps


@dataclass(frozen=True)
class Drawn:
    """Codes drawn at chosen cells.

    Args:
        cells: The chosen cells.
        codes: Their codes; UNKNOWN elsewhere.
        logprobs: Their log-probabilities; 0 elsewhere.
        logits: What they were drawn from, one row a chosen cell: for entropies and critics.
    """

    cells: Bool[Tensor, "batch length"]
    codes: Int[Tensor, "batch length"]
    logprobs: Float[Tensor, "batch length"]
    logits: Float[Tensor, "cells size"]


@dataclass(frozen=True)
class Decision:
    """What a step does: cells that take the drawn code, and cells that go back to MASK."""

    drawn: Drawn
    accept: Bool[Tensor, "batch length"]
    revoke: Bool[Tensor, "batch length"] | None = None


DrawFn = Callable[[Tensor], Drawn]
"""Asks the model for the chosen cells (Bool [batch length]) and draws their codes."""

StepFn = Callable[[State, DrawFn], Decision]
"""One step of a decode."""


def in_order(scores: Float[Tensor, "batch length"], schedule: MaskSchedule, rounding: Callable[[Tensor], Tensor] = whole_floor) -> StepFn:
    """The step function of an order fixed beforehand: low scores first, logits at the cells of the step only.

    Args:
        scores: Any numbers; only their order inside a row's target counts.
        schedule: Share of the target still masked over progress.
        rounding: See `maskgen.schedule.masked_after`.
    """

    def step(state: State, draw_cells: DrawFn) -> Decision:
        place = ranked(scores.masked_fill(~state.target, torch.inf))
        shown = state.total - masked_after(schedule, state.step, state.steps, state.total, rounding)
        chosen = state.unknown & (place < shown[:, None])
        return Decision(draw_cells(chosen), chosen)

    return step


@dataclass(frozen=True)
class Trajectory:
    """What each step did; `codes[k]` stands after step k.

    Args:
        codes: Codes of the segment, UNKNOWN where masked or outside it.
        logprobs: Log-probability of each drawn code at the time it was drawn; 0 elsewhere.
        changed: Cells whose code the step set or took back.
    """

    codes: Int[Tensor, "step batch length"]
    logprobs: Float[Tensor, "step batch length"]
    changed: Bool[Tensor, "step batch length"]


def _trajectory(start: State, states: list[State]) -> Trajectory:
    def joined(name: str) -> Tensor:
        return torch.stack([getattr(state, name) for state in states]) if states else getattr(start, name)[None][:0]

    return Trajectory(joined("codes"), joined("logprobs"), joined("changed"))


def _begin(batch: TokenBatch, segment: Segment, generators: Sequence[torch.Generator], steps: int) -> State:
    if len(generators) != len(batch):
        raise ValueError(f"a batch of {len(batch)} rows needs one generator a row, got {len(generators)}")
    cells, ids = batch.cells(segment.index), batch.ids[..., segment.level]
    codes = ids - segment.offset
    inside = cells & (codes >= 0) & (codes < segment.size)
    blank = torch.zeros_like(cells)
    logprobs = torch.zeros(cells.shape, device=cells.device)
    return State(batch, segment, tuple(generators), 0, steps, cells & (ids == MASK), codes.where(inside, UNKNOWN), logprobs, blank)


def _apply(state: State, decision: Decision) -> State:
    """The state after a step; nothing outside the target moves, whatever the decision says."""
    accept = decision.accept & decision.drawn.cells & state.target
    revoke = torch.zeros_like(accept) if decision.revoke is None else decision.revoke & state.target & ~accept
    codes = torch.where(accept, decision.drawn.codes, state.codes).masked_fill(revoke, UNKNOWN)
    logprobs = torch.where(accept, decision.drawn.logprobs, state.logprobs).masked_fill(revoke, 0)
    ids, level = state.batch.ids.clone(), state.segment.level
    written = torch.where(codes == UNKNOWN, MASK, codes + state.segment.offset)
    ids[..., level] = torch.where(state.target, written, ids[..., level])
    batch = state.batch.with_ids(ids)
    return dataclasses.replace(state, batch=batch, step=state.step + 1, codes=codes, logprobs=logprobs, changed=codes != state.codes)


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """Fills the unknown cells of one level in a few parallel steps. A subclass says which cells to keep at each.

    Args:
        steps: Most calls of the model; a batch without unknown cells left ends earlier.
        schedule: Share of the target still masked over progress.
        temperature: Divides the logits; 0 takes the most likely code.
        top_k: Codes that may be drawn; None for all.
        top_p: Share of probability that may be drawn; None for all.
    """

    steps: int = 12
    schedule: MaskSchedule = Cosine()  # noqa: RUF009 (frozen)
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    revokes: ClassVar[bool] = False
    """True in a subclass that takes cells back: then a step without unknown cells does not end the decode."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be a finite number of at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 or None, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1] or be None, got {self.top_p}")

    @abstractmethod
    def start(self, state: State) -> StepFn:
        """The step function of one decode; what it must remember (an order, a clock) lives in its closure."""

    def sample(
        self,
        logits_fn: LogitsFn,
        batch: TokenBatch,
        segment: Segment,
        generators: Sequence[torch.Generator],
        callback: Callable[[State], None] | None = None,
    ) -> tuple[TokenBatch, Trajectory]:
        """Generate the cells of the segment that are MASK; everything else comes back unchanged.

        Args:
            logits_fn: Gives logits of chosen cells.
            batch: Rows with MASK at the unknown cells; never edited.
            segment: The level to decode.
            generators: One a row; a row's result depends on its own generator alone.
            callback: Called after every step with the state; raising stops the decode.

        Returns:
            The filled batch and what each step did.

        Raises:
            ValueError: If there is not one generator a row, or the logits have a wrong shape.
            FloatingPointError: If logits are NaN or +inf, or forbid every code of a cell.
        """
        start = state = _begin(batch, segment, generators, self.steps)
        states: list[State] = []
        with torch.no_grad():
            decide = self.start(state)
            while state.step < self.steps and bool((state.target if self.revokes else state.unknown).any()):
                state = _apply(state, decide(state, partial(self._draw, logits_fn, state)))
                states.append(state)
                if callback is not None:
                    callback(state)
        assert not state.unknown.any(), f"{type(self).__name__} left {int(state.unknown.sum())} cells masked after its last step"
        return state.batch, _trajectory(start, states)

    def _draw(self, logits_fn: LogitsFn, state: State, cells: Bool[Tensor, "batch length"]) -> Drawn:
        """Codes for the chosen cells, with the one check of the logits."""
        segment, rows = state.segment, cells.nonzero()[:, 0]
        logits = logits_fn(state.batch, cells, segment, state.progress)
        if logits.shape != (len(rows), segment.size):
            raise ValueError(f"logits of {segment.modality} must have shape {(len(rows), segment.size)}, got {tuple(logits.shape)}")
        codes, logprobs = draw(logits, rows, state.generators, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
        if not bool(logprobs.isfinite().all()):  # NaN or +inf anywhere in a row of logits reaches the row's log-probability
            where = f"step {state.step} of {state.steps}"
            raise FloatingPointError(f"logits of {segment.modality} level {segment.level} are not finite at {where}")
        return Drawn(cells, scattered(cells, codes, UNKNOWN), scattered(cells, logprobs, 0.0).to(state.logprobs.dtype), logits)
