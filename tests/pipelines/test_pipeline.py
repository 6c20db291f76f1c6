"""The pipeline: seeds, edits and guidance keep what they promise."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.networks import randomised
from PIL import Image
from torch import Tensor

from maskgen.autoencoders.image import ImageAutoencoder, ImageAutoencoderConfig
from maskgen.autoencoders.quantizers import ResidualQuantizer
from maskgen.cli.options import pipeline_of
from maskgen.decoding.settings import GenerationSettings
from maskgen.io.bundle import find_model
from maskgen.networks.packed_linear import is_packed
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.outputs import GenerationOutput
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.sampling.base import State
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import train_bpe

PROMPT = "a red heart, flat style"


def noise_picture(size: tuple[int, int] = (32, 32), seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def pixels(picture: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(picture.convert("RGB"))


def same_row(first: GenerationOutput, row: int, second: GenerationOutput, other: int) -> bool:
    return torch.equal(first.codes[row], second.codes[other]) and np.array_equal(pixels(first.images[row]), pixels(second.images[other]))


def watcher(seen: list[State]) -> dict[str, Any]:
    """Options of a call that append the state of every step."""

    def callback(pipeline: Pipeline, step: int, timestep: int, given: dict[str, Any]) -> None:
        seen.append(given["state"])

    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["state"]}


def unknown_at_start(pipeline: Pipeline, **edit: Any) -> Tensor:
    """Cells of the coarsest level that the decode was free to choose."""
    seen: list[State] = []
    pipeline(**watcher(seen), **edit)
    if not seen:
        return torch.zeros(0)
    rows = seen[0].target[0][seen[0].batch.modality[0] == seen[0].segment.index]
    return rows


def test_a_saved_pipeline_generates_the_same_after_loading(tiny_pipeline: TextToImagePipeline, tmp_path: Path) -> None:
    assert tiny_pipeline.save_pretrained(tmp_path / "copy") == tiny_pipeline.save_pretrained(tmp_path / "again")
    loaded = Pipeline.from_pretrained(tmp_path / "copy")
    assert loaded.settings == tiny_pipeline.settings
    assert loaded.grids == tiny_pipeline.grids
    assert same_row(tiny_pipeline(PROMPT, seed=3), 0, loaded(PROMPT, seed=3), 0)


def test_packed_weights_draw_the_same_and_stay_where_they_are(tiny_bundle: Path, tmp_path: Path) -> None:
    plain, dense = Pipeline.from_pretrained(tiny_bundle), Pipeline.from_pretrained(tiny_bundle).enable_packed_weights()
    first, second = (one(PROMPT, num_images_per_prompt=3, seed=3) for one in (plain, dense))
    assert all(map(torch.equal, first.codes, second.codes))
    assert torch.equal(dense(PROMPT, seed=4).codes[0], second.codes[1])
    with pytest.raises(ValueError, match=r"call save_pretrained\(\) before enable_packed_weights"):
        dense.save_pretrained(tmp_path / "copy")
    for change in (lambda: dense.to(dtype=torch.bfloat16), dense.enable_compile, dense.enable_int8):
        with pytest.raises(ValueError, match="packed weights are for decoding alone"):
            change()
    assert dense.enable_packed_weights() is dense
    plain.to(dtype=torch.float32).save_pretrained(tmp_path / "copy")
    with pytest.raises(ValueError, match="packed in float32 on a CPU and without compile"):
        plain.to(dtype=torch.bfloat16).enable_packed_weights()


@pytest.mark.parametrize("asked", [{}, {"dtype": "bfloat16"}, {"compile": True}], ids=str)
def test_the_command_line_packs_what_can_be_packed(tiny_bundle: Path, asked: dict[str, Any]) -> None:
    machine = argparse.Namespace(
        variant=None,
        revision=None,
        local_files_only=False,
        **{"model": tiny_bundle, "device": "cpu", "dtype": "float32", "int8": False, "compile": False, **asked},
    )
    assert is_packed(pipeline_of(machine).model) == (not asked)


def test_a_pipeline_may_refer_to_tokenizers_elsewhere(tiny_pipeline: TextToImagePipeline, tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle / "tokenizers", tmp_path / "tokenizers")
    places = {name: tmp_path / "tokenizers" / name for name in ("text", "image")}
    tiny_pipeline.save_pretrained(tmp_path / "models" / "lean", tokenizers=places)
    assert not (tmp_path / "models" / "lean" / "tokenizers").exists()
    assert same_row(tiny_pipeline(PROMPT), 0, Pipeline.from_pretrained(tmp_path / "models" / "lean")(PROMPT), 0)


def test_a_seed_gives_the_same_picture_alone_and_among_eight(tiny_pipeline: TextToImagePipeline) -> None:
    together = tiny_pipeline(PROMPT, num_images_per_prompt=8, seed=10, batch_invariant=True)
    assert together.seeds == list(range(10, 18))
    assert all(same_row(together, row, tiny_pipeline(PROMPT, seed=10 + row), 0) for row in (0, 3, 7))
    assert len({tuple(codes.flatten().tolist()) for codes in together.codes}) == 8


@pytest.mark.parametrize("negative", [None, "a blue square"])
def test_neighbours_of_other_lengths_change_nothing(tiny_pipeline: TextToImagePipeline, negative: str | None) -> None:
    prompts = ["a", "a yellow star, noto style and a green circle with dark skin in a blue square", PROMPT]
    mixed = tiny_pipeline(prompts, num_images_per_prompt=2, seed=4, negative_prompt=negative, batch_invariant=True)
    assert mixed.seeds == [4, 5, 4, 5, 4, 5]
    for place, prompt in enumerate(prompts):
        alone = tiny_pipeline(prompt, num_images_per_prompt=2, seed=4, negative_prompt=negative, batch_invariant=True)
        assert all(same_row(mixed, 2 * place + number, alone, number) for number in range(2))


@pytest.fixture(scope="module")
def wide_pipeline(tiny_pipeline: TextToImagePipeline) -> TextToImagePipeline:
    """Networks as wide as the shipped ones: there, unlike in tiny ones, a batch rounds differently from a row alone."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = ImageAutoencoder(ImageAutoencoderConfig(), ResidualQuantizer(num_levels=2, dim=32, codebook_size=16))
        randomised(network, 0.1)
        config = TransformerConfig(dim=384, num_layers=2, num_heads=6)
        model = MaskTransformer(config, tiny_pipeline.space.size, len(tiny_pipeline.space.modalities))
    tokenizers = {**tiny_pipeline.tokenizers, "image": ImageTokenizer(network, (64, 64))}
    return TextToImagePipeline(model, tiny_pipeline.space, tokenizers, tiny_pipeline.settings, {"image": (8, 8)})


