"""LlamaGen's VQ-GAN beside tensors of its authors' own class, and its size as published."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from maskgen.autoencoders.llamagen import LlamaGenConfig, LlamaGenVQ, llamagen_config
from maskgen.tokenizers.llamagen_vq import LlamaGenVQTokenizer

GOLDEN = Path(__file__).parents[1] / "interop/golden/llamagen_vq16.safetensors"
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with safe_open(GOLDEN, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


@pytest.fixture(scope="module")
def network(golden: dict[str, Tensor]) -> LlamaGenVQ:
    weights = {name.removeprefix("weights/"): tensor for name, tensor in golden.items() if name.startswith("weights/")}
    del weights["quantize.codebook_used"]
    with safe_open(GOLDEN, framework="pt") as file:
        groups = json.loads(file.metadata()["config"])["num_groups"]
    made = LlamaGenVQ(llamagen_config({name: tensor.shape for name, tensor in weights.items()}, groups))
    made.load_state_dict(weights)
    return made.eval().requires_grad_(False)


def watched(network: LlamaGenVQ, run: Any, *arguments: Tensor) -> dict[str, Tensor]:
    """Output of every module while the function runs, by its published name."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, given, made: seen.update({name: made})

    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_modules() if name]
    run(*arguments)
    for handle in handles:
        handle.remove()
    return seen


def test_encoding_equals_the_golden_file(network: LlamaGenVQ, golden: dict[str, Tensor]) -> None:
    seen = watched(network, network.encode, golden["io/picture"])
    assert torch.equal(network.encode(golden["io/picture"]), golden["io/encoded_codes"])
    for name in ("encoder", "encoder.conv_blocks.0.downsample", "encoder.conv_blocks.4.attn.1", "encoder.mid.2", "quant_conv"):
        torch.testing.assert_close(seen[name], golden[f"io/mid.{name}"], **CLOSE)
    torch.testing.assert_close(network.vectors(golden["io/encoded_codes"]), golden["io/encoded_quantised"], **CLOSE)


def test_decoding_equals_the_golden_file(network: LlamaGenVQ, golden: dict[str, Tensor]) -> None:
    torch.testing.assert_close(network.vectors(golden["io/codes"]), golden["io/codebook_entries"], **CLOSE)
    torch.testing.assert_close(network.decode(golden["io/codes"]), golden["io/decoded"], **CLOSE)
    seen = watched(network, network.decode, golden["io/codes"])
    for name in ("conv_blocks.0.upsample", "conv_blocks.1.res.2", "conv_in", "mid.2"):
        torch.testing.assert_close(seen[f"decoder.{name}"], golden[f"io/mid.decoder.{name}"], **CLOSE)
    torch.testing.assert_close(seen["post_quant_conv"], golden["io/mid.post_quant_conv"], **CLOSE)


def test_the_tokenizer_maps_pixels_to_minus_one_to_one(network: LlamaGenVQ, golden: dict[str, Tensor]) -> None:
    """The golden picture is not on the steps of 8 bits, so a picture of the golden codes is compared, and encoded again."""
    tokenizer = LlamaGenVQTokenizer(network)
    pictures = tokenizer.decode([codes[None] for codes in golden["io/codes"]])
    wanted = ((golden["io/decoded"].clamp(-1, 1) + 1) / 2 * 255).round()
    for picture, pixels in zip(pictures, wanted, strict=True):
        shown = torch.tensor(list(picture.get_flattened_data())).view(48, 32, 3).permute(2, 0, 1)
        assert picture.size == (32, 48)
        assert (shown - pixels).abs().max() <= 1
    pixels = torch.stack([torch.tensor(list(one.get_flattened_data())).view(48, 32, 3).permute(2, 0, 1) for one in pictures]).float()
    assert torch.equal(torch.cat(tokenizer.encode(pictures)), network.encode(pixels / 127.5 - 1))


def test_the_published_size_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        network = LlamaGenVQ(LlamaGenConfig())
    state = network.state_dict()
    assert len(state) == 343  # and the buffer codebook_used, which is not kept
    assert sum(tensor.numel() for tensor in state.values()) + 65536 == pytest.approx(71.95e6, abs=0.005e6)
    assert llamagen_config({name: tensor.shape for name, tensor in state.items()}) == LlamaGenConfig()


def test_a_file_without_the_tensors_that_tell_the_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"has a tensor encoder.conv_in.weight, the file has none; give vq_ds16_c2i.pt"):
        llamagen_config({"decoder.conv_in.weight": (8, 3, 3, 3)})


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of num_groups"):
        LlamaGenConfig(channels=12, num_groups=8)
