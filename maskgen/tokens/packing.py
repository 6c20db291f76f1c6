"""Packs samples into rows of cells, and unpacks them."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from maskgen.tokens.batch import UNKNOWN, Codes, TokenBatch
from maskgen.tokens.space import MASK, PAD, TokenSpace
from maskgen.tokens.vectors import cell_features, require_vectors, vectors_of


def grid_axes(grid: Sequence[int]) -> tuple[int, ...]:
    """Axes among (time, row, column) along which a grid runs.

    Raises:
        ValueError: If the grid has no axes or more than three.
    """
    axes = {1: (0,), 2: (1, 2), 3: (0, 1, 2)}.get(len(grid))
    if axes is None:
        raise ValueError(f"a grid has 1, 2 or 3 axes, got shape {tuple(grid)}")
    return axes


def extents(grid: Sequence[int]) -> Int[Tensor, "cells 3"]:
    """Size of a grid along (time, row, column) at each of its cells; 0 along axes that it lacks."""
    size = torch.zeros(3, dtype=torch.long)
    size[list(grid_axes(grid))] = torch.tensor(list(grid))
    return size.expand(math.prod(grid), 3)


def coordinates(grid: Sequence[int]) -> Int[Tensor, "cells 3"]:
    """Coordinates (time, row, column) of every cell of a grid in row-major order.

    A 1-D grid runs along time, a 2-D grid along (row, column), a 3-D grid along all three.

    Raises:
        ValueError: If the grid has no axes or more than three.
    """
    coords = torch.zeros(math.prod(grid), 3, dtype=torch.long)
    for axis, values in zip(grid_axes(grid), torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij"), strict=True):
        coords[:, axis] = values.reshape(-1)
    return coords


DEFAULT_DURATION = 3
"""Frames assumed for a phoneme of unknown duration when the phonemes after it are positioned."""


def placed_in_time(codes: Codes) -> Int[Tensor, "cells 3"]:
    """Coordinates (time, 0, 0) of timed phonemes: the midpoint of each on the time axis of the audio that they describe.

    An audio frame and the phoneme spoken in it get the same position, so rotary attention relates them.

    Args:
        codes: [2, n]: phonemes, and the duration of each in frames (UNKNOWN counts as DEFAULT_DURATION).
    """
    frames = torch.where(codes[1] == UNKNOWN, DEFAULT_DURATION, codes[1]).long()
    coords = torch.zeros(codes.shape[1], 3, dtype=torch.long)
    coords[:, 0] = frames.cumsum(dim=0) - frames + frames // 2
    return coords


def _shared_ids(codes: Codes, space: TokenSpace, name: str) -> Int[Tensor, "cells level"]:
    """Shared ids of one sample's codes, one row per cell."""
    segments = space.of(name)
    if space.modality(name).has_vectors:
        return _known_cells(require_vectors(codes, space.modality(name)).shape[1], space, name)
    if codes.ndim < 2 or codes.shape[0] != len(segments):
        raise ValueError(f"codes of {name!r} have shape {tuple(codes.shape)}, wanted [{len(segments)} levels, *grid]")
    flat = codes.reshape(codes.shape[0], -1).long()
    size = segments[0].size
    if flat.numel() and not (int(flat.min()) >= UNKNOWN and int(flat.max()) < size):
        raise ValueError(f"codes of {name!r} must lie in [0, {size}) or be {UNKNOWN} (unknown), got {int(flat.min())} to {int(flat.max())}")
    offsets = torch.tensor([segment.offset for segment in segments])[:, None]
    ids = torch.full((flat.shape[1], space.num_levels), PAD, dtype=torch.long)
    ids[:, : len(segments)] = torch.where(flat == UNKNOWN, MASK, flat + offsets).T
    return ids


def _known_cells(count: int, space: TokenSpace, name: str) -> Int[Tensor, "cells level"]:
    """Shared ids of cells that hold vectors: the only code of their modality."""
    ids = torch.full((count, space.num_levels), PAD, dtype=torch.long)
    ids[:, 0] = space.segment(name, 0).offset
    return ids


def pack(samples: Sequence[Mapping[str, Codes]], space: TokenSpace, multiple: int = 1) -> TokenBatch:
    """Packs samples into a batch, one sample per row, padded to the longest.

    Within a row the modalities follow the order of the space. Training and generation both use this function.

    Args:
        samples: Modality name to Codes `[level, *grid]`, or to vectors [width, n] where it is of kind features; omit absent modalities.
        space: The token space.
        multiple: The length is padded to a multiple of this. Fewer distinct shapes mean fewer recompilations of a compiled model.

    Returns:
        A TokenBatch with one document per row.

    Raises:
        ValueError: If a modality is unknown, or codes have a wrong shape or range.
    """
    return pack_rows([[sample] for sample in samples], space, multiple)


