"""Text codes: every text comes back, damage and mismatch are found."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers
from maskgen.data.corpora.text_tokenizer import train_text_tokenizer
from maskgen.tokenizers.text import TextTokenizer, train_bpe

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "tokenizers" / "text-bpe" / "bundle"
SENTENCES = ["a red heart, flat style", "a woman astronaut with dark skin, flat style", "héllo wörld"] * 3


@pytest.fixture(scope="module")
def small() -> TextTokenizer:
    return train_bpe(SENTENCES, 300, lowercase=False)


@pytest.fixture(scope="module")
def shipped() -> TextTokenizer:
    return TextTokenizer.from_bundle(SHIPPED)


@settings(deadline=None)
@given(texts=st.lists(st.text(), max_size=4))
def test_every_text_comes_back(small: TextTokenizer, texts: list[str]) -> None:
    codes = small.encode(texts)
    assert small.decode(codes) == texts
    assert all(grid.shape[0] == 1 and grid.dtype == torch.long for grid in codes)


@settings(deadline=None)
@given(text=st.text())
def test_lower_case_is_what_comes_back_from_the_shipped_bundle(shipped: TextTokenizer, text: str) -> None:
    assert shipped.decode(shipped.encode([text])) == [text.lower()]


def test_the_empty_text_has_no_codes(shipped: TextTokenizer) -> None:
    assert shipped.encode([""])[0].shape == (1, 0)
    assert shipped.decode([torch.zeros(1, 0, dtype=torch.long)]) == [""]
    assert shipped.encode([]) == []
    assert shipped.decode([]) == []


def test_a_word_has_the_same_code_at_the_start_and_inside(shipped: TextTokenizer) -> None:
    start, inside = shipped.encode(["heart", "a heart"])
    assert start[0, 0] == inside[0, -1]


def test_captions_are_short(shipped: TextTokenizer) -> None:
    assert shipped.codebook_size == 4096
    assert shipped.encode(["a woman astronaut with dark skin, flat style"])[0].shape == (1, 9)


def test_the_same_lines_give_the_same_fingerprint_and_other_lines_another(small: TextTokenizer) -> None:
    assert train_bpe(SENTENCES, 300, lowercase=False).fingerprint == small.fingerprint
    assert train_bpe(SENTENCES, 300, lowercase=True).fingerprint != small.fingerprint
    assert train_bpe(SENTENCES, 301, lowercase=False).fingerprint != small.fingerprint


def test_a_bundle_comes_back_and_a_flipped_byte_is_found(small: TextTokenizer, tmp_path: Path) -> None:
    assert small.save(tmp_path) == small.fingerprint == TextTokenizer.from_bundle(tmp_path).fingerprint
    content = bytearray((tmp_path / "tokenizer.json").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        TextTokenizer.from_bundle(tmp_path)


def test_codes_out_of_range_and_of_other_shape_are_refused(small: TextTokenizer) -> None:
    for codes in (torch.tensor([[-1]]), torch.tensor([[300]])):
        with pytest.raises(ValueError, match=r"must lie in \[0, 300\)"):
            small.decode([codes])
    with pytest.raises(ValueError, match=r"wanted \[1, n\]"):
        small.decode([torch.zeros(2, 3, dtype=torch.long)])


def test_text_files_are_read_and_bad_ones_refused(small: TextTokenizer, tmp_path: Path) -> None:
    small.write("a heart\n", tmp_path / "good.txt")
    assert small.read(tmp_path / "good.txt") == "a heart\n"
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    (tmp_path / "long.txt").write_bytes(b"a" * (2**20 + 1))
    for name, message in {"bad.txt": r"not UTF-8 text \(byte 3", "long.txt": "give a shorter text", "none.txt": "does not exist"}.items():
        with pytest.raises(ValueError, match=message):
            small.read(tmp_path / name)


def test_half_a_surrogate_pair_is_refused(small: TextTokenizer) -> None:
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        small.encode(["a\ud800"])


def test_too_small_and_too_large_vocabularies_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 256"):
        train_bpe(SENTENCES, 255)
    with pytest.raises(ValueError, match="the texts give only"):
        train_bpe(SENTENCES, 4096)


def test_the_recipe_works_on_the_sample_without_wordnet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data.noun").write_text("  1 licence\n001 03 n 01 heart | the hollow organ  \n", encoding="utf-8")
    recipe = {"shards": ROOT / "data/emoji/sample", "texts": "[data.noun, data.verb]", "codebook_size": 350, "bundle": "out"}
    (tmp_path / "train.yaml").write_text("".join(f"{key}: {value}\n" for key, value in recipe.items()))
    made = train_text_tokenizer(tmp_path / "train.yaml")
    assert "data.verb does not exist" in caplog.text
    assert "data.noun does not" not in caplog.text
    assert TextTokenizer.from_bundle(tmp_path / "out").fingerprint == made.fingerprint


def test_our_recipe_folder_does_not_shadow_the_package() -> None:
    assert "site-packages" in str(tokenizers.__file__)
