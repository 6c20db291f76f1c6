"""Base of image tokenizers whose codes are a grid of rows and columns: files, checks and batches are the same for all of them."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from PIL import Image

from maskgen.io.images import read_picture, write_picture
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image_batches import check_grids, check_sides, in_batches
from maskgen.tokenizers.tiling import Tiling, decode_in_tiles, encode_in_tiles
from maskgen.tokens.batch import Codes
from maskgen.tokens.space import Kind

MOST_PIXELS = 2**22
"""Pixels of all images of one call of a network, unless a single image has more."""


class GridImageTokenizer(Tokenizer):
    """Image tokenizer whose codes are [level, rows, columns]; a subclass encodes and decodes batches of images of one size.

    Attributes:
        tile: How large images are cut into tiles; None processes images of any size whole. Set it on the tokenizer: it is not saved with
            a bundle, and codes at the borders of tiles may differ from those of the whole image.
    """

    kind: ClassVar[Kind] = "image"
    tile: Tiling | None = Tiling()

    @property
    @abstractmethod
    def pixels_per_cell(self) -> int:
        """Side length of a cell in pixels."""

    @property
    @abstractmethod
    def images_per_call(self) -> int:
        """Most images per call of the network; one where a batch would change rounding, and so codes."""

    @abstractmethod
    def _encode_batch(self, pictures: list[Image.Image]) -> list[Codes]:
        """Codes of images of one size."""

    @abstractmethod
    def _decode_batch(self, codes: list[Codes]) -> list[Image.Image]:
        """Images of code grids of one shape."""

    def read(self, path: Path | str) -> Image.Image:
        """Read an image file; see `read_picture`."""
        return read_picture(path)

    def write(self, media: Image.Image, path: Path | str) -> None:
        """Write an image file; see `write_picture`."""
        write_picture(media, path)

    def encode(self, media: Sequence[Image.Image]) -> list[Codes]:
        """Encode each image as codes of shape [level, rows, columns].

        Raises:
            ValueError: If a side isn't a multiple of `pixels_per_cell`.
        """
        check_sides(media, self.pixels_per_cell)
        return in_batches(media, lambda picture: picture.size, self.images_per_call, self._encode_alike)

    def decode(self, codes: Sequence[Codes]) -> list[Image.Image]:
        """Decode code grids [level, rows, columns] to images. Fewer levels than `num_levels` give a coarser image.

        Raises:
            ValueError: If a grid has another shape, unknown cells or codes out of range.
        """
        check_grids(codes, self.num_levels, self.codebook_size)
        return in_batches(codes, lambda grid: tuple(grid.shape), self.images_per_call, self._decode_alike)

    def _encode_alike(self, pictures: list[Image.Image]) -> list[Codes]:
        """Codes of images of one size: in tiles where they are large, else in batches that fit the memory."""
        tile, side = self.tile, self.pixels_per_cell
        if tile is not None and tile.cuts(*pictures[0].size):
            return [encode_in_tiles(picture, side, tile, lambda region: self._encode_batch(list(region))) for picture in pictures]
        return in_batches(pictures, lambda _: None, _images_at_once(*pictures[0].size), self._encode_batch)

    def _decode_alike(self, codes: list[Codes]) -> list[Image.Image]:
        """Images of code grids of one shape, as `_encode_alike`."""
        tile, side = self.tile, self.pixels_per_cell
        size = codes[0].shape[2] * side, codes[0].shape[1] * side
        if tile is not None and tile.cuts(*size):
            return [decode_in_tiles(grid, side, tile, lambda region: self._decode_batch(list(region))) for grid in codes]
        return in_batches(codes, lambda _: None, _images_at_once(*size), self._decode_batch)


def _images_at_once(width: int, height: int) -> int:
    """Images of one size that a call of the network takes."""
    return max(1, MOST_PIXELS // (width * height))
