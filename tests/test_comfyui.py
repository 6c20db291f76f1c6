"""The nodes for ComfyUI: its contract, its example workflows, progress, previews, interruption and refusals."""

import functools
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from builders.any_to_any import write_any
from builders.comfy_contract import check_node, check_value, execute, faults, load_nodes, read_workflow
from torch import Tensor

from maskgen import Pipeline
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer

FOLDER = Path(__file__).parents[1] / "integrations" / "comfyui"
NODES = load_nodes(FOLDER).NODE_CLASS_MAPPINGS
TITLES = load_nodes(FOLDER).NODE_DISPLAY_NAME_MAPPINGS
DRAWING = FOLDER / "workflows" / "draw_and_edit.json"
SPEAKING = FOLDER / "workflows" / "speak_and_listen.json"


def core(returns: tuple[str, ...], make: Callable[..., tuple[Any, ...]], **inputs: Any) -> type:
    """A stand-in for a node of ComfyUI itself."""

    class Core:
        RETURN_TYPES = returns
        FUNCTION = "run"
        OUTPUT_NODE = not returns
        INPUT_TYPES: ClassVar[Any] = staticmethod(lambda: {"required": {name: (kind, {}) for name, kind in inputs.items()}})
        run = staticmethod(make)

    return Core


def composed(destination: Tensor, source: Tensor, x: int, y: int, operation: str) -> tuple[Tensor]:
    whole = destination.clone()
    whole[:, y : y + source.shape[1], x : x + source.shape[2]] += source
    return (whole,)


CORE = {
    "SolidMask": core(
        ("MASK",), lambda value, width, height: (torch.full((1, height, width), value),), value="FLOAT", width="INT", height="INT"
    ),
    "MaskComposite": core(("MASK",), composed, destination="MASK", source="MASK", x="INT", y="INT", operation="STRING"),
    "SaveImage": core((), lambda images, filename_prefix: (), images="IMAGE", filename_prefix="STRING"),
    "SaveAudio": core((), lambda audio, filename_prefix: (), audio="AUDIO", filename_prefix="STRING"),
    "PreviewAny": core((), lambda source: (), source="*"),
}


@functools.cache
def loaded(model: str) -> Pipeline:
    """A shipped model with few steps and no guidance: the workflows show wiring, not pictures."""
    pipeline: Pipeline = NODES["MaskgenLoadModel"]().load(model)[0]
    for target, settings in pipeline.settings.items():
        pipeline.settings[target] = settings.changed(steps=(2, 1, 1), guidance_scale=1.0)
    return pipeline


class QuickModel(NODES["MaskgenLoadModel"]):  # type: ignore[misc]
    def load(self, model: str, path: str = "", device: str = "auto", dtype: str = "float32") -> tuple[Pipeline]:
        return (loaded(model),)


ALL = {**CORE, **NODES, "MaskgenLoadModel": QuickModel}


@pytest.fixture
def emoji() -> Pipeline:
    return loaded("emoji-64")


class Interrupted(Exception):
    pass


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """ComfyUI's progress bar and its stop button: `left` counts the steps until the button is pressed."""
    seen: dict[str, Any] = {"updates": [], "left": None}

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
            seen["updates"].append((value, total, preview))

    def throw_exception_if_processing_interrupted() -> None:
        if seen["left"] == 0:
            raise Interrupted
        seen["left"] = None if seen["left"] is None else seen["left"] - 1

    package, utils, management = (ModuleType(name) for name in ("comfy", "comfy.utils", "comfy.model_management"))
    utils.ProgressBar = ProgressBar  # type: ignore[attr-defined]
    management.throw_exception_if_processing_interrupted = throw_exception_if_processing_interrupted  # type: ignore[attr-defined]
    management.get_torch_device = lambda: torch.device("cpu")  # type: ignore[attr-defined]
    for module in (package, utils, management):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


@pytest.mark.parametrize("name", sorted(NODES))
def test_a_node_keeps_the_contract(name: str) -> None:
    check_node(NODES[name])
    assert TITLES[name].startswith("maskgen ")


