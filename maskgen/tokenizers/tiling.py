"""Encoding and decoding of large images in tiles: overlapping regions, group norms of the whole image, blended borders."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from maskgen.tokens.batch import Codes

Norms = Literal["tile", "pooled", "exact"]
"""Where the group norms of a tile take mean and variance from."""


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How images that are too large for one call of a tokenizer's network are cut into tiles.

    A tile is processed with a halo of its surroundings. Tiles of a network of convolutions alone equal the whole image exactly where the
    halo reaches as far as the network sees. Group norms look at the whole image; `norms` says how tiles learn its mean and variance.
    Attention over the whole image sees its tile alone.

    Args:
        size: Most pixels a side of a tile without its halo.
        halo: Pixels around a tile that are processed with it; decoded tiles are blended over half of it at both sides of a border.
        above: Images with more than `above` x `above` pixels are cut.
        norms: "tile" takes the statistics of each tile; "pooled" those of all tiles, collected by one pass over them, at twice the time;
            "exact" collects those of one norm after another, each with those before it in place, so that tiles have the statistics of
            the whole image, at about half as many passes as there are norms.

    Raises:
        ValueError: If a number is out of range, or `norms` is another word.

    Source: tiling as in diffusers' AutoencoderKL (`enable_tiling`), which blends tiles with norms of their own.
    """

    size: int = 512
    halo: int = 128
    above: int = 1024
    norms: Norms = "pooled"

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.halo <= self.size or self.above < 0:
            raise ValueError(
                f"a tile needs a size of at least 1, a halo from 0 to its size and above of at least 0, got size={self.size}, "
                f"halo={self.halo}, above={self.above}"
            )
        if self.norms not in get_args(Norms):
            raise ValueError(f"norms must be one of {', '.join(get_args(Norms))}, got {self.norms!r}")

    def cuts(self, width: int, height: int) -> bool:
        """Whether an image of this size in pixels is cut into tiles."""
        return width * height > self.above**2 and max(width, height) > self.size


class TileSpan(NamedTuple):
    """Cells of a tile along one axis: its own from `start` to `end`, with its halo from `left` to `right`."""

    start: int
    end: int
    left: int
    right: int

    @property
    def own(self) -> slice:
        """The tile's own cells, counted from `left`."""
        return slice(self.start - self.left, self.end - self.left)


TilePlace = tuple[TileSpan, TileSpan]
"""Rows and columns of a tile."""


