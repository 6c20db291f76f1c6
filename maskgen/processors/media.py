"""Images and audio as callers hand them over, converted to the types that tokenizers take."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maskgen.io.audio import Waveform, read_sound
from maskgen.io.images import read_picture
from maskgen.io.letterbox import on_white


def as_image(value: Any, name: str = "image") -> Image.Image:
    """An RGB image.

    Args:
        value: PIL image; path of an image file; NumPy array [rows, columns, 3] (also 1 or 4 channels, or none) or tensor
            [3, rows, columns], either uint8 in [0, 255] or floating point in [0, 1].
        name: The caller's argument, for errors.

    Returns:
        RGB, with transparency laid on white.

    Raises:
        TypeError: If the value is of another type.
        ValueError: If an array has another shape or values out of range, or a file is no image.
    """
    if isinstance(value, Image.Image):
        return on_white(value)
    if isinstance(value, (str, Path)):
        return read_picture(value)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return on_white(_from_array(value, name))
    raise TypeError(f"{name} is {_kind(value)}; give a PIL image, a path, a NumPy array [rows, columns, 3] or a tensor [3, rows, columns]")


def as_mask(value: Any, name: str = "mask_image") -> Image.Image:
    """A mask as an 8-bit grey image: white where the image is regenerated.

    Args:
        value: As for `as_image`; boolean arrays too.
        name: The caller's argument, for errors.

    Raises:
        TypeError: If the value is of another type.
        ValueError: If an array has another shape or values out of range, or a file is no image.
    """
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.dtype in (np.bool_, torch.bool):
        value = np.asarray(value).astype(np.uint8) * 255
    return as_image(value, name).convert("L")


def as_audio(value: Any, name: str = "audio") -> Waveform:
    """A waveform.

    Args:
        value: Waveform; path of an audio file; (samples, sample rate in Hz) with samples [samples] or [channels, samples] in [-1, 1]; or a
            mapping with "array" and "sampling_rate", as data sets of Hugging Face have it.
        name: The caller's argument, for errors.

    Raises:
        TypeError: If the value is of another type.
        ValueError: If the samples have another shape, or a file is no audio.
    """
    if isinstance(value, Waveform):
        return value
    if isinstance(value, (str, Path)):
        return read_sound(value)
    if isinstance(value, Mapping) and {"array", "sampling_rate"} <= set(value):
        value = (value["array"], value["sampling_rate"])
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], (np.ndarray, torch.Tensor)):
        samples, rate = np.asarray(value[0], dtype=np.float32), int(value[1])
        if samples.ndim not in (1, 2) or rate < 1:
            raise ValueError(
                f"{name} has samples of shape {samples.shape} at {rate} Hz; wanted [samples] or [channels, samples] and a rate"
            )
        return Waveform(samples=np.atleast_2d(samples), sample_rate_hz=rate)
    raise TypeError(f"{name} is {_kind(value)}; give a path, a maskgen Waveform or (samples, sample_rate_hz)")


def _from_array(value: Any, name: str) -> Image.Image:
    """An array or tensor as an image."""
    array = value.detach().cpu().permute(1, 2, 0).numpy() if isinstance(value, torch.Tensor) and value.ndim == 3 else np.asarray(value)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise ValueError(f"{name} has shape {tuple(value.shape)}; wanted an array [rows, columns, 3] or a tensor [3, rows, columns]")
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"{name} has floating-point values outside [0, 1]; scale them to [0, 1] or give uint8")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"{name} has values of type {array.dtype}; give uint8 in [0, 255] or floating point in [0, 1]")
    return Image.fromarray(np.ascontiguousarray(array))


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
