"""ComfyUI's IMAGE, MASK and AUDIO to what maskgen takes, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskgen import Waveform


def images_of(image: Tensor) -> list[Image.Image]:
    """The pictures of an IMAGE, 8 bits a channel.

    Args:
        image: Float [batch, rows, columns, 3 or 4] in [0, 1].

    Raises:
        ValueError: If it has another shape, or values that are no numbers.
    """
    if image.ndim != 4 or image.shape[3] not in (3, 4) or not image.numel():
        raise ValueError(f"image has shape {tuple(image.shape)}; an IMAGE is [batch, rows, columns, 3 or 4]")
    return [Image.fromarray(one) for one in _bytes(image, "image")]


def masks_of(mask: Tensor, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """One mask a picture, white where the MASK is 1.

    Args:
        mask: Float [batch, rows, columns] or [rows, columns] in [0, 1]; one mask serves all pictures.
        pictures: What is masked.

    Raises:
        ValueError: If the number or the size differs from the pictures', or a mask is empty.
    """
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or len(mask) not in (1, len(pictures)):
        raise ValueError(f"mask has shape {tuple(mask.shape)} for {len(pictures)} images; give one mask, or one an image")
    if not bool((mask > 0).flatten(1).any(dim=1).all()):
        raise ValueError("the mask is empty, so nothing would change; paint what is to be regenerated")
    rows, columns = mask.shape[1:]
    if (columns, rows) != pictures[0].size:
        raise ValueError(
            f"mask is {columns} x {rows} and image {pictures[0].width} x {pictures[0].height} pixels; scale the mask to the image's size"
        )
    masks = [Image.fromarray(one) for one in _bytes(mask, "mask")]
    return masks * (len(pictures) if len(masks) == 1 else 1)


def as_image_batch(pictures: Sequence[Image.Image]) -> Tensor:
    """An IMAGE: float [batch, rows, columns, 3] in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(one.convert("RGB"), dtype=np.float32) / 255 for one in pictures]))


def waveform_of_audio(audio: Mapping[str, Any], name: str = "audio") -> Waveform:
    """The recording of an AUDIO.

    Args:
        audio: {"waveform": float [batch, channels, samples] in [-1, 1], "sample_rate": Hz}.
        name: The input, for errors.

    Raises:
        ValueError: If it has other entries, or not exactly one recording.
    """
    if not isinstance(audio, Mapping) or not {"waveform", "sample_rate"} <= set(audio):
        raise ValueError(f'{name} is no AUDIO; give {{"waveform": [batch, channels, samples], "sample_rate": Hz}}')
    samples = audio["waveform"]
    if samples.ndim != 3 or len(samples) != 1:
        raise ValueError(f"{name} has shape {tuple(samples.shape)}; give one recording, [1, channels, samples]")
    return Waveform(samples=samples[0].detach().cpu().float().numpy(), sample_rate_hz=int(audio["sample_rate"]))


def as_audio_batch(wave: Waveform) -> dict[str, Any]:
    """An AUDIO of one recording."""
    return {"waveform": torch.from_numpy(wave.samples.copy())[None], "sample_rate": wave.sample_rate_hz}


def _bytes(values: Tensor, name: str) -> np.ndarray:
    """Floats in [0, 1] as bytes; what lies outside is cut, as ComfyUI does when it saves a picture."""
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} holds values that are no numbers (NaN or infinity); mend the node that made it")
    return values.detach().cpu().float().clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
