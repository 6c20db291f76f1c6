"""The VQModel adapter beside diffusers itself, and the folders it must refuse."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from maskgen.tokenizers.diffusers_vq import DiffusersVQTokenizer

pytest.importorskip("diffusers", reason="needs diffusers: pip install maskgen[diffusers]")

OLD_FINGERPRINT = "b5a251e04444f065eb26c13a0d21269dc42079e635f036f03cc44f1bc4e952b6"
"""Of `vq_model()` before bundles had a value range; diffusers' defaults are in it: remake it if they grow."""


def vq_model(**settings: Any) -> Any:
    """A small VQModel with random weights."""
    from diffusers import VQModel

    torch.manual_seed(0)
    sizes = {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 5,
        "num_vq_embeddings": 40,
        "vq_embed_dim": 6,
        "norm_num_groups": 8,
    }
    return VQModel(**{**sizes, **settings}).eval()


@pytest.fixture
def model() -> Any:
    made = vq_model()
    nn.init.normal_(made.quantize.embedding.weight, std=0.5)
    return made


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "vqvae", safe_serialization=True)
    return tmp_path / "vqvae"


def picture(width: int = 12, height: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_codes_and_pixels_equal_direct_calls_of_diffusers(folder: Path) -> None:
    from diffusers import VQModel

    tokenizer, direct = DiffusersVQTokenizer.from_pretrained(folder), VQModel.from_pretrained(folder, low_cpu_mem_usage=False)
    pixels = torch.tensor(np.array(picture())).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        latents = direct.quant_conv(direct.encoder(pixels))
        quantized, _, (_, _, wanted) = direct.quantize(latents)
        rebuilt = direct.decode(latents).sample
        assert torch.allclose(
            direct.post_quant_conv(quantized),
            direct.post_quant_conv(direct.quantize.embedding(wanted).view(1, 4, 6, 6).permute(0, 3, 1, 2)),
            atol=1e-6,
        )
    codes = tokenizer.encode([picture()])[0]
    assert codes.shape == (1, 4, 6)
    assert torch.equal(codes.flatten(), wanted)
    shown = ((rebuilt / 2 + 0.5).clamp(0, 1) * 255).round()[0].permute(1, 2, 0)
    assert np.abs(np.asarray(tokenizer.decode([codes])[0], dtype=float) - shown.numpy()).max() <= 1  # its straight-through sum rounds
    assert float(shown.std()) > 1


@pytest.mark.parametrize(
    "settings",
    [
        {"lookup_from_codebook": True},
        {"lookup_from_codebook": False},
        {"norm_type": "spatial", "block_out_channels": (32, 64), "vq_embed_dim": 5},
    ],
)
def test_every_kind_of_model_decodes_ids(settings: dict[str, Any]) -> None:
    made = vq_model(**settings)
    ids = torch.randint(0, 40, (1, 4, 6))
    with torch.no_grad():
        vectors = made.quantize.embedding(ids).permute(0, 3, 1, 2)
        wanted = made.decoder(made.post_quant_conv(vectors), vectors if made.config.norm_type == "spatial" else None)
    found = DiffusersVQTokenizer(made).decode([ids])[0]
    assert np.array_equal(np.asarray(found), ((wanted / 2 + 0.5).clamp(0, 1) * 255).round().byte()[0].permute(1, 2, 0).numpy())


def test_the_factor_follows_the_config(model: Any) -> None:
    assert DiffusersVQTokenizer(model).pixels_per_cell == 2
    assert DiffusersVQTokenizer(model).codebook_size == 40


def test_half_precision_weights_are_used_in_float32(model: Any, tmp_path: Path) -> None:
    model.half().save_pretrained(tmp_path)
    tokenizer = DiffusersVQTokenizer.from_pretrained(tmp_path)
    assert {tensor.dtype for tensor in tokenizer.model.state_dict().values()} == {torch.float32}
    assert tokenizer.encode([picture()])[0].shape == (1, 4, 6)


def test_the_fingerprint_is_of_config_and_weights_alone(model: Any, folder: Path, tmp_path: Path) -> None:
    read = DiffusersVQTokenizer.from_pretrained(folder)
    assert read.fingerprint == DiffusersVQTokenizer(model).fingerprint
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_diffusers_version": "0.1.0"}))
    assert DiffusersVQTokenizer.from_pretrained(folder).fingerprint == read.fingerprint
    (folder / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.5}))
    assert DiffusersVQTokenizer.from_pretrained(folder).fingerprint != read.fingerprint
    assert read.save(tmp_path / "bundle") == read.fingerprint


def test_a_subfolder_of_a_pipeline_is_read(folder: Path) -> None:
    tokenizer = DiffusersVQTokenizer.from_pretrained(folder.parent, subfolder="vqvae")
    assert tokenizer.fingerprint == DiffusersVQTokenizer.from_pretrained(folder).fingerprint


def test_what_is_no_model_is_refused_without_asking_the_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("asked the network"))
    for place in (folder.parent / "nothing", "./some/folder", "nothing", "/no/where"):
        with pytest.raises(ValueError, match="is no folder; give a folder with a diffusers VQModel"):
            DiffusersVQTokenizer.from_pretrained(place)
    with pytest.raises(ValueError, match="no VQModel can be read from"):
        DiffusersVQTokenizer.from_pretrained(folder.parent)


def test_weights_that_are_no_safetensors_are_refused(folder: Path) -> None:
    weights = folder / "diffusion_pytorch_model.safetensors"
    torch.save({}, folder / "diffusion_pytorch_model.bin")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="no VQModel can be read from"):
        DiffusersVQTokenizer.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(ValueError, match="no VQModel can be read from"):
        DiffusersVQTokenizer.from_pretrained(folder)


