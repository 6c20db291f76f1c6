"""One contract for every tokenizer: what an adapter of a new codec has to pass. A tokenizer is one line in CASES."""

import importlib.util
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.hub_folders import higgs_codec
from PIL import Image
from torch import nn

from maskgen.autoencoders.audio import AudioAutoencoder, AudioAutoencoderConfig
from maskgen.autoencoders.image import ImageAutoencoder, ImageAutoencoderConfig
from maskgen.autoencoders.llamagen import LlamaGenConfig, LlamaGenVQ
from maskgen.autoencoders.magvit2 import Magvit2, Magvit2Config
from maskgen.autoencoders.quantizers import BinaryQuantizer, FiniteScalarQuantizer, Quantizer, ResidualQuantizer, VectorQuantizer
from maskgen.io.audio import Waveform, fit_audio
from maskgen.tokenizers import contract
from maskgen.tokenizers.audio import AudioTokenizer
from maskgen.tokenizers.audio_base import SoundTokenizer
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.contract import Case, same_codes, same_media
from maskgen.tokenizers.diffusers_vq import DiffusersVQTokenizer
from maskgen.tokenizers.encodec import EncodecConfig, EncodecNetwork, EncodecTokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.llamagen_vq import LlamaGenVQTokenizer
from maskgen.tokenizers.magvit2 import Magvit2Tokenizer
from maskgen.tokenizers.text import TextTokenizer, train_bpe
from maskgen.tokenizers.transformers_codec import TransformersCodecTokenizer
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer

TINY = ImageAutoencoderConfig(patch=2, encoder_channels=(16, 16), decoder_channels=(16, 16), encoder_blocks=1, decoder_blocks=1)


def texts() -> list[str]:
    return ["a red heart", "", "flat style héart", "a", "a red heart, a red heart, a red heart"]


