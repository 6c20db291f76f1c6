"""The learned audio codec: exact lengths, no seams, the same alone and in a batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import maskgen.tokenizers.audio as audio
from maskgen.autoencoders.audio import AudioAutoencoder, AudioAutoencoderConfig
from maskgen.autoencoders.quantizers import ResidualQuantizer
from maskgen.io.audio import Waveform
from maskgen.tokenizers.audio import AudioTokenizer

TINY = AudioAutoencoderConfig(encoder_dim=16, encoder_layers=2, decoder_dim=16, decoder_layers=2, mel_bands=20)


def tokenizer() -> AudioTokenizer:
    torch.manual_seed(0)
    network = AudioAutoencoder(TINY, ResidualQuantizer(3, 8, 20))
    with torch.no_grad():
        network.encoder.out.weight.mul_(6.0)
    return AudioTokenizer(network)


def voice(samples: int, seed: int = 0, rate: int = 16_000, channels: int = 1) -> Waveform:
    """Noise that swells: every stretch sounds different."""
    noise = np.random.default_rng(seed).standard_normal((channels, samples)).astype(np.float32)
    swell = 0.1 + 0.1 * np.sin(np.arange(samples) / 900)
    return Waveform(samples=(0.3 * noise * swell).astype(np.float32), sample_rate_hz=rate)


@settings(deadline=None, max_examples=25)
@given(samples=st.integers(1, 9000))
def test_what_goes_in_comes_out_as_long(samples: int) -> None:
    codec = tokenizer()
    codes = codec.encode([voice(samples)])
    assert codes[0].shape == (3, -(-samples // 400))
    assert codec.decode(codes, [samples])[0].samples.shape == (1, samples)
    assert codec.decode(codes)[0].samples.shape == (1, codes[0].shape[1] * 400)


def test_long_sounds_have_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, wave = tokenizer(), voice(100 * 400 + 123)
    whole = codec.encode([wave])[0]
    sound = codec.decode([whole])[0].samples
    monkeypatch.setattr(audio, "CHUNK_FRAMES", 17)
    monkeypatch.setattr(audio, "CONTEXT_FRAMES", 24)
    parts = codec.encode([wave])[0]
    assert torch.equal(parts[:, :100], whole[:, :100])
    assert np.allclose(codec.decode([whole])[0].samples, sound, atol=1e-5)


def test_other_rates_and_channels_are_fitted() -> None:
    codec = tokenizer()
    stereo = voice(6000, rate=48_000, channels=2)
    mono = Waveform(samples=stereo.samples.mean(axis=0, keepdims=True), sample_rate_hz=48_000)
    first, second = codec.encode([stereo, mono])
    assert torch.equal(first, second)
    assert first.shape[1] == 5


@pytest.mark.parametrize("samples", [np.full((1, 400), np.nan, np.float32), np.zeros((1, 0), np.float32)])
def test_what_is_no_sound_is_refused(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match="sound 0 has"):
        tokenizer().encode([Waveform(samples=samples, sample_rate_hz=16_000)])


def test_silence_and_one_sample_are_sounds() -> None:
    codec = tokenizer()
    for samples in (np.zeros((1, 1), np.float32), np.zeros((1, 5000), np.float32)):
        codes = codec.encode([Waveform(samples=samples, sample_rate_hz=16_000)])
        assert np.isfinite(codec.decode(codes, [samples.shape[1]])[0].samples).all()


def test_a_length_beyond_the_frames_is_refused() -> None:
    codec = tokenizer()
    codes = codec.encode([voice(800)])
    for length in (0, 801):
        with pytest.raises(ValueError, match="a length must lie in 1 to 800"):
            codec.decode(codes, [length])


def test_fewer_levels_are_a_coarser_sound_and_another_decoder_keeps_the_fingerprint(tmp_path: Path) -> None:
    codec = tokenizer()
    codes = codec.encode([voice(4000)])
    coarse = codec.decode([codes[0][:1]])[0].samples
    assert coarse.shape == (1, 4000)
    assert not np.allclose(coarse, codec.decode(codes)[0].samples)
    before = codec.fingerprint
    other = tokenizer()
    with torch.no_grad():
        other.network.decoder.shape.bias.add_(0.5)
    assert other.fingerprint == before == other.save(tmp_path)
    assert not np.allclose(other.decode(codes)[0].samples, codec.decode(codes)[0].samples)
