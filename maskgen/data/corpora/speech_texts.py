"""The sentences of the speech corpus: emoji captions in templates and example sentences of WordNet."""

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maskgen.data.build.recipe import read_yaml, section
from maskgen.data.shards.format import read_split
from maskgen.data.shards.manifest import read_index
from maskgen.data.sources.items import Attribute
from maskgen.data.sources.synthesized import write_sentences

logger = logging.getLogger(__name__)
TEMPLATES = (
    "This is {}.",
    "Here is {}.",
    "A picture of {}.",
    "I can see {}.",
    "Look, {}!",
    "Show me {}.",
    "Do you like {}?",
    "There is {}.",
)
CARRIER = "This is a picture of {}."
"""Carrier sentence of held-out captions, not used in training; a bare label is too short for a recogniser."""
PLAIN = re.compile(r"[A-Za-z][A-Za-z ,'-]*[A-Za-z][.!?]?")
WORDNET_FILES = ("data.adj", "data.adv", "data.noun", "data.verb")
Row = dict[str, Attribute]


@dataclass(frozen=True, kw_only=True)
class SpeechTexts:
    """Content of texts.yaml; paths are relative to its folder.

    Args:
        emoji: Folder of the raw emoji shards.
        wordnet: Folder of WordNet's data files.
        sentences: Number of WordNet sentences for training.
        held_out: Number of further WordNet sentences for split "test".
        words: Minimum and maximum number of words of a WordNet sentence.
        out: Output file.
    """

    emoji: str
    wordnet: str
    sentences: int = 16_000
    held_out: int = 200
    words: tuple[int, ...] = (3, 14)
    out: str = "sentences.jsonl.gz"


def text_digest(text: str) -> str:
    """Hex sha256 of a text, used as a pseudo-random order."""
    return hashlib.sha256(text.encode()).hexdigest()


def caption_rows(folder: Path) -> Iterator[Row]:
    """A sentence for each label of the emoji corpus; a label that is held out for images is held out for speech too."""
    index = read_index(folder)
    seen: set[str] = set()
    for split in ("A", "B", "train"):
        for _, sample in read_split(folder, index, split):
            label, caption = sample["json"]["label"], sample["json"]["captions"][1]
            if label not in seen:
                seen.add(label)
                key = text_digest(f"emoji {label}")
                said = CARRIER if split != "train" else TEMPLATES[int(key[:8], 16) % len(TEMPLATES)]
                text = said.format(caption)
                yield {"key": f"e{key[:12]}", "text": text[0].upper() + text[1:], "split": split, "label": label}


def wordnet_sentences(folder: Path, fewest: int, most: int) -> list[str]:
    """Plain quoted examples of the glosses, in a fixed pseudo-random order.

    Raises:
        ValueError: If the folder does not hold WordNet.
    """
    sentences = set()
    for name in WORDNET_FILES:
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} does not exist; unpack Debian's wordnet-base there (data/speech/README.md has the commands)")
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            for quoted in re.findall(r'"([^"]+)"', line.partition(" | ")[2]):
                sentence = quoted.strip()
                if fewest <= len(sentence.split()) <= most and PLAIN.fullmatch(sentence):
                    ending = "" if sentence[-1] in ".!?" else "."
                    sentences.add(sentence[0].upper() + sentence[1:] + ending)
    return sorted(sentences, key=text_digest)


def write_speech_texts(recipe_path: Path) -> Path:
    """Write the sentences of a recipe.

    Args:
        recipe_path: The texts.yaml.

    Returns:
        The file.

    Raises:
        ValueError: If the recipe, the shards or WordNet are missing or wrong.
    """
    recipe, home = section(SpeechTexts, read_yaml(recipe_path), "recipe"), recipe_path.parent
    rows = list(caption_rows(home / recipe.emoji))
    sentences = wordnet_sentences(home / recipe.wordnet, *recipe.words)
    for number, text in enumerate(sentences[: recipe.held_out + recipe.sentences]):
        rows.append({"key": f"w{text_digest(text)[:12]}", "text": text, "split": "test" if number < recipe.held_out else "train"})
    path = home / recipe.out
    write_sentences(sorted(rows, key=lambda row: str(row["key"])), path)
    logger.info("wrote %d sentences to %s (of %d in WordNet)", len(rows), path, len(sentences))
    return path
