"""Lossless byte-level BPE text tokenizer for any Unicode text, and its training."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from maskgen.io.bundle import fingerprint_of, load_bundle, save_bundle
from maskgen.io.files import read_text, write_text
from maskgen.io.schema import Flag, Record
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.space import Kind, Modality
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers, trainers

_BUNDLE_KIND = "text_tokenizer"
VOCABULARY_FILE = "tokenizer.json"
SPACE = "Ġ"
"""The character for a space in the alphabet of byte-level BPE."""
END_TOKEN = "Ā"
"""The character for byte 0 in the alphabet of byte-level BPE. Models end a text with it, as C does."""


class TextTokenizer(Tokenizer):
    """Byte-level BPE text tokenizer, based on Hugging Face tokenizers.

    A space is prepended to every text, so that a word has the same code at the start as inside. Decoding removes that space.

    Args:
        vocabulary: Content of a tokenizer.json with a byte-level BPE model.
        lowercase: Whether to lower-case text before encoding. Decoding then returns lower case.

    Attributes:
        end: Code of byte 0, with which a model ends a text. None if the vocabulary has no bytes.
    """

    kind: ClassVar[Kind] = "text"

    def __init__(self, vocabulary: str, lowercase: bool = True) -> None:
        self._engine = Engine.from_str(vocabulary)
        self.vocabulary, self.lowercase = vocabulary, lowercase
        self.num_levels, self.codebook_size = 1, self._engine.get_vocab_size()
        self.end: int | None = self._engine.token_to_id(END_TOKEN)

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "TextTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        bundle = load_bundle(folder, _BUNDLE_KIND, Record({}, {"lowercase": Flag()}))
        return cls((bundle.folder / VOCABULARY_FILE).read_text(encoding="utf-8"), **bundle.config)

    @property
    def _config(self) -> dict[str, Any]:
        return {"lowercase": self.lowercase}

    @property
    def fingerprint(self) -> str:
        """Hash of vocabulary and settings, equal to the bundle's fingerprint."""
        digest = hashlib.sha256(self.vocabulary.encode()).hexdigest()
        return fingerprint_of(_BUNDLE_KIND, self._config, {VOCABULARY_FILE: digest})

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        return save_bundle(folder, _BUNDLE_KIND, self._config, {}, {VOCABULARY_FILE: self.vocabulary.encode()})

    def read(self, path: Path | str) -> str:
        """Read a UTF-8 text file, without the line break at its end.

        Raises:
            ValueError: If the file is missing, over 1 MiB or not UTF-8.
        """
        return read_text(path)

    def write(self, media: str, path: Path | str) -> None:
        """Write text as UTF-8, with a line break at its end."""
        write_text(media, path)

    def encode(self, media: Sequence[str]) -> list[Codes]:
        """Encode each text as codes of shape [1, n]. Empty text has n = 0.

        Raises:
            ValueError: If a text contains an unpaired surrogate, which isn't valid Unicode.
        """
        prepared = [self._prepared(text) for text in media]
        found = self._engine.encode_batch([f" {text}" for text in prepared])
        empty = torch.zeros(1, 0, dtype=torch.long)
        return [torch.tensor([codes.ids]) if text else empty for text, codes in zip(prepared, found, strict=True)]

    def _prepared(self, text: str) -> str:
        """Return the text as decoding will restore it."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"the text has a lone surrogate at character {error.start}, which is no Unicode text; remove it") from error
        return text.lower() if self.lowercase else text

    def decode(self, codes: Sequence[Codes]) -> list[str]:
        """Decode each [1, n] grid to text. Bytes that are not valid UTF-8 (a model may sample them) become U+FFFD.

        Raises:
            ValueError: If codes have another shape or are out of range or unknown.
        """
        return [self._engine.decode(self._checked(grid)).removeprefix(" ") for grid in codes]

    def begins_word(self, code: int) -> bool:
        """Return whether a code begins with a space."""
        return str(self._engine.id_to_token(code)).startswith(SPACE)

    def modality(self, name: str) -> Modality:
        """Describe this tokenizer as a modality of a token space, with the code that ends a text."""
        return dataclasses.replace(super().modality(name), end=self.end)

    def _checked(self, grid: Codes) -> list[int]:
        """Validate the grid of one text and return its ids."""
        if grid.ndim != 2 or grid.shape[0] != 1:
            raise ValueError(f"text codes have shape {tuple(grid.shape)}, wanted [1, n]")
        ids: list[int] = grid[0].tolist()
        if any(not 0 <= code < self.codebook_size for code in ids):
            raise ValueError(
                f"text codes must lie in [0, {self.codebook_size}), got {min(ids)} to {max(ids)} ({UNKNOWN} is an unknown cell)"
            )
        return ids


def train_bpe(lines: Iterable[str], codebook_size: int, lowercase: bool = True) -> TextTokenizer:
    """Train a byte-level BPE tokenizer. The same lines always give the same vocabulary.

    Args:
        lines: Training texts. Repeated texts count more.
        codebook_size: Number of codes, at least 256 (one per byte).
        lowercase: Whether to lower-case text, in training and in use.

    Raises:
        ValueError: If the size is below 256 or the texts yield fewer codes than requested.
    """
    if codebook_size < 256:
        raise ValueError(f"codebook_size must be at least 256, one code a byte, got {codebook_size}")
    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=codebook_size, initial_alphabet=alphabet, show_progress=False, min_frequency=2)
    engine.train_from_iterator((f" {line.lower() if lowercase else line}" for line in lines), trainer)
    if engine.get_vocab_size() != codebook_size:
        raise ValueError(f"the texts give only {engine.get_vocab_size()} codes, wanted {codebook_size}; add text or ask for fewer")
    return TextTokenizer(engine.to_str(), lowercase)
