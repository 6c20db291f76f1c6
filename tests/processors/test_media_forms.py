"""What callers hand over: every form of the same image, mask or sound gives the same result, and what is ambiguous is one sentence."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskgen.io.audio import Waveform, write_sound
from maskgen.processors.media import as_audio, as_image, as_mask

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
CHOSEN = np.zeros((6, 9), bool)
CHOSEN[:2, 5:] = True


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


IMAGES: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "text": str,
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "open file": lambda path: io.BytesIO(path.read_bytes()),
    "Hugging Face bytes": lambda path: {"bytes": path.read_bytes(), "path": None},
    "Hugging Face path": lambda path: {"bytes": None, "path": str(path)},
    "Pillow": Image.open,
    "RGBA": lambda path: Image.open(path).convert("RGBA"),
    "array": lambda _: PIXELS,
    "array, channels first": lambda _: PIXELS.transpose(2, 0, 1),
    "array of int64": lambda _: PIXELS.astype(np.int64),
    "float32": lambda _: PIXELS / np.float32(255),
    "float64": lambda _: PIXELS / 255.0,
    "float16": lambda _: (PIXELS / 255).astype(np.float16),
    "uint16": lambda _: PIXELS.astype(np.uint16) * 257,
    "array with opacity": lambda _: np.dstack([PIXELS, np.full((6, 9), 255, np.uint8)]),
    "tensor": lambda _: torch.from_numpy(PIXELS).permute(2, 0, 1),
    "tensor, channels last": lambda _: torch.from_numpy(PIXELS),
    "tensor of float": lambda _: torch.from_numpy(PIXELS).permute(2, 0, 1) / 255,
    "tensor with gradient": lambda _: (torch.from_numpy(PIXELS).permute(2, 0, 1) / 255).requires_grad_(),
}


@pytest.mark.parametrize("form", IMAGES)
def test_every_form_of_an_image_is_the_same_image(form: str, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(png(PIXELS))
    found = as_image(IMAGES[form](tmp_path / "image.png"))
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found, int) - PIXELS).max() <= (form == "float16")


MASKS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "bytes": lambda path: path.read_bytes(),
    "open file": lambda path: io.BytesIO(path.read_bytes()),
    "Pillow": Image.open,
    "one bit": lambda _: Image.fromarray(CHOSEN),
    "bool": lambda _: CHOSEN,
    "bool with channel": lambda _: CHOSEN[..., None],
    "uint8 of 255": lambda _: CHOSEN.astype(np.uint8) * 255,
    "uint8 of 1": lambda _: CHOSEN.astype(np.uint8),
    "int64 of 1": lambda _: CHOSEN.astype(np.int64),
    "int64 of 7": lambda _: CHOSEN.astype(np.int64) * 7,
    "uint16 of 1": lambda _: CHOSEN.astype(np.uint16),
    "uint16 of 65535": lambda _: CHOSEN.astype(np.uint16) * 65_535,
    "float": lambda _: CHOSEN.astype(np.float64),
    "soft float": lambda _: np.where(CHOSEN, 0.7, 0.4),
    "RGB": lambda _: np.repeat(CHOSEN[..., None], 3, axis=2).astype(np.uint8) * 255,
    "RGB of 1": lambda _: np.repeat(CHOSEN[..., None], 3, axis=2).astype(np.uint8),
    "white on transparency": lambda _: np.repeat(CHOSEN[..., None], 4, axis=2).astype(np.uint8) * 255,
    "tensor of bool": lambda _: torch.from_numpy(CHOSEN),
    "tensor of bool with channel": lambda _: torch.from_numpy(CHOSEN)[None],
    "tensor of int64": lambda _: torch.from_numpy(CHOSEN).long(),
    "tensor of float": lambda _: torch.from_numpy(CHOSEN).float()[None],
    "tensor of bfloat16": lambda _: torch.from_numpy(CHOSEN).bfloat16(),
}


@pytest.mark.parametrize("form", MASKS)
def test_every_form_of_a_mask_is_the_same_mask(form: str, tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(png(CHOSEN.astype(np.uint8) * 255))
    found = as_mask(MASKS[form](tmp_path / "mask.png"))
    assert found.mode == "L"
    assert np.array_equal(np.asarray(found), CHOSEN * 255)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (np.full((4, 4, 3), 2.0), r"outside \[0, 1\]"),
        (np.full((4, 4, 3), np.nan), r"outside \[0, 1\]"),
        (np.full((4, 4, 3), 300), r"values from 300 to 300"),
        (np.full((4, 4), -1), r"values from -1 to -1"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"shape \(2, 4, 4, 3\); give one image"),
        (np.zeros((5, 4, 5), np.uint8), r"shape \(5, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros((4, 4), complex), "type complex128"),
        (Image.new("LAB", (4, 4)), "range is unknown"),
        (b"no picture", "damaged header or none of PNG"),
        (b"", "empty file"),
    ],
)
def test_an_image_or_mask_that_cannot_be_read_is_one_sentence(value: Any, sentence: str) -> None:
    for convert in (as_image, as_mask):
        with pytest.raises(ValueError, match=sentence) as caught:
            convert(value)
        assert "\n" not in str(caught.value)
    for wrong in (None, 3, ["a.png"], {"url": "a.png"}):
        for convert in (as_image, as_mask, as_audio):
            with pytest.raises(TypeError, match=r"is (None|a \w+); give"):
                convert(wrong)


def test_a_damaged_pillow_file_is_refused_when_it_is_handed_over() -> None:
    cut = Image.open(io.BytesIO(png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))[:3000]))
    with pytest.raises(ValueError, match="image cannot be used as a picture: damaged picture"):
        as_image(cut)


TONE = (0.5 * np.sin(np.arange(4_000) / 9)).astype(np.float32)
STEREO = np.stack([TONE, TONE / 2])


def wav(folder: Path) -> Path:
    write_sound(Waveform(samples=STEREO, sample_rate_hz=16_000), folder / "sound.wav")
    return folder / "sound.wav"


SOUNDS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "bytes": lambda path: path.read_bytes(),
    "open file": lambda path: path.open("rb"),
    "Hugging Face bytes": lambda path: {"bytes": path.read_bytes(), "path": "sound.wav"},
    "Hugging Face array": lambda _: {"array": STEREO, "sampling_rate": 16_000},
    "waveform": lambda _: Waveform(samples=STEREO, sample_rate_hz=16_000),
    "channels first": lambda _: (STEREO, 16_000),
    "channels last": lambda _: (STEREO.T, 16_000),
    "rate first": lambda _: (16_000, STEREO),
    "float64": lambda _: (STEREO.astype(np.float64), np.int64(16_000)),
    "int16": lambda _: (16_000, np.rint(STEREO * 2**15).astype(np.int16)),
    "int32": lambda _: (16_000, np.rint(STEREO.astype(np.float64) * 2**31).astype(np.int32)),
    "uint8": lambda _: (16_000, np.rint(STEREO * 128 + 128).astype(np.uint8)),
    "tensor": lambda _: (torch.from_numpy(STEREO), 16_000),
    "tensor of bfloat16": lambda _: (torch.from_numpy(STEREO).bfloat16(), 16_000),
}


@pytest.mark.parametrize("form", SOUNDS)
def test_every_form_of_a_sound_is_the_same_sound(form: str, tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    found = as_audio(SOUNDS[form](wav(tmp_path)))
    assert (found.samples.shape, found.samples.dtype, found.sample_rate_hz) == ((2, 4_000), np.float32, 16_000)
    assert np.abs(found.samples - STEREO).max() < (0.005 if form in ("uint8", "tensor of bfloat16") else 1e-4)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ((TONE * 1000, 16_000), "samples of 500, wanted -1 to 1"),
        ((np.full(9, np.inf, np.float32), 16_000), "NaN or infinite"),
        ((TONE, 0), "at 0 Hz"),
        ((np.zeros((20, 30), np.float32), 16_000), r"shape \(20, 30\)"),
        ((np.zeros((1, 1, 9), np.float32), 16_000), r"shape \(1, 1, 9\)"),
        ((np.zeros(9, np.int64), 16_000), "samples of type int64"),
        (b"no sound", "none of WAV"),
    ],
)
def test_a_sound_that_cannot_be_read_is_one_sentence(value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        as_audio(value)
    assert "\n" not in str(caught.value)
