"""aMUSEd whole: from a folder laid out as the hub's to pictures, edits and scores, and back to a folder that diffusers loads."""

import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.hub_folders import AMUSED_CODES as CODES
from builders.hub_folders import AMUSED_SIDE as SIDE
from PIL import Image

import maskgen
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.clip_prompts import read_clip
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.micro import MicroConditions, micro_codes

diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install maskgen[diffusers]")

PIXELS = 2


@pytest.fixture(scope="module")
def folder(tiny_family: Callable[[str], Path]) -> Path:
    return tiny_family("aMUSEd")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> maskgen.TextToImagePipeline:
    made = maskgen.Pipeline.from_pretrained(folder)
    assert isinstance(made, maskgen.TextToImagePipeline)
    made.set_progress_bar_config(disable=True)
    return made


def theirs(folder: Path) -> Any:
    """AmusedPipeline of diffusers on the same folder."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = diffusers.AmusedPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    made.set_progress_bar_config(disable=True)
    return made


def test_the_published_defaults_are_those_of_the_pipeline_class(pipeline: maskgen.TextToImagePipeline) -> None:
    wanted = GenerationSettings(
        steps=(12,), guidance_scale=10.0, choice_temperature=(2.0,), schedule="cosine", sampler_options={"annealing": "linear"}
    )
    assert pipeline.settings["image"] == wanted
    assert pipeline.grids == {"image": (SIDE, SIDE)}


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_a_greedy_picture_is_that_of_diffusers(
    folder: Path, pipeline: maskgen.TextToImagePipeline, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """Greedy on both sides, with prompt, negative prompt and micro-conditions: codes and pixels."""
    micro = {"micro_conditioning_aesthetic_score": 4, "micro_conditioning_crop_coord": (3, 5)}
    other = theirs(folder)
    monkeypatch.setattr(torch, "multinomial", lambda probabilities, *_, **__: probabilities.argmax(dim=-1, keepdim=True))
    options: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": scale}
    for negative in (None, "blue"):
        wanted = other("a red dog", negative_prompt=negative, temperature=(0, 0), **options, **micro).images[0]
        greedy = {"temperature": 0.0, "choice_temperature": 0.0}
        ours = pipeline("a red dog", negative_prompt=negative, **options, **greedy, crop=(3, 5), aesthetic_score=4.0)
        assert ours.codes[0].unique().numel() >= 3
        assert np.abs(np.asarray(ours.images[0], int) - np.asarray(wanted, int)).max() <= 1, (negative, ours.codes)


def test_a_prompt_and_micro_conditions_matter_and_are_checked(pipeline: maskgen.TextToImagePipeline) -> None:
    batchless = {"seed": 0, "num_inference_steps": 2, "guidance_scale": 1.0}
    plain = pipeline("a dog", **batchless)
    assert plain.images[0].size == (SIDE * PIXELS, SIDE * PIXELS)
    assert torch.equal(plain.codes[0], pipeline("a dog", original_size=(SIDE * PIXELS, SIDE * PIXELS), **batchless).codes[0])
    for other in ({"original_size": (900, 700)}, {"crop": (400, 90)}, {"aesthetic_score": 9.5}):
        assert not torch.equal(plain.log_probabilities[0], pipeline("a dog", **other, **batchless).log_probabilities[0]), other
    assert not torch.equal(plain.log_probabilities[0], pipeline("a cat", **batchless).log_probabilities[0])
    with pytest.raises(ValueError, match="at most 14 are taken; shorten it"):
        pipeline("abcdefghijklmnop", **batchless)
    with pytest.raises(ValueError, match="original_size and crop are pairs of pixels"):
        pipeline("a dog", crop=(-1, 0), **batchless)


def test_inpainting_keeps_every_known_pixel_also_with_unequal_masks_in_one_batch(
    pipeline: maskgen.TextToImagePipeline,
) -> None:
    """AmusedInpaintPipeline takes one mean ratio of masked cells for a batch, so rows with smaller masks lose known cells."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE * PIXELS, SIDE * PIXELS, 3), dtype=np.uint8))
    mask = np.zeros((SIDE * PIXELS, SIDE * PIXELS), np.uint8)
    mask[:4, :4] = 255
    made = np.asarray(pipeline("a dog", image=picture, mask_image=Image.fromarray(mask), seed=0).images[0])
    assert np.array_equal(made[mask == 0], np.asarray(picture)[mask == 0])
    small, large = (torch.zeros(1, SIDE, SIDE, dtype=torch.long) for _ in range(2))
    small[:, 0, 0], large[:, :3] = UNKNOWN, UNKNOWN
    rows = [{**pipeline.text_codes("a dog"), "image": known} for known in (small, large)]
    for codes, known in zip(pipeline.generate(rows, "image", [1, 2]).codes, (small, large), strict=True):
        assert torch.equal(codes[known == 0], known[known == 0])


