"""Fast tokenizers of transformers as text codes: the same ids, whatever else the files ask for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from maskgen.networks.backbone import read_vocabulary
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

transformers: Any = pytest.importorskip("transformers")
END, HIDDEN = "<|endoftext|>", "<mask>"
TEXTS = ["a red heart, flat style", "", "héart", "two  spaces", "a red heart, a red heart, a red heart", f"written out: {END}"]


def engine(size: int = 290) -> Engine:
    """A byte-level vocabulary that would add special tokens, cut and pad."""
    made = Engine(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=[END, HIDDEN], show_progress=False)
    made.train_from_iterator(["a red heart, flat style", "a blue square"] * 8, trainer)
    made.post_processor = processors.TemplateProcessing(single=f"{END} $A {END}", special_tokens=[(END, made.token_to_id(END))])
    made.enable_truncation(4)
    made.enable_padding(length=16)
    return made


def saved_tokenizer(folder: Path) -> None:
    transformers.PreTrainedTokenizerFast(tokenizer_object=engine(), eos_token=END, mask_token=HIDDEN).save_pretrained(folder)


def test_codes_are_those_of_transformers_and_every_text_comes_back(tmp_path: Path) -> None:
    saved_tokenizer(tmp_path)
    ours, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(ours, TransformersTextTokenizer)
    codes = ours.encode(TEXTS)
    wanted = theirs(TEXTS, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert [grid[0].tolist() for grid in codes] == wanted
    assert ours.decode(codes) == TEXTS
    assert ours.codebook_size == len(theirs)
    assert ours.modality("text").end == ours.end == theirs.eos_token_id
    assert not any((grid == ours.end).any() for grid in codes), "a written-out special token is text"


def test_special_tokens_are_found_by_their_roles(tmp_path: Path) -> None:
    assert read_vocabulary(str(tmp_path)) is None
    saved_tokenizer(tmp_path)
    found = read_vocabulary(str(tmp_path))
    assert found is not None
    assert (found.row("mask_token"), found.row("eos_token"), found.row("cls_token")) == (1, 0, None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"sep_token": {"content": HIDDEN}}))
    for other in tmp_path.glob("special_tokens_map.json"):
        other.unlink()
    assert TransformersTextTokenizer.from_transformers(tmp_path).end == 1
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config.json in .* is no JSON"):
        read_vocabulary(str(tmp_path))


def test_codes_that_a_model_draws_are_read_without_special_tokens() -> None:
    tokenizer = TransformersTextTokenizer(engine().to_str(), END)
    codes = tokenizer.encode(["a heart"])[0]
    assert tokenizer.decode([torch.cat([codes, torch.tensor([[0, 1]])], dim=1)]) == ["a heart"]


def test_a_damaged_vocabulary_and_a_strange_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no tokenizer.json"):
        TransformersTextTokenizer.from_transformers(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer.json is damaged"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="no token '<end>'"):
        TransformersTextTokenizer(engine().to_str(), "<end>")
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        TransformersTextTokenizer(engine().to_str(), END).encode(["a\ud800"])
