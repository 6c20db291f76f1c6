"""A script written from the documentation of diffusers' text-to-image pipelines runs with the class name changed."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskgen import TextToImagePipeline

PROMPT = "a red heart, flat style"


def test_a_script_of_a_diffusers_user_runs(tiny_bundle: Path, tmp_path: Path) -> None:
    # from here on as in diffusers' documentation, but for the class, the model and the prompts
    pipe = TextToImagePipeline.from_pretrained(str(tiny_bundle), torch_dtype=torch.float32, use_safetensors=True)
    pipe = pipe.to("cpu")
    pipe.set_progress_bar_config(disable=True)
    image = pipe(PROMPT).images[0]
    assert isinstance(image, Image.Image)
    image.save(tmp_path / "heart.png")

    generator = torch.Generator("cpu").manual_seed(31)
    first = pipe(PROMPT, generator=generator, num_inference_steps=4, guidance_scale=2.0, negative_prompt="a blue square").images[0]
    again = pipe(
        PROMPT, generator=torch.Generator("cpu").manual_seed(31), num_inference_steps=4, guidance_scale=2.0, negative_prompt="a blue square"
    ).images[0]
    assert np.array_equal(np.asarray(first), np.asarray(again))

    generators = [torch.Generator("cpu").manual_seed(number) for number in range(4)]
    images = pipe([PROMPT] * 2, generator=generators, num_images_per_prompt=2).images
    assert len(images) == 4

    seen: list[tuple[int, int]] = []

    def callback(pipeline: Any, step: int, timestep: int, callback_kwargs: dict[str, Any]) -> dict[str, Any]:
        assert pipeline is pipe
        seen.append((step, int(timestep)))
        assert callback_kwargs["latents"].shape[0] == 1
        return callback_kwargs

    pipe(PROMPT, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["latents"], num_inference_steps=3)
    assert seen == [(0, 2), (1, 1), (2, 0), (3, 1), (4, 0)]

    array = pipe(PROMPT, output_type="np").images
    assert array.shape == (1, 32, 32, 3)
    assert 0.0 <= array.min() <= array.max() <= 1.0
    assert pipe(PROMPT, output_type="pt", return_dict=False)[0].shape == (1, 3, 32, 32)
    assert pipe(PROMPT, width=48, height=32).images[0].size == (48, 32)

    inpainted = pipe(prompt=PROMPT, image=image, mask_image=Image.new("L", image.size, 255)).images[0]
    assert inpainted.size == image.size

    shared = TextToImagePipeline(**pipe.components)
    assert shared.model is pipe.model
    pipe.save_pretrained(tmp_path / "saved")
    loaded = TextToImagePipeline.from_pretrained(tmp_path / "saved")
    assert np.array_equal(np.asarray(loaded(PROMPT, seed=3).images[0]), np.asarray(pipe(PROMPT, seed=3).images[0]))
    assert (str(pipe.device), pipe.dtype) == ("cpu", torch.float32)


def test_a_generator_moves_on_and_a_list_gives_one_an_image(tiny_pipeline: TextToImagePipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (tiny_pipeline(PROMPT, generator=generator).seeds for _ in range(2))
    assert first != second
    whole = tiny_pipeline(PROMPT, generator=[torch.Generator().manual_seed(n) for n in (0, 1)], num_outputs=2)
    assert whole.seeds[0] == first[0]


def test_images_are_taken_as_files_arrays_and_tensors(tiny_pipeline: TextToImagePipeline, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "picture.png")
    forms = [
        Image.fromarray(array),
        tmp_path / "picture.png",
        str(tmp_path / "picture.png"),
        array,
        array.astype(np.float32) / 255,
        torch.from_numpy(array).permute(2, 0, 1),
        torch.from_numpy(array).permute(2, 0, 1).float() / 255,
    ]
    mask = np.zeros((32, 32), bool)
    mask[:, :16] = True
    masks = [mask, mask.astype(np.uint8) * 255, Image.fromarray(mask.astype(np.uint8) * 255), mask.astype(np.float32)]
    made = [tiny_pipeline(PROMPT, image=one, mask_image=masks[n % len(masks)]).images[0].tobytes() for n, one in enumerate(forms)]
    assert len(set(made)) == 1


def test_codes_that_a_callback_returns_take_the_place_of_its_own(tiny_pipeline: TextToImagePipeline) -> None:
    def zeros(pipeline: Any, step: int, timestep: int, given: dict[str, Any]) -> dict[str, Any]:
        return {"latents": torch.where(given["latents"] >= 0, 0, given["latents"])}

    assert not tiny_pipeline(PROMPT, callback_on_step_end=zeros).codes[0].any()
    known = tiny_pipeline.tokenizers["image"].encode([tiny_pipeline(PROMPT).images[0]])[0]
    row = {**tiny_pipeline.text_codes(PROMPT), "image": torch.where(torch.arange(4) < 2, known, -1)}
    seen: list[Any] = []
    output = tiny_pipeline.generate([row], "image", [0], callback=seen.append)
    assert output.codes[0][:, :, :2].equal(known[:, :, :2])


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"prompt": None}, ValueError, "the prompt is empty"),
    ({"prompt": 7}, TypeError, "prompt must be a text or a list of texts, got 7"),
    ({"prompt": [PROMPT, None]}, TypeError, "prompt must be a text or a list of texts"),
    ({"prompt": []}, ValueError, "empty list"),
    ({"seed": "0"}, TypeError, "seed must be a whole number, a list of them or None, got '0'"),
    ({"seed": 1.5}, TypeError, "seed must be a whole number"),
    ({"seed": [1, 2, 3]}, ValueError, "seed has 3 entries for 1 outputs"),
    ({"seed": 1, "generator": torch.Generator()}, ValueError, "give one of them"),
    ({"generator": 7}, TypeError, "generator must be a torch.Generator or a list of them, got int"),
    ({"generator": [torch.Generator()] * 2}, ValueError, "generator has 2 entries for 1 outputs"),
    ({"negative_prompt": ["a", "b"]}, ValueError, "negative_prompt has 2 texts for 1 prompts"),
    ({"negative_prompt": 3}, TypeError, "negative_prompt must be a text"),
    ({"image": 3, "strength": 0.5}, TypeError, "image is a int; give a PIL image, a path"),
    ({"image": "nowhere.png", "strength": 0.5}, ValueError, "nowhere.png does not exist"),
    ({"image": np.zeros((5, 5, 7)), "strength": 0.5}, ValueError, r"shape \(5, 5, 7\)"),
    ({"image": np.full((4, 4, 3), 7.0), "strength": 0.5}, ValueError, r"outside \[0, 1\]"),
    ({"image": np.full((4, 4, 3), 300), "strength": 0.5}, ValueError, "values from 300 to 300"),
    ({"outpaint": "8,0,0,0", "image": Image.new("RGB", (32, 32))}, TypeError, "outpaint must be four whole numbers"),
    ({"callback_on_step_end": 3}, TypeError, "callback_on_step_end takes"),
    ({"callback_on_step_end": lambda state: None}, TypeError, "this one takes"),
    ({"callback_on_step_end": lambda *_: 7}, TypeError, "returned a int"),
    ({"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, ValueError, "there are latents"),
    ({"guidance_scale": "7"}, TypeError, "guidance_scale must be a number, got '7'"),
    ({"guidance_scale": [7, 2]}, TypeError, "guidance_scale must be one number"),
    ({"num_inference_steps": [4, 2, 1]}, ValueError, "num_inference_steps has 3 entries, the codes have 2 levels"),
    ({"num_inference_steps": 2.5}, TypeError, "num_inference_steps must be a whole number"),
    ({"temperature": "hot"}, TypeError, "temperature must be a number"),
    ({"sampler": 3}, TypeError, "sampler must be a name"),
    ({"settings": {"steps": 3}}, TypeError, "settings must be GenerationSettings, got dict"),
    ({"num_outputs": 2, "num_images_per_prompt": 3}, ValueError, "two names of one thing"),
    ({"num_outputs": 1.5}, TypeError, "num_outputs must be a whole number"),
    ({"output_type": "latent"}, ValueError, "output_type must be one of pil, np, pt"),
    ({"batch_invariant": "yes"}, TypeError, "batch_invariant must be"),
    ({"width": 33}, ValueError, "multiples of 8"),
    ({"width": "32"}, TypeError, "width and height must be whole numbers"),
    ({"width": 10**6}, ValueError, "at most 4,096 cells"),
    ({"speed": 2.0}, TypeError, "takes no argument 'speed'"),
    ({"latents": None}, TypeError, "starts from masked cells"),
    ({"num_inference_step": 3}, TypeError, "did you mean num_inference_steps?"),
]


ASK = """
import json, sys
sys.path[:0] = sys.argv[2:]
import maskgen
from test_diffusers_habits import PROMPT, WRONG
pipe, answers = maskgen.TextToImagePipeline.from_pretrained(sys.argv[1]), []
for call, *_ in WRONG:
    try:
        answers.append(["nothing", repr(pipe(**{"prompt": PROMPT, **call}))])
    except Exception as error:
        answers.append([type(error).__name__, str(error)])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tiny_bundle: Path) -> list[list[str]]:
    """What a user gets for each wrong call: in a process of its own, where no type checker of the tests speaks first."""
    here = Path(__file__).parent
    ran = subprocess.run([sys.executable, "-c", ASK, str(tiny_bundle), str(here), str(here.parent)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found: list[list[str]] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("place", "case"), list(enumerate(WRONG)), ids=lambda value: str(value)[:40])
def test_wrong_types_and_mixes_end_with_a_sentence(
    answers: list[list[str]], place: int, case: tuple[dict[str, Any], type[Exception], str]
) -> None:
    kind, said = answers[place]
    assert kind == case[1].__name__, said
    assert re.search(case[2], said), said
    assert "\n" not in said


def test_no_seed_draws_one_and_says_which(tiny_pipeline: TextToImagePipeline) -> None:
    output = tiny_pipeline(PROMPT, seed=None)
    assert np.array_equal(np.asarray(output.images[0]), np.asarray(tiny_pipeline(PROMPT, seed=output.seeds[0]).images[0]))
    assert tiny_pipeline(PROMPT, seed=None).seeds != output.seeds
    assert tiny_pipeline([PROMPT, "a"], seed=[5, 9]).seeds == [5, 9]


def test_numbers_of_numpy_are_numbers(tiny_pipeline: TextToImagePipeline) -> None:
    call: Callable[..., Any] = tiny_pipeline
    assert call(PROMPT, seed=np.int64(3), guidance_scale=np.float32(2.0), num_inference_steps=np.int32(2)).seeds == [3]
