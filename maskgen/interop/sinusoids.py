"""Numbers as sinusoids, as diffusers hands times and sizes to its networks."""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


def sinusoids(numbers: Float[Tensor, "*shape"], dim: int) -> Float[Tensor, "*shape dim"]:
    """Cosines, then sines, of each number in float32, at wavelengths from 2 pi towards 20,000 pi.

    Args:
        numbers: Times, sizes or scores.
        dim: Width of the result, even.
    """
    angles = numbers.float()[..., None] * _frequencies(dim // 2, numbers.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what a validation computes is kept for training
def _frequencies(count: int, device: torch.device) -> Float[Tensor, " count"]:
    """Frequencies in float32, from float32 exponents as in training: angles reach tens of thousands, where rounding shows."""
    exponents = -math.log(10000.0) * torch.arange(count, dtype=torch.float32) / count
    return exponents.double().exp().float().to(device)
