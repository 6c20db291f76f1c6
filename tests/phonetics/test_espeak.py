"""Phones as eSpeak writes them: the program's output, maskgen's own English phonemes, and what MaskGCT joins."""

from pathlib import Path

import pytest

from maskgen.phonetics.espeak import english_joined, espeak_phones, own_phones


def program(folder: Path, body: str) -> str:
    """A stand-in for the program: what it writes for a line on its input."""
    made = folder / "espeak-ng"
    made.write_text(f"#!/bin/sh\n{body}\n")
    made.chmod(0o755)
    return str(made)


def test_the_programs_output_becomes_phones_with_marks_between_clauses(tmp_path: Path) -> None:
    """Lines that espeak-ng 1.51 wrote for `--ipa --sep=|`: stress goes, flags of other languages too, clauses are asked one by one."""
    answers = {"Hello": "h|ə|l|ˈoʊ", "happy bottle": "h|ˈæ|p|i b|ˈɑː|ɾ|əl", "le weekend": "l|ə- (en)w|ˈiː|k|ɛ|n|d(fr)"}
    cases = "".join(f'"{text}") printf "%s\\n" "{phones}" ;;\n' for text, phones in answers.items())
    made = program(tmp_path, f'case "$(cat)" in\n{cases}esac')
    assert espeak_phones("Hello, happy bottle!", "en-us", made) == [*"həl", "oʊ", ",", *"hæpi", "_", "b", "ɑː", "ɾ", "əl", "!"]
    assert espeak_phones("le weekend", "fr-fr", made) == ["l", "ə", "_", "w", "iː", *"kɛnd"]
    assert espeak_phones("Hello，…", "en-us", made) == [*"həl", "oʊ", ",", "…"]


def test_a_text_never_becomes_an_option_of_the_program(tmp_path: Path) -> None:
    made = program(tmp_path, 'echo "$@" > "$(dirname "$0")/arguments"; cat > "$(dirname "$0")/input"; echo "h|ə"')
    assert espeak_phones("--version $(x)", "de", made) == ["h", "ə"]
    assert (tmp_path / "arguments").read_text().split() == ["-q", "--ipa", "--sep=|", "-v", "de", "--stdin"]
    assert (tmp_path / "input").read_text() == "version x"


def test_a_program_that_fails_is_named(tmp_path: Path) -> None:
    made = program(tmp_path, 'echo "Error: The specified espeak-ng voice does not exist." >&2; exit 1')
    with pytest.raises(ValueError, match=r"espeak-ng gave no phones for 'Hi' \(Error: The specified .*\); install espeak-ng again"):
        espeak_phones("Hi", "xx", made)
    with pytest.raises(ValueError, match="missing gave no phones"):
        espeak_phones("Hi", "de", str(tmp_path / "missing"))


def test_own_phonemes_become_those_of_espeak() -> None:
    """What espeak-ng 1.51 writes for these words, but for the apostrophe that it reads as a mark."""
    for phonemes, phones in (
        ("həlˈO, wˈɜɹld!", "h|ə|l|oʊ|,|w|ɜː|l|d|!"),
        ("hˈæpi bˈɜɹdz", "h|æ|p|i|_|b|ɜː|dz"),
        ("vˈɪʒən ʤˈʌʤ ʧˈɜɹʧ wˈɔTəɹ", "v|ɪ|ʒ|ə|n|_|dʒ|ʌ|dʒ|_|tʃ|ɜː|tʃ|_|w|ɔː|ɾ|ɚ"),
        ("θɹˈi tɹˈAnz | kˈɑɹ", "θ|ɹ|iː|_|tɹ|eɪ|n|z|_|k|ɑːɹ"),
        ("hˈIəɹ bˈɑTᵊl “nˌɪɹ”", "h|aɪɚ|_|b|ɑː|ɾ|l|_|n|ɪɹ"),
        (", ˈA.", ",|eɪ|."),
    ):
        assert "|".join(english_joined(own_phones(phonemes))) == phones


def test_pairs_of_english_phones_are_joined_inside_of_words_only() -> None:
    assert english_joined(["t", "ɹ", "ɪ", "_", "ɹ", "k", "æ", "t", "s"]) == ["tɹ", "ɪ", "_", "ɹ", "k", "æ", "ts"]
    assert english_joined(["ɪ", "ɹ", "ɐ", "ᵻ", "əl", "n̩", "oː", "ɹ"]) == ["ɪɹ", "ɚ", "ɪ", "l", "n", "oːɹ"]
