"""The phoneme tokenizer: codes, durations, phonemes between slashes, sentences, and the shipped bundle."""

import pickle
import time
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from maskgen.io.bundle import save_bundle
from maskgen.io.shipped import shipped
from maskgen.phonetics.g2p import G2PConfig, G2PNetwork
from maskgen.phonetics.lexicon import Lexicon, pack_lexicon
from maskgen.phonetics.phonemizer import Phonemizer
from maskgen.phonetics.symbols import SYMBOLS
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.phonemes import LEXICON_FILE, PhonemeTokenizer
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import TokenSpace

BUNDLE = shipped("tokenizers") / "phones-en" / "bundle"
LETTER_NAMES = {letter: f"{letter.lower()}ˈi" for letter in "BCDPTUV"} | {"S": "ˈɛs", "A": "ˈA", "N": "ˈɛn"}
ENTRIES = {"hello": "həlˈO", "there": "ðˈɛɹ", "doctor": "dˈɑktəɹ", "three": "θɹˈi", "point": "pˈYnt", "five": "fˈIv", **LETTER_NAMES}
FORMS = {"the": {"any": "ðə", "vowel": "ði"}}


def tiny(change: float = 0.0, forms: dict[str, dict[str, str]] = FORMS) -> PhonemeTokenizer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = G2PNetwork(G2PConfig(dim=4, hidden=4, num_layers=1)).half().float().requires_grad_(False)
    network.head.bias[0] += change
    return PhonemeTokenizer(Phonemizer(Lexicon(pack_lexicon(ENTRIES)), forms, network))


@pytest.fixture(scope="module")
def tokenizer() -> PhonemeTokenizer:
    return tiny()


@pytest.fixture(scope="module")
def english() -> PhonemeTokenizer:
    return PhonemeTokenizer.from_bundle(BUNDLE)


def test_codes_are_ids_between_pauses_over_unknown_durations(tokenizer: PhonemeTokenizer) -> None:
    (codes,) = tokenizer.encode(["Hello there."])
    assert codes.dtype == torch.long
    assert [SYMBOLS[code] for code in codes[0].tolist()] == ["|", *"həlˈO ðˈɛɹ.", "|"]
    assert codes[1].unique().tolist() == [UNKNOWN]


def test_phonemes_between_slashes_are_taken_as_they_are(tokenizer: PhonemeTokenizer) -> None:
    assert tokenizer.phonemes("/həlˈO|ðˈɛɹ/") == "həlˈO|ðˈɛɹ"
    assert torch.equal(*tokenizer.encode(["/həlˈO ðˈɛɹ./", "hello there."]))
    assert tokenizer.left_out("/həlˈO/") == []
    assert tokenizer.sentences("/həlˈO. həlˈO./") == ["/həlˈO. həlˈO./"]


@given(st.lists(st.integers(0, len(SYMBOLS) - 1), min_size=1, max_size=30).filter(lambda ids: any(code > 1 for code in ids)))
def test_decoded_phonemes_encode_to_the_same_ids(tokenizer: PhonemeTokenizer, ids: list[int]) -> None:
    codes = torch.tensor([[0, *ids, 0], [3] * (len(ids) + 2)])
    assert torch.equal(tokenizer.encode(tokenizer.decode([codes]))[0][0], codes[0])


def test_durations_stand_beside_their_phonemes(tokenizer: PhonemeTokenizer) -> None:
    assert tokenizer.codes_of("hə", [0, 5, 127, UNKNOWN])[1].tolist() == [0, 5, 127, UNKNOWN]
    with pytest.raises(ValueError, match="got 2 durations for 4 symbols"):
        tokenizer.codes_of("hə", [1, 2])
    with pytest.raises(ValueError, match=r"durations must lie in \[0, 128\)"):
        tokenizer.codes_of("hə", [0, 5, 128, 0])


@pytest.mark.parametrize("text", ["", " ", "...", "?!", "😀", "//", "/|/", "/ /"])
def test_nothing_to_speak_is_refused(tokenizer: PhonemeTokenizer, text: str) -> None:
    with pytest.raises(ValueError, match=r"nothing to speak|no phoneme in"):
        tokenizer.encode([text])


