"""Block after block: a row's unknown cells in order of position, a few at a time, each block decoded by another sampler."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from maskgen.masking.schedule import Linear, MaskSchedule
from maskgen.sampling.base import Decision, DrawFn, Drawn, Sampler, State, StepFn, keep_surest

DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "cut_first")
"""Options that say how a code is drawn; those of the block sampler count, for the draw is the loop's."""

BlockStep = Callable[[State, DrawFn], Decision | None]
"""A step for some of the rows; None where they wait."""


def block_plan(steps: int, blocks: int) -> list[tuple[int, int, int]]:
    """(block, step inside it, steps of it) for every step: as even as can be, the first blocks take what is left over.

    Args:
        steps: Steps in all, at least one a block.
        blocks: Blocks of the row.
    """
    base, more = divmod(steps, blocks)
    lengths = [base + (block < more) for block in range(blocks)]
    return [(block, local, length) for block, length in enumerate(lengths) for local in range(length)]


@dataclass(frozen=True, kw_only=True)
class BlockSampler(Sampler):
    """Decodes the unknown cells of a row in blocks, first to last; the cells behind a block stay MASK until it is done.

    Blocks are counted over a row's own unknown cells in the order in which they stand in the row (time for text and audio, reading order
    for images), and its steps are divided over its own blocks, so a row's result is the same alone and in any batch. A block that is full
    before its steps are over waits, without a model call. Rows with different numbers of blocks ask for their logits one after the other; a
    LogitsFn that remembers its last pass, as those of a model do, computes it once a step.

    Args:
        steps: Steps over all blocks: steps // blocks each, one more for the first steps % blocks of them.
        block_size: Cells of a block; the last one of a row may have fewer.
        inner: Sampler inside a block. Its `steps` are set to those of the block, and it may revoke inside its block. How codes are drawn
            (temperature and cuts) is said here, not there. None keeps the surest codes, without noise.
        schedule: Schedule inside a block where no `inner` is given; linear is the same number of cells at every step.

    Raises:
        ValueError: If block_size is below 1 or `inner` draws otherwise; when sampling, if a row has more blocks than there are steps.

    Source: LLaDA, arXiv:2502.09992 (blocks of one bidirectional model); BD3-LM, arXiv:2503.09573 (blocks as a model of their own). Differs:
    counts follow `masked_after`, blocks need not divide the length, and nothing of a finished block is cached.
    """

    schedule: MaskSchedule = Linear()  # noqa: RUF009 (frozen)
    block_size: int = 32
    inner: Sampler | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {self.block_size}")
        for name in DRAWING if self.inner is not None else ():
            ours, theirs = getattr(self, name), getattr(self.inner, name)
            if theirs not in (ours, getattr(Sampler, name)):
                raise ValueError(f"the inner sampler has {name} {theirs}, codes are drawn with {ours}; give {name} to BlockSampler itself")

    @property
    def revokes(self) -> bool:  # type: ignore[override]
        """Whether the sampler inside the blocks takes cells back."""
        return self.inner is not None and self.inner.revokes

    def start(self, state: State) -> StepFn:
        number = (state.target.long().cumsum(dim=1) - 1) // self.block_size
        blocks = -(-state.total // self.block_size)
        if bool((blocks > state.steps).any()):
            row = int(blocks.argmax())
            found = f"row {row} has {int(state.total[row])} unknown cells, which are {int(blocks[row])} blocks of {self.block_size}"
            raise ValueError(f"{found}, and there are {state.steps} steps; take at least a step a block, or larger blocks")
        parts = [self._alike(number, blocks == count, block_plan(state.steps, count)) for count in sorted({*blocks.tolist()} - {0})]

        def step(now: State, draw_cells: DrawFn) -> Decision:
            decisions = [found for part in parts if (found := part(now, draw_cells)) is not None]
            nothing = torch.zeros_like(now.target)
            return _together(decisions) if decisions else Decision(draw_cells(nothing), nothing)

        return step

    def _alike(self, number: Int[Tensor, "batch length"], rows: Bool[Tensor, " batch"], plan: Sequence[tuple[int, int, int]]) -> BlockStep:
        """The steps of all rows with the same number of blocks, which go through the same plan."""
        inside_block: StepFn | None = None

        def step(now: State, draw_cells: DrawFn) -> Decision | None:
            nonlocal inside_block
            block, local, length = plan[now.step]
            inside = now.target & (number == block) & rows[:, None]
            view = dataclasses.replace(now, target=inside, step=local, steps=length)
            if local == 0:
                inside_block = self._begin_block(view)
            if not self.revokes and not bool(view.unknown.any()):
                return None
            assert inside_block is not None, "a block starts with its first step"
            decision = inside_block(view, lambda cells, other=None: draw_cells(cells & rows[:, None], other))
            revoke = None if decision.revoke is None else decision.revoke & inside
            return Decision(decision.drawn, decision.accept & inside, revoke)

        return step

    def _begin_block(self, state: State) -> StepFn:
        """The step function of a block that begins now."""
        if self.inner is not None:
            drawing = {name: getattr(self, name) for name in DRAWING}  # a sampler that draws codes itself draws as the loop does
            return dataclasses.replace(self.inner, steps=state.steps, **drawing).start(state)

        def surest(now: State, draw_cells: DrawFn) -> Decision:
            drawn = draw_cells(now.unknown)
            return keep_surest(now, drawn, drawn.logprobs, self.schedule)

        return surest


def _together(decisions: Sequence[Decision]) -> Decision:
    """One decision from several about different rows."""
    parts = [decision.drawn for decision in decisions]
    order = torch.cat([part.cells.nonzero()[:, 0] for part in parts]).argsort(stable=True)  # row by row, as the cells stand
    drawn = Drawn(
        torch.stack([part.cells for part in parts]).any(dim=0),
        torch.stack([part.codes for part in parts]).amax(dim=0),  # UNKNOWN, elsewhere, is below any code
        torch.stack([part.logprobs for part in parts]).sum(dim=0),
        torch.cat([part.logits for part in parts])[order],
    )
    revokes = [decision.revoke for decision in decisions if decision.revoke is not None]
    accept = torch.stack([decision.accept for decision in decisions]).any(dim=0)
    return Decision(drawn, accept, torch.stack(revokes).any(dim=0) if revokes else None)
