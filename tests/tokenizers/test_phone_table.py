"""Phones of a published table: texts of several languages, phones between slashes, and what is refused."""

import json
import logging
from pathlib import Path

import pytest
import torch

from maskgen.tokenizers import phone_table
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.phone_table import PhoneTableTokenizer, read_phone_table

PHONES = [*",.?!_", "h", "ə", "l", "oʊ", "w", "ɜː", "d", "b", "ɔ̃"]
TABLE = PhoneTableTokenizer({phone: place for place, phone in enumerate(PHONES)}, 32)


@pytest.fixture(autouse=True)
def no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phone_table, "espeak_program", lambda: None)


def test_english_is_read_without_any_program() -> None:
    codes = TABLE.encode(["Hello, world!", "/h|ə|_|w/"])
    assert TABLE.decode(codes) == ["/h|ə|l|oʊ|,|w|ɜː|l|d|!/", "/h|ə|_|w/"]
    assert codes[1].tolist() == [[5, 6, 4, 9]]
    assert TABLE.modality("phonemes").codebook_size == 32


def test_other_languages_are_read_by_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def phones(text: str, voice: str, program: str) -> list[str]:
        asked.append((text, voice, program))
        return ["b", "ɔ̃", ",", "ʁ"]

    monkeypatch.setattr(phone_table, "espeak_program", lambda: "/bin/espeak-ng")
    monkeypatch.setattr(phone_table, "espeak_phones", phones)
    assert TABLE.phones("Bonjour  là", "fr") == ["b", "ɔ̃", ","]
    assert TABLE.phones("It is 3", "en") == ["b", "ɔ̃", ","]
    assert asked == [("Bonjour là", "fr-fr", "/bin/espeak-ng"), ("It is three", "en-us", "/bin/espeak-ng")]


def test_phones_that_the_table_lacks_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert "|".join(TABLE.phones("Hello world, yes")) == "h|ə|l|oʊ|_|w|ɜː|l|d|,"
    assert "has no phones j, s, ɛ, which are left out of 'Hello world, yes'" in caplog.text


def test_what_cannot_be_read_is_said() -> None:
    for text, language, sentence in (
        ("你好", "zh", "texts in 'zh' are not turned into phones here, only in en, fr, de; give phones of the model's vocab.json"),
        ("Guten Tag", "de", "made by eSpeak NG, which is not installed; install espeak-ng"),
        ("/h|q/", "en", "'q' is no phone of this model"),
        ("/,|./", "en", "there is nothing to speak"),
        ("...", "en", "there is nothing to speak"),
    ):
        with pytest.raises(ValueError, match=sentence):
            TABLE.phones(text, language)
    with pytest.raises(ValueError, match="code 20 stands for no phone; this table has 14"):
        TABLE.decode([torch.tensor([[20]])])
    with pytest.raises(ValueError, match=r"shape \(2, 1\), wanted \[1, n\]"):
        TABLE.decode([torch.zeros(2, 1, dtype=torch.long)])
    with pytest.raises(ValueError, match=r"has 1 entries, wanted some, each with an id in \[0, 3\)"):
        PhoneTableTokenizer({"a": 3}, 3)


def test_a_table_is_saved_and_read(tmp_path: Path) -> None:
    assert TABLE.save(tmp_path / "bundle") == TABLE.fingerprint
    again = load_tokenizer(tmp_path / "bundle")
    assert again.fingerprint == TABLE.fingerprint
    assert torch.equal(again.encode(["/h|ə/"])[0], TABLE.encode(["/h|ə/"])[0])
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({"vocab": TABLE.vocabulary}))
    assert read_phone_table(path) == TABLE.vocabulary
    for wrong in ('{"vocab": {"a": "b"}}', "[]", "{", '{"vocab": 3}'):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="is no table of phones"):
            read_phone_table(path)
