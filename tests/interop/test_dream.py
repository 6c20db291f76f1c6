"""Dream from a folder laid out as the hub's: messages are answered, and everything that maskgen has works on it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import maskgen
from maskgen.decoding.decoder import Decoder
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.dream_network import DreamNetwork
from maskgen.interop.qwen_vocabulary import qwen_vocabulary
from maskgen.sampling import names
from maskgen.tokens.packing import pack
from tests.interop.dream_cases import ADDED, WORDS, write_dream, write_words

CALL = {"length": 8, "num_inference_steps": 4, "seed": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hub") / "Dream-v0-Instruct-7B"
    write_dream(place)
    return place


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> maskgen.TextGenerationPipeline:
    found = maskgen.Pipeline.from_pretrained(folder)
    assert isinstance(found, maskgen.TextGenerationPipeline)
    return found


def test_the_older_vocabulary_is_read_as_that_of_qwen2(pipeline: maskgen.TextGenerationPipeline, folder: Path) -> None:
    """The authors publish no tokenizer.json, so their class of Python would be needed; the tokenizer of transformers agrees."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install maskgen[adapt]")
    words = json.loads((folder / "vocab.json").read_text())
    merges = [tuple(line.split(" ")) for line in (folder / "merges.txt").read_text().splitlines()[1:]]
    theirs = transformers.Qwen2Tokenizer(vocab=words, merges=merges)
    text = pipeline.tokenizers["text"]
    for sample in ("a red heart", "It's 12  cats\r\n\r\n  and\ttwo!! cafe\u0301 \u4f60\u597d", " leading", ""):
        assert text.encode([sample])[0][0].tolist() == theirs(sample)["input_ids"]
    assert [text.token(token) for token in ADDED] == list(range(WORDS, WORDS + len(ADDED)))
    assert text.end == WORDS


def test_a_message_is_written_as_the_chat_template_says(pipeline: maskgen.TextGenerationPipeline) -> None:
    text = pipeline.tokenizers["text"]
    codes = text.encode_chat("a <|mask|> heart")[0].tolist()
    start, end, mask = (text.token(token) for token in ("<|im_start|>", "<|im_end|>", "<|mask|>"))
    assert codes[0] == start
    assert codes.count(start) == 3
    assert codes.count(end) == 2
    assert mask not in codes, "a special token that a message spells out is plain text"


def test_a_message_is_answered_and_only_the_answer_comes_back(pipeline: maskgen.TextGenerationPipeline) -> None:
    made = pipeline("a red heart", **CALL)
    codes, prompt = made.generation.codes[0], pipeline.tokenizers["text"].encode_chat("a red heart")
    assert torch.equal(codes[:, : prompt.shape[1]], prompt)
    assert codes.shape[1] == prompt.shape[1] + 8
    assert not (codes == pipeline.tokenizers["text"].token("<|mask|>")).any()
    assert "assistant" not in made.text


def test_the_settings_are_the_published_ones(pipeline: maskgen.TextGenerationPipeline) -> None:
    settings = pipeline.settings_of("text")
    assert (settings.sampler, settings.sampler_options) == ("entropy", {"annealing": "constant", "distribution": "drawn"})
    assert (settings.steps, settings.temperature, settings.top_p, settings.choice_temperature) == ((512,), (0.2,), 0.95, (0.0,))
    assert (settings.schedule, settings.guidance_scale, pipeline.grids) == ("shareofrest", 1.0, {"text": (512,)})


def test_a_row_is_the_same_alone_and_beside_a_longer_one(pipeline: maskgen.TextGenerationPipeline) -> None:
    call = {**CALL, "seed": [1, 2]}
    together = pipeline(["a red heart", "a red heart, flat style, on the table"], **call)
    assert together.texts[0] == pipeline("a red heart", **{**CALL, "seed": 1}).text


