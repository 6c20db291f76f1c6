"""Where the corpora that this repository builds lie: the defaults of verbs that judge the shipped models.

Paths are relative to the repository; each folder is made by `maskgen data build data/<corpus>/recipe.yaml`. No other file of the library
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
    """The builder that a recipe needs, where the general one cannot read it.

    Args:
        recipe: A YAML file. One that lists drawing "styles" is the emoji corpus.

    Returns:
        The corpus's own builder; None for a recipe of the general form, and for a folder.

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
