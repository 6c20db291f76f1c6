"""Spectra: inverses, known tones, and the pitch of sounds whose pitch is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskgen.autoencoders.spectra import inverse_stft, log_mel, median_of_three, mel_bands, pitch, pulses, stft

RATE = 16_000


def tone(hz: float, seconds: float = 0.5, harmonics: int = 8) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return sum(torch.sin(2 * math.pi * hz * number * time) / number for number in range(1, harmonics + 1))[None] * 0.1  # type: ignore[index]


@settings(deadline=None, max_examples=20)
@given(frames=st.integers(4, 30), seed=st.integers(0, 100))
def test_the_inverse_gives_the_sound_back(frames: int, seed: int) -> None:
    waves = torch.randn(2, frames * 200, generator=torch.Generator().manual_seed(seed))
    back = inverse_stft(stft(waves, 800, 200, frames), 800, 200, frames * 200)
    inside = slice(0, (frames - 3) * 200)
    assert torch.allclose(back[:, inside], waves[:, inside], atol=1e-4)


def test_a_tone_stands_in_its_own_band() -> None:
    mel = log_mel(tone(1000.0, harmonics=1), RATE, 1024, 200, 80)[0].mean(dim=1)
    bands = mel_bands(RATE, 1024, 80)
    wanted = bands[:, round(1000 / (RATE / 2) * 512)].argmax()
    assert int(mel.argmax()) == int(wanted)


def test_mel_bands_equal_librosa() -> None:
    librosa = pytest.importorskip("librosa.filters")
    wanted = librosa.mel(sr=RATE, n_fft=1024, n_mels=80, htk=True, norm=None)
    assert np.allclose(mel_bands(RATE, 1024, 80).numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("hz", [80.0, 123.4, 220.0, 311.1, 440.0])
def test_the_pitch_of_a_tone_is_found_within_ten_cents(hz: float) -> None:
    found, voiced = pitch(tone(hz), RATE, 200, 40)
    inside = slice(4, 30)
    assert bool(voiced[0, inside].all())
    assert float((1200 * (found[0, inside] / hz).log2()).abs().max()) < 10


def test_noise_and_silence_are_unvoiced() -> None:
    noise = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    assert float(pitch(noise, RATE, 200, 40)[1].float().mean()) < 0.1
    assert not bool(pitch(torch.zeros(1, 8000), RATE, 200, 40)[1].any())


def test_the_pitch_of_pulses_is_the_pitch_they_were_made_at() -> None:
    wanted = torch.linspace(110, 260, 60)[None]
    source = pulses(wanted, torch.ones(1, 60, dtype=torch.bool), RATE, 200)
    found, _ = pitch(0.01 * source, RATE, 200, 60)
    assert float((1200 * (found / wanted).log2()).abs()[0, 4:50].median()) < 30


def test_pulses_are_the_sum_of_their_harmonics() -> None:
    hz = 400.0
    found = pulses(torch.full((1, 20), hz), torch.ones(1, 20, dtype=torch.bool), RATE, 200)[0]
    cycles = (torch.arange(1, 4001, dtype=torch.float64) * hz / RATE) % 1
    harmonics = int(0.49 * RATE / hz)
    wanted = sum(torch.cos(2 * math.pi * number * cycles) for number in range(1, harmonics + 1))
    assert torch.allclose(found.double(), wanted, atol=2e-2)  # type: ignore[arg-type]


def test_unvoiced_frames_have_no_pulses() -> None:
    voiced = torch.arange(20)[None] < 10
    source = pulses(torch.full((1, 20), 200.0), voiced, RATE, 200)
    assert bool((source[:, 2000:] == 0).all())
    assert bool((source[:, :1800] != 0).any())


def test_a_median_takes_out_a_single_frame() -> None:
    assert median_of_three(torch.tensor([[1.0, 1, 9, 1, 1, 2, 2]])).tolist() == [[1, 1, 1, 1, 1, 2, 2]]
