"""4M from a folder laid out as the hub's: captions of pictures, maps and images one after the other, and the folder written again."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from builders.hub_folders import scrambled
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer

import maskgen
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop import families
from maskgen.interop.fourm_blocks import FourMBlockConfig
from maskgen.interop.fourm_model import FourM, FourMConfig, FourMDomain
from maskgen.sampling import names
from maskgen.tokenizers.codes import ImageCodesTokenizer, TextCodesTokenizer
from maskgen.tokenizers.pixels import PixelTokenizer
from maskgen.tokens.batch import UNKNOWN
from tokenizers import AddedToken
from tokenizers import Tokenizer as Engine

WORDS = ["a", "red", "heart", "dog", "on", "the", "table", "tall", "tree"]
SPECIAL = ["[PAD]", "[UNK]", "[SOS]", "[EOS]", *(f"[S_{number}]" for number in range(6))]
IN = ["caption", "t5_caption", "det", "rgb@224", "tok_rgb@224", "tok_depth@224", "tok_dinov2_global"]
OUT = ["caption", "det", "tok_rgb@224", "tok_depth@224", "tok_dinov2_global"]
TOLD = {
    "domains_in": IN,
    "domains_out": OUT,
    "image_size": 16,
    "patch_size": 4,
    **{"dim": 24, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2, "mlp_ratio": 4.0, "act_layer": "SiLU", "gated_mlp": True},
    **dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias", "norm_bias", "qk_norm"), False),
}
U, DEPTH = UNKNOWN, "tok_depth@224"
FEW = GenerationSettings(sampler="confidence", steps=(2,), guidance_scale=2.0)


def vocabulary() -> str:
    """A WordPiece vocabulary with the special tokens of 4M's."""
    words = {word: code for code, word in enumerate([*SPECIAL, *WORDS])}
    engine = Engine(WordPiece(words, unk_token="[UNK]"))
    engine.pre_tokenizer = BertPreTokenizer()
    engine.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    return str(engine.to_str())


def domain(name: str) -> FourMDomain:
    shape, size, places = {"caption": ("sequence", 20, 40), "det": ("sequence", 20, 40), "t5_caption": ("features", 10, 8)}.get(
        name, ("pixels", 48, 16) if name.startswith("rgb") else ("grid", 13 if "depth" in name else 11, 16)
    )
    learned = name.endswith("_global")
    return FourMDomain(name=name, shape=shape, size=size, places=places, reads=name in IN, writes=name in OUT, learned=learned)  # type: ignore[arg-type]


def write_fourm(folder: Path, in_metadata: bool = True, words: bool = True) -> None:
    """A 4M as published: the configuration in the metadata of the weights, as text of Python, or in a file beside them."""
    block = FourMBlockConfig(dim=24, num_heads=2, feed_dim=96)
    model = scrambled(FourM(FourMConfig(block=block, encoder_depth=1, decoder_depth=1, domains=tuple(map(domain, IN)))))
    folder.mkdir(parents=True)
    save_file(model.as_published(), folder / "model.safetensors", {name: str(value) for name, value in TOLD.items()} if in_metadata else {})
    if not in_metadata:
        (folder / "config.json").write_text(json.dumps(TOLD))
    if words:
        (folder / "text_tokenizer_4m_wordpiece_30k.json").write_text(vocabulary())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fourm") / "model"
    write_fourm(place)
    return place


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> maskgen.TextGenerationPipeline:
    found = maskgen.Pipeline.from_pretrained(folder)
    assert isinstance(found, maskgen.TextGenerationPipeline)
    return found


