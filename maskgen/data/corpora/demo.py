"""Folders of the demo corpora, which the shipped models were trained on: the defaults of verbs that evaluate these models.

Paths are relative to the repository; `maskgen data build data/<corpus>/recipe.yaml` creates each folder. No other file of the library
names one of these folders.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskgen.data.shards.manifest import Index

EMOJI_RAW = Path("data/emoji/build/raw")
"""Raw shards of emoji drawings with captions, skin tones and styles; see data/emoji/README.md."""
SPEECH_RAW = Path("data/speech/build/raw")
"""Raw shards of sentences spoken by a synthesizer; see data/speech/README.md."""
WORDNET_TOKENS = Path("data/wordnet/build/tokens")
"""Token shards of WordNet's glosses; see data/wordnet/README.md."""
TEXT_TOKENIZER = Path("tokenizers/text-bpe/bundle")
IMAGE_TOKENIZER = Path("tokenizers/image-emoji64/bundle")
AUDIO_TOKENIZER = Path("tokenizers/audio-speech16k/bundle")

Builder = Callable[[Path, Path | None, int | None], "Index"]
"""Recipe, folder of the shards or None, processes or None, to the index that was written."""


def builder_of(recipe: Path) -> Builder | None:
    """The corpus's own builder for a recipe that the general builder cannot read.

    Args:
        recipe: A YAML file. One that lists drawing "styles" is the emoji corpus.

    Returns:
        The builder; None for a general recipe, and for a folder.

    Raises:
        ValueError: If the file is missing or no YAML.
    """
    if recipe.is_dir():
        return None
    from maskgen.data.build.recipe import read_yaml

    if "styles" not in read_yaml(recipe):
        return None
    from maskgen.data.corpora.emoji import build_emoji

    return build_emoji