def test_holes_are_filled_and_guidance_leads_away_from_the_masked_prompt(pipeline: maskgen.TextGenerationPipeline) -> None:
    made = pipeline("a [2] heart", chat=False, num_inference_steps=2)
    assert made.text.startswith("a")
    assert made.text.endswith("heart")
    plain, guided = pipeline("a red heart", **CALL), pipeline("a red heart", guidance_scale=2.5, **CALL)
    assert guided.generation.model_calls == [2 * calls for calls in plain.generation.model_calls]


@pytest.mark.parametrize("sampler", [name for name in names() if name not in ("critic", "frequency")])
def test_every_sampler_runs_and_known_cells_come_back(pipeline: maskgen.TextGenerationPipeline, sampler: str) -> None:
    batch = pack([{"text": torch.tensor([[5, -1, 7, -1, 9]])}, {"text": torch.tensor([[-1, 7]])}], pipeline.space)
    decode = Decoder(pipeline.model, pipeline.space, "text", GenerationSettings(sampler=sampler, steps=(3,)))
    made = decode(batch, [torch.Generator().manual_seed(seed) for seed in (0, 1)]).batch
    assert (made.ids[0, [0, 2, 4], 0] - 2).tolist() == [5, 7, 9]
    assert int(made.ids[1, 1, 0]) == 9
    assert not (made.ids[..., 0] == 1).any()


def test_packed_weights_answer_alike_and_texts_have_scores(folder: Path, pipeline: maskgen.TextGenerationPipeline) -> None:
    packed = maskgen.TextGenerationPipeline.from_pretrained(folder).enable_packed_weights()
    assert packed("a red heart", **CALL).text == pipeline("a red heart", **CALL).text
    rows = [{"text": "a red heart, flat style"}]
    assert pipeline.score(rows, "text")[0].total < 0
    assert pipeline.embed(rows)[0]["text"].shape == (32,)


def test_what_is_saved_is_the_layout_of_the_authors(pipeline: maskgen.TextGenerationPipeline, folder: Path, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    weights = {name: one for path in folder.glob("*.safetensors") for name, one in load_file(path).items()}
    again = {name: one for path in tmp_path.glob("*.safetensors") for name, one in load_file(path).items()}
    assert set(again) == set(weights)
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    for name in ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
    assert maskgen.Pipeline.from_pretrained(tmp_path)("a red heart", **CALL).text == pipeline("a red heart", **CALL).text


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    weights = write_dream(tmp_path, torch.bfloat16)
    network = maskgen.Pipeline.from_pretrained(tmp_path, dtype=torch.bfloat16).model
    assert isinstance(network, DreamNetwork)
    assert {one.dtype for one in network.state_dict().values()} == {torch.bfloat16}
    for path in (*tmp_path.glob("*.safetensors"), tmp_path / "model.safetensors.index.json"):
        path.unlink()
    short = {name: one for name, one in weights.items() if name != "model.layers.1.self_attn.k_proj.bias"}
    for content, match in ((short, r"lack model\.layers\.1\.self_attn\.k_proj\.bias"), ({**weights, "more": torch.zeros(1)}, "more")):
        save_file(content, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=match):
            maskgen.Pipeline.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, match in (({"rope_scaling": {"type": "yarn"}}, "rope_scaling"), ({"num_attention_heads": None}, "None for num_attention")):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=match):
            maskgen.Pipeline.from_pretrained(tmp_path)


def test_a_damaged_vocabulary_is_named(tmp_path: Path) -> None:
    write_words(tmp_path, ("<|endoftext|>", "<|mask|>"))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    late = {"999": settings["added_tokens_decoder"][str(WORDS)]}
    for added, match in ((late, r"the number 999, and it would get 288"), (None, "no added_tokens_decoder")):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "added_tokens_decoder": added}))
        with pytest.raises(ValueError, match=match):
            qwen_vocabulary(tmp_path)
    (tmp_path / "merges.txt").write_text("never seen\n")
    with pytest.raises(ValueError, match="are no vocabulary"):
        qwen_vocabulary(tmp_path)
