"""A model behind torch.compile, compiled once for each of a few static shapes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from maskgen.networks.transformer import MaskTransformer
from maskgen.tokens.batch import TokenBatch

MOST_SHAPES = 256
"""Shapes of one model; torch stops at 8 by itself."""


def rounded_up(rows: int, batches: Sequence[int] | None) -> int:
    """The smallest of `batches` that holds so many rows; the next power of two if there is no list.

    Raises:
        ValueError: If every entry of the list is too small.
    """
    if batches is None:
        return 1 << max(rows - 1, 0).bit_length()
    large_enough = [size for size in batches if size >= rows]
    if not large_enough:
        raise ValueError(f"a batch has {rows} rows, the largest compiled size is {max(batches)}; guidance doubles the rows: add a size")
    return min(large_enough)


def compiled(model: MaskTransformer, mode: str | None, backend: str | Callable[..., Any]) -> Callable[..., Tensor]:
    """The model, compiled at each new shape; a shape beyond the most is an error, not a silent return to the plain model."""
    forward = torch.compile(model, dynamic=False, fullgraph=True, mode=mode, backend=backend)

    def run(batch: TokenBatch, window: Tensor | None) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch._dynamo.config.patch(recompile_limit=MOST_SHAPES):
            hidden: Tensor = forward(batch, window=window)
        return hidden

    return run


class CompiledModel:
    """A model behind torch.compile: batch and length are padded to few shapes, each compiled at its first use, and the answer is cut.

    The compiled kernels round differently from the plain ones, and in another shape again. Keep the object: what it compiled is
    lost with it. On CUDA `mode="reduce-overhead"` records the pass as a CUDA graph.

    Args:
        model: The transformer, also one that `maskgen.decoding.acceleration.int8.int8` made.
        multiple: Length is padded up to a multiple of this.
        batches: Batch sizes to pad up to; None takes powers of two.
        mode: Of torch.compile.
        backend: Of torch.compile.

    Raises:
        ValueError: If `multiple` is below 1, `batches` is empty, or the model has `blind_condition` or `compress`.
    """

    def __init__(
        self,
        model: MaskTransformer,
        multiple: int = 32,
        batches: Sequence[int] | None = None,
        mode: str | None = None,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        if multiple < 1 or (batches is not None and not batches):
            raise ValueError(f"multiple must be at least 1 and batches name a size or be None, got {multiple} and {batches}")
        if model.config.blind_condition:
            raise ValueError("a compiled model cannot have blind_condition; use maskgen.decoding.acceleration.kv_cache.PrefixCacheModel")
        if model.config.compress > 1:
            raise ValueError(f"a model that merges cells (compress={model.config.compress}) cannot be compiled; leave compile off")
        self.model, self.multiple, self.batches = model, multiple, batches
        self.shapes: set[tuple[int, int]] = set()
        """(batch, length) of what was compiled so far."""
        self._compiled = compiled(model, mode, backend)

    @torch.no_grad()
    def __call__(self, batch: TokenBatch, window: Int[Tensor, " batch"] | None = None) -> Float[Tensor, "batch length dim"]:
        """Hidden states of all cells; see `MaskTransformer.forward`."""
        rows, length = batch.valid.shape
        shape = rounded_up(rows, self.batches), -(-length // self.multiple) * self.multiple
        self.shapes.add(shape)
        extra = (0, shape[1] - length, 0, shape[0] - rows)
        padded = batch.map(lambda field: functional.pad(field, (*(0, 0) * (field.ndim - 2), *extra)))
        window = None if window is None else functional.pad(window, (0, shape[0] - rows))
        return self._compiled(padded, window=window)[:rows, :length].clone()  # the next pass of a CUDA graph writes over its answer

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """The model's head."""
        return self.model.logits(hidden, offset, size)
