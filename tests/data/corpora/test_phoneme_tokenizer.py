"""What the phoneme tokenizer is built from."""

from pathlib import Path

import pytest

from maskgen.data.corpora.phoneme_tokenizer import agreement, example_sentences, plain_words, read_phone_recipe, sightings
from maskgen.phonetics.g2p import G2PConfig, G2PNetwork
from maskgen.phonetics.lexicon import Lexicon, pack_lexicon
from maskgen.phonetics.phonemizer import Phonemizer
from maskgen.tokenizers.phonemes import PhonemeTokenizer


class Voice:
    """A teacher that knows one sentence."""

    def phonemize(self, text: str) -> list[str]:
        return {"See the dog.": ["sˈi ðə dˈɔɡ."], "the dog, the dog": ["ðə dˈɔɡ,", "ðə"]}[text]


@pytest.fixture
def speaker() -> Phonemizer:
    network = G2PNetwork(G2PConfig(dim=4, hidden=4, num_layers=1))
    return Phonemizer(Lexicon(pack_lexicon({"the": "ði", "dog": "dˈɔɡ", "see": "sˈi"})), {}, network)


def test_examples_are_the_quoted_parts_of_three_words_or_more() -> None:
    lines = ['able to; "she is able to swim"; "able people"; "he was able to pay"', "no example"]
    assert list(example_sentences(lines)) == ["she is able to swim", "he was able to pay"]


def test_sightings_pair_our_words_with_the_teachers_and_pass_over_what_does_not_align(speaker: Phonemizer) -> None:
    found = list(sightings(speaker, Voice(), ["See the dog.", "the dog, the dog"]))
    assert found == [("See", "sˈi", "sˈi", "", "ðə"), ("the", "ði", "ðə", "See", "dˈɔɡ"), ("dog", "dˈɔɡ", "dˈɔɡ", "the", "")]


def test_agreement_counts_words_and_whole_sentences(speaker: Phonemizer) -> None:
    found = agreement(PhonemeTokenizer(speaker), Voice(), ["See the dog."])
    assert (found.words, found.sentences) == (2 / 3, 0.0)
    assert plain_words("“sˈi,” — (dˈɔɡ).") == ["sˈi", "dˈɔɡ"]


def test_an_unknown_key_of_a_recipe_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("nonsense: 1\n")
    with pytest.raises(ValueError, match="nonsense"):
        read_phone_recipe(tmp_path / "train.yaml")
