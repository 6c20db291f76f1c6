"""Helpers of image tokenizers: input checks and batches of one shape."""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from PIL import Image

from maskgen.tokens.batch import UNKNOWN, Codes

Element = TypeVar("Element")
Result = TypeVar("Result")


def check_sides(pictures: Sequence[Image.Image], pixels_per_cell: int) -> None:
    """Raise if an image doesn't divide into whole cells.

    Raises:
        ValueError: If a side isn't a multiple of `pixels_per_cell`.
    """
    for picture in pictures:
        if picture.width % pixels_per_cell or picture.height % pixels_per_cell:
            raise ValueError(f"a picture has {picture.width} x {picture.height} pixels; both sides must be multiples of {pixels_per_cell}")


def check_grids(codes: Sequence[Codes], num_levels: int, codebook_size: int) -> None:
    """Raise unless every item is a code grid [1 to num_levels, rows, columns].

    Raises:
        ValueError: If a grid has another shape, unknown cells or codes out of range.
    """
    for grid in codes:
        if grid.ndim != 3 or not 1 <= grid.shape[0] <= num_levels or not grid.numel():
            raise ValueError(f"image codes have shape {tuple(grid.shape)}, wanted [1 to {num_levels} levels, rows, columns]")
        if not bool(((grid >= 0) & (grid < codebook_size)).all()):
            raise ValueError(
                f"image codes must lie in [0, {codebook_size}), got {int(grid.min())} to {int(grid.max())} ({UNKNOWN} is an unknown cell)"
            )


def in_batches(
    items: Sequence[Element], shape_of: Callable[[Element], Hashable], batch_size: int, run: Callable[[list[Element]], Sequence[Result]]
) -> list[Result]:
    """Apply `run` to the items and return its results in order. `run` gets at most `batch_size` items of one shape at a time."""
    shapes = [shape_of(item) for item in items]
    found: dict[int, Result] = {}
    for shape in dict.fromkeys(shapes):
        places = [place for place, other in enumerate(shapes) if other == shape]
        for start in range(0, len(places), batch_size):
            part = places[start : start + batch_size]
            found.update(zip(part, run([items[place] for place in part]), strict=True))
    return [found[place] for place in range(len(items))]
