"""The adapters of outside codecs beside direct calls of their packages, and what they must refuse."""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maskgen.io.audio import Waveform
from maskgen.tokenizers import transformers_codec
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.chunking import Windows, joined, spans
from maskgen.tokenizers.encodec import CONFIGS, EncodecConfig, EncodecNetwork, EncodecTokenizer
from maskgen.tokenizers.external_codec import USUAL_DB
from maskgen.tokenizers.transformers_codec import TransformersCodecTokenizer

RATE = 8_000
SMALL = {"sampling_rate": RATE, "num_filters": 4, "upsampling_ratios": [4, 2], "codebook_size": 32}
ENCODEC = {**SMALL, "hidden_size": 8, "target_bandwidths": [5.0, 10.0, 15.0]}
STEREO = {"audio_channels": 2, "norm_type": "time_group_norm", "use_causal_conv": False, "normalize": True}
MIMI = {
    **SMALL,
    **{"hidden_size": 16, "codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "num_quantizers": 4, "upsample_groups": 16},
    **{"num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "sliding_window": 20},
}
DAC = {
    **{"sampling_rate": RATE, "encoder_hidden_size": 4, "decoder_hidden_size": 16, "downsampling_ratios": [2, 5]},
    **{"n_codebooks": 3, "codebook_size": 32, "codebook_dim": 4},
}
MODELS = {
    "encodec": ("encodec", ENCODEC),
    "encodec stereo": ("encodec", {**ENCODEC, **STEREO, "chunk_length_s": 0.05, "overlap": 0.01}),
    "mimi": ("mimi", MIMI),
    "dac": ("dac", DAC),
}
MONO_PACKAGE = EncodecConfig(sample_rate_hz=RATE, bandwidths_kbps=(5.0, 10.0, 15.0), codebook_size=32, dim=8, num_filters=4, ratios=(4, 2))
STEREO_PACKAGE = replace(MONO_PACKAGE, channels=2, causal=False, norm="time_group_norm", normalize=True, segment_s=0.05)


@torch.no_grad()
def scattered(codec: Any) -> Any:
    """The codec with codebooks that are not zero, and convolutions that do not let sound die away."""
    for module in codec.modules() if type(codec).__name__ == "DacModel" else ():
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    for name, tensor in codec.state_dict().items():
        if name.endswith((".embed", ".embed_sum", "codebook.weight")):
            tensor.normal_(std=0.5)
    return codec.eval()


def model_of(name: str) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install maskgen[codecs]")
    kind, settings = MODELS[name]
    torch.manual_seed(0)
    return scattered(transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **settings)))


def network_of(config: EncodecConfig) -> EncodecNetwork:
    pytest.importorskip("einops")
    torch.manual_seed(0)
    return scattered(EncodecNetwork(config))  # type: ignore[no-any-return]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The whole package `encodec`; where torchaudio is missing an empty module stands in, for nothing here calls it."""
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        monkeypatch.setitem(sys.modules, "torchaudio", ModuleType("torchaudio"))
    yield pytest.importorskip("encodec", reason="needs encodec: pip install maskgen[codecs]")
    for name in [name for name in sys.modules if name == "encodec" or name.startswith("encodec.")]:
        del sys.modules[name]


def whole_model(package: Any, config: EncodecConfig, network: EncodecNetwork) -> Any:
    """The package's own model around the same weights."""
    model = package.EncodecModel(
        *(network.encoder, network.decoder, network.quantizer, list(config.bandwidths_kbps), config.sample_rate_hz, config.channels),
        normalize=config.normalize,
        segment=config.segment_s,
    )
    model.set_target_bandwidth(config.bandwidths_kbps[-1])
    return model.eval()


