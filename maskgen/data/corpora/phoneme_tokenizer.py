"""Builds the phoneme tokenizer from a recipe: misaki's lexicons, a grapheme-to-phoneme network, and word forms of connected speech."""

import difflib
import gzip
import json
import logging
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from maskgen.data.corpora.text_tokenizer import further_texts
from maskgen.phonetics.g2p import G2PNetwork
from maskgen.phonetics.g2p_training import G2PRecipe, train_g2p
from maskgen.phonetics.lexicon import Lexicon, pack_lexicon
from maskgen.phonetics.normalise import normalise
from maskgen.phonetics.phonemizer import Phonemizer
from maskgen.phonetics.postlexical import Sighting, learn_forms, places
from maskgen.phonetics.symbols import PUNCTUATION
from maskgen.tokenizers.phonemes import PhonemeTokenizer

logger = logging.getLogger(__name__)
TEACHER = "hibari"
AS_SAID = str.maketrans({"ɾ": "T", "ʔ": "t"})
"""The lexicon's flap and glottal stop to the teacher's symbols in connected speech."""


@dataclass(frozen=True, kw_only=True)
class PhoneRecipe:
    """Content of a phoneme tokenizer's train.yaml; paths are relative to its folder.

    Args:
        lexicons: Lexicons inside the teacher's package; an entry of a later one wins.
        texts: UTF-8 files: the quoted examples of WordNet's data.* files, the lines of others.
        sentences: Number of sentences to learn word forms from.
        held_out: Number of further sentences to measure on.
        least: Minimum count of a form.
        letters: Settings of the grapheme-to-phoneme training.
        bundle: Output folder.
    """

    lexicons: Sequence[str] = ("assets/lexicon_us_silver.json.gz", "assets/lexicon_us_gold.json.gz")
    texts: Sequence[str] = ()
    sentences: int = 20000
    held_out: int = 500
    least: int = 3
    letters: Mapping[str, Any] = field(default_factory=dict)
    bundle: str = "bundle"


@dataclass(frozen=True)
class Agreement:
    """Agreement of our phonemes with the teacher's.

    Args:
        words: Share of the teacher's words with the same phonemes and stress marks.
        sentences: Share of sentences that are equal, including punctuation.
    """

    words: float
    sentences: float


def read_phone_recipe(path: Path) -> PhoneRecipe:
    """Read train.yaml.

    Raises:
        ValueError: If a key is unknown.
    """
    try:
        return PhoneRecipe(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except TypeError as error:
        raise ValueError(f"{path}: {error}; the keys are those of PhoneRecipe") from error


def phoneme_teacher() -> Any:
    """The teacher; only its `phonemize` is used.

    Raises:
        ValueError: If its package is missing.
    """
    try:
        from hibari import Hibari
    except ImportError as error:
        raise ValueError("building the phoneme tokenizer needs its teacher: pip install hibari-tts==0.2.1") from error
    return Hibari()


def read_lexicons(names: Iterable[str]) -> dict[str, str]:
    """Entries of the teacher's lexicons, with the default pronunciation of words that have several."""
    lexicon: dict[str, str] = {}
    for name in names:
        entries = json.loads(gzip.decompress((resources.files(TEACHER) / name).read_bytes()))
        plain = {word: sounds if isinstance(sounds, str) else sounds["DEFAULT"] for word, sounds in entries.items()}
        lexicon |= {word: sounds.translate(AS_SAID) for word, sounds in plain.items() if sounds}
    return lexicon


def example_sentences(lines: Iterable[str]) -> Iterator[str]:
    """Quoted examples with at least three words, from WordNet's glosses."""
    for line in lines:
        for text in re.findall(r'"([^"]+)"', line) if '"' in line else ():
            if len(text.split()) > 2:
                yield text.strip()


def sightings(speaker: Phonemizer, voice: Any, texts: Iterable[str]) -> Iterator[Sighting]:
    """Words of texts with our and the teacher's phonemes; texts that the two split into different words are skipped."""
    for text in texts:
        ours, theirs = places(normalise(text).text), plain_words(" ".join(voice.phonemize(text)))
        if len(ours) == len(theirs):
            for number, place in enumerate(ours):
                following = theirs[number + 1] if place.joined else ""
                yield place.word, speaker.word(place.word), theirs[number], place.before, following


def plain_words(phonemes: str) -> list[str]:
    """Words of a phoneme string without punctuation."""
    return [word.strip(PUNCTUATION) for word in phonemes.split() if word.strip(PUNCTUATION)]


def agreement(tokenizer: PhonemeTokenizer, voice: Any, texts: Sequence[str]) -> Agreement:
    """Compare our phonemes with the teacher's; words are aligned, so that an inserted word counts as one error."""
    alike = total = whole = 0
    for text in texts:
        ours, theirs = tokenizer.phonemes(text), " ".join(voice.phonemize(text))
        whole += ours == theirs
        wanted = plain_words(theirs)
        matcher = difflib.SequenceMatcher(None, plain_words(ours), wanted, autojunk=False)
        alike += sum(block.size for block in matcher.get_matching_blocks())
        total += len(wanted)
    return Agreement(alike / max(1, total), whole / max(1, len(texts)))


def with_forms(lexicon: Lexicon, network: G2PNetwork, voice: Any, texts: Sequence[str], least: int) -> PhonemeTokenizer:
    """The tokenizer of a lexicon and a network, with a table of word forms learned from the teacher."""
    forms = learn_forms(sightings(Phonemizer(lexicon, {}, network), voice, texts), least)
    logger.info("%d words have forms of their own in running text", len(forms))
    return PhonemeTokenizer(Phonemizer(lexicon, forms, network))


def build_phoneme_tokenizer(recipe_path: Path) -> PhonemeTokenizer:
    """Build the tokenizer of a recipe, write its bundle and log its agreement with the teacher.

    Args:
        recipe_path: The train.yaml.

    Returns:
        The tokenizer.

    Raises:
        ValueError: If the recipe is wrong, the texts give too few sentences, or the teacher's package is missing.
    """
    recipe, home = read_phone_recipe(recipe_path), recipe_path.parent
    voice, entries = phoneme_teacher(), read_lexicons(recipe.lexicons)
    texts = sorted(set(example_sentences(further_texts(home / name for name in recipe.texts))))
    random.Random(0).shuffle(texts)
    wanted = recipe.held_out + recipe.sentences
    if len(texts) < wanted:
        raise ValueError(f"{recipe_path}: the texts give {len(texts)} sentences, wanted {wanted}; check texts or ask for fewer sentences")
    network, score = train_g2p(entries, G2PRecipe(**recipe.letters))
    logger.info("letters to sound: %s", score)
    learned = texts[recipe.held_out : wanted]
    tokenizer = with_forms(Lexicon(pack_lexicon(entries)), network, voice, learned, recipe.least)
    logger.info("against the teacher on %d sentences: %s", recipe.held_out, agreement(tokenizer, voice, texts[: recipe.held_out]))
    logger.info("wrote %s, fingerprint %s", home / recipe.bundle, tokenizer.save(home / recipe.bundle))
    return tokenizer
