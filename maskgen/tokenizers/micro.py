"""Tokenizer for micro-conditions: original size, crop and aesthetic score of an image as five cells of few codes."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from maskgen.io.bundle import fingerprint_of, load_bundle, save_bundle
from maskgen.io.files import write_atomic
from maskgen.io.schema import Maybe, Real, Record, Whole
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.space import Kind

_BUNDLE_KIND = "micro_tokenizer"
FIELDS = ("original_width", "original_height", "crop_left", "crop_top", "aesthetic_score")
"""Numbers of a sample's JSON, one a cell."""
SMALLEST_SIDE, LARGEST_SIDE, LARGEST_SCORE = 16.0, 16_384.0, 10.0
NO_CROP = 8.0
"""Pixels of a crop below which steps are even; above they grow with it."""
Numbers = Mapping[str, Any]
"""Field to its number; a field that is missing or None is not known."""
MICRO_SCHEMA = Record({"bins": Whole(2, 4096), "default_score": Maybe(Real(0.0, LARGEST_SCORE))})


class MicroTokenizer(Tokenizer):
    """Tokenizer for micro-conditions: five cells, each with codes of its own for steps of its number and one for "not known".

    Sizes have steps of equal ratio from 16 to 16,384 pixels, crops the same beyond some pixels, the aesthetic score steps of equal width
    from 0 to 10. A model needs no other network: neighbouring steps are learned apart, which few codes allow.

    Args:
        bins: Steps of each number; 64 make steps of 11 % in sizes and of 0.16 in the score.
        default_score: Aesthetic score of calls that give none; None tells the model that it is not known. Set it where all pictures of
            a training have a score, because "not known" is then never learned.

    Raises:
        ValueError: If a number is out of range.

    Source: the numbers of SDXL, arXiv:2307.01952, and of Meissonic, arXiv:2410.08261. Differs: both embed the numbers with sinusoids;
    here they are codes, so that packing, masks, guidance and bundles treat them as any other condition.
    """

    kind: ClassVar[Kind] = "attribute"
    num_levels = 1

    def __init__(self, bins: int = 64, default_score: float | None = None) -> None:
        if not 2 <= bins <= 4096 or not 0 <= (default_score or 0) <= LARGEST_SCORE:
            raise ValueError(f"bins must lie in [2, 4096] and default_score in [0, {LARGEST_SCORE:g}], got {bins} and {default_score}")
        self.bins, self.default_score = bins, default_score

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "MicroTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        return cls(**load_bundle(folder, _BUNDLE_KIND, MICRO_SCHEMA).config)

    @property
    def codebook_size(self) -> int:  # type: ignore[override]
        """Codes of all cells together."""
        return len(FIELDS) * (self.bins + 1)

    @property
    def _config(self) -> dict[str, object]:
        return {"bins": self.bins, "default_score": self.default_score}

    @property
    def fingerprint(self) -> str:
        """Hash of the config, equal to the bundle's fingerprint."""
        return fingerprint_of(_BUNDLE_KIND, self._config, {})

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        return save_bundle(folder, _BUNDLE_KIND, self._config, {})

    def read(self, path: Path | str) -> Numbers:
        """Read the numbers from a JSON object.

        Raises:
            ValueError: If the file is missing or no JSON object.
        """
        path = Path(path)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON file ({error}); give an object with {', '.join(FIELDS)}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{path} holds no JSON object; give one with {', '.join(FIELDS)}")
        return {name: found.get(name) for name in FIELDS}

    def write(self, media: Numbers, path: Path | str) -> None:
        """Write the numbers as a JSON object."""
        write_atomic(Path(path), (json.dumps({name: media.get(name) for name in FIELDS}) + "\n").encode())

    def encode(self, media: Sequence[Numbers]) -> list[Codes]:
        """Encode the numbers of each image as codes of shape [1, 5]. Numbers beyond the steps take the nearest one.

        Raises:
            ValueError: If a number is none, negative or not finite.
        """
        return [torch.tensor([[self._code(place, numbers.get(name)) for place, name in enumerate(FIELDS)]]) for numbers in media]

    def decode(self, codes: Sequence[Codes]) -> list[Numbers]:
        """Decode each [1, 5] grid to the numbers in the middle of their steps; None where not known.

        Raises:
            ValueError: If codes have another shape or are not those of their cell.
        """
        return [self._numbers(grid) for grid in codes]

    def _code(self, place: int, number: Any) -> int:
        """Code of one number in its cell."""
        name = FIELDS[place]
        if number is None or (isinstance(number, str) and not number.strip()):
            return place * (self.bins + 1) + self.bins
        try:
            value = float(number)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be a number, got {number!r}") from error
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} must be a finite number of at least 0, got {number!r}")
        return place * (self.bins + 1) + min(self.bins - 1, max(0, math.floor(self.bins * _share(name, value))))

    def _numbers(self, grid: Codes) -> Numbers:
        if tuple(grid.shape) != (1, len(FIELDS)):
            raise ValueError(f"micro-condition codes have shape {tuple(grid.shape)}, wanted [1, {len(FIELDS)}]")
        found = {}
        for place, (name, code) in enumerate(zip(FIELDS, grid[0].tolist(), strict=True)):
            step = code - place * (self.bins + 1)
            if not 0 <= step <= self.bins:
                raise ValueError(f"code {code} is none of {name}'s ({UNKNOWN} is an unknown cell)")
            found[name] = None if step == self.bins else round(_value(name, (step + 0.5) / self.bins), 2)
        return found


def _share(name: str, value: float) -> float:
    """Place of a number on its scale from 0 to 1."""
    if name == "aesthetic_score":
        return value / LARGEST_SCORE
    if name.startswith("crop"):
        return math.log1p(value / NO_CROP) / math.log1p(LARGEST_SIDE / NO_CROP)
    return math.log(max(value, SMALLEST_SIDE) / SMALLEST_SIDE) / math.log(LARGEST_SIDE / SMALLEST_SIDE)


def _value(name: str, share: float) -> float:
    """The number at a place of its scale: the inverse of `_share`."""
    if name == "aesthetic_score":
        return share * LARGEST_SCORE
    if name.startswith("crop"):
        return NO_CROP * math.expm1(share * math.log1p(LARGEST_SIDE / NO_CROP))
    return SMALLEST_SIDE * math.exp(share * math.log(LARGEST_SIDE / SMALLEST_SIDE))
