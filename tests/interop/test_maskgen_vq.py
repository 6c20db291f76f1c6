"""MaskGen-VQ whole: network and sampler against tensors of the authors' code, and a folder laid out as the hub's to images and back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.hub_folders import CLIP_LENGTH, clip_tokenizer, scrambled
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

import maskgen
from maskgen.decoding.guidance import AheadGuidance
from maskgen.decoding.logits import guided_model, hide_condition
from maskgen.interop.clip_prompts import read_clip
from maskgen.interop.maskgen_network import MaskGenConfig, MaskGenTransformer, score_waves
from maskgen.interop.maskgen_vq import MaskGenNetwork, maskgen_sampling
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.micro import MICRO
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace
from tests.interop.authors_noise import fed
from tests.interop.folders import TITOK_CODES as CODES
from tests.interop.folders import TITOK_TOKENS as TOKENS
from tests.interop.llada_cases import golden

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


class KnownPrompts(nn.Module):
    """Features of the golden file: prompt (i,) has those of row i, the empty one its own."""

    def __init__(self, given: dict[str, Tensor]) -> None:
        super().__init__()
        self.given = given

    def forward(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        parts = [("text", "pooled", one[0]) if one else ("empty_text", "empty_pooled", 0) for one in prompts]
        return torch.stack([self.given[text][row] for text, _, row in parts]), torch.stack(
            [self.given[name][row, 0] for _, name, row in parts]
        )


def transformer() -> tuple[MaskGenTransformer, dict[str, Tensor]]:
    weights, given, _ = golden("maskgen_vq")
    sizes = MaskGenConfig(
        num_tokens=TOKENS, codebook_size=CODES, num_ids=CODES + 7, dim=16, num_layers=3, num_heads=2, text_dim=12, score_dim=10
    )
    made = MaskGenTransformer(sizes)
    made.load_state_dict(weights)
    return made.eval().requires_grad_(False), given


def test_every_state_is_the_authors() -> None:
    made, given = transformer()
    seen: dict[str, Any] = {}
    for part, module in made.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, part=part: seen.__setitem__(part, output))
    found = made.logits(made(given["ids"], given["text"], given["pooled"][:, 0], given["aesthetic_score"]))
    assert_close(found, given["logits"], **CLOSE)
    assert_close(score_waves(given["aesthetic_score"], 10), given["mid.micro_condition"], **CLOSE)
    for part in ("norm", "text_embed_proj"):
        assert_close(seen[part], given[f"mid.{part}"], **CLOSE)
    assert_close(seen["cond_pooled_proj"], given["mid.cond_pooled_proj"][:, 0], **CLOSE)
    for number in range(3):
        assert_close(seen[f"blocks.{number}"][0], given[f"mid.blocks.{number}.picture"], **CLOSE)
    for number in range(2):
        assert_close(seen[f"blocks.{number}"][1], given[f"mid.blocks.{number}.text"], **CLOSE)


@pytest.mark.parametrize("which", ["sampler", "sampler2"])
def test_with_the_authors_noise_every_step_has_their_codes(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MaskGen_VQ.generate draws codes with one Gumbel number each, ours with one uniform number a cell: the noise alone is exchanged.

    The second sampler ranks without noise and guides on a straight line.
    """
    made, given = transformer()
    text = Modality(name="text", kind="text", num_levels=1, codebook_size=4)
    space = TokenSpace([text, Modality(name="image", kind="image", num_levels=1, codebook_size=CODES), MICRO])
    model = MaskGenNetwork(made, KnownPrompts(given), space, score=6.5).eval()
    settings = maskgen_sampling({"cfg": 12.0, "num_iter": 4, "temperature": 1.5})
    if which == "sampler2":
        plain = {"choice_temperature": (0.0,), "temperature": (1.0,), "guidance_schedule": "linear_ahead", "guidance_scale": 4.0}
        settings = settings.changed(**plain)
    wrapped = fed(monkeypatch, given[f"{which}_uniform_codes"], given.get(f"{which}_uniform_order"))
    batch = pack([{"text": torch.tensor([[row]]), "image": torch.full((1, TOKENS), UNKNOWN)} for row in range(2)], space)
    for name, rows in (("conditional", batch), ("unconditional", batch.hide(batch.modality == model.text.index))):
        first = model.logits(model(rows)[rows.cells(model.image.index)], model.image.offset, CODES).view(2, TOKENS, CODES)
        assert_close(first, given[f"{which}_first_logits_{name}"], **CLOSE)
    logits_fn = wrapped(guided_model(model, hide_condition((model.text.index,)), settings.guidance()))
    _, trajectory = settings.at(0).sample(logits_fn, batch, model.image, [torch.Generator()] * 2)
    found = trajectory.codes[:, batch.cells(model.image.index)].view(4, 2, TOKENS)
    wanted = given[f"{which}_codes"]
    assert torch.equal((found == UNKNOWN).sum(dim=2), given[f"{which}_masked_after_step"])
    assert torch.equal(found, wanted.masked_fill(wanted == CODES, UNKNOWN))


def test_guidance_ahead_reaches_its_scale_at_the_last_step_and_1_is_off() -> None:
    for shape in ("linear", "cosine"):
        assert AheadGuidance(13.0, 4, shape).scale(0.75) == pytest.approx(13.0)  # type: ignore[arg-type]
        assert {AheadGuidance(1.0, 4, shape).scale(step / 4) for step in range(4)} == {1.0}  # type: ignore[arg-type]
    assert AheadGuidance(13.0, 4, "linear").scale(0.0) == pytest.approx(2 + 11 / 4)


