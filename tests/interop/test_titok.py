"""TiTok whole: networks and sampler against tensors of the authors' code, and folders laid out as the hub's to images and back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

import maskgen
from maskgen.decoding.logits import guided_model, hide_condition
from maskgen.interop.titok import published_sampling
from maskgen.interop.titok_network import TiTokNetwork
from maskgen.interop.titok_networks import TiTokGeneratorConfig
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.packing import pack
from tests.interop.authors_noise import fed
from tests.interop.folders import TITOK_CLASSES as CLASSES
from tests.interop.folders import TITOK_CODES as CODES
from tests.interop.folders import TITOK_TOKENS as TOKENS
from tests.interop.folders import write_titok
from tests.interop.llada_cases import golden

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
GENERATORS = ["titok_generator", "titok_generator_uvit"]


def network(name: str) -> tuple[TiTokNetwork, dict[str, Tensor]]:
    """The network of a golden file, and its inputs and outputs."""
    weights, given, config = golden(name)
    told: Any = config["model"]["generator"]  # type: ignore[index]
    names = {"dim": "hidden_size", "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads", "feed_dim": "intermediate_size"}
    sizes = {ours: told[theirs] for ours, theirs in names.items()}
    made = TiTokNetwork(
        TiTokGeneratorConfig(kind=told["model_type"], num_tokens=TOKENS, codebook_size=CODES, num_classes=CLASSES, **sizes), config
    )
    made.generator.load_state_dict(weights)
    return made.eval().requires_grad_(False), given


def rows(model: TiTokNetwork, classes: Tensor, ids: Tensor) -> TokenBatch:
    """Classes and codes, of which CODES is the mask."""
    codes = ids.masked_fill(ids == CODES, UNKNOWN)
    return pack([{"label": label[None, None], "image": row[None]} for label, row in zip(classes, codes, strict=True)], model.space)


def logits_of(model: TiTokNetwork, batch: TokenBatch) -> Tensor:
    return model.logits(model(batch)[batch.cells(model.image.index)], model.image.offset, CODES).view(len(batch), TOKENS, CODES)


@pytest.mark.parametrize("name", GENERATORS)
def test_every_state_is_the_authors(name: str) -> None:
    model, given = network(name)
    seen: dict[str, Tensor] = {}
    for part, module in model.generator.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, part=part: seen.__setitem__(part, output))
    batch = rows(model, given["classes"], given["ids"])
    hidden = batch.hide(batch.modality == model.label.index)
    assert_close(logits_of(model, hidden), given["logits_unconditional"], **CLOSE)
    assert_close(logits_of(model, batch), given["logits"], **CLOSE)
    parts = [key.removeprefix("mid.") for key in given if key.startswith("mid.")]
    assert len(parts) >= 3
    for part in parts:
        assert_close(seen[part], given[f"mid.{part}"], **CLOSE)


SAMPLERS: dict[str, tuple[dict[str, Any], bool]] = {
    "sampler": ({"guidance_scale": 4.5, "guidance_decay": "linear", "randomize_temperature": 2.5}, False),
    "sampler2": ({"guidance_scale": 3.0, "guidance_decay": "constant", "randomize_temperature": 1.5}, True),
    "sampler3": ({"guidance_scale": 3.0, "guidance_decay": "power-cosine", "randomize_temperature": 1.5}, False),
}
"""Settings of the golden samplers, and whether the logits are divided by a falling temperature."""


@pytest.mark.parametrize("which", SAMPLERS)
@pytest.mark.parametrize("name", GENERATORS)
def test_with_the_authors_noise_every_step_has_their_codes(name: str, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ImageBert.generate draws codes with one Gumbel number each, ours with one uniform number a cell: the noise alone is exchanged."""
    model, given = network(name)
    told, softened = SAMPLERS[which]
    settings = published_sampling({**told, "num_steps": 4})
    if not softened:
        settings = settings.changed(sampler_options={"cooling": "exact", "annealing": "exact", "ranking": "logit"})
    wrapped = fed(monkeypatch, given[f"{which}_uniform_codes"], given[f"{which}_uniform_order"])
    batch = rows(model, given["classes"], torch.full_like(given["ids"], CODES))
    logits_fn = wrapped(guided_model(model, hide_condition((model.label.index,)), settings.guidance()))
    generators = [torch.Generator() for _ in range(len(batch))]
    _, trajectory = settings.at(0).sample(logits_fn, batch, model.image, generators)
    found = trajectory.codes[:, batch.cells(model.image.index)].view(4, 2, TOKENS)
    wanted = given[f"{which}_codes"]
    assert torch.equal((found == UNKNOWN).sum(dim=2), given[f"{which}_masked_after_step"])
    assert torch.equal(found[-1], wanted[-1])
    assert torch.equal(found, wanted.masked_fill(wanted == CODES, UNKNOWN))


@pytest.fixture(scope="module")
def folder(tiny_family: Callable[[str], Path]) -> Path:
    return tiny_family("TiTok")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> maskgen.TextToImagePipeline:
    made = maskgen.Pipeline.from_pretrained(folder)
    assert isinstance(made, maskgen.TextToImagePipeline)
    made.set_progress_bar_config(disable=True)
    return made


