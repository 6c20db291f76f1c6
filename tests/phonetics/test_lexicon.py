"""Words to phonemes: lexicon, endings, forms in running text, and the letter-to-sound network."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskgen.phonetics.g2p import LETTERS, G2PConfig, G2PNetwork, collapse, sound_out, stressed
from maskgen.phonetics.g2p_training import G2PRecipe, edits, train_g2p
from maskgen.phonetics.lexicon import Lexicon, pack_lexicon
from maskgen.phonetics.postlexical import AT_END, contexts, in_context, learn_forms, places, spread_stress
from maskgen.phonetics.symbols import SYMBOLS, VOWELS

ENTRIES = {
    "bat": "bˈæt",
    "book": "bˈʊk",
    "box": "bˈɑks",
    "dog": "dˈɔɡ",
    "hope": "hˈOp",
    "hunt": "hˈʌnt",
    "judge": "ʤˈʌʤ",
    "need": "nˈid",
    "NASA": "nˈæsə",
    "Paris": "pˈɛɹəs",
    "stop": "stˈɑp",
    "study": "stˈʌdi",
    "violent": "vˈIələnt",
    "wait": "wˈAt",
    "wash": "wˈɑʃ",
    "panic": "pˈænɪk",
    "die": "dˈI",
}
ENDED = {
    "books": "bˈʊks",
    "dogs": "dˈɔɡz",
    "dog's": "dˈɔɡz",
    "dogs'": "dˈɔɡz",
    "boxes": "bˈɑksᵻz",
    "box's": "bˈɑksᵻz",
    "judges": "ʤˈʌʤᵻz",
    "judged": "ʤˈʌʤd",
    "hoped": "hˈOpt",
    "hoping": "hˈOpɪŋ",
    "hunted": "hˈʌntᵻd",
    "hunting": "hˈʌntɪŋ",
    "needed": "nˈidᵻd",
    "stopped": "stˈɑpt",
    "stopping": "stˈɑpɪŋ",
    "studies": "stˈʌdiz",
    "studied": "stˈʌdid",
    "waited": "wˈATᵻd",
    "batting": "bˈæTɪŋ",
    "washed": "wˈɑʃt",
    "panicked": "pˈænɪkt",
    "dying": "dˈIɪŋ",
    "nonviolently": None,
    "nonviolent": "nˌɑnvˈIələnt",
    "violently": "vˈIələntli",
    "Paris's": "pˈɛɹəsᵻz",
}


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon(pack_lexicon(ENTRIES))


def test_packing_keeps_every_entry_and_the_same_entries_give_the_same_bytes(lexicon: Lexicon) -> None:
    assert lexicon.entries == ENTRIES
    assert pack_lexicon(dict(reversed(ENTRIES.items()))) == lexicon.packed


def test_the_lexicon_is_not_parsed_before_a_word_is_asked_for() -> None:
    assert "entries" not in vars(Lexicon(b"no lexicon at all"))


@pytest.mark.parametrize(("word", "wanted"), ENDED.items())
def test_endings_sound_as_the_stem_asks(lexicon: Lexicon, word: str, wanted: str | None) -> None:
    assert lexicon.find(word) == wanted


@pytest.mark.parametrize("word", ["nasa", "NASA", "Nasa"])
def test_case_is_forgiven(lexicon: Lexicon, word: str) -> None:
    assert lexicon.find(word) == "nˈæsə"


@given(st.text(max_size=20))
def test_finding_never_fails(word: str) -> None:
    found = Lexicon(pack_lexicon(ENTRIES)).find(word)
    assert found is None or set(found) <= set(SYMBOLS)


def test_words_know_their_neighbours() -> None:
    found = places("The end, I say (so) to all")
    assert [(place.word, place.before, place.joined) for place in found] == [
        ("The", "", True),
        ("end", "The", False),
        ("I", "", True),
        ("say", "I", False),
        ("so", "", False),
        ("to", "", True),
        ("all", "to", False),
    ]


def test_forms_are_learned_where_they_differ_and_said_in_their_place() -> None:
    seen = [("the", "ði", "ðə", "", "dˈɔɡ")] * 5 + [("the", "ði", "ði", "", "ˈæpᵊl")] * 3 + [("in", "ɪn", "ɪn", "", "ɪt")] * 5
    seen += [("in", "ɪn", "ˈɪn", "kˈʌm", "")] * 3 + [("dog", "dˈɔɡ", "dˈɔɡ", "the", "")] * 9 + [("rare", "ɹˈɛɹ", "x", "", "")] * 2
    forms = learn_forms(seen)
    assert forms == {"in": {AT_END: "ˈɪn"}, "the": {"any": "ðə", "vowel": "ði"}}
    assert in_context("the", "ði", forms, "", "dˈɔɡ") == "ðə"
    assert in_context("the", "ði", forms, "", "ˈæpᵊl") == "ði"
    assert in_context("in", "ɪn", forms, "come", "") == "ˈɪn"
    assert in_context("In", "ɪn", forms, "", "fˈækt") == "ˌɪn"


def test_used_to_says_nothing_about_used() -> None:
    assert learn_forms([("used", "jˈuzd", "jˈust", "I", "tə")] * 5 + [("used", "jˈuzd", "jˈuzd", "", "ɪt")] * 9) == {
        "used": {"to": "jˈust"}
    }


def test_the_strongest_context_comes_first() -> None:
    assert contexts("the", "") == ("end", "determiner", "any")
    assert contexts("To", "ˈɪt") == ("vowel", "verbal", "any")
    assert contexts("I", "tə") == ("to", "verbal", "any")
    assert contexts("dog", "dˈɔɡ") == ("any",)


def test_compounds_keep_one_main_stress() -> None:
    assert spread_stress(["wˈɛl", "nˈOn"]) == "wˌɛlnˈOn"
    assert spread_stress([]) == ""


def test_a_path_collapses_as_ctc_says() -> None:
    config = G2PConfig(sounds="ab")
    assert collapse([0, 1, 1, 0, 1, 2, 2, 0], config) == "aab"


@pytest.mark.parametrize(("sounds", "wanted"), [("kæt", "kˈæt"), ("kˌæt", "kˈæt"), ("kˈætˈæ", "kˈætˌæ"), ("ts", "ts")])
def test_a_word_bears_one_main_stress(sounds: str, wanted: str) -> None:
    assert stressed(sounds) == wanted


@given(st.text(min_size=1, max_size=90))
def test_any_word_is_sounded_out_in_the_alphabet(word: str) -> None:
    torch.manual_seed(0)
    network = G2PNetwork(G2PConfig(dim=4, hidden=4, num_layers=1))
    assert set(sound_out(network, word)) <= set(SYMBOLS)


def test_edits_are_levenshtein() -> None:
    assert [edits(*pair) for pair in (("", "abc"), ("abc", ""), ("kitten", "sitting"), ("same", "same"))] == [3, 3, 3, 0]


@pytest.mark.slow
def test_the_network_learns_a_regular_spelling_and_repeats_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    sound = dict(zip("aioukmnpst", "AIOUKMNPST".translate(str.maketrans("UKMNPST", "ukmnpst")), strict=True))
    words = {"".join("kmnpst"[a] + "aiou"[b] for a, b in pairs.tolist()) for pairs in torch.randint(0, 4, (300, 3, 2), generator=generator)}
    entries = {word: stressed("".join(sound[letter] for letter in word)) for word in sorted(words)}
    recipe = G2PRecipe(dim=24, hidden=24, num_layers=1, epochs=60, batch_size=64, learning_rate=2e-2, held_out=0.1)
    before = torch.get_rng_state()
    network, score = train_g2p(entries, recipe)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert score.exact > 0.9
    assert sound_out(network, "kanopi") == "kˈAnOpI"
    assert set(VOWELS) & set(sound_out(network, LETTERS))
