"""Base class of tokenizers, which convert media to codes and back."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from maskgen.tokens.batch import Codes
from maskgen.tokens.space import Kind, Modality


class Tokenizer(ABC):
    """Base class of tokenizers, which convert the media of one modality to codes and back.

    Attributes:
        kind: What it reads, such as "text", "image", "audio" or "attribute"; see `Modality`.
        num_levels: Number of levels of a code grid.
        codebook_size: Number of codes per level.
        longest_prompt: Cells of the longest prompt that a model with this tokenizer takes.
    """

    kind: ClassVar[Kind]
    num_levels: int
    codebook_size: int
    longest_prompt: int = 64

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of config and weights. It is stored with every shard and bundle and compared at load."""

    @abstractmethod
    def read(self, path: Path | str) -> Any:
        """Read one medium (such as an image) from a file.

        Raises:
            ValueError: If the file is missing, damaged or too large; the message says which.
        """

    @abstractmethod
    def write(self, media: Any, path: Path | str) -> None:
        """Write one medium to a file."""

    @abstractmethod
    def encode(self, media: Sequence[Any]) -> list[Codes]:
        """Encode each medium as codes of shape `[level, *grid]`."""

    @abstractmethod
    def decode(self, codes: Sequence[Codes]) -> list[Any]:
        """Decode each code grid to a medium."""

    @abstractmethod
    def save(self, folder: Path | str) -> str:
        """Write the tokenizer as a bundle and return its fingerprint."""

    def modality(self, name: str) -> Modality:
        """Describe this tokenizer as a modality of a token space, under the given name."""
        return Modality(name=name, kind=self.kind, num_levels=self.num_levels, codebook_size=self.codebook_size)


class ConditionedTokenizer(Tokenizer):
    """Base class of tokenizers whose decoder also reads other modalities of the same row, such as a caption."""

    @abstractmethod
    def decode_given(self, codes: Codes, known: Mapping[str, Codes]) -> Any:
        """Decode one code grid to a medium.

        Args:
            codes: The grid.
            known: Codes of the other modalities of its row, as they were given; `decode` does without them.
        """


def medium_of(tokenizer: Tokenizer, codes: Codes, known: Mapping[str, Codes]) -> Any:
    """Decode one code grid to a medium, with the other modalities of its row where the tokenizer reads them."""
    if isinstance(tokenizer, ConditionedTokenizer):
        return tokenizer.decode_given(codes, known)
    return tokenizer.decode([codes])[0]
