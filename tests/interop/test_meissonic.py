"""Meissonic beside golden tensors of the authors' own classes, and whole pipelines from a folder laid out as the hub's."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders.meissonic import close, golden, network
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import maskgen
from maskgen.decoding.guidance import ConstantGuidance
from maskgen.decoding.logits import against, guided_model
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.clip_prompts import ClipPrompts
from maskgen.interop.meissonic import FAMILY, MeissonicNetwork, steps_left
from maskgen.interop.meissonic_network import MeissonicConfig, MeissonicTransformer
from maskgen.masking.counts import masked_after
from maskgen.masking.schedule import Cosine
from maskgen.sampling import base
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.micro import MICRO, micro_codes
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace

pytest.importorskip("diffusers", reason="needs diffusers: pip install maskgen[diffusers]")

CODES, SIDE, PIXELS = 20, 8, 2
SMALL: dict[str, Any] = {"width": SIDE * PIXELS, "height": SIDE * PIXELS}


class Told(nn.Module):
    """Stands for CLIP: the prompt of the one id n has the n-th features of the golden file."""

    def __init__(self, io: dict[str, Tensor]) -> None:
        super().__init__()
        self.states, self.pooled = (nn.Parameter(torch.cat([io[name], io[f"uncond_{name}"]])) for name in ("text", "pooled"))

    def forward(self, ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(hidden_states=[self.states[ids[:, 1]], None], text_embeds=self.pooled[ids[:, 1]])


def test_the_authors_decode_is_reproduced_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our sampler with the noise of the golden file, guidance 9 and the times that the masked share gives: the same codes."""
    io = golden()[2]
    image = Modality(name="image", kind="image", num_levels=1, codebook_size=CODES)
    space = TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=4), image, MICRO])
    prompts = ClipPrompts(Told(io), begin=5, end=6, pad=6, length=3)
    model = MeissonicNetwork(network(), prompts, space, 2, 23, Cosine(), steps=4).requires_grad_(False)
    blank = {"image": torch.full((1, SIDE, SIDE), UNKNOWN), "micro": micro_codes((1024, 1024), None, None, None)}
    batch, negative = (pack([{"text": torch.tensor([[first + row]]), **blank} for row in range(2)], space) for first in (0, 2))
    segment = space.segment("image", 0)
    guided = guided_model(model, against(negative, segment.index), ConstantGuidance(9.0))
    cells = batch.cells(segment.index)
    close(guided(batch, cells, segment, 0.0).view(2, SIDE, SIDE, CODES).permute(0, 3, 1, 2), io["sampler_first_guided_logits"], views=17)
    chosen: dict[str, Any] = {}

    def watched(batch: Any, cells: Tensor, segment: Any, progress: float) -> Tensor:
        chosen.update(step=round(4 * progress), places=cells[:, 1:65].flatten())
        return guided(batch, cells, segment, progress)

    def draw(logits: Tensor, rows: Tensor, generators: Any, **_: Any) -> tuple[Tensor, Tensor]:
        codes = (logits.softmax(-1) / io["sampler_exp"][chosen["step"]][chosen["places"]]).argmax(-1)
        return codes, logits.log_softmax(-1).gather(-1, codes[:, None])[:, 0]

    def noise(cells: Tensor, generators: Any, _: Any) -> Tensor:
        found = torch.zeros(cells.shape, dtype=torch.float64)
        found[:, 1:65] = -(-io["sampler_uniform"][chosen["step"]].clamp(min=1e-20).log()).clamp(min=1e-20).log().double()
        return found

    monkeypatch.setattr(base, "draw", draw)
    monkeypatch.setattr(base, "row_noise", noise)
    made: list[Tensor] = []
    sampler = ConfidenceSampler(steps=4, choice_temperature=2.0, annealing="linear")
    generators = [torch.Generator(), torch.Generator()]
    sampler.sample(watched, batch, segment, generators, lambda state: made.append(state.codes[:, 1:65].view(2, SIDE, SIDE)))
    assert torch.equal(torch.stack(made).masked_fill(torch.stack(made) == UNKNOWN, 23), io["sampler_codes"])


@pytest.mark.parametrize("total", [12, 64, 4096])
def test_the_time_counts_the_steps_that_are_left(total: int) -> None:
    masked = torch.tensor([total, *(int(masked_after(Cosine(), step, 48, torch.tensor([total]))) for step in range(47))])
    steps = int((masked > 0).sum())
    assert steps_left(masked[:steps], total, Cosine(), 48).tolist() == list(range(47, 47 - steps, -1))
    assert steps_left(torch.tensor([0, 1]), 4096, Cosine(), 48).tolist() == [0, 0]


