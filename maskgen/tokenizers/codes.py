"""Tokenizers without a codec: the media are the codes themselves, for modalities whose codec is published apart or not at all."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from maskgen.io.bundle import fingerprint_of, load_bundle, save_bundle
from maskgen.io.files import write_atomic
from maskgen.io.schema import Maybe, Record, Text, Whole
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.space import MOST_CODES, Kind, Modality

SCHEMA = Record({"size": Whole(1, MOST_CODES), "about": Text(), "end": Maybe(Whole(0, MOST_CODES))})


class CodesTokenizer(Tokenizer):
    """Base of tokenizers whose media are tensors of codes: [1, rows, columns] for images, [1, length] for texts.

    Args:
        size: Codes.
        about: One sentence on where the codec is; part of the error for media of another kind.
        end: Code that ends a text.
    """

    axes: ClassVar[int]
    bundle_kind: ClassVar[str]

    def __init__(self, size: int, about: str = "", end: int | None = None) -> None:
        self.num_levels, self.codebook_size, self.about, self.end = 1, size, about, end

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "CodesTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        return cls(**load_bundle(folder, cls.bundle_kind, SCHEMA).config)

    @property
    def _config(self) -> dict[str, Any]:
        return {"size": self.codebook_size, "about": self.about, "end": self.end}

    @property
    def fingerprint(self) -> str:
        """Hash of the size and the sentence, equal to the bundle's fingerprint."""
        return fingerprint_of(self.bundle_kind, self._config, {})

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        return save_bundle(folder, self.bundle_kind, self._config, {})

    def read(self, path: Path | str) -> Codes:
        """Read codes from a safetensors file with a tensor `codes`.

        Raises:
            ValueError: If the file is missing or holds something else.
        """
        if not Path(path).is_file():
            raise ValueError(f"{path} does not exist or is no file; give a safetensors file with codes")
        try:
            found = load_file(path).get("codes")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no whole safetensors file ({error}); write the codes again") from error
        if found is None:
            raise ValueError(f'{path} has no tensor "codes"; write the codes again')
        return found

    def write(self, media: Codes, path: Path | str) -> None:
        """Write codes as a safetensors file."""
        write_atomic(Path(path), save({"codes": media.contiguous()}))

    def encode(self, media: Sequence[Any]) -> list[Codes]:
        """The codes themselves.

        Raises:
            ValueError: If a medium is no tensor of codes; says where the codec is.
        """
        for one in media:
            if not isinstance(one, Tensor):
                raise ValueError(f"media here are codes, got a {type(one).__name__}; {self.about or 'give a tensor of codes'}")
        return [self._checked(one).clone() for one in media]

    def decode(self, codes: Sequence[Codes]) -> list[Codes]:
        """The codes themselves.

        Raises:
            ValueError: If codes have another shape, are out of range or unknown.
        """
        return [self._checked(grid).clone() for grid in codes]

    def modality(self, name: str) -> Modality:
        """Describe this tokenizer as a modality of a token space, with the code that ends a text."""
        return dataclasses.replace(super().modality(name), end=self.end)

    def _checked(self, grid: Codes) -> Codes:
        """The codes of one medium.

        Raises:
            ValueError: If they have another shape or are out of range.
        """
        wanted = "[1, rows, columns]" if self.axes == 2 else "[1, length]"
        if grid.ndim != 1 + self.axes or grid.shape[0] != 1:
            raise ValueError(f"codes have shape {tuple(grid.shape)}, wanted {wanted}")
        if not bool(((grid >= 0) & (grid < self.codebook_size)).all()):
            found = f"got {int(grid.min())} to {int(grid.max())} ({UNKNOWN} is an unknown cell)"
            raise ValueError(f"codes must lie in [0, {self.codebook_size}), {found}")
        return grid.to(torch.long)


class ImageCodesTokenizer(CodesTokenizer):
    """Codes of an image or a map in rows and columns, without a codec."""

    kind: ClassVar[Kind] = "image"
    axes: ClassVar[int] = 2
    bundle_kind: ClassVar[str] = "image_codes_tokenizer"


class TextCodesTokenizer(CodesTokenizer):
    """Codes of a sequence, without a vocabulary."""

    kind: ClassVar[Kind] = "text"
    axes: ClassVar[int] = 1
    bundle_kind: ClassVar[str] = "text_codes_tokenizer"