@pytest.fixture(scope="module")
def folder(tiny_family: Callable[[str], Path]) -> Path:
    return tiny_family("MaskGen")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> maskgen.TextToImagePipeline:
    made = maskgen.Pipeline.from_pretrained(folder)
    assert isinstance(made, maskgen.TextToImagePipeline)
    made.set_progress_bar_config(disable=True)
    return made


def test_a_prompt_becomes_an_image_that_the_decoder_too_reads_it_for(pipeline: maskgen.TextToImagePipeline) -> None:
    """MaskGen_VQ.generate ignores the aesthetic score that it is given; here it counts."""
    assert pipeline.settings["image"].guidance_scale == 4.0
    assert pipeline.settings["image"].guidance_schedule == "cosine_ahead"
    options: dict[str, Any] = {"seed": 0, "guidance_scale": 1.0, "temperature": 0.0, "choice_temperature": 0.0}
    made = pipeline("a red dog", **options)
    assert made.images[0].size == (32, 32)
    assert made.codes[0].shape == (1, TOKENS)
    others = [pipeline("a red dog", aesthetic_score=score, **options).log_probabilities[0] for score in (6.5, 1.0)]
    assert torch.equal(made.log_probabilities[0], others[0])
    assert not torch.equal(made.log_probabilities[0], others[1])
    image: Any = pipeline.tokenizers["image"]
    words = pipeline.text_codes("a cat")
    assert np.array_equal(np.asarray(image.decode_given(made.codes[0], pipeline.text_codes("a red dog"))), np.asarray(made.images[0]))
    assert not np.array_equal(np.asarray(image.decode_given(made.codes[0], words)), np.asarray(made.images[0]))
    assert np.array_equal(np.asarray(image.decode_given(made.codes[0], {})), np.asarray(image.decode(made.codes)[0]))
    with pytest.raises(ValueError, match="at most 14 are taken; shorten it"):
        pipeline("abcdefghijklmnop", seed=0)


def test_a_picture_has_variations_and_a_likelihood_under_every_prompt(pipeline: maskgen.TextToImagePipeline) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    own = pipeline.tokenizers["image"].encode([picture])[0]
    assert int((pipeline("a dog", image=picture, strength=0.25, seed=0).codes[0] != own).sum()) <= 2
    scores = pipeline.score([{**pipeline.text_codes(text), "image": own} for text in ("a dog", "a cat")], "image")
    assert scores[0].total != scores[1].total


def test_open_clip_fills_texts_with_0(pipeline: maskgen.TextToImagePipeline) -> None:
    """The states of padding are read too, and transformers' tokenizer of the same CLIP pads with the end instead."""
    model: Any = pipeline.model
    ids = model.prompts.ids(tuple(pipeline.text_codes("a dog")["text"][0].tolist()))
    assert ids.shape == (1, CLIP_LENGTH)
    assert ids[0, -1] == 0


def test_a_saved_model_has_the_published_layout(folder: Path, pipeline: maskgen.TextToImagePipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    for part in ("", "tokenizer", "text_encoder"):
        one, other = load_file(folder / part / "model.safetensors"), load_file(tmp_path / part / "model.safetensors")
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((folder / "config.json").read_text()) == json.loads((tmp_path / "config.json").read_text())
    again = maskgen.Pipeline.from_pretrained(tmp_path)
    assert torch.equal(again("a dog", seed=0).codes[0], pipeline("a dog", seed=0).codes[0])


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "generator_maskgen_vq_l"
    shutil.copytree(folder, place)
    (place / "text_encoder").rename(tmp_path / "clip")
    with pytest.raises(
        ValueError, match=r"without its text encoder.*\(openai/clip-vit-large-patch14-336, weights as safetensors\) to .*text_"
    ):
        maskgen.Pipeline.from_pretrained(place)
    (tmp_path / "clip").rename(tmp_path / "clip-vit-large-patch14-336")
    assert maskgen.Pipeline.from_pretrained(place).family == "MaskGen"


def test_the_text_encoder_may_be_a_whole_clip(tmp_path: Path) -> None:
    """The repository of CLIP holds its image half too."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install maskgen[diffusers]")
    words = clip_tokenizer(tmp_path / "text_encoder")
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 12, "intermediate_size": 8}
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    text = {**layers, **ends, "projection_dim": 12, "vocab_size": len(words), "max_position_embeddings": CLIP_LENGTH}
    config = transformers.CLIPConfig(text_config=text, vision_config={**layers, "image_size": 8, "patch_size": 4}, projection_dim=12)
    whole = scrambled(transformers.CLIPModel(config))
    whole.save_pretrained(tmp_path / "text_encoder", safe_serialization=True)
    prompts, _ = read_clip(tmp_path, tokenizer="text_encoder")
    ids = prompts.ids((1, 2))
    wanted = whole.text_model(ids, output_hidden_states=True)
    assert_close(prompts([(1, 2)])[0], wanted.hidden_states[-2], **CLOSE)
    assert_close(prompts([(1, 2)])[1], whole.text_projection(wanted.pooler_output), **CLOSE)


def test_published_sizes_have_the_published_number_of_parameters() -> None:
    """`generator_maskgen_vq_l` has 451 tensors of 613.73 million values, `..._xl` 563 of 1188.38; the tied head is stored twice."""
    found = []
    for sizes in ({}, {"dim": 1280, "num_layers": 20, "num_heads": 20}):
        with torch.device("meta"):
            made = MaskGenTransformer(MaskGenConfig(**sizes)).state_dict()
        found.append((len(made), round(sum(one.numel() for one in made.values()) / 1e4)))
    assert found == [(451, 61373), (563, 118838)]
