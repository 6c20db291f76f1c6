"""MaskGCT's codecs against tensors of the authors' classes (`tests/interop/golden/maskgct_*.safetensors`)."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from maskgen.autoencoders.amphion import AcousticDecoder, AcousticEncoder, SemanticCodec
from maskgen.autoencoders.vocos import SpectrumHead
from maskgen.interop.maskgct_config import acoustic_config, semantic_config
from tests.interop.maskgct_cases import config_of, golden, loaded


def close(found: Tensor, wanted: Tensor) -> None:
    assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def states_of(module: torch.nn.Module) -> dict[str, Tensor]:
    """Filled with the output of every part of a network when it runs."""
    seen: dict[str, Tensor] = {}
    for name, part in module.named_modules():
        part.register_forward_hook(lambda _part, _inputs, output, name=name: seen.__setitem__(name, output))
    return seen


def check_states(seen: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    names = [name.removeprefix("mid.") for name in given if name.startswith("mid.")]
    assert names
    for name in names:
        close(seen[name], given[f"mid.{name}"])


def test_the_semantic_codec_is_the_authors() -> None:
    given = golden("semantic_codec")
    with torch.device("meta"):
        made = SemanticCodec(semantic_config(config_of("semantic_codec"), "golden"))
    loaded(made, "semantic_codec")
    seen = states_of(made)
    found = made.encode(given["features"])
    assert torch.equal(found, given["encoded_codes"])
    check_states(seen, {name: one for name, one in given.items() if not name.endswith("in_project")})
    close(seen["quantizer.quantizers.0.in_project"], given["mid.quantizer.quantizers.0.in_project"])
    close(made.quantizer(given["codes"][:, None]), given["code_vectors"])
    close(made(given["codes"]), given["decoded_features"])


def test_the_acoustic_encoder_is_the_authors() -> None:
    given, encoder = golden("acoustic_encoder"), config_of("acoustic_encoder")
    decoder = {**config_of("acoustic_decoder"), "in_channels": encoder["out_channels"], "n_fft": 1920, "hop_size": 480}
    with torch.device("meta"):
        made = AcousticEncoder(acoustic_config({"encoder": encoder, "decoder": decoder}, "golden"))
    loaded(made, "acoustic_encoder")
    seen = states_of(made)
    close(made(given["wave"]), given["latents"])
    check_states(seen, given)


def test_the_quantizer_and_the_decoder_are_the_authors() -> None:
    given, decoder = golden("acoustic_decoder"), config_of("acoustic_decoder")
    encoder = {"d_model": 2, "up_ratios": [8], "out_channels": decoder["in_channels"], "use_tanh": False}
    with torch.device("meta"):
        made = AcousticDecoder(acoustic_config({"encoder": encoder, "decoder": decoder}, "golden"))
    loaded(made, "acoustic_decoder")
    codes = given["codes"].transpose(0, 1)
    close(made.quantizer(codes), given["code_vectors"])
    close(made.quantizer(codes[:, :2]), given["code_vectors_two_levels"])
    assert torch.equal(made.quantizer.encode(given["latents"]).transpose(0, 1), given["quantised_codes"])
    close(made.quantizer(given["quantised_codes"].transpose(0, 1)), given["quantised_latents"])
    seen = states_of(made)
    close(made(made.quantizer(codes)), given["wave"])
    check_states(seen, given)


def test_a_frame_of_the_head_has_as_many_samples_as_asked_for() -> None:
    for window, hop, frames in ((32, 8, 5), (16, 16, 3), (30, 10, 1)):
        assert SpectrumHead(4, window, hop)(torch.zeros(1, frames, 4)).shape == (1, 1, hop * frames)
    with pytest.raises(ValueError, match="n_fft must exceed hop_size by an even number of samples, got 9 and 4"):
        SpectrumHead(4, 9, 4)
