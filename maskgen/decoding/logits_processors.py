"""Logits processors: functions around any LogitsFn, guided or not, in any order. None needs training."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskgen.masking.counts import whole_floor
from maskgen.sampling.draw import scattered
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.space import Segment

LEAST_DIFFERENCE = 1e-6
"""Share that a code keeps in `differential` if it became less likely."""


def noise_regularised(logits_fn: LogitsFn, generators: Sequence[torch.Generator], *, steps: int, scale: float = 2.0) -> LogitsFn:
    """Logits with normal noise of standard deviation scale |cos(pi t / (N - 1))|: most at both ends of a decode, none midway.

    The step t of N = `steps` comes from progress k / N as t = k, so t / (N - 1) = progress N / (N - 1), 1 at the last step; a
    decode of one step has the noise of a first one.

    Args:
        logits_fn: What is to be noisy; guidance belongs inside, for outside it would scale the noise.
        generators: One a row, those of the decode; a row without chosen cells draws nothing from its own.
        steps: Steps of the decode.
        scale: Standard deviation at both ends; 0 is off and draws nothing.

    Returns:
        A LogitsFn, in float32 at least. It raises ValueError if there is not one generator a row.

    Raises:
        ValueError: If `steps` is below 1, or `scale` negative or not finite.

    Source: Bag of design choices for inference of masked generative transformers, arXiv:2411.10781 (noise regularisation).
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 <= scale < math.inf:
        raise ValueError(f"scale must be a finite number of at least 0 (0 is off), got {scale}")

    def noisy(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        logits = logits_fn(batch, cells, segment, progress)
        if scale == 0:
            return logits
        if len(generators) != len(batch):
            raise ValueError(f"a batch of {len(batch)} rows needs one generator a row, got {len(generators)}")
        place = min(progress * steps / (steps - 1), 1.0) if steps > 1 else 0.0
        drawn = zip(cells.sum(dim=1).tolist(), generators, strict=True)
        noise = torch.cat([_normal(count, segment.size, generator) for count, generator in drawn])
        return logits + scale * abs(math.cos(math.pi * place)) * noise.to(logits.device)

    return noisy


def _normal(count: int, size: int, generator: torch.Generator) -> Float[Tensor, "cells size"]:
    return torch.randn((count, size), generator=generator, device=generator.device, dtype=torch.float32)


def differential(logits_fn: LogitsFn, share: float = 0.75) -> LogitsFn:
    """Draws the cells that changed least since the last step from what changed: max(p - p_last, 1e-6), normalised.

    Of the cells that were asked for at the last step too, each row's `share` with the smallest KL(p_last || p) is replaced; all others
    keep their logits to the bit. So a sampler that asks for every cell once only (halton, random_order) is not touched, and a cell whose
    probabilities did not change at all draws any code: wrap what a step changes, and give a decode at least a few cells a step.

    Args:
        logits_fn: Gives p.
        share: Share of a row's repeated cells, in [0, 1]; 0 is off. The paper takes 0.75.

    Returns:
        A LogitsFn that remembers one step of each level. It forgets when progress falls or is 0: a new decode.

    Raises:
        ValueError: If `share` is no share.

    Source: arXiv:2411.10781 (differential sampling: 768 of 1024 cells, 3072 of 4096). Differs: ranked are the cells that are asked for,
        not all cells of the grid, and a code with logit -inf stays forbidden.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1] (0 is off), got {share}")
    memory = _LastStep()

    def changed(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        logits = logits_fn(batch, cells, segment, progress)
        if share == 0:
            return logits
        logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
        again, before = memory.swap(segment, progress, cells, logprobs)
        both = cells.masked_scatter(cells, again)
        now = logprobs[again]
        chosen = _lowest(both, _divergence(before, now), share)
        found = logits.to(logprobs.dtype, copy=True)
        found[again.nonzero()[chosen, 0]] = _difference(before[chosen], now[chosen])
        return found

    return changed


def without_code(logits_fn: LogitsFn, cells: Bool[Tensor, "batch length"], code: int) -> LogitsFn:
    """Logits in which one code of level 0 is forbidden at some cells.

    Args:
        logits_fn: Gives the logits.
        cells: Where the code is forbidden, in rows of the batch that is decoded.
        code: The code.
    """

    def forbidding(batch: TokenBatch, asked: Tensor, segment: Segment, progress: float) -> Tensor:
        logits = logits_fn(batch, asked, segment, progress)
        here = cells[asked]
        if segment.level or segment.size == 1 or not bool(here.any()):
            return logits
        changed = logits.clone()
        changed[here, code] = -math.inf
        return changed

    return forbidding


class _LastStep:
    """Log-probabilities of each level's cells when they were last asked for."""

    def __init__(self) -> None:
        self.progress = 0.0
        self.seen: dict[Segment, tuple[Tensor, Tensor]] = {}

    def swap(
        self, segment: Segment, progress: float, cells: Bool[Tensor, "batch length"], logprobs: Float[Tensor, "cells size"]
    ) -> tuple[Bool[Tensor, " cells"], Float[Tensor, "again size"]]:
        """Which of these cells were asked for at the last step, and their log-probabilities there; remembers the new ones."""
        if progress < self.progress:
            self.seen.clear()
        if progress == 0:
            self.seen.pop(segment, None)
        asked, before = self.seen.get(segment, (torch.zeros_like(cells), logprobs[:0]))
        self.progress, self.seen[segment] = progress, (cells, logprobs)
        return asked[cells], before[cells[asked]]


def _divergence(before: Float[Tensor, "cells size"], now: Float[Tensor, "cells size"]) -> Float[Tensor, " cells"]:
    """KL(before || now) of each cell; a code that was impossible adds nothing."""
    return torch.where(before.isneginf(), 0.0, before.exp() * (before - now)).sum(dim=-1)


def _lowest(cells: Bool[Tensor, "batch length"], values: Float[Tensor, " cells"], share: float) -> Bool[Tensor, " cells"]:
    """Which cells are among the given share of their row with the lowest values; ties go by position."""
    place = scattered(cells, values, math.inf).argsort(dim=1, stable=True).argsort(dim=1)
    wanted = whole_floor(share * cells.sum(dim=1).double())
    return (place < wanted[:, None])[cells]


def _difference(before: Float[Tensor, "cells size"], now: Float[Tensor, "cells size"]) -> Float[Tensor, "cells size"]:
    """Log of the normalised max(p - p_last, 1e-6); forbidden codes stay forbidden."""
    gained = (now.exp() - before.exp()).clamp(min=LEAST_DIFFERENCE).masked_fill(now.isneginf(), 0)
    return (gained / gained.sum(dim=-1, keepdim=True)).log()