def test_logprobs_of_a_row_are_the_same_to_the_last_bit_whatever_stands_beside_it(wide_pipeline: TextToImagePipeline) -> None:
    """Equal codes could be luck: the log-probabilities of every step must be equal too."""
    together = wide_pipeline([PROMPT, "a"], num_images_per_prompt=4, seed=0, batch_invariant=True)
    for row, prompt in ((2, PROMPT), (6, "a")):
        alone = wide_pipeline(prompt, seed=2)
        for ours, theirs in zip(together.trajectories, alone.trajectories, strict=True):
            length = theirs.logprobs.shape[-1]
            assert torch.equal(ours.logprobs[:, row, :length], theirs.logprobs[:, 0])


def test_pixels_of_the_same_codes_are_the_same_alone_and_among_eight(wide_pipeline: TextToImagePipeline) -> None:
    codes = torch.randint(0, 16, (8, 2, 8, 8), generator=torch.Generator().manual_seed(0))
    known = [{"text": PROMPT, "image": grid} for grid in codes]
    together = wide_pipeline.generate(known, "image", list(range(8)), batch_invariant=True)
    assert all(same_row(together, row, wide_pipeline.generate([known[row]], "image", [row]), 0) for row in range(8))


def test_rows_decoded_in_several_batches_are_the_same(tiny_pipeline: TextToImagePipeline) -> None:
    known = [tiny_pipeline.text_codes(PROMPT)] * 5
    whole = tiny_pipeline.generate(known, "image", list(range(5)), batch_invariant=True)
    parts = tiny_pipeline.generate(known, "image", list(range(5)), batch_size=2, batch_invariant=True)
    assert all(same_row(whole, row, parts, row) for row in range(5))


