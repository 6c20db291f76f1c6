"""Halton-MaskGIT from a folder laid out as its authors' files: loading, drawing, editing, scoring and writing back."""

import re
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.command_line import refused
from PIL import Image
from torch import Tensor

from maskgen.cli.main import main
from maskgen.interop.halton import UNUSED_BUFFER, read_halton
from maskgen.interop.halton_network import HaltonTransformer
from maskgen.interop.imagenet import imagenet_names
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.text_to_image import TextToImagePipeline
from tests.interop.folders import halton_model


@pytest.fixture(scope="module")
def model() -> HaltonTransformer:
    return halton_model()


@pytest.fixture(scope="module")
def folder(tiny_family: Callable[[str], Path]) -> Path:
    return tiny_family("Halton-MaskGIT")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> TextToImagePipeline:
    made = Pipeline.from_pretrained(folder)
    assert isinstance(made, TextToImagePipeline)
    return made


def altered(folder: Path, target: Path, **changes: Any) -> Path:
    """A folder whose transformer has other entries under `model_state_dict`; None leaves one out."""
    content = torch.load(folder / "ImageNet_32_tiny.pth", weights_only=True)
    state = {name.replace("module._orig_mod.", ""): tensor for name, tensor in content["model_state_dict"].items()} | changes
    content["model_state_dict"] = {name: tensor for name, tensor in state.items() if tensor is not None}
    target.mkdir()
    torch.save(content, target / "ImageNet_32_tiny.pth")
    return target


def test_a_folder_of_the_authors_files_is_a_pipeline_with_their_settings(pipe: TextToImagePipeline) -> None:
    assert pipe.family == "Halton-MaskGIT"
    settings = pipe.settings["image"]
    assert (settings.sampler, settings.steps, settings.guidance_scale) == ("halton", (32,), 3.0)
    assert (settings.sampler_options, settings.schedule) == ({"roll": True, "sharpening": 1.2}, "arccosfloat32")
    assert pipe.grids["image"] == (2, 2)
    output = pipe(label=3, seed=1, num_outputs=2)
    assert [image.size for image in output.images] == [(32, 32)] * 2
    assert pipe(label="3", seed=1).images[0].tobytes() == output.images[0].tobytes()
    assert pipe(seed=1).images[0].size == (32, 32)
    with pytest.raises(ValueError, match="one image of 2 x 2 cells a row, got 2 x 4"):
        pipe(label=3, width=64, height=32)


def test_the_weights_are_those_of_the_file(folder: Path, model: HaltonTransformer) -> None:
    loaded: Any = Pipeline.from_pretrained(folder).model
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.head.weight is loaded.tok_emb.weight


def test_guidance_at_scale_one_is_no_guidance_and_labels_are_told_apart(pipe: TextToImagePipeline, model: HaltonTransformer) -> None:
    def codes(**options: Any) -> Tensor:
        found: Tensor = pipe(num_inference_steps=2, seed=list(range(8)), **options).codes
        return torch.stack(list(found))

    def calls(scale: float) -> Any:
        return pipe(label=[2], num_inference_steps=2, seed=[0], guidance_scale=scale)

    one, guided = calls(1.0), calls(3.0)
    assert (one.model_calls, guided.model_calls) == ([2.0], [4.0])
    assert not torch.equal(codes(label=[1] * 8, guidance_scale=6.0), codes(label=[2] * 8, guidance_scale=6.0))


def test_an_edit_keeps_what_is_known(pipe: TextToImagePipeline) -> None:
    """Defect of the reference: cells that it is given are drawn anew as soon as the order reaches them."""
    image, mask = pipe(label=1, seed=3).images[0], Image.new("L", (32, 32))
    mask.paste(255, (16, 0, 32, 16))
    made = pipe(label=2, image=image, mask_image=mask, seed=4)
    assert made.images[0].crop((0, 16, 32, 32)).tobytes() == image.crop((0, 16, 32, 32)).tobytes()
    given = pipe.tokenizers["image"].encode([image])[0]
    assert torch.equal(made.codes[0][:, 1], given[:, 1])
    assert made.codes[0][0, 0, 0] == given[0, 0, 0]


def test_labels_are_ranked_by_an_image(pipe: TextToImagePipeline) -> None:
    image = pipe(label=1, seed=0).images[0]
    ranking = pipe.classify({"image": image}, [{"label": torch.tensor([[code]])} for code in range(5)], "image")
    assert sorted(one.place for one in ranking) == list(range(5))


