"""The decode loop that all samplers share. Each sampler file decides which cells a step keeps."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.masking.counts import masked_after, whole_floor
from maskgen.masking.schedule import Cosine, MaskSchedule
from maskgen.sampling.draw import Cooling, Cut, draw, gumbel, row_noise, scattered, temperature_at
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.space import MASK, Segment


def annealed(temperature: float, state: "State") -> float:
    """The temperature of this step: it falls on a straight line, to 0 at the last step."""
    return temperature * (1 - (state.step + 1) / state.steps)


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
        levels: Levels that are decoded together: the cell at place p holds level p % levels of the group.
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
    levels: int = 1

    @property
    def unknown(self) -> Bool[Tensor, "batch length"]:
        """Target cells that are masked now."""
        return self.target & (self.codes == UNKNOWN)

    @property
    def total(self) -> Int[Tensor, " batch"]:
        """Cells of each row that were unknown at the start."""
        return self.target.sum(dim=1)

    def filled(self, codes: Int[Tensor, "batch length"]) -> TokenBatch:
        """The batch with these codes in the target; UNKNOWN stays MASK, and nothing outside the target moves."""
        ids, level = self.batch.ids.clone(), self.segment.level
        ids[..., level] = torch.where(self.target, torch.where(codes == UNKNOWN, MASK, codes + self.segment.offset), ids[..., level])
        return self.batch.with_ids(ids)

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


DrawFn = Callable[..., Drawn]
"""Asks the model for the chosen cells (Bool [batch length]) and draws their codes; a State behind them stands in for the step's own."""

StepFn = Callable[[State, DrawFn], Decision]
"""One step of a decode."""


def keep_surest(state: State, drawn: Drawn, scores: Float[Tensor, "batch length"], schedule: MaskSchedule, noise: float = 0.0) -> Decision:
    """The decision that keeps the drawn cells with the largest scores, as many as the schedule says.

    Args:
        state: The decode.
        drawn: Codes of all unknown cells.
        scores: The larger, the sooner a cell is kept; read at unknown cells alone.
        schedule: Share of the target still masked over progress.
        noise: Scale of the Gumbel noise that is added to the scores; at 0 none is drawn.
    """
    unknown, scores = state.unknown, scores.double()
    if noise > 0:
        scores = scores + noise * row_noise(unknown, state.generators, gumbel)
    place = ranked(scores.masked_fill(~unknown, torch.inf))  # known cells last, after the noise
    return Decision(drawn, unknown & (place >= masked_after(schedule, state.step, state.steps, state.total)[:, None]))