def picture(seed: int = 0, side: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def test_a_folder_is_recognised_by_the_metadata_of_its_weights_or_by_its_config(folder: Path, tmp_path: Path) -> None:
    write_fourm(tmp_path / "other", in_metadata=False)
    for place in (folder, tmp_path / "other"):
        found = families.published_family(place)
        assert found is not None
        assert found.name == "4M"
    (tmp_path / "config.json").write_text("{}")
    assert families.published_family(tmp_path) is None
    other = maskgen.Pipeline.from_pretrained(tmp_path / "other")
    row = {"text": torch.tensor([[11, 12]])}
    both = other, maskgen.Pipeline.from_pretrained(folder)
    first, second = (one.generate([row], "tok_depth@224", [0], FEW).codes[0] for one in both)
    assert torch.equal(first, second)


def test_the_licence_is_said_once(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(families, "_said", set())
    with caplog.at_level(logging.WARNING):
        maskgen.Pipeline.from_pretrained(folder)
        maskgen.Pipeline.from_pretrained(folder)
    said = [one.message for one in caplog.records if "4M" in one.message]
    assert said == ["the weights of 4M are licensed under the Sample Code License of EPFL and Apple: no commercial use"]


def test_modalities_are_text_pixels_and_codes(pipeline: maskgen.TextGenerationPipeline) -> None:
    kinds = {name: type(one) for name, one in pipeline.tokenizers.items()}
    assert list(kinds) == ["text", "det", "image", "tok_rgb@224", "tok_depth@224", "tok_dinov2_global"]
    assert kinds["image"] is PixelTokenizer
    assert kinds["det"] is TextCodesTokenizer
    assert {kinds[name] for name in ("tok_rgb@224", "tok_depth@224", "tok_dinov2_global")} == {ImageCodesTokenizer}
    assert pipeline.grids["image"] == pipeline.grids["tok_rgb@224"] == (4, 4)
    assert set(pipeline.settings) == {"text", "det", "tok_rgb@224", "tok_depth@224", "tok_dinov2_global"}
    with pytest.raises(ValueError, match=r"the codec of tok_depth@224 is published apart by the authors"):
        pipeline.generate([{"tok_depth@224": picture()}], "text", [0])


def test_a_picture_is_described(pipeline: maskgen.TextGenerationPipeline) -> None:
    options = {"length": 5, "seed": 0, "num_inference_steps": 5}
    made = pipeline(image=picture(), **options)
    assert made.generation.codes[0].shape == (1, 5)
    assert made.generation.model_calls == [5]
    assert not bool(((made.generation.codes[0] >= 4) & (made.generation.codes[0] < 10)).any())
    assert set(made.text.split()) <= set(WORDS)
    assert made.text == pipeline(image=np.asarray(picture()), **options).text
    other = pipeline(image=picture(3), **options).generation.log_probabilities[0]
    assert not torch.equal(other, made.generation.log_probabilities[0])


def test_a_text_with_holes_keeps_its_words(pipeline: maskgen.TextGenerationPipeline) -> None:
    made = pipeline("a [2] dog on the [1]", seed=1, num_inference_steps=3).generation.codes[0]
    assert made.shape == (1, 7)
    assert made[0, [0, 3, 4, 5]].tolist() == [10, 13, 14, 15]


def test_a_caption_becomes_maps_and_image_codes_one_after_the_other(pipeline: maskgen.TextGenerationPipeline) -> None:
    """The authors' chain: each modality that is made is a condition of the next; guidance leads away from all of them."""
    known: dict[str, Any] = {"text": "a red heart"}
    for target in ("tok_dinov2_global", "tok_depth@224", "tok_rgb@224"):
        settings = pipeline.settings_of(target)
        assert (settings.sampler, settings.schedule, settings.guidance_scale) == ("random_order", "even", 2.0)
        few = settings.changed(steps=2)
        made = pipeline.generate([known], target, [3], few)
        assert made.codes[0].shape == (1, 4, 4)
        assert made.model_calls == [4]
        without = pipeline.generate([{"text": "a red heart"}], target, [3], few)
        assert target == "tok_dinov2_global" or not torch.equal(made.log_probabilities[0], without.log_probabilities[0])
        known[target] = made.media[0]
    assert pipeline.settings_of("tok_rgb@224").steps == (25,)
    assert pipeline.settings_of("tok_dinov2_global").sampler_options == {"cooling": "none", "cut_first": True}
    assert pipeline.settings_of("tok_rgb@224").sampler_options == {"cooling": "onex", "cut_first": True}


@pytest.mark.parametrize("name", [name for name in names() if name not in ("critic", "frequency")])
# The samplers left out need a trained critic, or the attention of maskgen's own transformer.
@pytest.mark.parametrize("target", ["tok_depth@224", "text"])
def test_every_sampler_fills_the_blanks_and_keeps_what_was_known(pipeline: maskgen.TextGenerationPipeline, name: str, target: str) -> None:
    settings = GenerationSettings(sampler=name, steps=(2,), guidance_scale=2.0)
    codes = torch.tensor([[10, U, 11, U, U, 1]])
    grid = torch.full((1, 4, 4), U)
    grid[0, :2] = torch.tensor([[4, 0, 7, 2], [1, 1, 3, U]])
    known = codes if target == "text" else grid
    row = {"image": picture(), target: known}
    for made in pipeline.generate([row], target, [1], settings).codes:
        assert torch.equal(made[known != U], known[known != U])
        assert 0 <= int(made.min()) <= int(made.max()) < (20 if target == "text" else 13)


def test_rows_with_unequal_masks_keep_every_known_code(pipeline: maskgen.TextGenerationPipeline) -> None:
    """The reference takes the number of cells to decode from the first row of a batch (`num_decoder_tokens`)."""
    few, many = (torch.arange(16) % 13).view(1, 4, 4), torch.full((1, 4, 4), U)
    few[0, 2, 1] = U
    rows = [{"text": "a dog", "tok_depth@224": known} for known in (many, few)]
    together = pipeline.generate(rows, "tok_depth@224", [3, 4], FEW, batch_invariant=True)
    assert torch.equal(together.codes[1][few != U], few[few != U])
    assert torch.equal(together.codes[1], pipeline.generate(rows[1:], "tok_depth@224", [4], FEW).codes[0])


def test_a_score_tells_conditions_apart(pipeline: maskgen.TextGenerationPipeline) -> None:
    codes = (torch.arange(16) % 13).view(1, 4, 4)
    scores = pipeline.score([{"image": picture(seed), "tok_depth@224": codes} for seed in (0, 1)], "tok_depth@224")
    assert scores[0].total != scores[1].total


def test_packed_weights_give_the_same_codes(folder: Path) -> None:
    plain, packed = maskgen.Pipeline.from_pretrained(folder), maskgen.Pipeline.from_pretrained(folder)
    packed.enable_packed_weights()
    greedy = GenerationSettings(sampler="confidence", steps=(2,), temperature=(0.0,), choice_temperature=(0.0,))
    first, second = (one.generate([{"text": "a dog"}], "tok_depth@224", [0], greedy).codes[0] for one in (plain, packed))
    assert torch.equal(first, second)


@pytest.mark.parametrize("in_metadata", [True, False])
def test_a_saved_model_has_the_published_layout(tmp_path: Path, in_metadata: bool) -> None:
    write_fourm(tmp_path / "first", in_metadata)
    made = maskgen.Pipeline.from_pretrained(tmp_path / "first")
    made.save_pretrained(tmp_path / "second")
    one, other = (load_file(tmp_path / place / "model.safetensors") for place in ("first", "second"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with safe_open(tmp_path / "second" / "model.safetensors", "pt") as file:  # read as the authors' load_safetensors does
        told = {name: yaml.safe_load(value.replace("None", "null")) for name, value in file.metadata().items()}
    assert {name: told[name] for name in TOLD} == TOLD == json.loads((tmp_path / "second" / "config.json").read_text())
    again, row = maskgen.Pipeline.from_pretrained(tmp_path / "second"), {"text": "a red heart"}
    assert torch.equal(again.generate([row], DEPTH, [0], FEW).codes[0], made.generate([row], DEPTH, [0], FEW).codes[0])


def test_without_the_vocabulary_captions_are_codes(tmp_path: Path) -> None:
    write_fourm(tmp_path / "model", words=False)
    made = maskgen.Pipeline.from_pretrained(tmp_path / "model")
    assert type(made) is maskgen.Pipeline
    assert type(made.tokenizers["caption"]) is TextCodesTokenizer
    assert made.grids["caption"] == (39,)
    found = made.generate([{"image": picture(), "caption": torch.full((1, 3), U)}], "caption", [0], FEW)
    assert found.codes[0].shape == (1, 3)
    assert made.settings_of("caption").sampler_options["block_size"] == 1


def test_wrong_weights_and_vocabularies_are_named(tmp_path: Path) -> None:
    write_fourm(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    told = {name: str(value) for name, value in TOLD.items()}
    lost = weights.pop("decoder.0.mlp.fc3.weight")
    save_file({**weights, "stray": lost}, tmp_path / "model" / "model.safetensors", told)
    with pytest.raises(ValueError, match=r"lack decoder\.0\.mlp\.fc3\.weight .*; they have the unknown tensors stray"):
        maskgen.Pipeline.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "text_tokenizer_4m_wordpiece_30k.json").write_text(vocabulary().replace("[S_0]", "[T_0]"))
    with pytest.raises(ValueError, match=r"the vocabulary has no tokens \[S_0\]"):
        maskgen.Pipeline.from_pretrained(tmp_path / "model")