def test_the_registry_finds_what_it_asks_for() -> None:
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    ours = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]
    assert project["project"]["version"].count(".") == 2
    assert project["project"]["license"] == {"text": ours["license"]}
    assert "comfyui" not in project["project"]["name"].lower()
    assert {"PublisherId", "DisplayName"} <= set(project["tool"]["comfy"])
    assert any(one.startswith("maskgen[audio]>=") for one in project["project"]["dependencies"])


def test_the_drawing_workflow_runs(comfy: dict[str, Any]) -> None:
    workflow = read_workflow(DRAWING)
    workflow["2"]["inputs"]["steps"] = 4
    made = execute(ALL, workflow)
    drawn, edited, extended = made["3"][0], made["8"][0], made["12"][0]
    assert drawn.shape == edited.shape == (2, 64, 64, 3)
    assert extended.shape == (2, 64, 96, 3)
    assert edited[:, :, :32].equal(drawn[:, :, :32])
    assert not edited[:, :, 32:].equal(drawn[:, :, 32:])
    assert extended[:, :, 16:80].equal(edited)
    pipeline = made["1"][0]
    again = pipeline("a red heart, flat style", seed=3, num_outputs=2, num_inference_steps=4, output_type="pt").images
    assert drawn.equal(again.permute(0, 2, 3, 1)), "the node's seed is maskgen's"
    frames = made["10"][0]
    assert len(frames) == sum(len(one.codes) for one in made["3"][1]["trajectories"]) + 1
    assert frames[-1].equal(drawn[0])
    updates = comfy["updates"]
    first = updates[: next(place for place, one in enumerate(updates) if one[0] == 100) + 1]
    assert [one[0] for one in first] == sorted(one[0] for one in first)
    previews = [one[2] for one in first if one[2]]
    assert 2 <= len(previews) <= 4
    assert all(kind == "JPEG" and picture.size == (64, 64) for kind, picture, _ in previews)


@pytest.mark.slow
def test_the_speaking_workflow_runs(comfy: dict[str, Any]) -> None:
    made = execute({**CORE, **NODES}, read_workflow(SPEAKING))
    spoken, edited = made["2"][0], made["3"][0]
    assert edited["waveform"].shape == spoken["waveform"].shape
    before = int(0.95 * spoken["sample_rate"])
    assert edited["waveform"][..., :before].equal(spoken["waveform"][..., :before])
    assert "heart" in made["6"][0]
    assert made["6"][1].shape == (1, 64, 64, 3)
    assert made["6"][2] is None


