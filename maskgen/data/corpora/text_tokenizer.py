"""Trains the text tokenizer from a recipe: captions of training shards and further text files, WordNet glosses among them."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from maskgen.data.shards.format import read_split
from maskgen.data.shards.manifest import read_index
from maskgen.data.sources.text_lines import lines_of
from maskgen.tokenizers.text import TextTokenizer, train_bpe

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """Content of train.yaml; paths are relative to its folder.

    Args:
        shards: Folder of raw shards with the captions to train on.
        splits: Splits to read; held-out splits must not be among them.
        texts: Further UTF-8 files, one text per line; WordNet's data.* files give their glosses. Missing files give a warning.
        codebook_size: Number of codes.
        lowercase: Whether text is lower-cased.
        bundle: Output folder.
    """

    shards: str
    splits: Sequence[str] = ("train",)
    texts: Sequence[str] = ()
    codebook_size: int = 4096
    lowercase: bool = True
    bundle: str = "bundle"


def read_text_recipe(path: Path) -> TextRecipe:
    """Read train.yaml.

    Raises:
        ValueError: If a key is unknown or missing.
    """
    try:
        return TextRecipe(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except TypeError as error:
        raise ValueError(f"{path}: {error}; the keys are those of TextRecipe") from error


def captions_of(folder: Path, splits: Iterable[str]) -> Iterator[str]:
    """Every caption of every row of the given splits."""
    index = read_index(folder)
    for split in splits:
        for _, sample in read_split(folder, index, split):
            yield from sample["json"]["captions"]


def further_texts(paths: Iterable[Path]) -> Iterator[str]:
    """Lines of all files that exist; missing files give a warning, since captions alone suffice."""
    for path in paths:
        if path.is_file():
            yield from lines_of(path)
        else:
            logger.warning("%s does not exist; the vocabulary is learned without it", path)


def train_text_tokenizer(recipe_path: Path) -> TextTokenizer:
    """Train the tokenizer of a recipe and write its bundle.

    Args:
        recipe_path: The train.yaml.

    Returns:
        The tokenizer.

    Raises:
        ValueError: If the recipe or the shards are wrong.
    """
    recipe, home = read_text_recipe(recipe_path), recipe_path.parent
    captions = list(captions_of(home / recipe.shards, recipe.splits))
    texts = list(further_texts(home / name for name in recipe.texts))
    logger.info("learning %d codes from %d captions and %d further texts", recipe.codebook_size, len(captions), len(texts))
    tokenizer = train_bpe([*captions, *texts], recipe.codebook_size, recipe.lowercase)
    fingerprint = tokenizer.save(home / recipe.bundle)
    mean = sum(codes.shape[1] for codes in tokenizer.encode(captions)) / len(captions)
    logger.info("wrote %s, fingerprint %s: %.2f codes a caption", home / recipe.bundle, fingerprint, mean)
    return tokenizer
