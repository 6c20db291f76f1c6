"""Guidance by several weighted conditions at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.space import Segment


def guided_by(conditions: Sequence[tuple[LogitsFn, float]], unconditional: LogitsFn) -> LogitsFn:
    """Guidance by several conditions at once: u + sum of weight (c - u). With one condition it equals `guided` at that scale.

    Args:
        conditions: Functions that each see one condition, and their weights. A negative weight leads away from its condition; one of
            weight 0 is not called.
        unconditional: u, which sees none of them; not called where one condition alone counts, with weight 1.

    Raises:
        ValueError: If there is no condition.

    Source: composable diffusion, arXiv:2206.01714, on logits.
    """
    if not conditions:
        raise ValueError("guided_by needs at least one condition, got none; without conditions use the unconditional function itself")
    heard = [(function, weight) for function, weight in conditions if weight != 0]

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        if [weight for _, weight in heard] == [1]:
            return heard[0][0](batch, cells, segment, progress)
        found = unconditional(batch, cells, segment, progress)
        base = found = found.to(torch.promote_types(found.dtype, torch.float32))
        for function, weight in heard:
            found = found + (function(batch, cells, segment, progress) - base) * weight
        return found

    return logits_fn
