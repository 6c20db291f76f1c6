"""A function of a batch, computed so that a row's answer does not depend on its neighbours."""

from collections.abc import Callable

from jaxtyping import Shaped
from torch import Tensor

from maskgen.tokens.batch import TokenBatch


def row_by_row(function: Callable[[TokenBatch], Tensor], batch: TokenBatch) -> Shaped[Tensor, "batch length"]:
    """The function's value of every cell; on a CPU from each row alone, without the padding behind it.

    A matrix product rounds differently in another shape, so only this way a row's values are the same to the last bit whatever stands
    beside it (`maskgen.decoding.together` does the same for logits). On other devices the whole batch is computed at once.

    Args:
        function: Of a batch, one value a cell `[batch length]`.
        batch: Rows, padded to one length.

    Returns:
        The values; 0 (or False) at padding where rows are computed alone.
    """
    if batch.ids.device.type != "cpu":
        return function(batch)
    parts = [function(batch.alone(row))[0] for row in range(len(batch))]
    found = parts[0].new_zeros(batch.valid.shape)
    for place, part in zip(found, parts, strict=True):
        place[: len(part)] = part
    return found
