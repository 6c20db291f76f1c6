"""LLaDA from a folder laid out as the hub's: messages are answered, and everything that maskgen has works on it."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import maskgen
from maskgen.cli import options
from maskgen.decoding.decoder import Decoder
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.llada_network import LLaDANetwork
from maskgen.networks.packed_linear import is_packed
from maskgen.sampling import names
from maskgen.tokens.packing import pack
from tests.interop.llada_cases import SPECIALS, write_llada


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("LLaDA-8B-Instruct")
    write_llada(place)
    return place


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> maskgen.TextGenerationPipeline:
    found = maskgen.Pipeline.from_pretrained(folder)
    assert isinstance(found, maskgen.TextGenerationPipeline)
    return found


def test_a_message_is_answered_and_only_the_answer_comes_back(pipeline: maskgen.TextGenerationPipeline) -> None:
    message = "a red heart"
    made = pipeline(message, length=24, num_inference_steps=6)
    codes = made.generation.codes[0]
    prompt = pipeline.tokenizers["text"].encode_chat(message)
    assert torch.equal(codes[:, : prompt.shape[1]], prompt)
    answer = codes[:, prompt.shape[1] :]
    assert answer.shape == (1, 24)
    ends = (answer[0] == SPECIALS["<|endoftext|>"]).nonzero()[:, 0].tolist()
    assert made.text == pipeline.tokenizers["text"].decode([answer[:, : ends[0]] if ends else answer])[0]
    assert "user" not in made.text
    assert not (answer == SPECIALS["<|mdm_mask|>"]).any()


def test_the_settings_are_the_published_ones(pipeline: maskgen.TextGenerationPipeline) -> None:
    settings = pipeline.settings_of("text")
    assert (settings.sampler, settings.sampler_options["block_size"], settings.steps) == ("blocks", 32, (128,))
    assert (settings.temperature, settings.schedule, settings.null, settings.guidance_scale) == ((0.0,), "even", "masked", 1.0)
    assert settings.choice_temperature == (0.0,), "noise in the ranking would reveal other tokens first than the authors do"
    assert pipeline.grids == {"text": (128,)}


def test_a_row_is_the_same_alone_and_beside_a_longer_one(pipeline: maskgen.TextGenerationPipeline) -> None:
    """In the authors' code the padding of a shorter row is seen as text."""
    together = pipeline(["a red heart", "a red heart, flat style, on the table"], length=8, num_inference_steps=4)
    alone = pipeline("a red heart", length=8, num_inference_steps=4)
    assert together.texts[0] == alone.text


def test_guidance_leads_away_from_the_masked_prompt(pipeline: maskgen.TextGenerationPipeline) -> None:
    """The authors' guidance without an attention mask reads a variable that was never set."""
    plain = pipeline("a red heart", length=8, num_inference_steps=4, guidance_scale=1.0)
    guided = pipeline("a red heart", length=8, num_inference_steps=4, guidance_scale=2.5)
    assert torch.equal(plain.generation.codes[0], pipeline("a red heart", length=8, num_inference_steps=4).generation.codes[0])
    assert guided.generation.model_calls == [2 * calls for calls in plain.generation.model_calls]
    assert not torch.equal(plain.generation.codes[0], guided.generation.codes[0])


def test_holes_are_filled_and_texts_written_from_nothing(pipeline: maskgen.TextGenerationPipeline) -> None:
    made = pipeline("a [2] heart", chat=False, num_inference_steps=2)
    assert made.text.startswith("a")
    assert made.text.endswith("heart")
    assert pipeline(length=6, num_inference_steps=3).generation.codes[0].shape == (1, 6)


@pytest.mark.parametrize("sampler", names())
def test_every_sampler_runs_and_known_cells_come_back(pipeline: maskgen.TextGenerationPipeline, sampler: str) -> None:
    row = torch.tensor([[5, -1, -1, 7, -1, -1, 9, -1]])
    settings = GenerationSettings(sampler=sampler, steps=(8,))
    batch = pack([{"text": row}, {"text": row[:, 2:]}], pipeline.space)
    decode, generators = Decoder(pipeline.model, pipeline.space, "text", settings), [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    if sampler in ("critic", "frequency"):
        with pytest.raises(ValueError, match=r"needs a trained critic|attention, which the model does not expose"):
            decode(batch, generators)
        return
    made = decode(batch, generators)
    assert (made.batch.ids[0, [0, 3, 6], 0] - 2).tolist() == [5, 7, 9]
    assert not (made.batch.ids[..., 0] == 1).any()


def test_packed_weights_answer_alike(folder: Path, pipeline: maskgen.TextGenerationPipeline) -> None:
    """The command line packs weights on a CPU; the head is asked for a part of its rows and stays as it is."""
    call = {"length": 8, "num_inference_steps": 4}
    packed = maskgen.TextGenerationPipeline.from_pretrained(folder).enable_packed_weights()
    assert packed("a red heart", **call).text == pipeline("a red heart", **call).text


def test_a_large_model_is_not_held_twice_by_the_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = argparse.Namespace(model=str(folder), device="cpu", dtype=None, variant=None, int8=False, compile=False)
    assert is_packed(options.pipeline_of(arguments, "TextGenerationPipeline").model)
    monkeypatch.setattr(options, "MOST_PACKED", 1000)
    assert not is_packed(options.pipeline_of(arguments, "TextGenerationPipeline").model)


def test_scores_and_features(pipeline: maskgen.TextGenerationPipeline) -> None:
    rows = [{"text": "a red heart, flat style"}]
    assert pipeline.score(rows, "text")[0].total < 0
    assert pipeline.embed(rows)[0]["text"].shape == (32,)


def test_shards_are_read_in_any_precision(tmp_path: Path) -> None:
    weights = write_llada(tmp_path, torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float32):
        network = maskgen.Pipeline.from_pretrained(tmp_path, dtype=dtype).model
        assert isinstance(network, LLaDANetwork)
        found = network.state_dict()
        assert set(found) == set(weights)
        for name, wanted in weights.items():
            assert found[name].dtype == dtype
            assert_close(found[name], wanted.to(dtype), rtol=0, atol=0)


def test_what_is_saved_is_the_layout_of_the_authors(pipeline: maskgen.TextGenerationPipeline, folder: Path, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    weights = {name: one for path in folder.glob("*.safetensors") for name, one in load_file(path).items()}
    again = {name: one for path in tmp_path.glob("*.safetensors") for name, one in load_file(path).items()}
    assert set(again) == set(weights)
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
    call = {"length": 8, "num_inference_steps": 4}
    assert maskgen.Pipeline.from_pretrained(tmp_path)("a red heart", **call).text == pipeline("a red heart", **call).text


def test_a_missing_and_an_unknown_tensor_are_named(tmp_path: Path) -> None:
    write_llada(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    whole = {name: one for path in tmp_path.glob("*.safetensors") for name, one in load_file(path).items()}
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    missing = whole.pop("model.transformer.blocks.1.ff_out.weight")
    save_file(whole, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.transformer\.blocks\.1\.ff_out\.weight"):
        maskgen.Pipeline.from_pretrained(tmp_path)
    save_file({**whole, "model.transformer.blocks.1.ff_out.weight": missing, "more": missing.clone()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="more"):
        maskgen.Pipeline.from_pretrained(tmp_path)


def test_another_network_is_refused_by_the_option_that_differs(tmp_path: Path) -> None:
    write_llada(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "weight_tying": True}))
    with pytest.raises(ValueError, match="weight_tying True"):
        maskgen.Pipeline.from_pretrained(tmp_path)
