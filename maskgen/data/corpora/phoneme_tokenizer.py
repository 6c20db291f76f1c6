"""Builds the phoneme tokenizer from a recipe: misaki's lexicons, a letter-to-sound network, and forms of words in running text."""

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
from maskgen.phonetics.g2p import LetterNet
from maskgen.phonetics.g2p_training import LetterRecipe, learn_letters
from maskgen.phonetics.lexicon import Lexicon, pack_lexicon
from maskgen.phonetics.normalise import normalise
from maskgen.phonetics.phonemizer import Speaker
from maskgen.phonetics.postlexical import Sighting, learn_forms, places
from maskgen.phonetics.symbols import PUNCTUATION
from maskgen.tokenizers.phonemes import PhonemeTokenizer

logger = logging.getLogger(__name__)
TEACHER = "hibari"
AS_SAID = str.maketrans({"ɾ": "T", "ʔ": "t"})
"""The lexicon's flap and glottal stop as the teacher says them in running text."""


@dataclass(frozen=True, kw_only=True)
class PhoneRecipe:
    """Contents of a phoneme tokenizer's train.yaml; paths are relative to its folder.

    Args:
        lexicons: Lexicons inside the teacher's package; an entry of a later one wins.
        texts: UTF-8 files; of WordNet's data.* files the quoted examples are taken, of others the lines.
        sentences: How many of them forms are learned from.
        held_out: How many further ones the result is measured on.
        least: How often a form must be seen to be believed.
        letters: How the letter-to-sound network is trained.
        bundle: Folder that is written.
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
    """How often we say what the teacher says.

    Args:
        words: Share of the teacher's words, stress marks and all, that we say alike.
        sentences: Share of whole sentences, punctuation and all.
    """

    words: float
    sentences: float


def read_phone_recipe(path: Path) -> PhoneRecipe:
    """Reads train.yaml.

    Raises:
        ValueError: If a key is unknown.
    """
    try:
        return PhoneRecipe(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except TypeError as error:
        raise ValueError(f"{path}: {error}; the keys are those of PhoneRecipe") from error


def phoneme_teacher() -> Any:
    """The teacher's voice, of which only `phonemize` is used.

    Raises:
        ValueError: If its package is missing.
    """
    try:
        from hibari import Hibari
    except ImportError as error:
        raise ValueError("building the phoneme tokenizer needs its teacher: pip install hibari-tts==0.2.1") from error
    return Hibari()


def read_lexicons(names: Iterable[str]) -> dict[str, str]:
    """Entries of the teacher's lexicons; of words with several pronunciations the default one."""
    found: dict[str, str] = {}
    for name in names:
        entries = json.loads(gzip.decompress((resources.files(TEACHER) / name).read_bytes()))
        plain = {word: sounds if isinstance(sounds, str) else sounds["DEFAULT"] for word, sounds in entries.items()}
        found |= {word: sounds.translate(AS_SAID) for word, sounds in plain.items() if sounds}
    return found


def example_sentences(lines: Iterable[str]) -> Iterator[str]:
    """Quoted examples of three words or more of WordNet's glosses; a line without quotes as it is."""
    for line in lines:
        for text in re.findall(r'"([^"]+)"', line) if '"' in line else ():
            if len(text.split()) > 2:
                yield text.strip()


def sightings(speaker: Speaker, voice: Any, texts: Iterable[str]) -> Iterator[Sighting]:
    """Words of texts as we and as the teacher say them; texts that fall into other words are passed over."""
    for text in texts:
        found, theirs = places(normalise(text).text), plain_words(" ".join(voice.phonemize(text)))
        if len(found) == len(theirs):
            for number, place in enumerate(found):
                following = theirs[number + 1] if place.joined else ""
                yield place.word, speaker.word(place.word), theirs[number], place.before, following


def plain_words(phonemes: str) -> list[str]:
    """Words of a phoneme string without punctuation."""
    return [word.strip(PUNCTUATION) for word in phonemes.split() if word.strip(PUNCTUATION)]


def agreement(tokenizer: PhonemeTokenizer, voice: Any, texts: Sequence[str]) -> Agreement:
    """Compares us with the teacher on texts; words are aligned, so that one too many costs one."""
    alike = total = whole = 0
    for text in texts:
        ours, theirs = tokenizer.phonemes(text), " ".join(voice.phonemize(text))
        whole += ours == theirs
        wanted = plain_words(theirs)
        matcher = difflib.SequenceMatcher(None, plain_words(ours), wanted, autojunk=False)
        alike += sum(block.size for block in matcher.get_matching_blocks())
        total += len(wanted)
    return Agreement(alike / max(1, total), whole / max(1, len(texts)))


def with_forms(lexicon: Lexicon, network: LetterNet, voice: Any, texts: Sequence[str], least: int) -> PhonemeTokenizer:
    """The tokenizer of a lexicon and a network, its table of forms learned from the teacher."""
    forms = learn_forms(sightings(Speaker(lexicon, {}, network), voice, texts), least)
    logger.info("%d words have forms of their own in running text", len(forms))
    return PhonemeTokenizer(Speaker(lexicon, forms, network))


def build_phoneme_tokenizer(recipe_path: Path) -> PhonemeTokenizer:
    """Builds the tokenizer of a recipe, writes its bundle and logs what it measures.

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
    network, score = learn_letters(entries, LetterRecipe(**recipe.letters))
    logger.info("letters to sound: %s", score)
    learned = texts[recipe.held_out : wanted]
    tokenizer = with_forms(Lexicon(pack_lexicon(entries)), network, voice, learned, recipe.least)
    logger.info("against the teacher on %d sentences: %s", recipe.held_out, agreement(tokenizer, voice, texts[: recipe.held_out]))
    logger.info("wrote %s, fingerprint %s", home / recipe.bundle, tokenizer.save(home / recipe.bundle))
    return tokenizer
