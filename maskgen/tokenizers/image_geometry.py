"""Sizes in pixels of any image tokenizer's cells and images: from what it says, or else from what it decodes."""

from collections.abc import Sequence

import torch
from PIL import Image

from maskgen.tokenizers.base import Tokenizer

PROBE = (2, 3)
"""Rows and columns of the grid that is decoded to measure a cell."""


def pixels_per_cell(tokenizer: Tokenizer) -> int:
    """Return the side length of a cell in pixels: the tokenizer's `pixels_per_cell`, or else measured by decoding a small grid of code 0.

    Raises:
        ValueError: If its codes don't lie in rows and columns of square cells.
    """
    said = getattr(tokenizer, "pixels_per_cell", None)
    if isinstance(said, int):
        return said
    try:
        width, height = _decoded_size(tokenizer, PROBE) or (0, 0)
    except ValueError:
        width, height = 0, 0
    side = width // PROBE[1]
    if not side or (width, height) != (side * PROBE[1], side * PROBE[0]):
        raise ValueError(
            f"this needs an image tokenizer with square cells in rows and columns, and the model's {type(tokenizer).__name__} has none; "
            "give it an attribute pixels_per_cell, or generate whole images"
        )
    return side


def image_size(tokenizer: Tokenizer, grid: Sequence[int] | None = None) -> tuple[int, int] | None:
    """Return the (width, height) in pixels of the images of a code grid.

    Args:
        tokenizer: An image tokenizer.
        grid: The model's code grid, which decides if it is known and has rows and columns; else the tokenizer's own `size` counts, if it
            has one.

    Returns:
        None if neither is known, or the grid doesn't decode to an image.
    """
    size = getattr(tokenizer, "size", None)
    if grid is not None and (len(grid) > 1 or size is None):
        side = getattr(tokenizer, "pixels_per_cell", None)
        return (grid[1] * side, grid[0] * side) if isinstance(side, int) and len(grid) == 2 else _decoded_size(tokenizer, grid)
    return None if size is None else (int(size[0]), int(size[1]))


def _decoded_size(tokenizer: Tokenizer, grid: Sequence[int]) -> tuple[int, int] | None:
    """Return the size of the image that a grid of code 0 decodes to; None if it isn't an image."""
    medium = tokenizer.decode([torch.zeros(tokenizer.num_levels, *grid, dtype=torch.long)])[0]
    return medium.size if isinstance(medium, Image.Image) else None
