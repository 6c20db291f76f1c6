"""Tokenizer for categorical attributes: one cell holds the value of the attribute."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch

from maskgen.io.bundle import fingerprint_of, load_bundle, save_bundle
from maskgen.io.files import write_atomic
from maskgen.io.schema import Items, Record, Text, Whole
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.space import Kind

_BUNDLE_KIND = "attribute_tokenizer"
ATTRIBUTE_SCHEMA = Record({"field": Text(), "values": Items(Text(), most=65_536)}, {"codebook_size": Whole(1, 65_536)})


class AttributeTokenizer(Tokenizer):
    """Tokenizer for one categorical attribute, such as a speaker, style or language name, encoded as a single cell.

    Args:
        field: Name of the attribute in the samples' JSON.
        values: Values of the attribute in the order of their codes. More may be appended later.
        codebook_size: Number of codes, with room for future values.

    Raises:
        ValueError: If a value is repeated or there are more values than codes.
    """

    kind: ClassVar[Kind] = "attribute"

    def __init__(self, field: str, values: Sequence[str], codebook_size: int = 64) -> None:
        if len(set(values)) != len(values) or len(values) > codebook_size:
            raise ValueError(f"{field} needs distinct values, at most {codebook_size}, got {len(values)}: {', '.join(values)}")
        self.field, self.values = field, tuple(values)
        self.num_levels, self.codebook_size = 1, codebook_size

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "AttributeTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        return cls(**load_bundle(folder, _BUNDLE_KIND, ATTRIBUTE_SCHEMA).config)

    @property
    def _config(self) -> dict[str, object]:
        return {"field": self.field, "values": list(self.values), "codebook_size": self.codebook_size}

    @property
    def fingerprint(self) -> str:
        """Hash of field and values, equal to the bundle's fingerprint."""
        return fingerprint_of(_BUNDLE_KIND, self._config, {})

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        return save_bundle(folder, _BUNDLE_KIND, self._config, {})

    def read(self, path: Path | str) -> str:
        """Read an attribute value from a text file.

        Raises:
            ValueError: If the file is missing or not UTF-8.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path} does not exist or is no file; give a text file with one of {', '.join(self.values)}")
        try:
            return path.read_bytes().decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text (byte {error.start}: {error.reason}); save it as UTF-8") from error

    def write(self, media: str, path: Path | str) -> None:
        """Write a value as UTF-8, with a line break at its end."""
        write_atomic(Path(path), f"{media}\n".encode())

    def encode(self, media: Sequence[str]) -> list[Codes]:
        """Encode each value as codes of shape [1, 1].

        Raises:
            ValueError: If a value is unknown.
        """
        for value in media:
            if value not in self.values:
                raise ValueError(f"there is no {self.field} {value!r}; there are {', '.join(self.values)}")
        return [torch.tensor([[self.values.index(value)]]) for value in media]

    def decode(self, codes: Sequence[Codes]) -> list[str]:
        """Decode each [1, 1] grid to its value.

        Raises:
            ValueError: If codes have another shape, are unknown or have no value assigned.
        """
        for grid in codes:
            if tuple(grid.shape) != (1, 1):
                raise ValueError(f"{self.field} codes have shape {tuple(grid.shape)}, wanted [1, 1]")
            if not 0 <= int(grid) < self.codebook_size:
                raise ValueError(
                    f"{self.field} codes must lie in [0, {self.codebook_size}), got {int(grid)} ({UNKNOWN} is an unknown cell)"
                )
            if int(grid) >= len(self.values):
                raise ValueError(f"{self.field} code {int(grid)} stands for no value yet; there are {', '.join(self.values)}")
        return [self.values[int(grid)] for grid in codes]