def test_a_class_by_name_or_number_becomes_an_image(pipeline: maskgen.TextToImagePipeline) -> None:
    options = {"sampler": "confidence", "cooling": "softened"}
    assert pipeline.settings["image"].guidance_scale == 6.9
    assert pipeline.settings["image"].guidance_schedule == "cosine"
    assert pipeline.settings["image"].sampler_options["cooling"] == options["cooling"]
    made = pipeline(label=3, seed=0)
    assert made.images[0].size == (32, 32)
    assert made.codes[0].shape == (1, TOKENS)
    assert torch.equal(made.codes[0], pipeline(label="3", seed=0).codes[0])
    assert not torch.equal(made.log_probabilities[0], pipeline(label=4, seed=0).log_probabilities[0])
    assert pipeline(unconditional=True, seed=0).images[0].size == (32, 32)
    with pytest.raises(ValueError, match="the number of a label must lie in 0 to 5, got 6"):
        pipeline(label=6)
    with pytest.raises(ValueError, match="square cells in rows and columns"):
        pipeline(label=1, width=64, height=64)


def test_guidance_1_is_no_guidance_and_hidden_labels_are_the_null_class(pipeline: maskgen.TextToImagePipeline) -> None:
    model: Any = pipeline.model
    batch = rows(model, torch.tensor([2, 5]), torch.full((2, TOKENS), CODES))
    hidden = batch.hide(batch.modality == model.label.index)
    assert_close(logits_of(model, hidden)[0], logits_of(model, hidden)[1])
    one = pipeline(label=2, seed=1, guidance_scale=1.0)
    assert one.model_calls == [3]
    assert torch.equal(one.codes[0], pipeline(label=2, seed=1, guidance_scale=1.0).codes[0])


def test_rows_with_unequal_masks_keep_every_known_code(pipeline: maskgen.TextToImagePipeline) -> None:
    """ImageBert.generate takes the number of masked cells from the first row for the whole batch; here each row has its own."""
    few, many = torch.arange(TOKENS)[None].clone(), torch.full((1, TOKENS), UNKNOWN)
    few[0, 2] = UNKNOWN
    rows_of = [{"label": torch.tensor([[1]]), "image": known} for known in (many, few)]
    together = pipeline.generate(rows_of, "image", [3, 4], batch_invariant=True)
    assert torch.equal(together.codes[1][few != UNKNOWN], few[few != UNKNOWN])
    assert torch.equal(together.codes[1], pipeline.generate(rows_of[1:], "image", [4]).codes[0])


def test_a_variation_keeps_codes_and_a_score_tells_classes_apart(pipeline: maskgen.TextToImagePipeline) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    own = pipeline.tokenizers["image"].encode([picture])[0]
    assert int((pipeline(label=1, image=picture, strength=0.25, seed=0).codes[0] != own).sum()) <= 2
    scores = pipeline.score([{"label": torch.tensor([[one]]), "image": own} for one in (1, 2)], "image")
    assert scores[0].total != scores[1].total


@pytest.mark.parametrize("kind", ["ViT", "UViT"])
def test_a_saved_generator_has_the_published_layout(tmp_path: Path, kind: str) -> None:
    write_titok(tmp_path / "first", kind)
    made = maskgen.Pipeline.from_pretrained(tmp_path / "first")
    made.save_pretrained(tmp_path / "second")
    for part in ("", "tokenizer"):
        one, other = (load_file(tmp_path / place / part / "model.safetensors") for place in ("first", "second"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        configs = [json.loads((tmp_path / place / part / "config.json").read_text()) for place in ("first", "second")]
        assert configs[0] == configs[1]
    again = maskgen.Pipeline.from_pretrained(tmp_path / "second")
    assert torch.equal(again(label=0, seed=0).codes[0], made(label=0, seed=0).codes[0])


def test_a_generator_finds_its_tokenizer_beside_it_or_says_where_to_put_it(folder: Path, tmp_path: Path) -> None:
    write_titok(tmp_path / "generator_titok_s128_imagenet", tokenizer=False)
    with pytest.raises(ValueError, match=r"copy the tokenizer .*\(yucornetto/tokenizer_titok_s128_imagenet\) to .*tokenizer$"):
        maskgen.Pipeline.from_pretrained(tmp_path / "generator_titok_s128_imagenet")
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer_titok_s128_imagenet")
    made = maskgen.Pipeline.from_pretrained(tmp_path / "generator_titok_s128_imagenet")
    assert made.grids == {"image": (TOKENS,)}
    with pytest.raises(ValueError, match="a tokenizer of TiTok's, which generates nothing"):
        maskgen.Pipeline.from_pretrained(tmp_path / "tokenizer_titok_s128_imagenet")


def test_published_sizes_have_the_published_number_of_parameters() -> None:
    """`generator_titok_l32_imagenet` has 391 tensors of 177.20 million values, `generator_titok_b64_imagenet` 177.23."""
    found = []
    for tokens in (32, 64):
        with torch.device("meta"):
            made = TiTokNetwork(TiTokGeneratorConfig(num_tokens=tokens)).generator.state_dict()
        found.append((len(made), round(sum(one.numel() for one in made.values()) / 1e4)))
    assert found == [(391, 17720), (391, 17723)]
