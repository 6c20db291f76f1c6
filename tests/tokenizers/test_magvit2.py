"""MAGVIT-v2's tokenizer against tensors of Show-o's code (`tests/interop/golden/magvitv2.safetensors`)."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from maskgen.autoencoders.magvit2 import Magvit2, Magvit2Config
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.magvit2 import Magvit2Tokenizer, sizes_of
from tests.interop.llada_cases import golden


def network(weights: dict[str, Tensor]) -> Magvit2:
    made = Magvit2(sizes_of(weights, 2, "the golden file")).eval().requires_grad_(False)
    made.load_state_dict(weights)
    return made


def test_every_state_is_the_authors() -> None:
    weights, given, _ = golden("magvitv2")
    seen: dict[str, Tensor] = {}
    made = network(weights)
    for name, module in made.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: seen.__setitem__(name, output))
    assert torch.equal(made.encode(given["picture"]).flatten(1), given["encoded_codes"])
    assert torch.equal(made.encode(given["wide_picture"]).flatten(1), given["wide_encoded_codes"])
    assert_close(made.decode(given["wide_codes"].view(1, 2, 3)), given["wide_decoded"], rtol=1e-5, atol=1e-5)
    made.encode(given["picture"])
    assert_close(made.quantize.lookup(given["codes"].view(2, 2, 2)), given["code_vectors"])
    assert_close(made.decode(given["codes"].view(2, 2, 2)), given["decoded"], rtol=1e-5, atol=1e-5)
    for name in [key.removeprefix("mid.") for key in given if key.startswith("mid.")]:
        assert_close(seen[name], given[f"mid.{name}"], rtol=1e-5, atol=1e-5)


def test_the_stored_tables_are_computed_alike() -> None:
    weights, _, _ = golden("magvitv2")
    made = Magvit2(sizes_of(weights, 2, "the golden file")).quantize.state_dict()
    assert all(torch.equal(made[name], weights[f"quantize.{name}"]) for name in ("embedding", "power_vals"))


def test_parameters_at_published_size() -> None:
    """382 tensors of 95.49 million values, as `showlab/magvitv2` holds."""
    with torch.device("meta"):
        made = Magvit2(Magvit2Config()).state_dict()
    assert (len(made), round(sum(tensor.numel() for tensor in made.values()) / 1e4)) == (382, 9549)


def test_a_folder_of_the_hub_is_a_tokenizer_and_its_pixels_are_the_authors(tmp_path: Path) -> None:
    """The published config.json has no sizes and the weights an odd name."""
    weights, given, _ = golden("magvitv2")
    save_file(weights, tmp_path / "pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "MAGVITv2", "num_groups": 2}))
    made = load_tokenizer(tmp_path)
    assert isinstance(made, Magvit2Tokenizer)
    assert made.codebook_size == 128
    pixels = torch.tensor(list(made.decode([given["codes"][:1].view(1, 2, 2)])[0].tobytes())).view(32, 32, 3).permute(2, 0, 1)
    wanted = ((given["decoded"][0] / 2 + 0.5).clamp(0, 1) * 255).round()
    assert_close(pixels.float(), wanted, atol=1.0, rtol=0)
    assert made.encode([Image.new("RGB", (32, 48))])[0].shape == (1, 3, 2)


def test_a_missing_tensor_and_a_foreign_file_are_named(tmp_path: Path) -> None:
    weights, _, _ = golden("magvitv2")
    (tmp_path / "config.json").write_text(json.dumps({"num_groups": 2}))
    save_file({name: tensor for name, tensor in weights.items() if name != "decoder.mid.attn_1.q.weight"}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"decoder\.mid\.attn_1\.q\.weight"):
        Magvit2Tokenizer.from_pretrained(tmp_path)
    save_file({"head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"has no encoder\.conv_in\.weight, so it is no MAGVIT-v2"):
        Magvit2Tokenizer.from_pretrained(tmp_path)