def pack_rows(rows: Sequence[Sequence[Mapping[str, Codes]]], space: TokenSpace, multiple: int = 1) -> TokenBatch:
    """Packs several samples per row, as consecutive documents 0, 1, ... that don't attend to each other.

    Args:
        rows: Samples of each row, as for `pack`.
        space: The token space.
        multiple: The length is padded to a multiple of this.

    Returns:
        A TokenBatch; padding belongs to document 0 and is not valid.

    Raises:
        ValueError: If there is no row, a modality is unknown, or codes have a wrong shape or range.
    """
    if not rows:
        raise ValueError("pack needs at least one sample, got none")
    filled = [_row([_cells(sample, space) for sample in row], space.num_levels) for row in rows]
    lengths = torch.tensor([len(modality) for _, modality, *_ in filled])
    length = -(-int(lengths.max()) // multiple) * multiple
    ids, modality, coords, extent, document = (_padded(fields, length) for fields in zip(*filled, strict=True))
    vectors = cell_features([[vectors for sample in row for vectors in _in_order(sample, space)] for row in rows], modality, space)
    return TokenBatch(ids, modality, coords, torch.arange(length)[None] < lengths[:, None], document, extent, vectors)


def _in_order(sample: Mapping[str, Codes], space: TokenSpace) -> list[tuple[str, Codes]]:
    """Modalities of a sample that hold vectors, in the order of their cells."""
    return [(one.name, sample[one.name]) for one in space.modalities if one.has_vectors and one.name in sample]


_RowCells = tuple[Tensor, Tensor, Tensor, Tensor]
"""Ids `[cells level]`, modality `[cells]`, coordinates `[cells 3]` and extents `[cells 3]`."""


def _cells(sample: Mapping[str, Codes], space: TokenSpace) -> _RowCells:
    """The cells of one sample."""
    for name in sample:
        space.of(name)
    parts: list[_RowCells] = [_nothing(space.num_levels)]
    for name in [modality.name for modality in space.modalities if modality.name in sample]:
        ids, grid = _shared_ids(sample[name], space, name), sample[name].shape[1:]
        coords = placed_in_time(sample[name]) if space.modality(name).timed else coordinates(grid)
        coords[:, 0] *= space.modality(name).stride
        parts.append((ids, torch.full((len(ids),), space.index(name)), coords, extents(grid)))
    ids, modality, coords, extent = (torch.cat(list(field)) for field in zip(*parts, strict=True))
    return ids, modality, coords, extent


def _nothing(num_levels: int) -> _RowCells:
    """An empty set of cells."""
    places = torch.zeros(0, 3, dtype=torch.long)
    return torch.zeros(0, num_levels, dtype=torch.long), torch.zeros(0, dtype=torch.long), places, places


def _row(samples: Sequence[_RowCells], num_levels: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The concatenated cells of several samples, and the document of each cell."""
    documents = [torch.full((len(modality),), number) for number, (_, modality, *_) in enumerate(samples)]
    ids, modality, coords, extent = (torch.cat(list(field)) for field in zip(*(samples or [_nothing(num_levels)]), strict=True))
    return ids, modality, coords, extent, torch.cat(documents or [torch.zeros(0, dtype=torch.long)])


def _padded(rows: Sequence[Tensor], length: int) -> Tensor:
    """Rows of cells as one tensor, shorter rows padded with zeros at the end."""
    batch = rows[0].new_zeros(len(rows), length, *rows[0].shape[1:])
    for place, row in zip(batch, rows, strict=True):
        place[: len(row)] = row
    return batch


def _codes_of(ids: Int[Tensor, "cells level"], extent: Int[Tensor, "cells 3"], space: TokenSpace, name: str) -> Codes:
    """Codes of one modality from the cells of one row, in the shape of their grid; a part of a grid is one row of cells."""
    segments = space.of(name)
    offsets = torch.tensor([segment.offset for segment in segments], device=ids.device)
    kept = ids[:, : len(segments)]
    codes = torch.where(kept == MASK, UNKNOWN, kept - offsets).T
    grid = [size for size in extent[0].tolist() if size]
    return codes.reshape(len(segments), *grid) if math.prod(grid) == codes.shape[1] else codes


def unpack(batch: TokenBatch, space: TokenSpace) -> list[dict[str, Codes]]:
    """Unpacks the samples of a batch: the inverse of `pack` and `pack_rows`, for grids of one, two and three axes. MASK becomes UNKNOWN.

    Hidden cells are treated as absent.
    """
    samples = []
    for row in range(len(batch)):
        for document in range(int(batch.document[row].max()) + 1 if batch.document.shape[1] else 1):
            sample = {}
            for modality in space.modalities:
                cells = batch.valid[row] & (batch.document[row] == document) & (batch.modality[row] == space.index(modality.name))
                if bool(cells.any()) and modality.has_vectors:
                    sample[modality.name] = vectors_of(batch, row, cells, space.feature_columns(modality.name))
                elif bool(cells.any()):
                    sample[modality.name] = _codes_of(batch.ids[row][cells], batch.extent[row][cells], space, modality.name)
            samples.append(sample)
    return samples


def until_end(codes: Codes, end: int | None, given: int = 0) -> Codes:
    """Codes of a text before the first end code; all codes if there is none.

    Args:
        codes: Of one text.
        end: The end code, if there is one.
        given: Number of codes at the start that are kept whatever they are; see `given_cells`.
    """
    found = [] if end is None or codes.ndim != 2 else (codes[0, given:] == end).nonzero()[:, 0].tolist()
    return codes[:, : given + found[0]] if found else codes


def given_cells(codes: Codes, end: int | None) -> int:
    """Number of cells of a text with unknown codes up to the last one that holds a given code; a given end code doesn't count.

    A text that is wholly known has none to protect: it ends at its first end code.
    """
    if end is None or codes.ndim != 2 or not bool((codes[0] == UNKNOWN).any()):
        return 0
    given = ((codes[0] != UNKNOWN) & (codes[0] != end)).nonzero()[:, 0]
    return int(given[-1]) + 1 if len(given) else 0