def test_weights_that_lack_a_tensor_are_refused_and_not_left_random(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["quant_conv.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 tensors, the first is quant_conv\.weight"):
        DiffusersVQTokenizer.from_pretrained(folder)


def test_another_class_or_other_channels_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": "AutoencoderKL"}))
    with pytest.raises(ValueError, match="holds a AutoencoderKL, wanted a VQModel"):
        DiffusersVQTokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="has 1 channels in and 3 out"):
        DiffusersVQTokenizer(vq_model(in_channels=1))


def test_without_diffusers_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install maskgen\[diffusers\]"):
        DiffusersVQTokenizer.from_pretrained(folder)


def amused_model() -> Any:
    """A small VQModel with aMUSEd's two switches, scaled so that pictures use most of [0, 1]."""
    made = vq_model(lookup_from_codebook=True, mid_block_add_attention=False, vq_embed_dim=5)
    nn.init.normal_(made.quantize.embedding.weight, std=0.5)
    nn.init.constant_(made.decoder.conv_out.bias, 0.5)
    return made


def amused_pipeline(model: Any) -> Any:
    """An AmusedPipeline around a VQModel; its other parts do not matter to the path of the pixels."""
    from diffusers import AmusedPipeline, AmusedScheduler

    return AmusedPipeline(vqvae=model, tokenizer=None, text_encoder=None, transformer=None, scheduler=AmusedScheduler(mask_token_id=40))


@pytest.fixture
def amused_folder(tmp_path: Path) -> Path:
    amused_pipeline(amused_model()).save_pretrained(tmp_path / "amused")
    return tmp_path / "amused"


def test_codes_and_pixels_are_those_of_the_amused_pipeline(amused_folder: Path) -> None:
    model = amused_model()
    processor = amused_pipeline(model).image_processor
    tokenizer = DiffusersVQTokenizer.from_pretrained(amused_folder, subfolder="vqvae")
    seen = picture(48, 32)
    with torch.no_grad():
        latents = model.encode(processor.preprocess(seen)).latents
        codes = model.quantize(latents)[2][2].reshape(1, 16, 24)
        shown = model.decode(codes, force_not_quantize=True, shape=(1, 16, 24, 5)).sample.clip(0, 1)
    [wanted] = processor.postprocess(shown, "pil")
    assert float(np.asarray(wanted).std()) > 1
    assert torch.equal(tokenizer.encode([seen])[0], codes)
    difference = np.asarray(tokenizer.decode([codes])[0], dtype=int) - np.asarray(wanted, dtype=int)
    assert np.abs(difference).max() <= 1
    assert tokenizer.value_range == (0.0, 1.0)


def test_the_range_comes_from_the_pipeline_around_the_model(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def found(record: dict[str, Any], source: Path, subfolder: str) -> tuple[float, float]:
        (folder.parent / "model_index.json").write_text(json.dumps(record))
        return DiffusersVQTokenizer.from_pretrained(source, subfolder).value_range

    for source, subfolder in [(folder.parent, "vqvae"), (folder, "")]:
        assert found({"_class_name": "AmusedPipeline"}, source, subfolder) == (0.0, 1.0)
        assert found({"_class_name": "Pipeline", "scheduler": ["diffusers", "AmusedScheduler"]}, source, subfolder) == (0.0, 1.0)
        assert found({"_class_name": "LuminaDiMOOPipeline"}, source, subfolder) == (0.0, 1.0)
        assert found({"_class_name": "LDMPipeline"}, source, subfolder) == (-1.0, 1.0)
    assert not caplog.records
    assert found({"_class_name": "AnotherPipeline"}, folder, "") == (-1.0, 1.0)
    assert "give value_range if it is another" in caplog.text
    (folder.parent / "model_index.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"model_index\.json is damaged"):
        DiffusersVQTokenizer.from_pretrained(folder)


def test_a_model_alone_is_known_by_the_switches_of_amused_or_told_its_range(folder: Path, tmp_path: Path) -> None:
    amused_model().save_pretrained(tmp_path / "alone")
    assert DiffusersVQTokenizer.from_pretrained(tmp_path / "alone").value_range == (0.0, 1.0)
    assert DiffusersVQTokenizer.from_pretrained(tmp_path / "alone", value_range=(-1, 1)).value_range == (-1.0, 1.0)
    assert DiffusersVQTokenizer.from_pretrained(folder, value_range=[0, 1]).value_range == (0.0, 1.0)
    for wrong in [(1, 0), (0, 0), (0,), (0, 1, 2), (0, float("nan")), (0, float("inf"))]:
        with pytest.raises(ValueError, match="wanted two numbers, black then white"):
            DiffusersVQTokenizer.from_pretrained(folder, value_range=wrong)


def test_the_range_is_saved_and_older_bundles_keep_what_they_had(model: Any, tmp_path: Path) -> None:
    signed, unsigned = DiffusersVQTokenizer(vq_model()), DiffusersVQTokenizer(vq_model(), value_range=(0, 1))
    assert signed.fingerprint == OLD_FINGERPRINT != unsigned.fingerprint
    for name, tokenizer in [("signed", signed), ("unsigned", unsigned)]:
        assert tokenizer.save(tmp_path / name) == tokenizer.fingerprint
        read = DiffusersVQTokenizer.from_bundle(tmp_path / name)
        assert (read.value_range, read.fingerprint) == (tokenizer.value_range, tokenizer.fingerprint)
        assert "value_range" not in read.model.config
        assert torch.equal(read.encode([picture()])[0], tokenizer.encode([picture()])[0])
    assert "value_range" not in json.loads((tmp_path / "signed" / "bundle.json").read_text())["config"]
