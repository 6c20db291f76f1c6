"""Uploaded media through the readers of data builds, and generated media as bytes. Nothing here takes a path or a URL."""

import base64
import binascii
import io
import re
import struct
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image

from maskgen.io.audio import Waveform, decode_audio, sixteen_bits
from maskgen.io.edit_masks import decode_mask
from maskgen.io.limits import BadMedia, MediaLimits, check_bytes
from maskgen.io.pictures import as_bad_media, colours_and_alpha, open_image, turned, upright_rgb

Media = TypeVar("Media")
IMAGE_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""Formats of generated images to their media types."""
AUDIO_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "ogg": "audio/ogg", "opus": "audio/ogg", "pcm": "audio/pcm"}
"""Formats of generated audio to their media types; pcm is 16-bit little-endian samples without a header."""
_DATA_URL = re.compile(r"data:[\w.+/-]*(;[\w.+=-]+)*;base64,")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
HALF = 128
UNKNOWN_LENGTH = 0xFFFFFFFF
"""Size that the header of a WAV file gives while its length is not known."""


def bytes_of(text: str, name: str) -> bytes:
    """The bytes of a base64 text or of a data URL that holds one.

    Args:
        text: From a JSON body.
        name: The field, for errors.

    Raises:
        ValueError: If it is neither; other URLs are never fetched.
    """
    start = _DATA_URL.match(text[:200])
    if start is None and _URL.match(text[:40]):
        raise ValueError(f"{name} is a URL, and this server fetches none; send the file itself as base64")
    try:
        found = base64.b64decode("".join(text[start.end() if start else 0 :].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name} is no base64 text; send the bytes of the file as base64") from error
    if not found:
        raise ValueError(f"{name} is empty; send the bytes of the file as base64")
    return found


def picture_from(content: bytes, limits: MediaLimits, name: str) -> Image.Image:
    """An uploaded image as upright RGB in sRGB.

    Raises:
        ValueError: If it cannot be used; says why.
    """
    return _read(lambda: _opened(content, limits)[0], name, "a picture")


def picture_and_holes(content: bytes, limits: MediaLimits, name: str) -> tuple[Image.Image, Image.Image | None]:
    """An uploaded image, and a mask of its transparent parts where it has some but is not transparent everywhere.

    Raises:
        ValueError: If it cannot be used; says why.
    """
    return _read(lambda: _opened(content, limits), name, "a picture")


def mask_from(content: bytes, limits: MediaLimits, name: str) -> Image.Image:
    """An uploaded mask as maskgen reads it: white, or what is painted on transparency, is regenerated.

    Raises:
        ValueError: If it cannot be used; says why.
    """
    return _read(lambda: decode_mask(content, limits), name, "a mask")


def openai_mask(content: bytes, limits: MediaLimits, name: str) -> Image.Image:
    """An uploaded mask as OpenAI's API reads it: what is transparent is regenerated. Without transparency it is read as by `mask_from`.

    Raises:
        ValueError: If it cannot be used; says why.
    """
    holes = picture_and_holes(content, limits, name)[1]
    return mask_from(content, limits, name) if holes is None else holes


def recording_from(content: bytes, limits: MediaLimits, name: str) -> Waveform:
    """An uploaded recording at its own rate.

    Raises:
        ValueError: If it cannot be used; says why.
    """
    return _read(lambda: decode_audio(content, limits), name, "a recording")


def image_bytes(picture: Image.Image, kind: str, quality: int = 90) -> bytes:
    """An image as a file of one of `IMAGE_TYPES`; `quality` counts for JPEG and WebP."""
    content = io.BytesIO()
    picture.save(content, format=kind.upper(), **({} if kind == "png" else {"quality": quality}))
    return content.getvalue()


def audio_bytes(wave: Waveform, kind: str) -> bytes:
    """Audio as a file of one of `AUDIO_TYPES`.

    Raises:
        ValueError: If the audio library cannot write the format at this sample rate.
    """
    if kind == "pcm":
        return pcm_bytes(wave)
    import soundfile

    content = io.BytesIO()
    if kind in ("wav", "flac"):
        soundfile.write(content, sixteen_bits(wave).T, wave.sample_rate_hz, format=kind.upper(), subtype="PCM_16")
        return content.getvalue()
    name, subtype = ("OGG", "OPUS") if kind == "opus" else (kind.upper(), None)
    try:
        soundfile.write(content, wave.samples.T, wave.sample_rate_hz, format=name, subtype=subtype)
    except (soundfile.SoundFileError, ValueError) as error:
        raise ValueError(f"{kind} cannot be written here at {wave.sample_rate_hz} Hz ({error}); ask for wav") from error
    return content.getvalue()


def pcm_bytes(wave: Waveform) -> bytes:
    """16-bit little-endian samples, channels interleaved."""
    return sixteen_bits(wave).T.astype("<i2").tobytes()


def wav_header(sample_rate_hz: int, channels: int) -> bytes:
    """The header of a 16-bit WAV file of unknown length, for audio that is sent while it is made."""
    form = struct.pack("<HHIIHH", 1, channels, sample_rate_hz, sample_rate_hz * channels * 2, channels * 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", UNKNOWN_LENGTH)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", UNKNOWN_LENGTH)
    )


def base64_text(content: bytes) -> str:
    """Bytes as a base64 text."""
    return base64.b64encode(content).decode("ascii")


def _opened(content: bytes, limits: MediaLimits) -> tuple[Image.Image, Image.Image | None]:
    """An image, and the mask of its transparent parts."""
    check_bytes(content, limits)
    with as_bad_media(limits):
        opened = open_image(content, limits)
        picture = upright_rgb(opened)
        alpha = colours_and_alpha(opened.picture)[1]
        clear = np.zeros(1, bool) if alpha is None else np.asarray(alpha) < HALF
        if clear.all() or not clear.any():
            return picture, None
        return picture, turned(Image.fromarray(np.where(clear, 255, 0).astype(np.uint8)), opened.picture)


def _read(read: Callable[[], Media], name: str, kind: str) -> Media:
    """What a reader gives, its refusal as a sentence."""
    try:
        return read()
    except BadMedia as error:
        raise ValueError(f"{name} cannot be used as {kind}: {error}") from error