def test_strength_1_makes_a_new_picture_and_strength_0_returns_the_old_one(pipeline: maskgen.TextToImagePipeline) -> None:
    """AmusedImg2ImgPipeline with strength 1 masks nothing: its index wraps around to the last step."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE * PIXELS, SIDE * PIXELS, 3), dtype=np.uint8))
    first, second = (pipeline("a dog", image=picture, strength=1.0, seed=seed).codes[0] for seed in (0, 1))
    assert not torch.equal(first, second)
    assert np.array_equal(np.asarray(pipeline("a dog", image=picture, strength=0.0, seed=0).images[0]), np.asarray(picture))


def test_a_known_picture_has_a_likelihood_under_every_prompt(pipeline: maskgen.TextToImagePipeline) -> None:
    codes = torch.randint(CODES, (1, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    scores = pipeline.score([{**pipeline.text_codes(text), "image": codes} for text in ("a dog", "a cat")], "image")
    assert all(score.total < 0 for score in scores)
    assert scores[0].total != scores[1].total


def test_a_cut_file_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        maskgen.Pipeline.from_pretrained(copy)


def test_a_saved_pipeline_loads_in_diffusers_and_draws_the_same(
    folder: Path, pipeline: maskgen.TextToImagePipeline, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path / "saved")
    again = maskgen.Pipeline.from_pretrained(tmp_path / "saved")
    assert torch.equal(again("a dog", seed=0).codes[0], pipeline("a dog", seed=0).codes[0])
    one, other = (theirs(place)("a dog", generator=torch.Generator().manual_seed(0)).images[0] for place in (folder, tmp_path / "saved"))
    assert np.array_equal(np.asarray(one), np.asarray(other))


def test_the_published_sizes_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = diffusers.UVit2DModel()
    assert round(4 * sum(weight.numel() for weight in network.parameters()) / 1e9, 2) == 2.41  # GB of the file in float32


def test_prompts_are_encoded_as_the_pipeline_encodes_them(folder: Path) -> None:
    prompts, text = read_clip(folder)
    other = theirs(folder)
    for sentence in ("a red dog", ""):
        ids = other.tokenizer(
            sentence, return_tensors="pt", padding="max_length", truncation=True, max_length=other.tokenizer.model_max_length
        )
        found = other.text_encoder(ids.input_ids, return_dict=True, output_hidden_states=True)
        ours = prompts([tuple(text.encode([sentence])[0][0].tolist())])
        assert torch.equal(prompts.ids(tuple(text.encode([sentence])[0][0].tolist())), ids.input_ids)
        assert torch.equal(ours[0], found.hidden_states[-2])
        assert torch.equal(ours[1], found.text_embeds)


def test_micro_conditions_survive_as_cells() -> None:
    codes = micro_codes((64, 48), None, (1, 2), 5.25)
    assert codes.tolist() == [[64, 48, 1, 2, 525]]
    assert MicroConditions(width=64, height=48, crop=(1, 2), aesthetic=5.25).repeated(1).tolist() == [[64, 48, 1, 2, 5.25]]