def pictures() -> list[Image.Image]:
    """Pictures of mixed sizes, all multiples of 4."""
    generator = np.random.default_rng(0)
    sizes = [(16, 12), (24, 16), (16, 12), (16, 12), (12, 16), (24, 16)]
    return [Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


def sound(samples: int, sample_rate_hz: int, channels: int = 1, loudness: float = 0.3) -> Waveform:
    """Noise on the steps of 16 bits, so that a file keeps it."""
    noise = np.random.default_rng(samples).uniform(-loudness, loudness, (channels, samples))
    return Waveform(samples=(np.rint(noise * 2**15) / 2**15).astype(np.float32), sample_rate_hz=sample_rate_hz)


def sounds() -> list[Waveform]:
    """Sounds of mixed lengths, rates, channels and loudness, one of a single sample, one silent, two alike."""
    sizes = [(1500, 8_000, 1), (1, 8_000, 1), (700, 11_025, 1), (700, 11_025, 1), (901, 8_000, 2), (1600, 16_000, 3), (3, 48_000, 2)]
    return [*(sound(*size) for size in sizes), sound(500, 8_000, loudness=0.0), sound(500, 8_000, loudness=0.01)]


def text_tokenizer(change: float) -> TextTokenizer:
    return train_bpe(["a red heart, flat style", "a blue cat" if change else "a blue dog"] * 3, 275, lowercase=False)


def transformers_text_tokenizer(change: float) -> TransformersTextTokenizer:
    return TransformersTextTokenizer(text_tokenizer(change).vocabulary)


def image_tokenizer(quantizer: Callable[[], Quantizer]) -> Callable[[float], ImageTokenizer]:
    def make(change: float) -> ImageTokenizer:
        torch.manual_seed(0)
        network = ImageAutoencoder(TINY, quantizer())
        _spread(network.encoder)
        _change(network.encoder, change)
        return ImageTokenizer(network, (16, 16), batch_size=2)

    return make


def tiny_vq_model() -> Any:
    from diffusers import VQModel

    torch.manual_seed(0)
    model = VQModel(
        block_out_channels=(16, 32, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=5,
        num_vq_embeddings=40,
        vq_embed_dim=6,
        norm_num_groups=8,
    ).eval()
    nn.init.normal_(model.quantize.embedding.weight, std=0.5)
    return model


def audio_tokenizer(change: float) -> AudioTokenizer:
    torch.manual_seed(0)
    config = AudioAutoencoderConfig(encoder_dim=16, encoder_layers=2, decoder_dim=16, decoder_layers=2, mel_bands=20)
    network = AudioAutoencoder(config, ResidualQuantizer(3, 8, 20))
    with torch.no_grad():
        network.encoder.out.weight.mul_(6.0)
    _change(network.encoder, change)
    return AudioTokenizer(network)


def diffusers_tokenizer(change: float) -> DiffusersVQTokenizer:
    pytest.importorskip("diffusers")
    model = tiny_vq_model()
    _change(model.decoder, change)
    return DiffusersVQTokenizer(model, batch_size=2)


def magvit2_tokenizer(change: float) -> Magvit2Tokenizer:
    torch.manual_seed(0)
    stages = {f"{part}_{what}": (1, 1, 2) if what == "multipliers" else (1, 1, 1) for part in ("encoder", "decoder") for what in PER_STAGE}
    network = Magvit2(Magvit2Config(channels=8, bits=6, groups=2, **stages))
    for layer in (network.encoder.conv_out, network.encoder.quant_conv):  # around 0, so that many codes are reached
        nn.init.zeros_(layer.bias)
    _change(network.decoder, change)
    return Magvit2Tokenizer(network, batch_size=2)


PER_STAGE = ("multipliers", "blocks")


def llamagen_tokenizer(change: float) -> LlamaGenVQTokenizer:
    torch.manual_seed(0)
    config = LlamaGenConfig(codebook_size=40, codebook_dim=6, latent_channels=5, channels=8, multipliers=(1, 2, 2), num_groups=4)
    network = LlamaGenVQ(config)
    _change(network.decoder, change)
    return LlamaGenVQTokenizer(network, batch_size=2)


SMALL = {"sampling_rate": 8_000, "num_filters": 4, "upsampling_ratios": [4, 2], "codebook_size": 32}
STEREO = {"audio_channels": 2, "norm_type": "time_group_norm", "use_causal_conv": False, "normalize": True}
TINY_CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "Encodec": ("encodec", {**SMALL, "hidden_size": 8, "target_bandwidths": [5.0, 10.0, 15.0]}),
    "Encodec stereo": (
        "encodec",
        {**SMALL, **STEREO, "hidden_size": 8, "target_bandwidths": [5.0, 10.0, 15.0], "chunk_length_s": 0.05, "overlap": 0.03},
    ),
    "Mimi": (
        "mimi",
        {
            **SMALL,
            **{"hidden_size": 16, "codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "num_quantizers": 3, "upsample_groups": 16},
            **{"num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "sliding_window": 20},
        },
    ),
    "DAC": (
        "dac",
        {
            **{"sampling_rate": 8_000, "encoder_hidden_size": 4, "decoder_hidden_size": 16, "downsampling_ratios": [2, 5]},
            **{"n_codebooks": 3, "codebook_size": 32, "codebook_dim": 4},
        },
    ),
}
"""`model_type` and config of small codecs of transformers."""
TINY_ENCODEC = {
    "encodec": EncodecConfig(sample_rate_hz=8_000, bandwidths_kbps=(5.0, 15.0), codebook_size=32, dim=8, num_filters=4, ratios=(4, 2)),
    "encodec stereo": EncodecConfig(
        **{"sample_rate_hz": 8_000, "bandwidths_kbps": (5.0, 15.0), "codebook_size": 32, "dim": 8, "num_filters": 4, "ratios": (4, 2)},
        **{"channels": 2, "causal": False, "norm": "time_group_norm", "normalize": True, "segment_s": 0.05},
    ),
}


def tiny_codec(name: str) -> Any:
    """A small codec of transformers with random weights that reach many codes."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install maskgen[codecs]")
    if name == "higgs":
        pytest.importorskip("torchaudio", reason="needs torchaudio: pip install maskgen[codecs]", exc_type=ImportError)
        return higgs_codec()
    kind, settings = TINY_CODECS[name]
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **settings)).eval()
    scatter_codebooks(model)
    return model


def tiny_encodec(name: str) -> EncodecNetwork:
    """A small EnCodec of its own package, likewise."""
    if importlib.util.find_spec("encodec") is None:
        pytest.skip("needs encodec: pip install maskgen[codecs]")
    torch.manual_seed(0)
    network = EncodecNetwork(TINY_ENCODEC[name]).eval()
    scatter_codebooks(network)
    return network


@torch.no_grad()
def scatter_codebooks(codec: nn.Module) -> None:
    """Codebooks start at zero, where every sound has the same codes."""
    for name, tensor in codec.state_dict().items():
        if name.endswith(("codebook.embed", "codebook.embed_sum", "codebook.weight")):
            tensor.normal_(std=0.5)


def codec_tokenizer(name: str) -> Callable[[float], SoundTokenizer]:
    def make(change: float) -> SoundTokenizer:
        model = tiny_codec(name)
        _change(model.acoustic_decoder if name == "higgs" else model.decoder, change)
        return TransformersCodecTokenizer(model)

    return make


def encodec_tokenizer(name: str) -> Callable[[float], SoundTokenizer]:
    def make(change: float) -> SoundTokenizer:
        network = tiny_encodec(name)
        _change(network.decoder, change)
        return EncodecTokenizer(network, TINY_ENCODEC[name])

    return make


@torch.no_grad()
def _spread(encoder: nn.Sequential) -> None:
    """Let an untrained encoder reach many codes."""
    encoder[-1].weight.mul_(4.0)


@torch.no_grad()
def _change(network: nn.Module, change: float) -> None:
    """Move one weight."""
    weight = next(iter(network.parameters()))
    weight[(0,) * weight.ndim] += change


FLAC = (".flac", b"fLaC no sound")
CASES = {
    "text": Case(text_tokenizer, TextTokenizer.from_bundle, texts, ".txt", b"caf\xe9"),
    "transformers text": Case(transformers_text_tokenizer, TransformersTextTokenizer.from_bundle, texts, ".txt", b"caf\xe9"),
    "image vector": Case(image_tokenizer(lambda: VectorQuantizer(8, 20)), ImageTokenizer.from_bundle, pictures),
    "image finite scalar": Case(image_tokenizer(lambda: FiniteScalarQuantizer((5, 4, 2))), ImageTokenizer.from_bundle, pictures),
    "image binary": Case(image_tokenizer(lambda: BinaryQuantizer(6)), ImageTokenizer.from_bundle, pictures),
    "image residual": Case(image_tokenizer(lambda: ResidualQuantizer(3, 8, 20)), ImageTokenizer.from_bundle, pictures),
    "audio residual": Case(audio_tokenizer, AudioTokenizer.from_bundle, sounds, *FLAC),
    "magvit2": Case(magvit2_tokenizer, Magvit2Tokenizer.from_bundle, pictures),
    "diffusers": Case(diffusers_tokenizer, DiffusersVQTokenizer.from_bundle, pictures),
    "LlamaGen": Case(llamagen_tokenizer, LlamaGenVQTokenizer.from_bundle, pictures),
    **{name: Case(encodec_tokenizer(name), EncodecTokenizer.from_bundle, sounds, *FLAC) for name in TINY_ENCODEC},
    **{name: Case(codec_tokenizer(name), TransformersCodecTokenizer.from_bundle, sounds, *FLAC) for name in (*TINY_CODECS, "higgs")},
}
IMAGES = [name for name, case in CASES.items() if case.media is pictures]
SOUNDS = [name for name, case in CASES.items() if case.media is sounds]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def tokenizer(case: Case) -> Tokenizer:
    return case.make(0.0)


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest) -> Tokenizer:
    return CASES[request.param].make(0.0)


@pytest.fixture(scope="module")
def codec(request: pytest.FixtureRequest) -> SoundTokenizer:
    made = CASES[request.param].make(0.0)
    assert isinstance(made, SoundTokenizer)
    return made


def test_codes_are_what_levels_and_codebook_size_say(case: Case, tokenizer: Tokenizer, tmp_path: Path) -> None:
    contract.gives_codes_in_range(case, tmp_path)
    codes = tokenizer.encode(case.media())
    assert len(torch.cat([grid.flatten() for grid in codes]).unique()) > 5


def test_every_code_can_be_decoded(case: Case, tokenizer: Tokenizer) -> None:
    every = torch.arange(tokenizer.codebook_size).expand(tokenizer.num_levels, -1)
    grid = every[:, :, None] if tokenizer.kind == "image" else every
    assert len(tokenizer.decode([grid])) == 1


def test_decoding_gives_media_of_the_same_size(case: Case, tokenizer: Tokenizer) -> None:
    media = case.media()
    found = tokenizer.decode(tokenizer.encode(media))
    if tokenizer.kind == "text":
        assert found == media
    elif isinstance(tokenizer, SoundTokenizer):
        wanted = [fit_audio(wave, tokenizer.sample_rate_hz, tokenizer.channels)[0].samples.shape for wave in media]
        frames = [tokenizer.frames(length) for _, length in wanted]
        assert [wave.samples.shape for wave in found] == [
            (channels, count * tokenizer.samples_per_frame) for (channels, _), count in zip(wanted, frames, strict=True)
        ]
        cut = tokenizer.decode(tokenizer.encode(media), [length for _, length in wanted])
        assert [wave.samples.shape for wave in cut] == wanted
    else:
        assert [picture.size for picture in found] == [picture.size for picture in media]
        assert {picture.mode for picture in found} == {"RGB"}


def test_a_batch_of_mixed_sizes_equals_one_by_one_in_order(case: Case, tmp_path: Path) -> None:
    contract.is_the_same_alone_and_in_a_batch(case, tmp_path)


def test_nothing_gives_nothing(case: Case, tmp_path: Path) -> None:
    contract.gives_nothing_for_nothing(case, tmp_path)


def test_encoding_and_decoding_leave_their_input_alone(case: Case, tmp_path: Path) -> None:
    contract.leaves_its_input_alone(case, tmp_path)


def test_codes_fit_their_place_in_a_token_space(case: Case, tmp_path: Path) -> None:
    contract.fits_its_place_in_a_token_space(case, tmp_path)


@pytest.mark.parametrize("check", [contract.refuses_unknown_codes, contract.refuses_foreign_codes], ids=["unknown", "size"])
def test_unknown_and_foreign_codes_are_refused(case: Case, check: Callable[[Case, Path], None], tmp_path: Path) -> None:
    check(case, tmp_path)


def test_grids_of_another_shape_are_refused(case: Case, tmp_path: Path) -> None:
    contract.refuses_grids_of_another_shape(case, tmp_path)


def test_the_fingerprint_is_stable_and_tells_one_changed_weight(case: Case, tmp_path: Path) -> None:
    contract.has_a_fingerprint_that_tells_every_change(case, tmp_path)


def test_a_saved_tokenizer_comes_back(case: Case, tmp_path: Path) -> None:
    contract.comes_back_from_its_bundle(case, tmp_path)


def test_a_missing_damaged_or_foreign_bundle_is_refused(case: Case, tmp_path: Path) -> None:
    contract.refuses_other_bundles(case, tmp_path)


def test_media_survive_a_file(case: Case, tmp_path: Path) -> None:
    contract.keeps_media_in_a_file(case, tmp_path)


def test_missing_and_damaged_files_are_refused(case: Case, tmp_path: Path) -> None:
    contract.refuses_missing_and_damaged_files(case, tmp_path)


# Sounds


@pytest.mark.parametrize("codec", SOUNDS, indirect=True)
def test_a_frame_is_counted_for_every_begun_frame(codec: SoundTokenizer) -> None:
    hop = codec.samples_per_frame
    for samples in (1, 2, hop - 1, hop, hop + 1, 5 * hop, 5 * hop + 1):
        codes = codec.encode([sound(samples, codec.sample_rate_hz, codec.channels)])[0]
        assert codes.shape == (codec.num_levels, -(-samples // hop)) == (codec.num_levels, codec.frames(samples))
    assert codec.frames_per_s * hop == codec.sample_rate_hz


@pytest.mark.parametrize("codec", SOUNDS, indirect=True)
def test_decoded_sound_is_finite_in_range_and_of_the_codecs_rate(codec: SoundTokenizer) -> None:
    for wave in codec.decode(codec.encode(sounds())):
        assert wave.samples.dtype == np.float32
        assert wave.sample_rate_hz == codec.sample_rate_hz
        assert bool((np.abs(wave.samples) <= 1).all())


@pytest.mark.parametrize("codec", SOUNDS, indirect=True)
def test_lengths_that_do_not_fit_their_frames_are_refused(codec: SoundTokenizer) -> None:
    codes = codec.encode(sounds()[:1])
    longest = codes[0].shape[1] * codec.samples_per_frame
    for length in (0, longest + 1):
        with pytest.raises(ValueError, match=f"a length must lie in 1 to {longest} samples"):
            codec.decode(codes, [length])
    with pytest.raises(ValueError, match="1 sounds need as many lengths"):
        codec.decode(codes, [1, 1])


@pytest.mark.parametrize("codec", SOUNDS, indirect=True)
def test_rate_and_channels_are_fitted_before_encoding(codec: SoundTokenizer) -> None:
    for wave in sounds():
        fitted, _ = fit_audio(wave, codec.sample_rate_hz, codec.channels)
        assert same_codes(codec.encode([wave]), codec.encode([fitted]))


@pytest.mark.parametrize("codec", SOUNDS, indirect=True)
def test_empty_and_not_finite_sounds_are_refused(codec: SoundTokenizer) -> None:
    for samples, reason in ((np.zeros((1, 0), np.float32), "no samples"), (np.full((1, 9), np.nan, np.float32), "NaN or infinite")):
        with pytest.raises(ValueError, match=f"sound 1 has {reason}"):
            codec.encode([*sounds()[:1], Waveform(samples=samples, sample_rate_hz=8_000)])


@pytest.mark.parametrize("codec", SOUNDS, indirect=True)
def test_fewer_levels_decode_to_the_same_length(codec: SoundTokenizer) -> None:
    codes = codec.encode(sounds()[:1])[0]
    found = [codec.decode([codes[:levels]])[0].samples for levels in range(1, codec.num_levels + 1)]
    assert {samples.shape for samples in found} == {found[0].shape}
    assert codec.num_levels == 1 or not np.array_equal(found[0], found[-1])


# Pictures


@pytest.mark.parametrize("image", IMAGES, indirect=True)
def test_a_truncated_picture_is_refused(image: Tokenizer, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pictures()[0].save(buffer, "PNG")
    path = tmp_path / "cut.png"
    path.write_bytes(buffer.getvalue()[:200])
    with pytest.raises(ValueError, match="cannot be used as a picture"):
        image.read(path)


@pytest.mark.parametrize("image", IMAGES, indirect=True)
def test_sides_that_do_not_divide_into_cells_are_refused(image: Tokenizer) -> None:
    assert image.pixels_per_cell == 4  # type: ignore[attr-defined]
    for size in ((18, 16), (16, 18)):
        with pytest.raises(ValueError, match=rf"{size[0]} x {size[1]} pixels; both sides must be multiples of 4"):
            image.encode([*pictures(), Image.new("RGB", size)])


@pytest.mark.parametrize("image", IMAGES, indirect=True)
def test_the_grid_is_the_picture_over_the_cells(image: Tokenizer) -> None:
    for picture, grid in zip(pictures(), image.encode(pictures()), strict=True):
        assert grid.shape == (image.num_levels, picture.height // 4, picture.width // 4)


@pytest.mark.parametrize("name", ["image vector", "image finite scalar", "image binary", "image residual"])
def test_a_half_precision_bundle_gives_the_same_codes_at_every_load(name: str, tmp_path: Path) -> None:
    tokenizer = CASES[name].make(0.0)
    assert isinstance(tokenizer, ImageTokenizer)
    saved = tokenizer.save(tmp_path, half=True)
    first, second = ImageTokenizer.from_bundle(tmp_path), ImageTokenizer.from_bundle(tmp_path)
    assert first.fingerprint == second.fingerprint == saved
    assert same_codes(first.encode(pictures()), second.encode(pictures()))
    assert same_media(first.decode(first.encode(pictures())), second.decode(second.encode(pictures())))


def test_fewer_levels_keep_the_coarse_codes() -> None:
    tokenizer = CASES["image residual"].make(0.0)
    assert isinstance(tokenizer, ImageTokenizer)
    codes = [grid[:2] for grid in tokenizer.encode(pictures())]
    coarser = tokenizer.coarser(2)
    assert same_codes(coarser.encode(pictures()), codes)
    assert same_media(coarser.decode(codes), tokenizer.decode(codes))
    for levels, other in itertools.product((0, 4), (tokenizer,)):
        with pytest.raises(ValueError, match="levels were asked for"):
            other.coarser(levels)


def test_another_decoder_keeps_the_fingerprint_and_another_codebook_does_not(tmp_path: Path) -> None:
    tokenizer, other = CASES["image residual"].make(0.0), CASES["image residual"].make(0.0)
    assert isinstance(tokenizer, ImageTokenizer)
    assert isinstance(other, ImageTokenizer)
    _change(other.network.decoder, 0.1)
    codes = tokenizer.encode(pictures())
    assert other.fingerprint == tokenizer.fingerprint == other.save(tmp_path)
    assert same_codes(other.encode(pictures()), codes)
    assert not same_media(other.decode(codes), tokenizer.decode(codes))
    changed = CASES["image residual"].make(0.0)
    assert isinstance(changed, ImageTokenizer)
    changed.network.quantizer.quantizers[0].codebook += 0.1
    assert changed.fingerprint != tokenizer.fingerprint
