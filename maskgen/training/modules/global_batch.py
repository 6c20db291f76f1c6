"""The rows of all ranks as one batch, so that masks and losses do not depend on the number of ranks."""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.distributed
from jaxtyping import Float, Int
from torch import Tensor

from maskgen.masking.masks import Masked
from maskgen.masking.noise import Noised
from maskgen.masking.tasks import TaskBatch
from maskgen.tokens.batch import TokenBatch, padded_to

Drawn = TypeVar("Drawn", Masked, Noised, TaskBatch)


@dataclass(frozen=True)
class GlobalBatch:
    """Rows of all ranks, and which of them belong to this rank.

    Masks are drawn for all rows on every rank and then cut to the rank's own, so that a row is masked as in a training on one rank.

    Args:
        batch: Rows of all ranks, in the order in which one rank would read them.
        own: This rank's rows.
        world_size: Number of ranks.
        counts: Whether this rank's rows count. The last batch of a validation can have fewer rows than there are ranks; a rank without one
            then runs a row of another's, because ranks that share weights gather them together.
        features: Vectors of the cells of this rank's rows; masks do not depend on them, so ranks do not exchange them.
    """

    batch: TokenBatch
    own: slice
    world_size: int = 1
    counts: bool = True
    features: Float[Tensor, "rows length width"] | None = None

    def part(self, drawn: Drawn) -> Drawn:
        """This rank's rows of what was drawn for the global batch."""
        if self.world_size == 1:
            return drawn
        found = drawn.rows(self.own)
        return found if self.features is None else replace(found, batch=replace(found.batch, features=self.features))

    def per_rank(self, count: Tensor) -> Tensor | None:
        """Denominator of a mean over the global batch; None on one rank, where it is that of the batch itself.

        DDP averages gradients over ranks. The average of `sum over own rows / per_rank` is the mean over all rows.

        Args:
            count: What the mean is over, counted in the global batch.
        """
        return None if self.world_size == 1 else count / self.world_size

    def mean(self, values: Float[Tensor, " codes"], count: Int[Tensor, ""]) -> Float[Tensor, ""]:
        """What averages over ranks to the mean of all ranks' values.

        Args:
            values: One for each code of this rank's rows.
            count: Number of codes in the global batch.
        """
        return values.mean() if self.world_size == 1 else values.sum() * (self.world_size / count)


def ranks() -> tuple[int, int]:
    """Number of this rank, and of all; (0, 1) without distributed training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def gathered(batch: TokenBatch) -> GlobalBatch:
    """The rows of all ranks: rank 0's first. Token ids are small, so a step on many ranks costs one exchange of a few MB at most.

    Args:
        batch: This rank's rows; every rank has the same number.
    """
    rank, world_size = ranks()
    if world_size == 1:
        return GlobalBatch(batch, slice(None))
    length = torch.tensor(batch.ids.shape[1], device=batch.ids.device)
    torch.distributed.all_reduce(length, op=torch.distributed.ReduceOp.MAX)
    own = padded_to(batch, int(length))
    whole = replace(own, features=None).map(lambda field: _of_all(field, world_size))
    return GlobalBatch(whole, slice(rank * len(batch), (rank + 1) * len(batch)), world_size, features=own.features)


def _of_all(field: Tensor, world_size: int) -> Tensor:
    """The rows of all ranks of one tensor."""
    parts = [torch.empty_like(field) for _ in range(world_size)]
    torch.distributed.all_gather(parts, field.contiguous())
    return torch.cat(parts)


def divided(batch: TokenBatch) -> GlobalBatch:
    """A batch that every rank holds whole, as in validation: consecutive rows go to each rank.

    Args:
        batch: The same rows on every rank.
    """
    rank, world_size = ranks()
    if world_size == 1:
        return GlobalBatch(batch, slice(None))
    share = -(-len(batch) // world_size)
    if rank * share >= len(batch):
        return GlobalBatch(batch, slice(len(batch) - 1, len(batch)), world_size, counts=False)
    return GlobalBatch(batch, slice(rank * share, (rank + 1) * share), world_size)
