"""Audio containers as programs write them, and channels that cancel out."""

import io
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.io.audio import Waveform, decode_audio, fit_audio, mixed_down, read_sound
from maskgen.io.audio_headers import BYTES_AFTER
from maskgen.io.limits import BadMedia, MediaLimits

soundfile = pytest.importorskip("soundfile")
LIMITS = MediaLimits()
TONE = (0.5 * np.sin(np.arange(16_000) / 9)).astype(np.float32)
KINDS = [
    ("WAV", "PCM_16", "FILE"), ("WAV", "PCM_16", "BIG"), ("RF64", "PCM_16", "FILE"), ("AIFF", "PCM_16", "FILE"),
    ("AIFF", "PCM_16", "LITTLE"), ("AU", "PCM_16", "FILE"), ("AU", "PCM_16", "LITTLE"), ("W64", "PCM_16", "FILE"),
    ("CAF", "PCM_16", "FILE"), ("NIST", "PCM_16", "FILE"), ("FLAC", "PCM_16", "FILE"), ("OGG", "VORBIS", "FILE"), ("OGG", "OPUS", "FILE"),
]  # fmt: skip


def sound(kind: str = "WAV", subtype: str = "PCM_16", endian: str = "FILE") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, TONE, 16_000, format=kind, subtype=subtype, endian=endian)
    return stream.getvalue()


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0x7F000008, 0])
@pytest.mark.parametrize("kind", ["WAV", "WAV BIG", "RF64", "AIFF", "AU"])
def test_a_file_from_a_pipe_is_whole(kind: str, size: int) -> None:
    content = bytearray(sound(kind.split()[0], endian="BIG" if "BIG" in kind else "FILE"))
    order = "<" if kind in ("WAV", "RF64") else ">"
    if kind == "RF64":
        content[20:36] = struct.pack("<QQ", size, size)
    elif kind == "AU":
        content[8:12] = struct.pack(">I", size)
    else:
        place = content.index(b"SSND" if kind == "AIFF" else b"data") + 4
        content[4:8] = content[place : place + 4] = struct.pack(order + "I", size)
    assert np.abs(decode_audio(bytes(content), LIMITS).samples - TONE).max() < 1e-4
    with pytest.raises(BadMedia, match=r"seconds, at most 0\.5"):
        decode_audio(bytes(content), MediaLimits(max_seconds=0.5))


def test_an_empty_chunk_of_samples_before_other_chunks_is_empty() -> None:
    header = bytearray(sound()[:44])
    header[40:44] = bytes(4)
    with pytest.raises(BadMedia, match="no samples"):
        decode_audio(bytes(header) + b"LIST\x04\0\0\0INFO", LIMITS)


@pytest.mark.parametrize(("kind", "subtype", "endian"), KINDS)
def test_tags_before_and_bytes_after_a_sound_change_no_sample(kind: str, subtype: str, endian: str) -> None:
    content = sound(kind, subtype, endian)
    whole = decode_audio(content, LIMITS).samples
    assert whole.shape == (1, 16_000)
    for after, said in ((b"hello there, this is no chunk", kind != "FLAC"), (bytes(99), False), (b"TAG" + bytes(125), False)):
        notes: list[str] = []
        assert np.array_equal(decode_audio(content + after, LIMITS, notes.append).samples, whole)
        assert notes == [BYTES_AFTER] * said
    tag = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
    assert np.array_equal(decode_audio(tag + content, LIMITS).samples, whole)


@pytest.mark.parametrize(("kind", "subtype", "endian"), KINDS)
def test_a_sound_that_was_cut_is_refused(kind: str, subtype: str, endian: str) -> None:
    content = sound(kind, subtype, endian)
    for length in (3, 20, len(content) // 2, len(content) - 1):
        with pytest.raises(BadMedia):
            decode_audio(content[:length], LIMITS)


def test_opposite_channels_do_not_become_silence(caplog: pytest.LogCaptureFixture) -> None:
    wave = Waveform(samples=np.stack([0.8 * TONE, -TONE]), sample_rate_hz=16_000)
    with caplog.at_level(logging.WARNING):
        mono, _ = fit_audio(wave, 16_000, 1)
    assert np.array_equal(mono.samples, -TONE[None])
    assert "channels that cancel out when mixed, of which the loudest is used" in caplog.text


@given(correlation=st.floats(-1, 1), balance=st.floats(0.1, 1), channels=st.integers(2, 8), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_a_mix_is_the_mean_unless_it_cancels_out(correlation: float, balance: float, channels: int, seed: int) -> None:
    draw = np.random.default_rng(seed).normal(size=(channels, 4000)) * 0.1
    draw[1] = balance * (correlation * draw[0] + np.sqrt(1 - correlation**2) * draw[1])
    draw[2:] = 0
    notes: list[str] = []
    mix = mixed_down(draw.astype(np.float32), notes.append)
    share = (draw.sum(0) ** 2).sum() / (draw**2).sum()
    if abs(share - 0.1) < 1e-3:
        return
    assert bool(notes) == (share < 0.1)
    assert np.allclose(mix[0], draw[0] if notes else draw.mean(0), atol=1e-6), "the first is the louder one"
    assert (mix**2).sum() >= 0.099 * (draw**2).sum() / channels**2


def test_silence_and_a_single_channel_are_no_cancelled_mix() -> None:
    notes: list[str] = []
    assert not mixed_down(np.zeros((2, 99), np.float32), notes.append).any()
    assert np.array_equal(mixed_down(np.stack([TONE, 0 * TONE]), notes.append)[0], TONE / 2)
    assert notes == []


def test_a_file_with_a_remark_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.wav").write_bytes(sound() + b"something else after it")
    read_sound(tmp_path / "a.wav")
    assert f"{tmp_path / 'a.wav'} has {BYTES_AFTER}" in caplog.text