def test_pixels_outside_the_mask_come_back_exactly(tiny_pipeline: TextToImagePipeline) -> None:
    picture, mask = noise_picture(), Image.new("L", (32, 32), 0)
    mask.paste(255, (5, 9, 20, 17))
    made = tiny_pipeline(PROMPT, image=picture, mask_image=mask).images[0]
    outside = np.asarray(mask) < 128
    assert np.array_equal(pixels(made)[outside], pixels(picture)[outside])
    assert not np.array_equal(pixels(made)[~outside], pixels(picture)[~outside])


def test_one_masked_pixel_frees_its_whole_cell_and_no_other(tiny_pipeline: TextToImagePipeline) -> None:
    mask = Image.new("L", (32, 32), 0)
    mask.putpixel((15, 8), 255)
    free = unknown_at_start(tiny_pipeline, prompt=PROMPT, image=noise_picture(), mask_image=mask)
    assert free.nonzero().flatten().tolist() == [1 * 4 + 1]


def test_cells_outside_the_mask_keep_their_codes(tiny_pipeline: TextToImagePipeline) -> None:
    picture, mask = noise_picture(), Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    codes = tiny_pipeline.tokenizers["image"].encode([picture])[0]
    made = tiny_pipeline(PROMPT, image=picture, mask_image=mask).codes[0]
    assert torch.equal(made[:, :, 2:], codes[:, :, 2:])