def in_order(scores: Float[Tensor, "batch length"], schedule: MaskSchedule, rounding: Callable[[Tensor], Tensor] = whole_floor) -> StepFn:
    """The step function of a sampler whose order is fixed beforehand: low scores first, logits at the cells of the step only.

    Args:
        scores: Any numbers; only their order inside a row's target counts.
        schedule: Share of the target still masked over progress.
        rounding: See `maskgen.masking.counts.masked_after`.
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
    blank, logprobs = torch.zeros_like(cells), torch.zeros(cells.shape, device=cells.device)
    return State(batch, segment, tuple(generators), 0, steps, cells & (ids == MASK), codes.where(inside, UNKNOWN), logprobs, blank)


def applied(state: State, decision: Decision) -> State:
    """The state after a step; nothing outside the target moves, whatever the decision says."""
    accept = decision.accept & decision.drawn.cells & state.target
    revoke = torch.zeros_like(accept) if decision.revoke is None else decision.revoke & state.target & ~accept
    codes = torch.where(accept, decision.drawn.codes, state.codes).masked_fill(revoke, UNKNOWN)
    logprobs = torch.where(accept, decision.drawn.logprobs, state.logprobs).masked_fill(revoke, 0)
    return dataclasses.replace(
        state, batch=state.filled(codes), step=state.step + 1, codes=codes, logprobs=logprobs, changed=codes != state.codes
    )


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """Fills the unknown cells of one level in a few parallel steps. A subclass says which cells to keep at each.

    Args:
        steps: Most calls of the model; a batch without unknown cells left ends earlier.
        schedule: Share of the target still masked over progress.
        temperature: Divides the logits; 0 takes the most likely code.
        sharpening: Factor of the logits at the last step over that at the first, between which it runs in a straight line; above 1 later
            codes are drawn more greedily. 1 is off.
        soft_steps: First steps that draw at twice the temperature.
        cooling: How the temperature falls over the steps; `maskgen.sampling.draw.cooled` lists the ways.
        top_k: Codes that may be drawn; None for all.
        top_p: Share of probability that may be drawn; None for all.
        min_p: Least probability that may be drawn, as a share of the largest; None for all.
        typical_p: Share of probability of the most typical codes that may be drawn; None for all.
        cut_first: Whether these shares are those at temperature 1, whatever temperature codes are drawn at.
    """

    steps: int = 12
    schedule: MaskSchedule = Cosine()  # noqa: RUF009 (frozen)
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    sharpening: float = 1.0
    soft_steps: int = 0
    cooling: Cooling = "none"
    cut_first: bool = False
    revokes: ClassVar[bool] = False
    """True in a subclass that takes cells back: then a step without unknown cells does not end the decode."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that the pipeline must fill before a decode, such as "critic"."""
    takes: ClassVar[tuple[str, ...]] = ()
    """Names of fields that the pipeline fills where it can, and that may stay empty."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        temperature_at(0, 1, self.temperature, self.sharpening, self.soft_steps, self.cooling)
        self.cut()

    def cut(self) -> Cut:
        """Which codes may be drawn."""
        return Cut(top_k=self.top_k, top_p=self.top_p, min_p=self.min_p, typical_p=self.typical_p, before_temperature=self.cut_first)

    def temperature_at(self, state: State) -> float:
        """The temperature of a step."""
        return temperature_at(state.step, state.steps, self.temperature, self.sharpening, self.soft_steps, self.cooling)

    @abstractmethod
    def start(self, state: State) -> StepFn:
        """The step function of one decode; what it must remember (an order, a clock) lives in its closure."""

    def sample(
        self,
        logits_fn: LogitsFn,
        batch: TokenBatch,
        segment: Segment,
        generators: Sequence[torch.Generator],
        callback: Callable[[State], State | None] | None = None,
        levels: int = 1,
    ) -> tuple[TokenBatch, Trajectory]:
        """Generate the cells of the segment that are MASK; everything else comes back unchanged.

        Args:
            logits_fn: Gives logits of chosen cells.
            batch: Rows with MASK at the unknown cells; never edited.
            segment: The level to decode.
            generators: One a row; a row's result depends on its own generator alone.
            callback: Called after every step with the state; a state that it returns takes its place, raising stops the decode.
            levels: Levels that lie behind each other in the rows; see `State`.

        Returns:
            The filled batch and what each step did.

        Raises:
            ValueError: If there is not one generator a row, or the logits have a wrong shape.
            FloatingPointError: If logits are NaN or +inf, or forbid every code of a cell.
        """
        start = state = dataclasses.replace(_begin(batch, segment, generators, self.steps), levels=levels)
        states: list[State] = []
        with torch.no_grad():
            decide = self.start(state)
            while state.step < self.steps and bool((state.target if self.revokes else state.unknown).any()):
                state = applied(state, decide(state, partial(self._draw, logits_fn, state)))
                if callback is not None:
                    state = callback(state) or state
                states.append(dataclasses.replace(state, batch=batch))  # whole batches of many steps would fill the memory
        assert not state.unknown.any(), f"{type(self).__name__} left {int(state.unknown.sum())} cells masked after its last step"
        return state.batch, _trajectory(start, states)

    def _draw(self, logits_fn: LogitsFn, own: State, cells: Bool[Tensor, "batch length"], other: State | None = None) -> Drawn:
        """Codes for the chosen cells, with the one check of the logits."""
        state = other or own
        segment, rows = state.segment, cells.nonzero()[:, 0]
        if not len(rows):  # a step may leave everything as it is; that costs no model call
            nothing = torch.full_like(state.codes, UNKNOWN), torch.zeros_like(state.logprobs)
            return Drawn(cells, *nothing, torch.zeros(0, segment.size, device=cells.device))
        logits = logits_fn(state.batch, cells, segment, state.progress)
        if logits.shape != (len(rows), segment.size):
            raise ValueError(f"logits of {segment.modality} must have shape {(len(rows), segment.size)}, got {tuple(logits.shape)}")
        codes, logprobs = draw(logits, rows, state.generators, temperature=self.temperature_at(own), cut=self.cut())
        if not bool(logprobs.isfinite().all()):  # NaN or +inf anywhere in a row of logits reaches the row's log-probability
            where = f"step {state.step} of {state.steps}"
            raise FloatingPointError(f"logits of {segment.modality} level {segment.level} are not finite at {where}")
        return Drawn(cells, scattered(cells, codes, UNKNOWN), scattered(cells, logprobs, 0.0).to(state.logprobs.dtype), logits)
