"""Images, masks and audio as callers hand them over, converted to the types that tokenizers take: the same rules for every form."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maskgen.io.audio import FILE_LIMITS, Waveform, decode_audio, read_sound
from maskgen.io.edit_masks import convert_mask, decode_mask
from maskgen.io.images import IMAGE_LIMITS, read_mask, read_picture
from maskgen.io.limits import BadMedia
from maskgen.io.pictures import convert_image, decode_image
from maskgen.processors.arrays import picture_of, waveform_of

PLAIN_FORMS = "a path, bytes or an open file"


def as_image(value: Any, name: str = "image") -> Image.Image:
    """An RGB image.

    Files and Pillow images are converted as `maskgen.io.pictures.decode_image` does: turned upright, in sRGB, transparency on white.

    Args:
        value: Pillow image of any mode; path, bytes or open file of an image; mapping with "bytes" or "path", as data sets of Hugging Face
            have it; NumPy array [rows, columns, 3] or tensor [3, rows, columns] in the forms that `picture_of` takes.
        name: The caller's argument, for errors.

    Returns:
        RGB, with transparency laid on white.

    Raises:
        TypeError: If the value is of another type.
        ValueError: If an array has another shape or values out of range, or a file is no image.
    """
    value = _content(value)
    if isinstance(value, (str, Path)):
        return read_picture(value)
    try:
        if isinstance(value, bytes):
            return decode_image(value, IMAGE_LIMITS)
        if isinstance(value, (np.ndarray, torch.Tensor)):
            value = picture_of(value, name)
        if isinstance(value, Image.Image):
            return convert_image(value, IMAGE_LIMITS)
    except BadMedia as error:
        raise ValueError(f"{name} cannot be used as a picture: {error}; give another picture") from error
    raise TypeError(
        f"{name} is {_kind(value)}; give a PIL image, {PLAIN_FORMS}, a NumPy array [rows, columns, 3] or a tensor [3, rows, columns]"
    )


def as_mask(value: Any, name: str = "mask_image") -> Image.Image:
    """A mask as an 8-bit grey image: 255 where the image is regenerated, 0 elsewhere.

    White is selected; in masks of two values, one of them 0, what is not 0; in masks with transparency, what is painted. The module
    `maskgen.io.edit_masks` has the whole rule.

    Args:
        value: As for `as_image`; in boolean arrays, True is selected.
        name: The caller's argument, for errors.

    Raises:
        TypeError: If the value is of another type.
        ValueError: If an array has another shape or values out of range, a file is no image, or the mask is ambiguous.
    """
    value = _content(value)
    if isinstance(value, (str, Path)):
        return read_mask(value)
    try:
        if isinstance(value, bytes):
            return decode_mask(value, IMAGE_LIMITS)
        if isinstance(value, (np.ndarray, torch.Tensor)):
            value = picture_of(value, name)
        if isinstance(value, Image.Image):
            return convert_mask(value, IMAGE_LIMITS)
    except BadMedia as error:
        raise ValueError(f"{name} cannot be used as a mask: {error}") from error
    raise TypeError(f"{name} is {_kind(value)}; give a PIL image, {PLAIN_FORMS}, or an array or tensor [rows, columns]")


def as_audio(value: Any, name: str = "audio") -> Waveform:
    """A waveform.

    Args:
        value: Waveform; path, bytes or open file of audio; (samples, sample rate in Hz) in either order, with samples in the forms that
            `waveform_of` takes; or a mapping with "array" and "sampling_rate", or with "bytes" or "path", as data sets of Hugging Face have
            it.
        name: The caller's argument, for errors.

    Raises:
        TypeError: If the value is of another type.
        ValueError: If the samples have another shape or are out of range, or a file is no audio.
    """
    if isinstance(value, Waveform):
        return value
    if isinstance(value, Mapping) and {"array", "sampling_rate"} <= set(value):
        value = (value["array"], value["sampling_rate"])
    if isinstance(value, tuple) and len(value) == 2:
        first, second = value
        samples, rate = (second, first) if _is_rate(first) else (first, second)
        if isinstance(samples, (np.ndarray, torch.Tensor, list)) and _is_rate(rate):
            return waveform_of(samples, rate, name)
    value = _content(value)
    if isinstance(value, (str, Path)):
        return read_sound(value)
    if isinstance(value, bytes):
        try:
            return decode_audio(value, FILE_LIMITS)
        except BadMedia as error:
            raise ValueError(f"{name} cannot be used as a sound: {error}; give a whole recording") from error
    raise TypeError(f"{name} is {_kind(value)}; give {PLAIN_FORMS}, a maskgen Waveform or (samples, sample_rate_hz)")


def as_media(value: Any, kind: str) -> Any:
    """An image or a waveform for the tokenizer of a modality of that kind; other media, and images of another type, as they are."""
    if kind == "audio":
        return as_audio(value)
    return as_image(value) if kind == "image" and isinstance(value, (Image.Image, Path, str, bytes, np.ndarray)) else value


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _content(value: Any) -> Any:
    """A path or bytes from an open file or from a mapping of Hugging Face; other values as they are."""
    if isinstance(value, Mapping) and {"bytes", "path"} & set(value):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if hasattr(value, "read") and not isinstance(value, (Image.Image, Path)):
        value = value.read(FILE_LIMITS.max_bytes + 1)
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
