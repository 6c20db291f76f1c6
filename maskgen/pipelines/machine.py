"""Where and how precisely a pipeline runs."""

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

FASTER = 1.3
"""bfloat16 is chosen on a CPU if its matrix product is that many times as fast as float32's."""


def as_device(device: torch.device | str) -> torch.device:
    """A device that works here.

    Raises:
        TypeError: If it is no device.
        ValueError: If it cannot be used.
    """
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"device must be a name such as cpu or cuda:1, got {device!r}")
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(device)!r} is not usable here ({str(error).splitlines()[0]}); use cpu") from error
    if place.type == "mps":
        raise ValueError("device mps has no float64, in which codes are drawn; use cpu")
    if place.type == "meta":
        raise ValueError("device meta holds no weights; use cpu")
    return place


def as_dtype(dtype: torch.dtype | str | None, device: torch.device | str | None = "cpu") -> torch.dtype:
    """A floating-point precision; None is float32, "auto" the faster of float32 and bfloat16 on the device.

    Raises:
        TypeError: If it is no dtype.
        ValueError: If it is no floating-point precision that models run in.
    """
    if dtype is None:
        return torch.float32
    if isinstance(dtype, str):
        if dtype == "auto":
            return fastest_dtype(torch.device(device or "cpu").type)
        dtype = getattr(torch, dtype.removeprefix("torch."), dtype)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        kind = TypeError if not isinstance(dtype, (torch.dtype, str)) else ValueError
        raise kind(f"dtype must be float32, bfloat16, float16 or auto, got {dtype!r}")
    assert isinstance(dtype, torch.dtype)
    return dtype


@cache
def fastest_dtype(device: str) -> torch.dtype:
    """float32 or bfloat16, whichever multiplies matrices faster; measured once a process, in under a second.

    On CPUs without AMX or AVX512-BF16 bfloat16 is several times slower than float32.
    """
    if device != "cpu":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    seconds = {dtype: _product_s(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return torch.bfloat16 if seconds[torch.bfloat16] * FASTER < seconds[torch.float32] else torch.float32


def _product_s(dtype: torch.dtype) -> float:
    """Seconds of a matrix product of a transformer's size, the best of five."""
    left, right = torch.ones(512, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    times = []
    for _ in range(6):
        started_s = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - started_s)
    return min(times[1:])


def move_all(parts: Sequence[Any], device: torch.device, precise: Sequence[Any], dtype: torch.dtype) -> None:
    """Move parts to a device, and change the precision of some of them; all or none.

    Args:
        parts: Modules and tokenizers with a method `to`.
        device: Where to.
        precise: Those whose precision changes.
        dtype: Their precision.

    Raises:
        ValueError: If there is not enough memory; everything is then back where it was.
    """
    before = [(part, _place(part)) for part in parts]
    try:
        for part in parts:
            part.to(device)
        for part in precise:
            part.to(dtype)
    except (RuntimeError, NotImplementedError) as error:
        for part, (place, precision) in before:
            part.to(place)
            if precision is not None and part in precise:
                part.to(precision)
        raise ValueError(f"the model does not fit on {device} ({str(error).splitlines()[0]}); it stays where it was") from error


def _place(part: Any) -> tuple[torch.device, torch.dtype | None]:
    """Device and precision of a module or tokenizer."""
    network = part if isinstance(part, torch.nn.Module) else getattr(part, "network", None)
    weight = None if network is None else next(iter(network.parameters()), None)
    return (torch.device("cpu"), None) if weight is None else (weight.device, weight.dtype)
