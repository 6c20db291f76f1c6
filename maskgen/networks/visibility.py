"""Attention masks: which cells attend to which, as a dense mask or, for long rows, as fields of each cell."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

LONGEST_DENSE = 1024
"""Cells of the longest row that gets a dense mask; the memory of the masks of longer rows does not grow with the square of their length."""
CHUNK_PAIRS = 2**20
"""Pairs of query and key of one row whose mask exists at a time where a row is long."""


@dataclass(frozen=True)
class Near:
    """Restricted context of each row; see `nearby`.

    Args:
        modality: Modality of each cell.
        time: Time of each cell.
        window: Window of each row in time steps; 0 sets no limit.
    """

    modality: Int[Tensor, "batch length"]
    time: Int[Tensor, "batch length"]
    window: Int[Tensor, " batch"]

    @property
    def dense(self) -> Bool[Tensor, "batch length length"]:
        """Mask of all pairs."""
        reach = self.window[:, None, None]
        apart = (self.time[:, :, None] - self.time[:, None, :]).abs()
        return (reach == 0) | (apart <= reach) | (self.modality[:, :, None] != self.modality[:, None, :])

    @property
    def is_unlimited(self) -> bool:
        """Whether the window of no row leaves a pair out."""
        span = self.time.amax(dim=1) - self.time.amin(dim=1)
        return bool(((self.window == 0) | (self.window >= span)).all())


@dataclass(frozen=True)
class Sight:
    """Which cells of long rows attend to which, without a mask of all pairs: memory grows with the length alone.

    Args:
        valid: See `visible`.
        document: See `visible`.
        context: See `visible`.
        near: See `visible`.
        queries: Cells that attend; None is every cell.
        blocks: The same as a `BlockMask` of `torch.nn.attention.flex_attention`; None where that cannot run.
    """

    valid: Bool[Tensor, "batch length"]
    document: Int[Tensor, "batch length"]
    context: Bool[Tensor, "batch length"] | None = None
    near: Near | None = None
    queries: Int[Tensor, "batch queries"] | None = None
    blocks: Any = None

    @property
    def num_queries(self) -> int:
        """Number of cells of a row that attend."""
        return (self.valid if self.queries is None else self.queries).shape[1]

    @property
    def chunk(self) -> int:
        """Number of queries whose mask is made at a time."""
        return max(1, CHUNK_PAIRS // self.valid.shape[1])

    def mask(self, start: int, stop: int) -> Bool[Tensor, "batch 1 queries length"]:
        """Mask of some queries over all cells."""
        rows = torch.arange(len(self.valid), device=self.valid.device)[:, None, None]
        keys = torch.arange(self.valid.shape[1], device=self.valid.device)[None, None]
        queries = keys[:, 0, start:stop] if self.queries is None else self.queries[:, start:stop]
        return self.pairs(rows, queries[..., None], keys)[:, None]

    @property
    def dense(self) -> Bool[Tensor, "batch 1 queries length"]:
        """Mask of all pairs, for methods that need one."""
        return self.mask(0, self.num_queries)

    def pairs(self, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Whether a cell attends to another of its row; the indices are broadcast."""
        seen = (self.document[row, query] == self.document[row, key]) & self.valid[row, key]
        if self.context is not None:
            seen = seen & (self.context[row, key] | ~self.context[row, query])
        if self.near is not None:
            near, reach = self.near, self.near.window[row]
            within = (near.time[row, query] - near.time[row, key]).abs() <= reach
            seen = seen & ((reach == 0) | within | (near.modality[row, query] != near.modality[row, key]))
        return seen | (query == key)

    def of(self, queries: Int[Tensor, "batch queries"]) -> "Sight":
        """The same for some cells as queries."""
        return dataclasses.replace(self, queries=queries, blocks=None).prepared()

    def apart(self, group: Int[Tensor, "batch length"]) -> "Sight":
        """The same, restricted to pairs of one group."""
        joined = self.document * (group.max() + 2) + group
        return dataclasses.replace(self, document=joined, blocks=None).prepared()

    def prepared(self) -> "Sight":
        """The same with `blocks` where flex attention runs forward and backward: on CUDA."""
        return dataclasses.replace(self, blocks=self.block_mask()) if self.valid.is_cuda else self

    def block_mask(self) -> Any:
        """A `BlockMask` of `torch.nn.attention.flex_attention`; compiled on CUDA, where it is made without a mask of all pairs."""
        from torch.nn.attention.flex_attention import create_block_mask

        rows, length = self.valid.shape
        place = self.valid.device
        return create_block_mask(
            lambda row, head, query, key: self.pairs(row, query if self.queries is None else self.queries[row, query], key),
            rows,
            None,
            self.num_queries,
            length,
            device=str(place),
            _compile=place.type == "cuda",
        )


def sight(
    valid: Bool[Tensor, "batch length"],
    document: Int[Tensor, "batch length"],
    context: Bool[Tensor, "batch length"] | None = None,
    near: Near | None = None,
) -> Bool[Tensor, "batch 1 length length"] | Sight | None:
    """What `visible` gives for rows of up to `LONGEST_DENSE` cells; a `Sight` for longer ones; None where all cells see each other."""
    if valid.shape[1] <= LONGEST_DENSE:
        return visible(valid, document, context, near)
    if _is_whole(valid, document, context) and (near is None or near.is_unlimited):
        return None
    return Sight(valid, document, context, near).prepared()


def visible(
    valid: Bool[Tensor, "batch length"],
    document: Int[Tensor, "batch length"],
    context: Bool[Tensor, "batch length"] | None = None,
    near: Near | Bool[Tensor, "batch length length"] | None = None,
) -> Bool[Tensor, "batch 1 length length"] | None:
    """Attention mask: valid cells of the same document, and every cell itself, so that no row is empty.

    Cells of `context` attend to `context` only, so no other cell affects their hidden states. `near` restricts the mask further.

    Returns None where all cells see each other, so that attention can use its fastest path.
    """
    near = near.dense if isinstance(near, Near) else near
    if _is_whole(valid, document, context) and (near is None or bool(near.all())):
        return None
    same = (document[:, :, None] == document[:, None, :]) & valid[:, None, :]
    if context is not None:
        same = same & (context[:, None, :] | ~context[:, :, None])
    if near is not None:
        same = same & near
    return (same | torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device))[:, None]


def _is_whole(valid: Tensor, document: Tensor, context: Tensor | None) -> bool:
    """Whether all cells of a row see each other, as far as windows do not limit them; not known while compiling."""
    return context is None and not torch.compiler.is_compiling() and bool(valid.all()) and bool((document == document[:, :1]).all())


def nearby(modality: Int[Tensor, "batch length"], time: Int[Tensor, "batch length"], window: Int[Tensor, " batch"]) -> Near:
    """Restricted context: a cell sees its own modality within `window` time steps, and all of the others.

    Args:
        modality: Modality of each cell.
        time: Time of each cell; equal in all cells of an image, which is therefore never restricted.
        window: Window of each row in time steps; 0 sets no limit.

    Source: MAGNeT, arXiv:2401.04577 (5 steps at all levels but the coarsest).
    """
    return Near(modality, time, window)
