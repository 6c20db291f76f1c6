"""How a decode went, as pictures and numbers: when each cell was fixed, how sure the model was, and what each step did."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from maskgen.pipelines.outputs import GenerationOutput
from maskgen.tokens.batch import UNKNOWN

RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Colours of 0 to 1, as the map viridis has them: light is high, also to colour-blind people and in grey."""
STEP_HEADERS = ("level", "step", "cells fixed", "taken back", "confidence", "least")


@dataclass(frozen=True)
class RevealStep:
    """What one step of the first row did.

    Args:
        levels: Levels that were decoded, from 1.
        step: The step, from 1.
        fixed: Cells that took a code.
        taken_back: Cells that became unknown again.
        confidence: Mean probability of the codes that were fixed; NaN if none was.
        least: The least of them.
    """

    levels: str
    step: int
    fixed: int
    taken_back: int
    confidence: float
    least: float


@dataclass(frozen=True)
class Reveal:
    """A decode of one row.

    Args:
        steps: What each step did.
        order: Step over all levels at which each cell took its code, [level, *grid].
        confidence: Probability of each code at the step that fixed it, [level, *grid].
    """

    steps: list[RevealStep]
    order: Int[Tensor, "level ..."]
    confidence: Float[Tensor, "level ..."]


def reveal_of(output: GenerationOutput) -> Reveal:
    """How the first row of a decode went.

    Args:
        output: One batch of rows whose target was unknown at the start.
    """
    final = output.codes[0]
    order, confidence = torch.zeros(final.shape, dtype=torch.long), torch.zeros(final.shape)
    steps: list[RevealStep] = []
    level = 0
    for trajectory in output.trajectories:
        if level == len(final):
            break
        codes, changed, logprobs = trajectory.codes[:, 0].cpu(), trajectory.changed[:, 0].cpu(), trajectory.logprobs[:, 0].cpu()
        cells = codes[-1] != UNKNOWN
        depth = int(cells.sum()) // final[0].numel()  # levels that were decoded together
        named = f"{level + 1}" if depth == 1 else f"{level + 1} to {level + depth}"
        first = len(steps)
        for step in range(len(codes)):
            steps.append(_step(named, step, codes[step], changed[step], logprobs[step]))
        last = torch.where(changed[:, cells], torch.arange(first + 1, len(steps) + 1)[:, None], 0).amax(dim=0)
        shape = (*final.shape[1:], depth)
        order[level : level + depth] = last.reshape(shape).movedim(-1, 0)
        confidence[level : level + depth] = logprobs[-1][cells].exp().reshape(shape).movedim(-1, 0)
        level += depth
    return Reveal(steps, order, confidence)


def _step(levels: str, step: int, codes: Tensor, changed: Tensor, logprobs: Tensor) -> RevealStep:
    fixed, back = changed & (codes != UNKNOWN), changed & (codes == UNKNOWN)
    sure = logprobs[fixed].exp()
    means = (float(sure.mean()), float(sure.min())) if len(sure) else (float("nan"), float("nan"))
    return RevealStep(levels, step + 1, int(fixed.sum()), int(back.sum()), *means)


def map_pictures(values: Float[Tensor, "level ..."]) -> list[Image.Image]:
    """A map of each level of a grid of rows and columns, a pixel a cell; else one map, a row a level and a column a frame.

    Args:
        values: In [0, 1].
    """
    grids = list(values) if values.ndim == 3 else [values.reshape(len(values), -1)]
    return [heat_map(grid.numpy()) for grid in grids]


def heat_map(values: Float[np.ndarray, "rows columns"]) -> Image.Image:
    """Values in [0, 1] as a picture, a pixel a value."""
    stops = np.linspace(0, 1, len(RAMP))
    colours = np.stack([np.interp(values, stops, [stop[channel] for stop in RAMP]) for channel in range(3)], axis=-1)
    return Image.fromarray(colours.round().astype(np.uint8))


def order_share(reveal: Reveal) -> Float[Tensor, "level ..."]:
    """Order of reveal as shares of the decode: 0 is the first step, 1 the last."""
    return (reveal.order.float() - 1) / max(1, len(reveal.steps) - 1)


def step_rows(steps: Sequence[RevealStep]) -> list[list[Any]]:
    """Steps as rows of a table under `STEP_HEADERS`."""
    return [[one.levels, one.step, one.fixed, one.taken_back, *map(_rounded, (one.confidence, one.least))] for one in steps]


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 3)
