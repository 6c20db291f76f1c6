"""Evaluate a function of a batch so that each row's result does not depend on the other rows."""

from collections.abc import Callable

from jaxtyping import Shaped
from torch import Tensor

from maskgen.tokens.batch import TokenBatch


def row_by_row(function: Callable[[TokenBatch], Tensor], batch: TokenBatch) -> Shaped[Tensor, "batch length"]:
    """Values of a function at every cell; on a CPU each row is computed separately, without its padding.

    Matrix products round differently for different shapes, so only separate rows give values that are bit-identical in any batch
    (`maskgen.decoding.together` does the same for logits). On other devices the whole batch is computed at once.

    Args:
        function: Maps a batch to one value per cell `[batch length]`.
        batch: Rows, padded to one length.

    Returns:
        The values; 0 (or False) at padding where rows are computed separately.
    """
    if batch.ids.device.type != "cpu":
        return function(batch)
    parts = [function(batch.alone(row))[0] for row in range(len(batch))]
    found = parts[0].new_zeros(batch.valid.shape)
    for place, part in zip(found, parts, strict=True):
        place[: len(part)] = part
    return found
