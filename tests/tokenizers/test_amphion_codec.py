"""The tokenizers of MaskGCT: the contract of the acoustic one, and semantic codes beside the networks they are made of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.hub_folders import scrambled

from maskgen.autoencoders.amphion import AcousticCodec, AcousticCodecConfig, SemanticCodec, SemanticCodecConfig
from maskgen.io.audio import Waveform
from maskgen.tokenizers.amphion_codec import AmphionCodecTokenizer
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.contract import CHECKS, Case
from maskgen.tokenizers.semantic_speech import SemanticNetwork, SemanticSpeechTokenizer

CONFIG = AcousticCodecConfig(
    encoder_dim=2,
    strides=(5, 8),
    dim=6,
    num_levels=3,
    codebook_size=16,
    codebook_dim=4,
    vocos_dim=8,
    vocos_hidden=12,
    vocos_layers=2,
    window=160,
)


def codec(change: float = 0.0) -> AmphionCodecTokenizer:
    network = scrambled(AcousticCodec(CONFIG), 3)
    with torch.no_grad():
        network.encoder.block[0].bias.add_(change)
        network.decoder.model["head"].out.bias.add_(0.1 * change)
    return AmphionCodecTokenizer(network)


def sounds() -> list[Waveform]:
    """Noise in the steps of 16 bits."""
    noise = np.random.default_rng(0)
    waves = [np.rint(noise.normal(size=(1, length)) * 3000) / 2**15 for length in (400, 813, 400, 39)]
    return [Waveform(samples=wave.astype(np.float32), sample_rate_hz=24_000) for wave in waves]


CASE = Case(make=codec, reload=AmphionCodecTokenizer.from_bundle, media=sounds, ending=".wav", damaged=b"RIFF no sound")


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_contract(check: Callable[[Case, Path], None], tmp_path: Path) -> None:
    check(CASE, tmp_path)


def test_pieces_of_long_audio_join_without_a_seam() -> None:
    """Codes and samples equal those of the whole."""
    whole, parts = codec(), codec()
    whole.windows = None
    assert parts.windows is not None
    length = (parts.windows.length + 150) * parts.samples_per_frame
    wave = Waveform(samples=(np.random.default_rng(1).normal(size=(1, length)) * 0.1).astype(np.float32), sample_rate_hz=24_000)
    codes = whole.encode([wave])[0]
    assert torch.equal(parts.encode([wave])[0], codes)
    found, wanted = parts.decode([codes])[0].samples, whole.decode([codes])[0].samples
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_fewer_levels_are_a_prefix() -> None:
    two = AmphionCodecTokenizer(codec().codec, 2)
    assert torch.equal(two.encode(sounds()[:1])[0], codec().encode(sounds()[:1])[0][:2])
    with pytest.raises(ValueError, match="num_levels must lie in 1 to 3 for this codec, got 4"):
        AmphionCodecTokenizer(codec().codec, 4)


@pytest.fixture(scope="module")
def semantic() -> SemanticSpeechTokenizer:
    pytest.importorskip("transformers", reason="needs transformers: pip install maskgen[codecs]")
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    made: Any = Wav2Vec2BertConfig
    config = made(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, conv_depthwise_kernel_size=3)
    sizes = SemanticCodecConfig(dim=16, codebook_size=30, codebook_dim=4, vocos_dim=8, vocos_hidden=12, vocos_layers=1)
    network = SemanticNetwork(scrambled(Wav2Vec2BertModel(config)), scrambled(SemanticCodec(sizes)), layer=2)
    network.mean.fill_(0.3)
    network.std.fill_(2.0)
    return SemanticSpeechTokenizer(network, {"feature_size": 80, "num_mel_bins": 80, "stride": 2, "padding_value": 1})


def test_semantic_codes_are_those_of_the_named_layer(semantic: SemanticSpeechTokenizer) -> None:
    from transformers import SeamlessM4TFeatureExtractor

    made: Any = SeamlessM4TFeatureExtractor
    samples = (np.random.default_rng(2).normal(size=(1, 8000)) * 0.1).astype(np.float32)
    bank = made(feature_size=80, num_mel_bins=80, stride=2, padding_value=1)(samples[0], sampling_rate=16_000, return_tensors="pt")
    states = semantic.network.encoder(**bank, output_hidden_states=True).hidden_states[2]
    wanted = semantic.network.codec.encode((states - 0.3) / 2.0)
    wave = Waveform(samples=samples, sample_rate_hz=16_000)
    found = semantic.encode([wave])[0]
    assert torch.equal(found, wanted)
    assert found.shape == (1, 24)  # half a second at 50 Hz, without the frames that reach over the end
    assert torch.equal(semantic.encode([Waveform(samples=samples[:, :5000], sample_rate_hz=16_000), wave])[1], found)
    features = semantic.decode([found])[0]
    torch.testing.assert_close(features, semantic.network.codec(found)[0] * 2.0 + 0.3)


def test_a_semantic_tokenizer_is_saved_and_refuses_what_it_cannot_do(semantic: SemanticSpeechTokenizer, tmp_path: Path) -> None:
    assert semantic.save(tmp_path / "bundle") == semantic.fingerprint
    again = load_tokenizer(tmp_path / "bundle")
    wave = Waveform(samples=np.full((1, 4000), 0.1, np.float32), sample_rate_hz=16_000)
    assert torch.equal(again.encode([wave])[0], semantic.encode([wave])[0])
    with pytest.raises(ValueError, match=r"lasts 0\.05 s, semantic codes need at least 0\.1 s"):
        semantic.encode([Waveform(samples=np.ones((1, 800), np.float32), sample_rate_hz=16_000)])
    with pytest.raises(ValueError, match="semantic codes hold no voice"):
        semantic.write(torch.zeros(3, 16), tmp_path / "x.wav")
    with pytest.raises(ValueError, match=r"must lie in \[0, 30\), got -1 to 3"):
        semantic.decode([torch.tensor([[3, -1]])])
    with pytest.raises(ValueError, match=r"has 3 layers of width 16, wanted at least 4 layers"):
        SemanticNetwork(semantic.network.encoder, semantic.network.codec, layer=4)