def test_the_margin_of_a_letterboxed_mask_is_known(tiny_pipeline: TextToImagePipeline) -> None:
    picture, mask = noise_picture((64, 32)), Image.new("L", (64, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    made = pixels(tiny_pipeline(PROMPT, image=picture, mask_image=mask).images[0])
    assert (made[:8] == 255).all()
    assert (made[24:] == 255).all()


@pytest.mark.parametrize(("strength", "free"), [(0.25, 4), (0.5, 8), (0.51, 9), (1.0, 16)])
def test_strength_frees_its_share_of_the_cells(tiny_pipeline: TextToImagePipeline, strength: float, free: int) -> None:
    assert int(unknown_at_start(tiny_pipeline, prompt=PROMPT, image=noise_picture(), strength=strength).sum()) == free


def test_strength_zero_returns_the_picture(tiny_pipeline: TextToImagePipeline) -> None:
    output = tiny_pipeline(PROMPT, image=noise_picture(), strength=0.0, num_images_per_prompt=2)
    assert all(np.array_equal(pixels(made), pixels(noise_picture())) for made in output.images)


def test_a_variation_depends_on_its_own_seed_alone(tiny_pipeline: TextToImagePipeline) -> None:
    together = tiny_pipeline(PROMPT, image=noise_picture(), strength=0.5, num_images_per_prompt=3, seed=5, batch_invariant=True)
    assert same_row(together, 2, tiny_pipeline(PROMPT, image=noise_picture(), strength=0.5, seed=7), 0)


def test_outpainting_keeps_the_known_pixels_and_adds_the_sides(tiny_pipeline: TextToImagePipeline) -> None:
    made = tiny_pipeline(PROMPT, image=noise_picture(), outpaint=(8, 0, 16, 24)).images[0]
    assert made.size == (56, 56)
    assert np.array_equal(pixels(made)[:32, 8:40], pixels(noise_picture()))
    assert not (pixels(made)[32:] == 255).all()


def test_an_edit_needs_no_prompt(tiny_pipeline: TextToImagePipeline) -> None:
    assert tiny_pipeline(image=noise_picture(), strength=1.0).images[0].size == (32, 32)


def test_the_prompt_itself_as_negative_prompt_cancels_guidance(tiny_pipeline: TextToImagePipeline) -> None:
    """u + g (c - u) with u = c is c, in exact arithmetic; so the log-probabilities of guidance 1 come back but for rounding."""
    plain = tiny_pipeline(PROMPT, guidance_scale=1.0, seed=1)
    guided = tiny_pipeline(PROMPT, guidance_scale=5.0, negative_prompt=PROMPT, seed=1)
    assert torch.equal(plain.codes[0], guided.codes[0])
    for ours, theirs in zip(plain.trajectories, guided.trajectories, strict=True):
        torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-4, rtol=0)


def test_another_negative_prompt_gives_another_picture(tiny_pipeline: TextToImagePipeline) -> None:
    made = [tiny_pipeline(PROMPT, guidance_scale=5.0, negative_prompt=text).codes[0] for text in (PROMPT, "a blue square", None)]
    assert not torch.equal(made[0], made[1])
    assert not torch.equal(made[1], made[2])


def test_an_empty_negative_prompt_is_the_null_condition(tiny_pipeline: TextToImagePipeline) -> None:
    empty, none = (tiny_pipeline(PROMPT, guidance_scale=4.0, negative_prompt=text, seed=2) for text in ("", None))
    assert torch.equal(empty.codes[0], none.codes[0])


@pytest.mark.parametrize(("scale", "schedule"), [(1.0, "constant"), (3.0, "constant"), (3.0, "linear"), (0.0, "constant")])
def test_passes_are_the_rows_that_the_model_saw(tiny_pipeline: TextToImagePipeline, scale: float, schedule: str) -> None:
    rows: list[int] = []
    watch = tiny_pipeline.model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    try:
        output = tiny_pipeline(PROMPT, guidance_scale=scale, guidance_schedule=schedule, num_inference_steps=[6, 3])
    finally:
        watch.remove()
    assert [sum(rows)] == output.model_calls
    if schedule == "constant":
        assert output.model_calls == [9 if scale == 1 else 18]


def test_the_callback_comes_once_a_step_and_the_trajectory_ends_at_the_codes(tiny_pipeline: TextToImagePipeline) -> None:
    seen: list[State] = []
    output = tiny_pipeline(PROMPT, num_images_per_prompt=3, num_inference_steps=[5, 2], **watcher(seen))
    assert [(state.segment.level, state.step) for state in seen] == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 1), (1, 2)]
    assert [len(trajectory.codes) for trajectory in output.trajectories] == [5, 2]
    for row, codes in enumerate(output.codes):
        for level, trajectory in enumerate(output.trajectories):
            last = trajectory.codes[-1, row]
            assert torch.equal(last[last >= 0], codes[level].flatten())


def test_the_text_never_changes(tiny_pipeline: TextToImagePipeline) -> None:
    seen: list[State] = []
    tiny_pipeline([PROMPT, "a"], **watcher(seen))
    text = seen[0].batch.cells(tiny_pipeline.space.index("text"))
    given = tiny_pipeline.text_codes(PROMPT)["text"] + tiny_pipeline.space.segment("text", 0).offset
    assert all(torch.equal(state.batch.ids[0][text[0]][:, 0], given[0]) for state in seen)