def test_any_to_any_fills_what_was_asked_for_and_previews_by_what_draws(
    tmp_path: Path, tiny_text: TextTokenizer, tiny_image: ImageTokenizer, comfy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline.from_pretrained(write_any(tmp_path / "any", tiny_text, tiny_image))
    make = NODES["MaskgenAnyToAny"]().make
    _, _, spoken = make(pipeline, "audio", 0, prompt="Good morning.")
    check_value(spoken, "AUDIO")
    assert comfy["updates"][-1][0] == 100
    monkeypatch.setattr(pipeline, "specialists", {"image": loaded("emoji-64")})
    comfy["updates"].clear()
    text, drawn, nothing = make(pipeline, "image", 0, audio=spoken, source="audio", previews=2)
    check_value(drawn, "IMAGE")
    assert (text, nothing) == (None, None)
    previews = [one[2][1] for one in comfy["updates"] if one[2]]
    assert len(previews) == 2
    assert all(shown.size == (drawn.shape[2], drawn.shape[1]) for shown in previews), "not by the specialist, which hears nothing"


def test_stop_is_heard_between_two_steps(emoji: Pipeline, comfy: dict[str, Any]) -> None:
    comfy["left"] = 2
    with pytest.raises(Interrupted):
        NODES["MaskgenTextToImage"]().draw(emoji, "a red heart, flat style", 0, 1)
    assert len(comfy["updates"]) == 2


def test_the_largest_seed_of_comfyui_is_taken(emoji: Pipeline) -> None:
    draw, room = NODES["MaskgenTextToImage"]().draw, 2**63 - 2**16
    (_, one), (images, _) = (draw(emoji, "a red heart, flat style", seed, 1) for seed in (7, room + 7))
    assert torch.from_numpy(np.asarray(one["picture"]) / np.float32(255)).equal(images[0])
    assert draw(emoji, "a red heart, flat style", room - 1, 2)[0].shape == (2, 64, 64, 3)


def test_an_edit_takes_a_mask_for_each_image_or_one_for_all_or_a_strength(emoji: Pipeline) -> None:
    edit = NODES["MaskgenEditImage"]().edit
    images = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    mask = torch.zeros(2, 64, 64)
    mask[0, :, :20], mask[1, :, 30:] = 1, 1
    (made,) = edit(emoji, images, "a red heart, flat style", 0, mask=mask)
    assert made[mask == 0].equal(images[mask == 0])
    assert not made[0, :, :20].equal(images[0, :, :20])
    assert not made[1, :, 30:].equal(images[1, :, 30:])
    (small,) = edit(emoji, images[:1, :40, :56], "", 0, mask=mask[:1, :40, :56])
    assert small.shape == (1, 64, 64, 3)
    (varied,) = edit(emoji, images[:1], "", 0, strength=0.5)
    assert not varied.equal(images[:1])


def test_what_cannot_be_meant_is_refused_with_a_sentence(emoji: Pipeline) -> None:
    edit, image = NODES["MaskgenEditImage"]().edit, torch.zeros(1, 64, 64, 3)
    for wrong, said in (
        ({}, "give a mask or a strength from 0 to 1, got neither"),
        ({"mask": torch.ones(1, 64, 64), "strength": 0.5}, "got both"),
        ({"mask": torch.zeros(1, 64, 64)}, "the mask is empty"),
        ({"mask": torch.ones(1, 32, 64)}, "mask is 64 x 32 and image 64 x 64 pixels"),
        ({"mask": torch.ones(3, 64, 64)}, r"mask has shape \(3, 64, 64\) for 1 images"),
    ):
        with pytest.raises(ValueError, match=said):
            edit(emoji, image, "a red heart", 0, **wrong)
    with pytest.raises(ValueError, match="no numbers"):
        edit(emoji, image / 0, "a red heart", 0, strength=0.5)
    with pytest.raises(ValueError, match="the prompt is empty"):
        NODES["MaskgenTextToImage"]().draw(emoji, " ", 0, 1)
    with pytest.raises(TypeError, match="maskgen Speech needs a model for speech or audio, got TextToImagePipeline"):
        NODES["MaskgenSpeech"]().speak(emoji, "Hello.", 0)
    with pytest.raises(ValueError, match="give one recording"):
        sys.modules[NODES["MaskgenSpeech"].__module__].waveform_of_audio({"waveform": torch.zeros(2, 1, 9), "sample_rate": 16000})


def test_a_workflow_is_refused_before_it_runs(tmp_path: Path) -> None:
    workflow = read_workflow(DRAWING)
    workflow["2"]["inputs"] |= {"steps": 0, "top_p": 1.5}
    workflow["3"]["inputs"]["seed"] = 2**64
    workflow["8"]["inputs"]["mask"] = ["3", 0]
    workflow["12"]["inputs"] |= {"left": 0, "right": 0}
    workflow["1"]["inputs"]["path"] = str(tmp_path / "none")
    found = " ".join(faults(ALL, workflow))
    for said in ("1: there is no model", "2: steps", "3: seed", "8: mask is MASK, the link brings IMAGE", "12: nothing is added"):
        assert said in found, (said, found)


def test_a_model_that_was_exported_again_is_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "models" / "maskgen" / "mine"
    own.mkdir(parents=True)
    (own / "bundle.json").write_text("{}")
    paths = ModuleType("folder_paths")
    paths.models_dir = str(tmp_path / "models")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    loader = NODES["MaskgenLoadModel"]
    names, _ = loader.INPUT_TYPES()["required"]["model"]
    assert {"emoji-64", "mine"} <= set(names)
    before = loader.IS_CHANGED(model="mine")
    assert before == loader.IS_CHANGED(model="mine", path="")
    (own / "bundle.json").write_text("{ }")
    assert before != loader.IS_CHANGED(model="mine")
    assert loader.IS_CHANGED(path="owner/name") == loader.IS_CHANGED(path="owner/name")