@pytest.fixture(scope="module")
def folder(tiny_family: Callable[[str], Path]) -> Path:
    return tiny_family("Meissonic")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> maskgen.TextToImagePipeline:
    made = maskgen.Pipeline.from_pretrained(folder)
    assert isinstance(made, maskgen.TextToImagePipeline)
    made.set_progress_bar_config(disable=True)
    return made


def test_a_picture_of_the_published_size_with_the_published_defaults(pipeline: maskgen.TextToImagePipeline) -> None:
    options = {"sampler_options": {"annealing": "linear"}, "choice_temperature": (2.0,), "schedule": "cosine"}
    assert pipeline.settings["image"] == GenerationSettings(steps=(48,), guidance_scale=9.0, **options)
    made = pipeline("a dog", num_inference_steps=2)
    assert made.images[0].size == (64 * PIXELS, 64 * PIXELS)
    assert made.codes[0].shape == (1, 64, 64)
    assert pipeline.tokenizers["image"].value_range == (0.0, 1.0)


@pytest.mark.parametrize("size", [(16, 16), (24, 8), (8, 32)])
def test_pictures_of_every_even_grid_are_drawn(pipeline: maskgen.TextToImagePipeline, size: tuple[int, int]) -> None:
    """The reference draws with down-sampling at a height of 1024 pixels alone."""
    assert pipeline("a dog", width=size[0], height=size[1], num_inference_steps=2).images[0].size == size
    with pytest.raises(ValueError, match="has 4 x 3 codes, wanted multiples of 2; choose another width and height"):
        pipeline("a dog", width=6, height=8)


def test_text_negative_text_and_micro_conditions_matter(pipeline: maskgen.TextToImagePipeline) -> None:
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2, **SMALL}
    plain = pipeline("a dog", **options)
    assert torch.equal(
        plain.log_probabilities[0], pipeline("a dog", original_size=(16, 16), aesthetic_score=6.0, **options).log_probabilities[0]
    )
    for other in ({"original_size": (900, 700)}, {"crop": (400, 90)}, {"aesthetic_score": 9.5}, {"negative_prompt": "blue"}):
        assert not torch.equal(plain.log_probabilities[0], pipeline("a dog", **other, **options).log_probabilities[0]), other
    alone = pipeline("a dog", guidance_scale=1.0, **options)
    assert torch.equal(
        alone.log_probabilities[0], pipeline("a dog", guidance_scale=1.0, negative_prompt="blue", **options).log_probabilities[0]
    )
    assert alone.model_calls == [2.0]
    assert plain.model_calls == [4.0]


def test_hidden_text_is_the_empty_prompt_and_rows_do_not_see_each_other(pipeline: maskgen.TextToImagePipeline) -> None:
    space, model = pipeline.space, pipeline.model
    grid = torch.arange(SIDE * SIDE).view(1, SIDE, SIDE) % CODES
    grid[:, 3:] = UNKNOWN
    batch = pack([{**pipeline.text_codes(text), "image": grid} for text in ("a small red dog", "cat")], space)
    hidden, image = model(batch.hide(batch.cells(space.index("text")))), space.index("image")
    empty = model(pack([{"image": grid}], space))
    for row in range(2):
        close(hidden[row][batch.cells(image)[row]], empty[0])
        alone = batch.alone(row)
        close(model(batch)[row][batch.cells(image)[row]], model(alone)[0][alone.cells(image)[0]])
    assert (model(batch)[0] - hidden[0]).abs().amax() > 1e-3


def test_masked_conditions_are_absent_ones(pipeline: maskgen.TextToImagePipeline) -> None:
    blank = {"image": torch.full((1, SIDE, SIDE), UNKNOWN)}
    told = {**pipeline.text_codes("a dog"), "micro": micro_codes((900, 700), None, None, 9.5)}
    empty, masked = (pack([row], pipeline.space) for row in (blank, {**{name: codes * 0 - 1 for name, codes in told.items()}, **blank}))
    image = pipeline.space.index("image")
    close(pipeline.model(masked)[masked.cells(image)], pipeline.model(empty)[empty.cells(image)])
    settings = GenerationSettings(steps=(2,), guidance_scale=3.0, null="masked")
    assert pipeline("a dog", settings=settings, aesthetic_score=3.0, **SMALL).codes[0].shape == (1, SIDE, SIDE)
    with pytest.raises(ValueError, match="Meissonic generates images alone; take image as the target"):
        pipeline.generate([{**blank, "text": torch.full((1, 3), UNKNOWN)}], "text", [0])