def test_foreign_phonemes_codes_and_shapes_are_refused(tokenizer: PhonemeTokenizer) -> None:
    with pytest.raises(ValueError, match="'ж' is no phoneme"):
        tokenizer.encode(["/həж/"])
    for bad in (UNKNOWN, 128):
        with pytest.raises(ValueError, match=r"codes must lie in \[0, 128\)"):
            tokenizer.decode([torch.tensor([[0, bad], [1, 1]])])
    with pytest.raises(ValueError, match="stands for no symbol"):
        tokenizer.decode([torch.tensor([[0, 127], [1, 1]])])
    with pytest.raises(ValueError, match="codes have shape"):
        tokenizer.decode([torch.zeros(1, 3, dtype=torch.long)])


@given(st.text(max_size=40))
@example("'")
@example("a'-'b")
@example("/")
@example("/a/b/")
@example("\ud800")
@example("1" * 30 + "%")
def test_any_text_gives_codes_or_one_clear_refusal(tokenizer: PhonemeTokenizer, text: str) -> None:
    try:
        (codes,) = tokenizer.encode([text])
    except ValueError as error:
        assert any(words in str(error) for words in ("nothing to speak", "no phoneme"))  # noqa: PT017
        return
    assert codes.shape[0] == 2
    assert codes.shape[1] > 2
    assert int(codes[0].min()) == 0
    assert int(codes[0].max()) < len(SYMBOLS)
    assert codes[0, [0, -1]].tolist() == [0, 0]


def test_what_is_not_spoken_is_told(tokenizer: PhonemeTokenizer) -> None:
    assert tokenizer.left_out("hello 😀 мир") == ["😀", "м", "и", "р"]


def test_codes_survive_a_batch(tokenizer: PhonemeTokenizer) -> None:
    space = TokenSpace([tokenizer.modality("speech")])
    codes = [*tokenizer.encode(["hello there", "five"]), tokenizer.codes_of("hə", [0, 5, 127, 1])]
    back = unpack(pack([{"speech": grid} for grid in codes], space), space)
    assert all(torch.equal(first, second["speech"]) for first, second in zip(codes, back, strict=True))
    assert tokenizer.encode([]) == tokenizer.decode([]) == []


def test_a_saved_tokenizer_comes_back(tokenizer: PhonemeTokenizer, tmp_path: Path) -> None:
    saved = tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, PhonemeTokenizer)
    assert loaded.fingerprint == saved == tokenizer.fingerprint == loaded.save(tmp_path / "again")
    assert loaded.phonemes("hello the owl, zxq") == tokenizer.phonemes("hello the owl, zxq")
    assert pickle.loads(pickle.dumps(loaded)).fingerprint == saved


def test_the_fingerprint_stands_for_the_symbols_and_not_for_the_reading(tokenizer: PhonemeTokenizer) -> None:
    assert tokenizer.fingerprint == tiny(0.5).fingerprint == tiny(forms={}).fingerprint
    assert tokenizer.fingerprint != PhonemeTokenizer(tokenizer._speaker, SYMBOLS[:-1]).fingerprint


def test_a_missing_damaged_or_foreign_bundle_is_refused(tokenizer: PhonemeTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no bundle in"):
        PhonemeTokenizer.from_bundle(tmp_path)
    tokenizer.save(tmp_path)
    content = bytearray((tmp_path / LEXICON_FILE).read_bytes())
    content[-9] ^= 1
    (tmp_path / LEXICON_FILE).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        PhonemeTokenizer.from_bundle(tmp_path)
    save_bundle(tmp_path, "house", {}, {})
    with pytest.raises(ValueError, match="holds a bundle of kind"):
        PhonemeTokenizer.from_bundle(tmp_path)


def test_media_survive_a_file(tokenizer: PhonemeTokenizer, tmp_path: Path) -> None:
    tokenizer.write("héllo\nthere", tmp_path / "a.txt")
    assert tokenizer.read(tmp_path / "a.txt") == "héllo\nthere"
    with pytest.raises(ValueError, match="does not exist"):
        tokenizer.read(tmp_path / "b.txt")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="is not UTF-8"):
        tokenizer.read(tmp_path / "c.txt")