def test_a_model_that_is_written_back_has_the_authors_layout_and_loads_again(
    pipe: TextToImagePipeline, model: HaltonTransformer, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path / "again")
    content = torch.load(tmp_path / "again/ImageNet_32_custom.pth", weights_only=True)
    assert set(content) == {"iter", "global_epoch", "model_state_dict", "optimizer_state_dict"}
    assert content["optimizer_state_dict"] is None, "their training then starts a new optimizer"
    state: Mapping[str, Tensor] = content["model_state_dict"]
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    codec = torch.load(tmp_path / "again/vq_ds16_c2i.pt", weights_only=True)["model"]
    assert codec[UNUSED_BUFFER].shape == (65536,)
    again = Pipeline.from_pretrained(tmp_path / "again")
    assert torch.equal(again(label=2, seed=5).codes[0], pipe(label=2, seed=5).codes[0])  # type: ignore[operator]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"head.weight": torch.zeros(31, 384)}, "head.weight and tok_emb.weight differ"),
        ({"cls_emb.weight": None}, "has a tensor cls_emb.weight, the file has none"),
    ],
)
def test_a_transformer_with_other_tensors_is_refused_by_name_and_shape(changes: Any, said: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        read_halton(altered(folder, tmp_path / "altered", **changes) / "ImageNet_32_tiny.pth")


def test_missing_files_and_several_transformers_are_said_in_a_sentence(folder: Path, tmp_path: Path, capsys: Any) -> None:
    alone = altered(folder, tmp_path / "alone")
    assert "lacks the image tokenizer vq_ds16_c2i.pt" in refused(capsys, "generate", "image", "--model", alone, "--label", "1")
    (tmp_path / "vq_ds16_c2i.pt").write_bytes((folder / "vq_ds16_c2i.pt").read_bytes())
    assert isinstance(Pipeline.from_pretrained(alone), TextToImagePipeline), "the tokenizer may lie one folder above"
    (alone / "ImageNet_64_tiny.pth").write_bytes((alone / "ImageNet_32_tiny.pth").read_bytes())
    with pytest.raises(ValueError, match=r"the transformers ImageNet_32_tiny.pth, ImageNet_64_tiny.pth; choose one with variant"):
        Pipeline.from_pretrained(alone)
    assert isinstance(Pipeline.from_pretrained(alone, variant="64_tiny"), TextToImagePipeline)
    (alone / "ImageNet_64_tiny.pth").unlink()
    torch.save({"weights": {}}, alone / "ImageNet_32_tiny.pth")
    with pytest.raises(ValueError, match="no mapping of names to tensors under 'model_state_dict'"):
        Pipeline.from_pretrained(alone)


def test_a_hub_id_downloads_the_variant_alone_and_the_tokenizer_from_its_own_repository(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import huggingface_hub

    asked: list[tuple[str, Any]] = []
    alone = altered(folder, tmp_path / "alone")
    (alone / "ImageNet_32_tiny.pth").rename(alone / "ImageNet_256_tiny.pth")

    def snapshot(name: str, *, allow_patterns: list[str], **_: Any) -> str:
        asked.append((name, [one for one in allow_patterns if one.endswith("pth")]))
        return str(alone)

    def one_file(name: str, file: str, **_: Any) -> str:
        asked.append((name, file))
        return str(folder / file)

    def listing(name: str, **_: Any) -> Any:
        sizes = {"vq_ds16_c2i.pt": 3 * 10**8, "ImageNet_256_tiny.pth": 276 * 10**6, "ImageNet_384_large.pth": 9 * 10**9}
        return types.SimpleNamespace(
            sha="0" * 40, siblings=[types.SimpleNamespace(rfilename=one, size=size) for one, size in sizes.items()]
        )

    monkeypatch.setattr(huggingface_hub, "model_info", listing)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", one_file)
    with pytest.raises(ValueError, match=r"several models; choose one with variant: 256_tiny, .*384_large"):
        Pipeline.from_pretrained("llvictorll/Halton-MaskGIT")
    assert not asked, "nothing is downloaded before it is known what"
    loaded = Pipeline.from_pretrained("llvictorll/Halton-MaskGIT", variant="256_tiny")
    assert loaded.family == "Halton-MaskGIT"
    assert asked == [("llvictorll/Halton-MaskGIT", ["ImageNet_256_tiny.pth"]), ("FoundationVision/LlamaGen", "vq_ds16_c2i.pt")]
    first, second = (record.message for record in caplog.records)
    said = r"1 file, 0\.28 GB; Halton-MaskGIT, weights licensed MIT; on a CPU in float32 they take 0\.4 GB of memory, this machine has \d"
    assert re.search(said, first)
    assert second == "downloading FoundationVision/LlamaGen: 1 file, 0.30 GB; the image tokenizer of Halton-MaskGIT"


def test_the_command_line_draws_a_class(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.png"
    main(["generate", "image", "--model", str(folder), "--variant", "tiny", "--label", "4", "--seed", "2", "--out", str(out)])
    assert Image.open(out).size == (32, 32)


def test_classes_have_the_names_that_torchvision_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    categories = [f"class {number}" for number in range(1000)]
    categories[281], categories[134], categories[517] = "tabby", "crane", "crane"
    weights = types.SimpleNamespace(IMAGENET1K_V1=types.SimpleNamespace(meta={"categories": categories}))
    fake = types.ModuleType("torchvision.models")
    fake.AlexNet_Weights = weights  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", fake)
    imagenet_names.cache_clear()
    found = imagenet_names(1000)
    assert (found[281], found[134], found[517]) == ("tabby", "crane (134)", "crane (517)")
    assert imagenet_names(3) == ("0", "1", "2")
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    imagenet_names.cache_clear()
    assert imagenet_names(1000)[281] == "281"
    imagenet_names.cache_clear()