def noise(samples: int, channels: int = 1, loudness: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(samples)
    return torch.rand(channels, samples, generator=generator) * 2 * loudness - loudness


def wave(samples: Tensor) -> Waveform:
    return Waveform(samples=samples.numpy(), sample_rate_hz=RATE)


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


# Windows


@pytest.mark.parametrize(("context", "more"), list(itertools.product((0, 1, 4), (1, 2, 9))))
def test_windows_keep_every_frame_once_with_context_and_full_length(context: int, more: int) -> None:
    windows = Windows(length=2 * context + more, context=context)
    for total in range(1, 50):
        found = spans(total, windows)
        assert [frame for span in found for frame in range(span.first, span.last)] == list(range(total))
        for span in found:
            assert span.stop - span.start == min(total, windows.length)
            assert span.first - span.start >= context or span.start == 0
            assert span.stop - span.last >= context or span.stop == total


@pytest.mark.parametrize(("context", "more", "hop"), list(itertools.product((0, 1, 4), (1, 9), (1, 3))))
def test_windows_of_one_sound_join_to_that_sound(context: int, more: int, hop: int) -> None:
    for fade, total in itertools.product({0, context // 2, context}, (1, 9, 10, 11, 18, 31)):
        windows = Windows(length=2 * context + more, context=context, fade=fade)
        whole = noise(total * hop, 2)
        places = spans(total, windows)
        pieces = [whole[:, place.start * hop : place.stop * hop] for place in places]
        assert torch.allclose(joined(places, pieces, hop, windows.fade), whole, atol=1e-6)


def test_a_joint_fades_from_one_window_to_the_next() -> None:
    windows = Windows(length=10, context=2, fade=1)
    places = spans(16, windows)
    pieces = [torch.full((1, 10 * 4), float(number)) for number in range(len(places))]
    found = joined(places, pieces, 4, 1)[0]
    assert [(span.first, span.last) for span in places] == [(0, 8), (8, 16)]
    assert found[:28].tolist() == [0.0] * 28
    assert torch.allclose(found[28:36], (torch.arange(8) + 0.5) / 8)
    assert found[36:].tolist() == [1.0] * 28


def test_windows_that_cannot_be_are_refused() -> None:
    for length, context, fade in ((4, 2, 0), (9, 1, 2), (9, -1, -1)):
        with pytest.raises(ValueError, match="windows want 0 <= fade <= context < length / 2"):
            Windows(length=length, context=context, fade=fade)


# Parity with the packages


@pytest.mark.parametrize("samples", [1, 7, 8, 500, 3001])
@pytest.mark.parametrize("name", ["encodec", "mimi", "dac"])
def test_codes_and_samples_equal_direct_calls_of_transformers(name: str, samples: int) -> None:
    model = model_of(name)
    tokenizer = TransformersCodecTokenizer(model)
    sound, hop = noise(samples), tokenizer.samples_per_frame
    given = torch.nn.functional.pad(sound, (0, -samples % hop)) if name == "dac" else sound
    with torch.no_grad():
        encoded = model.encode(given[None], **({"bandwidth": 15.0} if name == "encodec" else {})).audio_codes
        wanted = encoded.reshape(-1, encoded.shape[-1])
        decoded = model.decode(encoded, [None])[0] if name == "encodec" else model.decode(audio_codes=encoded).audio_values
    codes = tokenizer.encode([wave(sound)])[0]
    assert torch.equal(codes, wanted)
    assert samples < 100 or len(codes.unique()) > 5
    found = torch.from_numpy(tokenizer.decode([codes], [samples])[0].samples)
    shown = decoded.reshape(1, -1)[:, :samples].clamp(-1, 1)
    assert samples - shown.shape[1] in ((0, 1, 2) if name == "dac" else (0,))  # its odd stride of 5, then 2, gives 2 samples too few
    assert torch.allclose(found, torch.nn.functional.pad(shown, (0, samples - shown.shape[1])), atol=1e-6)


@pytest.mark.parametrize("samples", [1, 9, 333, 400])
def test_stereo_chunks_equal_direct_calls_of_transformers(samples: int) -> None:
    model = model_of("encodec stereo")
    tokenizer = TransformersCodecTokenizer(model)
    sound = noise(samples, 2)
    with torch.no_grad():
        encoded = model.encode(sound[None], bandwidth=15.0)
        decoded = model.decode(encoded.audio_codes[:1], encoded.audio_scales[:1])[0][0][:, :samples]
    codes = tokenizer.encode([wave(sound)])[0]
    assert torch.equal(codes[:-1], encoded.audio_codes[0, 0])
    assert codes[-1].unique().numel() == 1
    found = torch.from_numpy(tokenizer.decode([codes], [samples])[0].samples)
    step = 10 ** (100 / 31 / 2 / 20)  # half a step of 100 dB in 32 codes
    assert torch.allclose(found, decoded.clamp(-1, 1), rtol=step - 1, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 7, 8, 500, 3001])
def test_mono_codes_and_samples_equal_direct_calls_of_encodec(package: Any, samples: int) -> None:
    network = network_of(MONO_PACKAGE)
    model, tokenizer = whole_model(package, MONO_PACKAGE, network), EncodecTokenizer(network, MONO_PACKAGE)
    with torch.no_grad():
        frames = model.encode(noise(samples)[None])
        wanted = model.decode(frames)[0, :, :samples]
    codes = tokenizer.encode([wave(noise(samples))])[0]
    assert frames[0][1] is None
    assert torch.equal(codes, frames[0][0][0])
    found = tokenizer.decode([codes], [samples])[0].samples
    assert np.allclose(found, wanted.clamp(-1, 1).numpy(), atol=1e-6)


def test_every_kept_stretch_of_stereo_equals_encodecs_segment_there(package: Any) -> None:
    network = network_of(STEREO_PACKAGE)
    model, tokenizer = whole_model(package, STEREO_PACKAGE, network), EncodecTokenizer(network, STEREO_PACKAGE)
    assert tokenizer.windows == Windows(length=50, context=1, fade=1)
    sound = noise(1501, 2)
    codes = tokenizer.encode([wave(sound)])[0]
    places = spans(188, tokenizer.windows)
    assert len(places) == 4
    for place in places:
        with torch.no_grad():
            (wanted, scale), *_ = model.encode(sound[None, :, place.start * 8 : place.stop * 8])
        kept = slice(place.first - place.start, place.last - place.start)
        assert torch.equal(codes[:-1, place.first : place.last], wanted[0, :, kept])
        decibels = 100 * (int(codes[-1, place.first]) / 31 - 1)
        assert abs(decibels - 20 * np.log10(float(scale))) <= 100 / 31 / 2 + 1e-3


def test_the_published_architectures_are_the_packages(package: Any) -> None:
    for name, config in CONFIGS.items():
        with torch.device("meta"):
            ours = {key: tensor.shape for key, tensor in EncodecNetwork(config).state_dict().items()}
            model = getattr(package.EncodecModel, f"encodec_model_{name}")(pretrained=False)
        assert ours == {key: tensor.shape for key, tensor in model.state_dict().items()}
        assert (config.sample_rate_hz, config.channels, list(config.bandwidths_kbps)) == (
            *(model.sample_rate, model.channels),
            model.target_bandwidths,
        )
        assert (config.normalize, config.segment_s, config.max_levels) == (model.normalize, model.segment, model.quantizer.n_q)
        for bandwidth in config.bandwidths_kbps:
            levels = model.quantizer.get_num_quantizers_for_bandwidth(model.frame_rate, bandwidth)
            assert levels == bandwidth / config.kbps_per_level


# Known defects of adapters


@pytest.mark.parametrize("name", MODELS)
def test_decoded_sound_is_never_longer_than_its_frames_or_what_is_asked(name: str) -> None:
    tokenizer = TransformersCodecTokenizer(model_of(name))
    hop = tokenizer.samples_per_frame
    for samples in (1, hop - 1, hop + 1, 401, 1234):
        codes = tokenizer.encode([wave(noise(samples, tokenizer.channels))])
        assert tokenizer.decode(codes)[0].samples.shape[1] == -(-samples // hop) * hop
        assert tokenizer.decode(codes, [samples])[0].samples.shape == (tokenizer.channels, samples)


def test_a_bandwidth_sets_the_levels_and_they_are_the_first_ones() -> None:
    sound = [wave(noise(700))]
    for full, limited in (
        (TransformersCodecTokenizer(model_of("encodec")), TransformersCodecTokenizer(model_of("encodec"), bandwidth_kbps=10.0)),
        (EncodecTokenizer(network_of(MONO_PACKAGE), MONO_PACKAGE), EncodecTokenizer(network_of(MONO_PACKAGE), MONO_PACKAGE, 2)),
    ):
        assert (full.num_levels, limited.num_levels) == (3, 2)
        assert limited.bits_per_s == 10_000
        assert torch.equal(limited.encode(sound)[0], full.encode(sound)[0][:2])
        assert limited.fingerprint != full.fingerprint


@pytest.mark.parametrize("name", MODELS)
def test_every_number_of_levels_gives_that_many(name: str) -> None:
    full = TransformersCodecTokenizer(model_of(name))
    sound = [wave(noise(300, full.channels))]
    codes = full.encode(sound)[0]
    for levels in range(1, full.codec_levels + 1):
        found = TransformersCodecTokenizer(model_of(name), levels).encode(sound)[0]
        assert torch.equal(found[:levels], codes[:levels])
        assert len(found) == levels + full.loudness


def test_levels_and_bandwidths_that_a_codec_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no bandwidth of 6\.0 kbps, it has 5, 10, 15"):
        TransformersCodecTokenizer(model_of("encodec"), bandwidth_kbps=6.0)
    with pytest.raises(ValueError, match="say the same"):
        TransformersCodecTokenizer(model_of("encodec"), 1, 5.0)
    with pytest.raises(ValueError, match="bandwidth_kbps is for encodec, this is a mimi"):
        TransformersCodecTokenizer(model_of("mimi"), bandwidth_kbps=5.0)
    for levels in (0, 4):
        with pytest.raises(ValueError, match="num_levels must lie in 1 to 3"):
            TransformersCodecTokenizer(model_of("dac"), levels)
        with pytest.raises(ValueError, match="num_levels must lie in 1 to 3"):
            EncodecTokenizer(network_of(MONO_PACKAGE), MONO_PACKAGE, levels)


@pytest.mark.parametrize("name", ["encodec", "mimi"])
def test_a_causal_codec_is_not_changed_by_what_follows(name: str) -> None:
    tokenizer = TransformersCodecTokenizer(model_of(name))
    sound, hop = noise(1600), tokenizer.samples_per_frame
    ended = wave(sound[:, : 50 * hop])
    assert torch.equal(tokenizer.encode([ended])[0], tokenizer.encode([wave(sound)])[0][:, :50])


# Long sounds


@pytest.mark.parametrize("ratios", [[2, 5], [2, 4], [4, 3]])
def test_dac_in_pieces_is_dac_of_the_whole(ratios: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "dac", ("dac", {**DAC, "downsampling_ratios": ratios}))
    model = model_of("dac")
    whole = TransformersCodecTokenizer(model)
    monkeypatch.setattr(transformers_codec, "CHUNK_S", 0.02)
    pieces = TransformersCodecTokenizer(model)
    sound = wave(noise(4001))
    assert len(spans(pieces.frames(4001), pieces.windows)) > 5
    assert len(spans(whole.frames(4001), whole.windows)) == 1
    codes = whole.encode([sound])[0]
    assert torch.equal(pieces.encode([sound])[0], codes)
    first, second = whole.decode([codes])[0].samples, pieces.decode([codes])[0].samples
    assert rms(first) > 1e-4
    assert np.allclose(first, second, atol=1e-6, rtol=1e-4)


def test_dac_with_less_context_would_have_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context is needed: the twin of the test above, with a quarter of it."""
    model = model_of("dac")
    whole, pieces = TransformersCodecTokenizer(model), TransformersCodecTokenizer(model)
    assert whole.windows is not None
    pieces.windows = Windows(length=32, context=whole.windows.context // 4)
    codes = whole.encode([wave(noise(4001))])[0]
    first, second = whole.decode([codes])[0].samples, pieces.decode([codes])[0].samples
    assert not np.allclose(first, second, atol=1e-6, rtol=1e-4)


# Loudness


@pytest.mark.parametrize("kind", ["encodec", "transformers"])
def test_the_last_level_keeps_the_loudness_of_each_second(kind: str) -> None:
    tokenizer = stereo_tokenizer(kind)
    parts = [noise(800, 2, loudness) for loudness in (0.02, 0.4, 0.02)]
    codes = tokenizer.encode([wave(torch.cat(parts, dim=1))])
    found = tokenizer.decode(codes)[0].samples
    assert rms(found[:, :700]) < rms(found[:, 900:1500]) / 5 > rms(found[:, 2000:]) > 0


@pytest.mark.parametrize("kind", ["encodec", "transformers"])
def test_silence_comes_back_silent(kind: str) -> None:
    tokenizer = stereo_tokenizer(kind)
    codes = tokenizer.encode([wave(torch.zeros(2, 900))])
    assert codes[0][-1].unique().tolist() == [0]
    assert np.abs(tokenizer.decode(codes)[0].samples).max() < 1e-4


@pytest.mark.parametrize("kind", ["encodec", "transformers"])
def test_without_the_loudness_level_sound_has_the_usual_loudness(kind: str) -> None:
    tokenizer = stereo_tokenizer(kind)
    codes = tokenizer.encode([wave(noise(300, 2))])[0]
    codes[-1] = 31
    loud, usual = tokenizer._decode_one(codes), tokenizer._decode_one(codes[:-1])
    assert torch.allclose(usual, loud * 10 ** (USUAL_DB / 20), atol=1e-6)


def test_a_window_takes_the_median_loudness_of_its_frames() -> None:
    tokenizer = stereo_tokenizer("encodec")
    codes = tokenizer.encode([wave(noise(300, 2))])[0]
    other = codes.clone()
    other[-1, :3] = 0
    assert torch.equal(tokenizer._decode_one(codes), tokenizer._decode_one(other))


def stereo_tokenizer(kind: str) -> EncodecTokenizer | TransformersCodecTokenizer:
    if kind == "encodec":
        return EncodecTokenizer(network_of(STEREO_PACKAGE), STEREO_PACKAGE)
    return TransformersCodecTokenizer(model_of("encodec stereo"))


# Files


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_of_transformers_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("asked the network"))
    model = model_of(name)
    model.save_pretrained(tmp_path / "model")
    tokenizer, read = TransformersCodecTokenizer(model), TransformersCodecTokenizer.from_pretrained(tmp_path / "model", num_levels=None)
    assert read.fingerprint == tokenizer.fingerprint
    sound = [wave(noise(900, tokenizer.channels))]
    codes = tokenizer.encode(sound)
    assert torch.equal(read.encode(sound)[0], codes[0])
    assert np.array_equal(read.decode(codes)[0].samples, tokenizer.decode(codes)[0].samples)
    fewer = TransformersCodecTokenizer.from_pretrained(str(tmp_path / "model"), num_levels=2)
    assert fewer.save(tmp_path / "bundle") == fewer.fingerprint != read.fingerprint
    back = load_tokenizer(tmp_path / "bundle")
    assert isinstance(back, TransformersCodecTokenizer)
    assert (back.fingerprint, back.num_levels) == (fewer.fingerprint, fewer.num_levels)


def test_half_precision_weights_are_used_in_float32(tmp_path: Path) -> None:
    model_of("dac").half().save_pretrained(tmp_path)
    tokenizer = TransformersCodecTokenizer.from_pretrained(tmp_path)
    assert {tensor.dtype for tensor in tokenizer.network.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    assert tokenizer.encode([wave(noise(25))])[0].shape == (3, 3)


def test_mimi_with_a_stated_frame_rate_survives_its_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "mimi", ("mimi", {**MIMI, "frame_rate": 250.0}))
    tokenizer = TransformersCodecTokenizer(model_of("mimi"))
    assert tokenizer.samples_per_frame == 32
    tokenizer.save(tmp_path)
    assert TransformersCodecTokenizer.from_bundle(tmp_path).samples_per_frame == 32


def test_the_sizes_of_the_published_models_are_known() -> None:
    transformers = pytest.importorskip("transformers")
    families = transformers_codec.CODEC_FAMILIES
    mimi, dac = transformers.MimiConfig(), transformers.DacConfig(sampling_rate=44_100)
    stereo = transformers.EncodecConfig(
        **{"sampling_rate": 48_000, "target_bandwidths": [3.0, 6.0, 12.0, 24.0], "chunk_length_s": 1.0, "overlap": 0.01},
        **STEREO,
    )
    assert (families["mimi"].samples_per_frame(mimi), families["mimi"].max_levels(mimi)) == (1920, 32)
    assert (families["dac"].samples_per_frame(dac), families["dac"].max_levels(dac)) == (512, 9)
    assert families["encodec"].windows(stereo) == Windows(length=150, context=1, fade=1)
    assert families["encodec"].max_levels(stereo) == 16


def test_what_is_no_codec_is_refused_without_asking_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("asked the network"))
    for place in (tmp_path / "nothing", "./some/folder", "nothing", "/no/where"):
        with pytest.raises(ValueError, match="is no folder; give a folder with a codec of transformers"):
            TransformersCodecTokenizer.from_pretrained(place)
    with pytest.raises(ValueError, match=r"holds no config\.json with a model_type, wanted encodec, mimi, dac"):
        TransformersCodecTokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="holds a bert, wanted encodec, mimi, dac"):
        TransformersCodecTokenizer.from_pretrained(tmp_path)
    linear = nn.Linear(1, 1)
    linear.config = object()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="the model is a Linear, wanted a whole"):
        TransformersCodecTokenizer(linear)


def test_weights_that_lack_a_tensor_or_are_cut_are_refused_and_not_left_random(tmp_path: Path) -> None:
    model_of("dac").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    del tensors["encoder.conv1.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 tensors, the first is encoder\.conv1\.weight"):
        TransformersCodecTokenizer.from_pretrained(tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="no codec can be read from"):
        TransformersCodecTokenizer.from_pretrained(tmp_path)


def test_weights_of_encodec_are_read_from_a_file(tmp_path: Path) -> None:
    network = network_of(MONO_PACKAGE)
    wanted = EncodecTokenizer(network, MONO_PACKAGE, 2)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    torch.save(network.state_dict(), tmp_path / "weights.th")
    for file in ("weights.safetensors", "weights.th"):
        found = EncodecTokenizer.from_file(tmp_path / file, MONO_PACKAGE, bandwidth_kbps=10.0)
        assert found.fingerprint == wanted.fingerprint
        assert torch.equal(found.encode([wave(noise(99))])[0], wanted.encode([wave(noise(99))])[0])
    with pytest.raises(ValueError, match=r"no bandwidth of 7\.0 kbps, it has 5, 10, 15"):
        EncodecTokenizer.from_file(tmp_path / "weights.th", MONO_PACKAGE, bandwidth_kbps=7.0)
    with pytest.raises(ValueError, match="are of another model"):
        EncodecTokenizer.from_file(tmp_path / "weights.th", STEREO_PACKAGE)
    with pytest.raises(ValueError, match="no EnCodec model '32khz'; name one of 24khz, 48khz"):
        EncodecTokenizer.from_file(tmp_path / "weights.th", "32khz")


def test_files_that_are_no_weights_of_encodec_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        EncodecTokenizer.from_file(tmp_path / "none.th", "24khz")
    for name, content in (("cut.safetensors", b"\x08"), ("text.th", b"no weights"), ("empty.th", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or holds no weights"):
            EncodecTokenizer.from_file(tmp_path / name, "24khz")
    torch.save(Path("code"), tmp_path / "code.th")
    with pytest.raises(ValueError, match="is damaged or holds no weights"):
        EncodecTokenizer.from_file(tmp_path / "code.th", "24khz")
    torch.save([1], tmp_path / "list.th")
    with pytest.raises(ValueError, match="holds no state dict"):
        EncodecTokenizer.from_file(tmp_path / "list.th", "24khz")


def test_the_package_is_asked_for_pretrained_weights(package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its download is replaced by random weights of the right shapes; the download itself needs the network."""
    torch.manual_seed(0)
    weights = package.EncodecModel.encodec_model_24khz(pretrained=False).state_dict()
    monkeypatch.setattr(package.EncodecModel, "_get_pretrained", staticmethod(lambda name, repository: weights))
    tokenizer = EncodecTokenizer.from_package("24khz", bandwidth_kbps=6.0)
    assert (tokenizer.num_levels, tokenizer.frames_per_s, tokenizer.bits_per_s) == (8, 75, 6_000)
    assert tokenizer.encode([wave(noise(100))])[0].shape == (8, 1)


def test_our_import_of_encodec_leaves_the_package_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "encodec" or name.startswith(("encodec.", "_maskgen_encodec_parts"))]:
        monkeypatch.delitem(sys.modules, name)
    network_of(MONO_PACKAGE)
    assert not [name for name in sys.modules if name == "encodec" or name.startswith("encodec.")]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    monkeypatch.delitem(sys.modules, "encodec", raising=False)
    with pytest.raises(ImportError, match=r"needs a torchaudio of the same build as torch.*EncodecTokenizer\.from_file"):
        EncodecTokenizer.from_package("24khz")
    monkeypatch.setitem(sys.modules, "encodec", None)
    with pytest.raises(ImportError, match=r"needs encodec: pip install maskgen\[codecs\]"):
        EncodecNetwork(MONO_PACKAGE)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"needs transformers: pip install maskgen\[codecs\]"):
        TransformersCodecTokenizer.from_pretrained("kyutai/mimi")
