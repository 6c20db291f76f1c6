"""Rotary positions of cells along time, rows and columns, also of grids larger than those of a training."""

import math
from collections.abc import Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

RopeScaling = Literal["none", "interpolate", "ntk", "yarn"]
"""How frequencies change for larger grids."""
UNTOUCHED_TURNS, WHOLLY_SCALED_TURNS = 2.0, 0.5
"""Turns over the training's grid from which on YaRN leaves a pair alone, and up to which it scales it wholly."""


@runtime_checkable
class RotaryConfig(Protocol):
    """The settings of a network that its rotary positions depend on; `maskgen.networks.transformer.TransformerConfig` has them."""

    @property
    def head_dim(self) -> int: ...
    @property
    def rope_base(self) -> float: ...
    @property
    def rope_split(self) -> Sequence[int]: ...
    @property
    def rope_raster(self) -> int: ...
    @property
    def rope_scaling(self) -> RopeScaling: ...
    @property
    def rope_factor(self) -> float: ...
    @property
    def rope_trained(self) -> int: ...


def rope_frequencies(config: RotaryConfig, device: torch.device | str = "cpu") -> Float[Tensor, "3 pairs"]:
    """Angular frequency of every rotary pair for (time, row, column); each pair rotates with one axis only.

    The tensor is created on `device`: a copy from the CPU inside the model would keep CUDA graphs from recording it.
    """
    pairs = config.head_dim // 2
    shares = [pairs * share // sum(config.rope_split) for share in config.rope_split]
    shares[-1] += pairs - sum(shares)
    frequencies = torch.zeros(3, pairs, device=device)
    start = 0
    for axis, count in enumerate(shares):
        scaling: tuple[RopeScaling, float] = (config.rope_scaling, config.rope_factor) if axis else ("none", 1.0)
        frequencies[axis, start : start + count] = axis_frequencies(count, config.rope_base, *scaling, config.rope_trained, device)
        start += count
    if config.rope_raster:
        frequencies[1] += config.rope_raster * frequencies[0]
        frequencies[2] += frequencies[0]
    return frequencies


def rotate(
    x: Float[Tensor, "batch heads length head_dim"], rotation: tuple[Tensor, Tensor]
) -> Float[Tensor, "batch heads length head_dim"]:
    """Rotate each pair (first half, second half) of a head by the cell's angles. Source: RoFormer, arXiv:2104.09864."""
    cosine, sine = (part.to(x.dtype) for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


def axis_frequencies(
    count: int, base: float, scaling: RopeScaling, factor: float, trained: int, device: torch.device | str = "cpu"
) -> Float[Tensor, " pairs"]:
    """Angular frequencies of the rotary pairs of one axis, fastest first.

    Args:
        count: Number of pairs.
        base: Longest wavelength, over 2 pi.
        scaling: "none"; "interpolate" divides all frequencies by the factor; "ntk" enlarges the base so that the slowest one is divided by
            it and the fastest stays; "yarn" divides those that turn less than half over the trained grid, leaves those that turn twice or
            more, and mixes in between.
        factor: Cells of the larger grid over those of the trained one, along the axis.
        trained: Cells of the trained grid along the axis; for "yarn".
        device: Device of the result.

    Source: position interpolation, arXiv:2306.15595; NTK-aware scaling and YaRN, arXiv:2309.00071. Differs: YaRN's bounds of 1 and 32
    turns are those of thousands of tokens, on a grid of tens of cells no pair would turn that often.
    """
    steps = torch.arange(count, device=device) / max(count, 1)
    if scaling == "ntk" and count > 1:
        base = base * factor ** (count / (count - 1))
    frequencies = base**-steps
    if scaling == "interpolate":
        return frequencies / factor
    if scaling == "yarn":
        turns = frequencies * trained / (2 * math.pi)
        kept = ((turns - WHOLLY_SCALED_TURNS) / (UNTOUCHED_TURNS - WHOLLY_SCALED_TURNS)).clamp(0, 1)
        return frequencies * (kept + (1 - kept) / factor)
    return frequencies


def check_scaling(scaling: str, factor: float, trained: int) -> None:
    """Refuse settings that mean nothing.

    Raises:
        ValueError: If the method is unknown, the factor below 1, or YaRN lacks the trained grid.
    """
    if scaling not in get_args(RopeScaling):
        raise ValueError(f"rope_scaling must be one of {', '.join(get_args(RopeScaling))}, got {scaling!r}")
    if factor < 1 or (scaling == "yarn" and trained < 1):
        raise ValueError(
            "rope_factor must be at least 1, and yarn needs rope_trained, the cells a side of the training's grid, "
            f"got rope_factor={factor} and rope_trained={trained}"
        )