# Sentences


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Hello there. Hello! Who? Five.", ["Hello there.", "Hello!", "Who?", "Five."]),
        ("Dr. Five said 3.5. Mr. J. Five left.", ["Dr. Five said 3.5.", "Mr. J. Five left."]),
        ("He said “hello.” Then five, e.g. three, etc. and so on.", ["He said “hello.”", "Then five, e.g. three, etc. and so on."]),
        ("See p. 12, ext. 5. Five <!-- no. No --> there.", ["See p. 12, ext. 5.", "Five <!-- no. No --> there."]),
        ("wait... what? five", ["wait... what? five"]),
        ("A title\n\nA text.", ["A title", "A text."]),
        ("... hello. !!! Five", ["... hello. !!!", "Five"]),
    ],
)
def test_sentences_end_where_people_end_them(tokenizer: PhonemeTokenizer, text: str, wanted: list[str]) -> None:
    assert tokenizer.sentences(text) == wanted


@given(st.lists(st.sampled_from(["hello", "there,", "five;", "three", "—", "Dr.", "there.", "Five!"]), min_size=1, max_size=200))
def test_sentences_lose_nothing_and_are_short(tokenizer: PhonemeTokenizer, words: list[str]) -> None:
    text = " ".join(["hello", *words])
    found = tokenizer.sentences(text)
    assert " ".join(found) == text
    assert all(len(tokenizer.phonemes(sentence)) <= 310 for sentence in found)


# The shipped bundle: planted answers of the teacher


PLANTED = {
    "Hello there.": "həlˈO ðˈɛɹ.",
    "The president is amenable to the constitutional court": "ðə pɹˈɛzədˌɛnt ɪz əmˈinəbᵊl tə ðə kˌɑnstətˈuʃᵊnəl kˈɔɹt",
    "the apple an apple a pear": "ði ˈæpᵊl ɐn ˈæpᵊl ɐ pˈɛɹ",
    "She was seldom acceptive of my suggestions": "ʃˌi wʌz sˈɛldəm əksˈɛptɪv ʌv mI səʤˈɛsʧənz",
    "NASA and the USA": "nˈæsə ænd ðə jˌuˌɛsˈA",
    "THE QUICK BROWN FOX": "ðə kwˈɪk bɹˈWn fˈɑks",
    "two TVs": "tˈu tˌivˈiz",
    "Come in! He is in.": "kˈʌm ˈɪn! hˌi ɪz ˈɪn.",
    "a well-known man's dogs": "ɐ wˌɛlnˈOn mˈænz dˈɔɡz",
    "$9.99 at 7:30 pm": "nˈIn dˈɑləɹz ænd nˈIndi nˈIn sˈɛnts æt sˈɛvən θˈɜɹTi pˌiˈɛm",
    "café": "kæfˈA",
}


@pytest.mark.parametrize(("text", "wanted"), PLANTED.items())
def test_the_bundle_says_what_the_teacher_says(english: PhonemeTokenizer, text: str, wanted: str) -> None:
    assert english.phonemes(text) == wanted


@given(st.text("abcdefghijklmnopqrstuvwxyzABC'- .,1€", min_size=1, max_size=30))
@example("'-A")
@example("a-'-b")
def test_every_latin_word_is_said(english: PhonemeTokenizer, text: str) -> None:
    if any(mark.isalnum() for mark in text):
        assert english.encode([text])[0].shape[1] > 2


def test_the_bundle_loads_and_speaks_fast() -> None:
    start = time.process_time()
    tokenizer = PhonemeTokenizer.from_bundle(BUNDLE)
    loaded = time.process_time()
    tokenizer.phonemes("hello")
    parsed = time.process_time()
    tokenizer.encode([text for number in range(50) for text in (f"{number} dogs ran home", "the quick brown fox jumps over the lazy dog")])
    assert loaded - start < 0.5
    assert parsed - loaded < 1.5
    assert time.process_time() - parsed < 1.0
