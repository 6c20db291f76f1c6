"""Function types through which samplers, logits processors and scorers call a model."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import Segment


@runtime_checkable
class LogitsFn(Protocol):
    """Logits of chosen cells over the codes of one level."""

    def __call__(
        self, batch: TokenBatch, cells: Bool[Tensor, "batch length"], segment: Segment, progress: float, /
    ) -> Float[Tensor, "cells size"]:
        """Logits of `batch.ids[cells]`, in row-major order.

        Args:
            batch: All rows in their current state, with MASK where a code is unknown.
            cells: Cells to predict.
            segment: The level to predict; the columns of the result are its codes.
            progress: Completed steps over total steps, 0 at the first step.

        Returns:
            One row per cell, one column per code. -inf forbids a code; NaN and +inf are errors.
        """
        ...


ScoreFn = Callable[[TokenBatch, Segment], Tensor]
"""Maps a filled batch to a logit per cell `[batch length]` that its code at a level was generated; large means generated."""

GroupFn = Callable[[TokenBatch, Segment], Tensor]
"""Maps a filled batch to Bool `[batch length]`: True where a code is kept permanently once it is accepted."""