def test_packed_weights_draw_the_same(folder: Path, pipeline: maskgen.TextToImagePipeline) -> None:
    made = maskgen.Pipeline.from_pretrained(folder).enable_packed_weights()("a dog", num_inference_steps=2, **SMALL)
    assert torch.equal(made.codes[0], pipeline("a dog", num_inference_steps=2, **SMALL).codes[0])


def test_an_edit_keeps_the_known_pixels_and_a_picture_has_a_likelihood(pipeline: maskgen.TextToImagePipeline) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64 * PIXELS, 64 * PIXELS, 3), dtype=np.uint8))
    mask = np.zeros((64 * PIXELS, 64 * PIXELS), np.uint8)
    mask[:8, :8] = 255
    made = np.asarray(pipeline("a dog", image=picture, mask_image=Image.fromarray(mask), num_inference_steps=3).images[0])
    assert np.array_equal(made[mask == 0], np.asarray(picture)[mask == 0])
    codes = torch.arange(SIDE * SIDE).view(1, SIDE, SIDE) % CODES
    scores = pipeline.score([{**pipeline.text_codes(text), "image": codes} for text in ("a dog", "a cat")], "image")
    assert scores[0].total < 0
    assert scores[0].total != scores[1].total


def test_the_families_sizes_are_those_of_its_networks() -> None:
    with torch.device("meta"):
        model = MeissonicTransformer(MeissonicConfig())
    whole = FAMILY.hub_ids["Collov-Labs/Monetico"]
    assert whole - sum(weight.numel() for weight in model.parameters()) / 1e6 == pytest.approx(354.03 + 146.24, abs=0.01)


def test_a_saved_pipeline_has_the_published_names_and_draws_the_same(
    folder: Path, pipeline: maskgen.TextToImagePipeline, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path)
    weights = "transformer/diffusion_pytorch_model.safetensors"
    one, other = load_file(folder / weights), load_file(tmp_path / weights)
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    again = maskgen.Pipeline.from_pretrained(tmp_path)("a dog", num_inference_steps=3, **SMALL)
    assert torch.equal(again.codes[0], pipeline("a dog", num_inference_steps=3, **SMALL).codes[0])


@pytest.mark.parametrize(
    ("place", "changes", "said"),
    [
        ("transformer", {"pooled_projection_dim": 24}, "pooled_projection_dim is 24, wanted the width of the network, 2 heads x 10 = 20"),
        ("transformer", {"axes_dims_rope": [2, 4, 6]}, "axes_dims_rope is .2, 4, 6., wanted three even numbers that add up to 10"),
        ("transformer", {"upsample": False}, "downsample is True and upsample False; a network has both or neither"),
        ("transformer", {"guidance_embeds": True}, "asks for guidance_embeds or a patch_size"),
        ("transformer", {"num_layers": "2"}, "num_layers"),
        ("transformer", {"num_layers": 3}, r"lack transformer_blocks.2.norm1.linear.weight \[120, 20\], .* and 29 more"),
        ("transformer", {"vocab_size": 25}, r"embed.embeddings.weight is \[24, 20\], wanted \[25, 20\]"),
        ("transformer", {"codebook_size": 19}, "the transformer in .* knows 19 codes, its vqvae 20; copy both again"),
        ("transformer", {"joint_attention_dim": 15}, "text encoder in .* has widths 14 and 20, the transformer wants 15 and 20"),
        ("scheduler", {"mask_token_id": 19}, "mask_token_id of the scheduler in .* is 19, wanted an id behind the codes, 20 to 23"),
    ],
)
def test_a_folder_that_contradicts_itself_is_refused(folder: Path, tmp_path: Path, place: str, changes: dict[str, Any], said: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = next((copy / place).glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=said):
        maskgen.Pipeline.from_pretrained(copy)


def test_diffusers_class_of_the_same_name_is_no_meissonic(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "transformer" / "config.json").write_text(json.dumps({"_class_name": "Transformer2DModel", "in_channels": 4}))
    assert not FAMILY.recognises(tmp_path)