def tile_spans(length: int, size: int, halo: int) -> list[TileSpan]:
    """Tiles of about equal length that cover an axis.

    Args:
        length: Cells of the axis.
        size: Most cells of a tile.
        halo: Cells around it, where there are any.
    """
    count = -(-length // size)
    edges = [length * number // count for number in range(count + 1)]
    return [TileSpan(start, end, max(0, start - halo), min(length, end + halo)) for start, end in itertools.pairwise(edges)]


def encode_in_tiles(picture: Image.Image, side: int, tiling: Tiling, encode: Callable[[Sequence[Image.Image]], Sequence[Codes]]) -> Codes:
    """Codes [level, rows, columns] of an image, encoded tile by tile.

    Args:
        picture: RGB; both sides are multiples of `side`.
        side: Pixels a side of a cell.
        tiling: Sizes of the tiles.
        encode: Codes of images of one size.
    """
    places = list(_tiles(picture.height // side, picture.width // side, side, tiling))

    def tile(rows: TileSpan, columns: TileSpan) -> Codes:
        region = picture.crop((columns.left * side, rows.left * side, columns.right * side, rows.right * side))
        return encode([region])[0]

    found: Codes | None = None
    for (rows, columns), codes in _each(places, tile, tiling.norms):
        if found is None:
            found = codes.new_zeros(codes.shape[0], picture.height // side, picture.width // side)
        found[:, rows.start : rows.end, columns.start : columns.end] = codes[:, rows.own, columns.own]
    assert found is not None, "an image has at least one tile"
    return found


def decode_in_tiles(codes: Codes, side: int, tiling: Tiling, decode: Callable[[Sequence[Codes]], Sequence[Image.Image]]) -> Image.Image:
    """The image of a code grid [level, rows, columns], decoded tile by tile and blended at the borders.

    Args:
        codes: Known codes.
        side: Pixels a side of a cell.
        tiling: Sizes of the tiles.
        decode: Images of code grids of one shape.
    """
    shape = codes.shape[1], codes.shape[2]
    mixed = np.zeros((shape[0] * side, shape[1] * side, 3), dtype=np.float32)
    total = np.zeros_like(mixed[..., :1])
    """Sum of the weights: 1, but where three short tiles overlap."""

    def tile(rows: TileSpan, columns: TileSpan) -> Image.Image:
        return decode([codes[:, rows.left : rows.right, columns.left : columns.right]])[0]

    for (rows, columns), picture in _each(list(_tiles(*shape, side, tiling)), tile, tiling.norms):
        share = _ramp(rows, shape[0], side, tiling.halo)[:, None, None] * _ramp(columns, shape[1], side, tiling.halo)[None, :, None]
        region = slice(rows.left * side, rows.right * side), slice(columns.left * side, columns.right * side)
        mixed[region] += share * np.asarray(picture.convert("RGB"), dtype=np.float32)
        total[region] += share
    return Image.fromarray(np.rint(mixed / total).clip(0, 255).astype(np.uint8))


def _tiles(rows: int, columns: int, side: int, tiling: Tiling) -> Iterator[TilePlace]:
    """Rows and columns of every tile of a grid."""
    size, halo = max(1, tiling.size // side), -(-tiling.halo // side)
    return itertools.product(tile_spans(rows, size, halo), tile_spans(columns, size, halo))


def _ramp(span: TileSpan, length: int, side: int, halo: int) -> np.ndarray:
    """Weight of each pixel of a tile along one axis: it falls to 0 over half the halo at both sides of a border; neighbours add up to 1."""
    reach = halo / 2
    place = np.arange(span.left * side, span.right * side, dtype=np.float32) + 0.5
    weight = np.ones_like(place)
    for border, inwards, inner in ((span.start * side, 1, span.start > 0), (span.end * side, -1, span.end < length)):
        if inner:
            beyond = inwards * (place - border)
            weight *= np.clip((beyond + reach) / (2 * reach), 0, 1) if reach else (beyond > 0)
    return weight


def _each(places: Sequence[TilePlace], tile: Callable[[TileSpan, TileSpan], Any], norms: Norms) -> Iterator[tuple[TilePlace, Any]]:
    """Every tile with its result, after the passes over all tiles that its norms need."""
    if norms == "tile":
        yield from ((place, tile(*place)) for place in places)
        return
    shared = _SharedNorms()
    if norms == "pooled":
        for place in places:
            shared.run(tile, place, from_norm=0)
    else:
        while _stopped(shared, tile, places):
            pass
    shared.complete = True
    yield from ((place, shared.run(tile, place)) for place in places)


def _stopped(shared: "_SharedNorms", tile: Callable[[TileSpan, TileSpan], Any], places: Sequence[TilePlace]) -> bool:
    """Collect the statistics of the first norm that has none, from all tiles; False if there is no such norm."""
    number = len(shared.moments)
    for place in places:
        try:
            shared.run(tile, place, from_norm=number, stop=True)
        except _StopAtNormError:
            continue
        return False
    return True


@dataclass
class _Moments:
    """Sums over the values that one norm saw in all tiles, per group."""

    count: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, values: Tensor) -> None:
        """Add values [groups, n]."""
        exact = values.double()
        self.count += values.shape[1]
        self.total = self.total.to(exact.device) + exact.sum(dim=1)
        self.squares = self.squares.to(exact.device) + exact.square().sum(dim=1)


class _StopAtNormError(Exception):
    """Ends a network's call at the norm whose statistics are collected."""


class _SharedNorms(TorchFunctionMode):
    """Group norms with the mean and the variance of all tiles. Norms are told apart by their order in the network's call.

    A mode acts on the calls of its thread alone and leaves the network as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[_Moments] = []
        self.complete = self.stop = False
        self.place: TilePlace | None = None
        self.number = self.from_norm = 0

    def run(self, tile: Callable[[TileSpan, TileSpan], Any], place: TilePlace, from_norm: int = 0, stop: bool = False) -> Any:
        """Process one tile; until `complete`, its values are added to the statistics.

        Args:
            tile: Processes it.
            place: Its rows and columns.
            from_norm: First norm whose statistics are collected; those before it use what was collected.
            stop: Raise `_StopAtNormError` at that norm.
        """
        self.place, self.number, self.from_norm, self.stop = place, 0, from_norm, stop
        with self:
            return tile(*place)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchFunctionMode`."""
        if func is not functional.group_norm:
            return func(*args, **(kwargs or {}))
        number, self.number = self.number, self.number + 1
        if self.complete or number < self.from_norm:
            return _normalised(self.moments[number], *args, **(kwargs or {}))
        assert self.place is not None, "norms are met while a tile is processed"
        if number == len(self.moments):
            self.moments.append(_Moments())
        self.moments[number].add(_own_values(args[0], args[1], *self.place))
        if self.stop:
            raise _StopAtNormError
        return func(*args, **(kwargs or {}))


def _own_values(x: Tensor, groups: int, rows: TileSpan, columns: TileSpan) -> Tensor:
    """Values [groups, n] of a tile without its halo, at any resolution; flattened images keep the halo."""
    assert len(x) == 1, "tiles are processed one by one"
    if x.ndim == 4:
        cut = [
            slice(round(size * span.own.start / (span.right - span.left)), round(size * span.own.stop / (span.right - span.left)))
            for size, span in zip(x.shape[2:], (rows, columns), strict=True)
        ]
        x = x[:, :, cut[0], cut[1]]
    return x.reshape(groups, -1)


def _normalised(
    moments: _Moments, x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Group norm with given statistics."""
    mean = moments.total / moments.count
    variance = (moments.squares / moments.count - mean.square()).clamp(min=0)
    each = x.shape[1] // num_groups
    scale = (variance + eps).rsqrt().repeat_interleave(each).to(x.dtype)
    shift = mean.repeat_interleave(each).to(x.dtype)
    scale = scale if weight is None else scale * weight
    offset = -shift * scale if bias is None else bias - shift * scale
    shape = (1, -1, *[1] * (x.ndim - 2))
    return torch.addcmul(offset.view(shape), x, scale.view(shape))
