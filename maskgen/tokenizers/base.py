"""The contract of every tokenizer: media in, codes out, and back."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from maskgen.tokens.batch import Codes
from maskgen.tokens.space import Kind, Modality


class Tokenizer(ABC):
    """A modality's front door.

    Attributes:
        kind: "text", "image", "audio" or "attribute".
        num_levels: Levels of a code grid.
        codebook_size: Codes per level.
    """

    kind: ClassVar[Kind]
    num_levels: int
    codebook_size: int

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of config and weights; stored with every shard and bundle, compared at load."""

    @abstractmethod
    def read(self, path: Path | str) -> Any:
        """Read one medium from a file.

        Raises:
            ValueError: If the file is missing, damaged or too large; the sentence says which.
        """

    @abstractmethod
    def write(self, media: Any, path: Path | str) -> None:
        """Write one medium to a file."""

    @abstractmethod
    def encode(self, media: Sequence[Any]) -> list[Codes]:
        """Codes `[level, *grid]` of each medium."""

    @abstractmethod
    def decode(self, codes: Sequence[Codes]) -> list[Any]:
        """Media of each code grid."""

    @abstractmethod
    def save(self, folder: Path | str) -> str:
        """Write the tokenizer as a bundle and return its fingerprint."""

    def modality(self, name: str) -> Modality:
        """This tokenizer's place in a token space under the given name."""
        return Modality(name=name, kind=self.kind, num_levels=self.num_levels, codebook_size=self.codebook_size)
