"""Functions of a batch: all that samplers, processors of logits and scorers know of a model."""

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
        """Logits of `batch.ids[cells]`, in that row-major order.

        Args:
            batch: All rows as they stand, MASK where a cell is unknown.
            cells: Cells whose logits are wanted.
            segment: The level to predict; the columns of the result are its codes.
            progress: Steps done over steps in all, 0 at the first step.

        Returns:
            One row a cell, one column a code. -inf forbids a code; NaN and +inf are errors.
        """
        ...


ScoreFn = Callable[[TokenBatch, Segment], Tensor]
"""Of a filled batch, for every cell `[batch length]`: logit that its code at that level was drawn by the generator; large is fake."""

GroupFn = Callable[[TokenBatch, Segment], Tensor]
"""Of a filled batch, for every cell (Bool `[batch length]`): True where a code is kept for good once it is accepted."""
