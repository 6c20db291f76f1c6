"""Pixels as codes: every cell holds the colours of one square patch, so nothing is lost. For models that read images without a codebook."""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from maskgen.io.bundle import fingerprint_of, load_bundle, save_bundle
from maskgen.io.images import to_pictures, to_pixels
from maskgen.io.schema import Record, Whole
from maskgen.tokenizers.grid_images import GridImageTokenizer
from maskgen.tokens.batch import Codes

_BUNDLE_KIND = "pixel_tokenizer"
SIDES = Whole(1, 16)
COLOURS = 2**24
GREY = 0x808080


class PixelTokenizer(GridImageTokenizer):
    """Image tokenizer without a network: one level for each pixel of a patch, row by row, whose code is the colour.

    A colour is red * 2**16 + green * 2**8 + blue.
    A condition for models that read pixels; as a target it would be far too long.

    Args:
        side: Side length of a patch in pixels, 1 to 16.

    Raises:
        ValueError: If the side is out of range.
    """

    def __init__(self, side: int = 16) -> None:
        if not 1 <= side <= 16:
            raise ValueError(f"the side of a patch must be 1 to 16 pixels, got {side}")
        self.side, self.num_levels, self.codebook_size = side, side * side, COLOURS

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "PixelTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        return cls(**load_bundle(folder, _BUNDLE_KIND, Record({"side": SIDES})).config)

    @property
    def pixels_per_cell(self) -> int:
        """Side length of a cell in pixels."""
        return self.side

    @property
    def images_per_call(self) -> int:
        """Images per call: any number, for nothing is rounded."""
        return 64

    @property
    def fingerprint(self) -> str:
        """Hash of the side, equal to the bundle's fingerprint."""
        return fingerprint_of(_BUNDLE_KIND, {"side": self.side}, {})

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        return save_bundle(folder, _BUNDLE_KIND, {"side": self.side}, {})

    def _encode_batch(self, pictures: list[Image.Image]) -> list[Codes]:
        red, green, blue = (to_pixels(pictures) * 255).round().long().unbind(dim=1)
        return list(rearrange(red * 2**16 + green * 2**8 + blue, "b (h y) (w x) -> b (y x) h w", y=self.side, x=self.side))

    def _decode_batch(self, codes: list[Codes]) -> list[Image.Image]:
        whole = torch.stack([grid if len(grid) == self.num_levels else self._filled(grid) for grid in codes])
        return to_pictures(rearrange(colours_of(whole), "b (y x) h w d -> b d (h y) (w x)", y=self.side) / 255)

    def _filled(self, grid: Codes) -> Codes:
        """The grid with grey in the place of levels that are missing."""
        missing = grid.new_full((self.num_levels - len(grid), *grid.shape[1:]), GREY)
        return torch.cat([grid, missing])


def colours_of(codes: Int[Tensor, "*cells"]) -> Int[Tensor, "*cells 3"]:
    """Red, green and blue of each code, 0 to 255."""
    return torch.stack([codes >> 16, (codes >> 8) & 255, codes & 255], dim=-1)
