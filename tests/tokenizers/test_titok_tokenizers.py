"""TiTok's tokenizers against tensors of the authors' code (`tests/interop/golden/titok_*.safetensors`)."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.hub_folders import scrambled
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from maskgen.autoencoders.maskgit_vqgan import PixelDecoderConfig
from maskgen.autoencoders.titok import TiTok, TiTokConfig, TowerSize
from maskgen.autoencoders.titok_sizes import titok_sizes
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.contract import CHECKS, Case
from maskgen.tokenizers.image_geometry import image_size
from maskgen.tokenizers.titok import TiTokTokenizer
from tests.interop.llada_cases import golden


def network(name: str) -> tuple[TiTok, dict[str, Tensor]]:
    """The network of a golden file, whose sizes have two heads, and its inputs and outputs."""
    weights, given, config = golden(name)
    sizes = titok_sizes({key: tuple(one.shape) for key, one in weights.items()}, config, "the golden file", (2, 2), 2)
    made = TiTok(sizes).eval().requires_grad_(False)
    made.load_state_dict(weights)
    return made, given


@pytest.mark.parametrize("name", ["titok_l32", "titok_vq8k", "tatitok_vq"])
def test_every_state_is_the_authors(name: str) -> None:
    """Two stages with logits of MaskGIT's codes, one stage with pixels, and one stage whose decoder reads a text."""
    made, given = network(name)
    seen: dict[str, Tensor] = {}
    for part, module in made.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, part=part: seen.__setitem__(part, output))
    codes = made.encode(given["picture"])
    assert torch.equal(codes, given["encoded_codes"].view(2, -1))
    vectors = made.quantize.lookup(codes).transpose(1, 2)[:, :, None]
    assert_close(vectors, given["encoded_quantised"], rtol=1e-5, atol=1e-5)
    assert_close(made.decode(given["codes"], given.get("text")), given["decoded"], rtol=1e-5, atol=3e-5)  # pixels, up to 1
    names = [key.removeprefix("mid.") for key in given if key.startswith("mid.")]
    assert len(names) >= 11
    for part in names:
        assert_close(seen[part], given[f"mid.{part}"], rtol=1e-5, atol=1e-5)


def test_parameters_at_published_sizes() -> None:
    """Tensors and millions of values of `tokenizer_titok_l32_imagenet`, `..._bl128_vq8k_imagenet` and `tokenizer_tatitok_bl128_vq`."""
    base = TowerSize(dim=768, num_layers=12, num_heads=12)
    large = {"num_tokens": 128, "codebook_size": 8192, "token_size": 64, "normalized": False, "encoder": base, "pixels": None}
    found = []
    for sizes in ({}, large, {**large, "text_length": 77, "text_dim": 768}):
        with torch.device("meta"):
            made = TiTok(TiTokConfig(**sizes)).state_dict()
        found.append((len(made), round(sum(one.numel() for one in made.values()) / 1e4)))
    assert found == [(692, 64105), (459, 39018), (462, 39105)]


def write_folder(folder: Path, name: str) -> tuple[TiTok, dict[str, object]]:
    """A tokenizer with heads of 64, as published sizes have, in a folder laid out as the hub's."""
    _, _, config = golden(name)
    pixels = PixelDecoderConfig(codes=40, latent_dim=8, channels=32) if name == "titok_l32" else None
    towers = {
        "encoder": TowerSize(dim=64, num_layers=1, num_heads=1, grid=2),
        "decoder": TowerSize(dim=128, num_layers=1, num_heads=2, grid=2),
    }
    sizes = TiTokConfig(num_tokens=5, codebook_size=32, token_size=6, normalized=pixels is not None, pixels=pixels, **towers)
    made: TiTok = scrambled(TiTok(sizes))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(made.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return made, config


@pytest.mark.parametrize("name", ["titok_l32", "titok_vq8k"])
def test_a_folder_of_the_hub_is_a_tokenizer(tmp_path: Path, name: str) -> None:
    network, _ = write_folder(tmp_path, name)
    made = load_tokenizer(tmp_path)
    assert isinstance(made, TiTokTokenizer)
    assert (made.codebook_size, made.grid, made.size) == (32, (5,), (32, 32))
    assert image_size(made, (5,)) == (32, 32)
    codes = torch.arange(5)[None]
    pixels = torch.tensor(list(made.decode([codes])[0].tobytes())).view(32, 32, 3).permute(2, 0, 1)
    with torch.no_grad():
        assert_close(pixels.float(), (network.decode(codes)[0].clamp(0, 1) * 255).round(), atol=1.0, rtol=0)
    with pytest.raises(ValueError, match="has 48 x 32 pixels, this tokenizer takes 32 x 32; resize it"):
        made.encode([Image.new("RGB", (48, 32))])


def tiny(change: float) -> TiTokTokenizer:
    size = TowerSize(dim=16, num_layers=1, num_heads=2, patch=4, grid=2)
    pixels = PixelDecoderConfig(codes=10, latent_dim=4, channels=4, multipliers=(1, 1, 2), blocks=1, groups=2)
    network = scrambled(TiTok(TiTokConfig(num_tokens=5, codebook_size=32, token_size=6, encoder=size, decoder=size, pixels=pixels)))
    with torch.no_grad():
        network.latent_tokens[0, 0] += change
    return TiTokTokenizer(network, batch_size=2)


def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(3)]


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_contract(check: Callable[[Case, Path], None], tmp_path: Path) -> None:
    check(Case(make=tiny, reload=load_tokenizer, media=pictures), tmp_path)


def test_what_is_no_such_tokenizer_is_named(tmp_path: Path) -> None:
    made, config = write_folder(tmp_path, "titok_vq8k")
    weights = dict(made.state_dict())
    save_file({name: one for name, one in weights.items() if name != "decoder.ln_post.bias"}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"decoder\.ln_post\.bias has no such tensor"):
        TiTokTokenizer.from_pretrained(tmp_path)
    save_file({**weights, "quantize.embed_prob": torch.zeros(32)}, tmp_path / "model.safetensors")  # only training reads it
    assert TiTokTokenizer.from_pretrained(tmp_path).codebook_size == 32
    continuous = json.loads(json.dumps(config))
    continuous["model"]["vq_model"]["quantize_mode"] = "vae"
    (tmp_path / "config.json").write_text(json.dumps(continuous))
    with pytest.raises(ValueError, match=r"continuous latents \(vae\), which has no codes; give a vq one"):
        TiTokTokenizer.from_pretrained(tmp_path)