def test_a_row_with_known_target_comes_back_unchanged(tiny_pipeline: TextToImagePipeline) -> None:
    codes = torch.arange(32).reshape(2, 4, 4) % 16
    output = tiny_pipeline.generate([{"text": PROMPT, "image": codes}], "image", [0])
    assert torch.equal(output.codes[0], codes)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_another_tokenizer_is_refused_with_both_fingerprints_and_the_command(
    tiny_bundle: Path, tmp_path: Path, modality: str, tiny_image: ImageTokenizer
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    wanted = json.loads((folder / "bundle.json").read_text())["config"]["fingerprints"][modality]
    other = train_bpe(["something else entirely"] * 9, 260) if modality == "text" else tiny_image.coarser(1)
    other.save(folder / "tokenizers" / modality)
    with pytest.raises(ValueError, match=r"fingerprint") as caught:
        Pipeline.from_pretrained(folder)
    assert other.fingerprint[:12] in str(caught.value)
    assert wanted[:12] in str(caught.value)
    assert "maskgen data tokenize" in str(caught.value)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": [PROMPT, " "]}, "prompt is empty"),
        ({"prompt": "star " * 500}, "at most 64"),
        ({"num_images_per_prompt": 0}, "at least 1"),
        ({"num_inference_steps": 0}, "steps must be at least 1"),
        ({"num_inference_steps": []}, "steps needs at least one"),
        ({"sampler": "nothing"}, "no sampler is called 'nothing'"),
        ({"sampler": "base"}, "no sampler is called 'base'"),
        ({"guidance_schedule": "nothing"}, "no guidance schedule"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"choice_temperature": float("inf")}, "choice_temperature must be"),
        ({"top_p": 2.0}, "top_p must lie"),
        ({"top_k": -3}, "top_k must be"),
        ({"seed": -1}, "seed must lie"),
        ({"seed": 2**64}, "seed must lie"),
        ({"strength": 0.5}, "strength needs image"),
        ({"image": noise_picture()}, "exactly one of"),
        ({"image": noise_picture(), "strength": 0.5, "outpaint": (8, 0, 0, 0)}, "strength and outpaint"),
        ({"image": noise_picture(), "strength": 2.0}, "strength must lie"),
        ({"image": noise_picture(), "strength": float("nan")}, "strength must lie"),
        ({"image": noise_picture(), "outpaint": (0, 0, 0, 0)}, "outpainting adds"),
        ({"image": noise_picture(), "outpaint": (-8, 0, 0, 8)}, "outpainting adds"),
        ({"image": noise_picture(), "outpaint": (3, 0, 0, 0)}, "multiples of 8"),
        ({"image": noise_picture(), "outpaint": (80000, 0, 0, 0)}, "cells"),
        ({"image": noise_picture(), "mask_image": noise_picture((16, 32))}, "16 x 32 pixels, the picture 32 x 32"),
    ],
)
def test_bad_calls_are_refused_with_a_sentence(tiny_pipeline: TextToImagePipeline, call: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny_pipeline(**{"prompt": PROMPT, **call})


def test_unknown_modalities_and_uneven_lists_are_refused(tiny_pipeline: TextToImagePipeline) -> None:
    with pytest.raises(ValueError, match="sound"):
        tiny_pipeline.generate([{"sound": PROMPT}], "image", [0])
    with pytest.raises(ValueError, match="sound"):
        tiny_pipeline.generate([{"text": PROMPT}], "sound", [0])
    with pytest.raises(ValueError, match="2 rows need as many seeds"):
        tiny_pipeline.generate([{"text": PROMPT}] * 2, "image", [0])
    with pytest.raises(ValueError, match="no default grid for 'text'"):
        tiny_pipeline.generate([{}], "text", [0], GenerationSettings())


def test_a_missing_model_is_refused_and_a_tokenizer_is_not_a_model(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model"):
        find_model(tmp_path / "nothing")
    with pytest.raises(ValueError, match="kind 'text_tokenizer', wanted 'pipeline'"):
        Pipeline.from_pretrained(tiny_bundle / "tokenizers" / "text")
    with pytest.raises(ValueError, match="kind 'pipeline', wanted a tokenizer"):
        load_tokenizer(tiny_bundle)
