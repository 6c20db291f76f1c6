"""Arrays and tensors of pixels and samples as callers hand them over, converted to Pillow images and waveforms."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from maskgen.io.audio import LOUDEST, Waveform

CHANNELS = (1, 2, 3, 4)
MOST_CHANNELS = 8
"""Channels of a recording; an axis that is longer holds samples."""


def plain_array(value: np.ndarray | torch.Tensor) -> np.ndarray:
    """A NumPy array; bfloat16, which NumPy lacks, becomes float32."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu()
    return value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()


def picture_of(value: np.ndarray | torch.Tensor, name: str) -> Image.Image:
    """An array or tensor of pixels as a Pillow image.

    Args:
        value: [rows, columns], or with 1 (grey), 2 (grey and opacity), 3 (RGB) or 4 (RGB and opacity) channels in the last or the first
            axis; where both would do, the last is taken in an array and the first in a tensor. Booleans, integers in [0, 255], uint16
            in [0, 65535], or floating point in [0, 1].
        name: The caller's argument, for errors.

    Raises:
        ValueError: If it has another shape, or values out of range.
    """
    array = plain_array(value)
    if array.ndim == 3:
        order = (0, 2) if isinstance(value, torch.Tensor) else (2, 0)
        axis = next((axis for axis in order if array.shape[axis] in CHANNELS), None)
        array = array[None] if axis is None else np.moveaxis(array, axis, 2)
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; give one image, an array [rows, columns, 3] or a tensor [3, rows, columns] "
            "(also 1, 2 or 4 channels, or none)"
        )
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    deep = array.dtype == np.uint16
    if deep and array.ndim == 2:
        return Image.fromarray(np.ascontiguousarray(array))
    return Image.fromarray(np.ascontiguousarray(array // 257 if deep else _bytes_of(array, name)).astype(np.uint8))


def _bytes_of(array: np.ndarray, name: str) -> np.ndarray:
    """Values in [0, 255].

    Raises:
        ValueError: If they have another type or are out of range.
    """
    if array.dtype == np.bool_:
        return array * 255
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"{name} has floating-point values outside [0, 1]; scale them to [0, 1] or give uint8")
        return np.rint(array.astype(np.float32) * 255)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} has values of type {array.dtype}; give uint8 in [0, 255] or floating point in [0, 1]")
    if array.min() < 0 or array.max() > 255:
        raise ValueError(f"{name} has values from {array.min()} to {array.max()}; give integers in [0, 255] or floating point in [0, 1]")
    return array


def waveform_of(samples: Any, sample_rate_hz: Any, name: str) -> Waveform:
    """Samples and their rate as a waveform.

    Args:
        samples: [samples], [channels, samples] or [samples, channels], with at most 8 channels: floating point in [-1, 1] (peaks up to 8
            are clipped, as in files), or integers of 8 (unsigned), 16 or 32 bits.
        sample_rate_hz: A whole number.
        name: The caller's argument, for errors.

    Raises:
        ValueError: If they have another shape or type, hold NaN or infinity or are louder than 8, or the rate is below 1.
    """
    array = plain_array(samples) if isinstance(samples, (np.ndarray, torch.Tensor)) else np.asarray(samples)
    rate = int(sample_rate_hz)
    if array.ndim == 2 and array.shape[0] > MOST_CHANNELS >= array.shape[1]:
        array = array.T
    if array.ndim not in (1, 2) or rate < 1 or (array.ndim == 2 and not 1 <= array.shape[0] <= MOST_CHANNELS):
        raise ValueError(
            f"{name} has samples of shape {array.shape} at {rate} Hz; wanted [samples] or [channels, samples] with at most "
            f"{MOST_CHANNELS} channels, and a rate"
        )
    return Waveform(samples=np.ascontiguousarray(np.atleast_2d(_scaled(array, name))), sample_rate_hz=rate)


def _scaled(array: np.ndarray, name: str) -> Float[np.ndarray, "..."]:
    """Samples as float32 in [-1, 1]."""
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if array.dtype in (np.int16, np.int32):
        return np.asarray(array / 2 ** (8 * array.dtype.itemsize - 1), np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} has samples of type {array.dtype}; give floating point in [-1, 1], or integers of 16 or 32 bits")
    if array.size and not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite samples; give a whole recording")
    if array.size and np.abs(array).max() > LOUDEST:
        raise ValueError(f"{name} has samples of {np.abs(array).max():.3g}, wanted -1 to 1; scale them, or give integers as integers")
    return np.asarray(array, np.float32).clip(-1, 1)
