"""Parquet for `tables.py`: light columns are read row by row, media cells by row group and on demand."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from maskgen.data.sources.handles import MediaPart, inside, within
from maskgen.io.limits import BadMedia

LARGEST_GROUP_BYTES = 2 * 2**30
ROWS_AT_ONCE = 1024
Cells = tuple[dict[str, Any] | BadMedia, dict[str, MediaPart]]
"""Plain values by column, and handles on media by modality."""


def _pyarrow() -> ModuleType:
    """pyarrow with its Parquet and compute parts."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet is read with pyarrow; install it with: pip install maskgen[data]") from error
    module: ModuleType = pyarrow
    return module


@contextmanager
def _readable(path: Path) -> Iterator[ModuleType]:
    """pyarrow, with its errors turned into ValueError."""
    pyarrow = _pyarrow()
    try:
        yield pyarrow
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({str(error)[:200]}); fetch or write it again") from error


def cell_bytes(value: object, root: Path, limit: int) -> bytes:
    """The media in a cell: bytes, a path, or Hugging Face's struct of both.

    Args:
        value: The cell.
        root: Resolved folder that paths must stay in.
        limit: Maximum number of bytes.

    Raises:
        BadMedia: If the cell is empty, of another type, too large, or its path leads outside.
    """
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return within(value, limit)
    if isinstance(value, str) and value:
        return inside(root, value).read(limit)
    raise BadMedia("an empty cell" if value is None or value == "" else f"a cell holds {type(value).__name__}, wanted bytes or a path")


@dataclass(frozen=True)
class ParquetPart(MediaPart):
    """A cell of a media column; paths in it are relative to `root`. The cells of a row group are read together and cached."""

    path: Path
    column: str
    group: int
    row: int
    root: Path

    def read(self, limit: int) -> bytes:
        """See `MediaPart`."""
        try:
            value = _column(self.path, self.column, self.group)[self.row].as_py()
        except ValueError as error:
            raise BadMedia(str(error)) from error
        return cell_bytes(value, self.root, limit)


@lru_cache(maxsize=2)
def _column(path: Path, column: str, group: int) -> Any:
    """One column of one row group."""
    with _readable(path) as pyarrow, pyarrow.parquet.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(column)


def parquet_columns(path: Path) -> list[str]:
    """Names of a file's columns.

    Raises:
        ValueError: If it is not a Parquet file.
        ImportError: If pyarrow is not installed.
    """
    with _readable(path) as pyarrow, pyarrow.parquet.ParquetFile(path) as file:
        return list(file.schema_arrow.names)


def parquet_rows(path: Path, root: Path, names: Sequence[str], media: Mapping[str, str]) -> Iterator[Cells]:
    """Rows in the file's order.

    Args:
        path: A Parquet file.
        root: Resolved folder that paths must stay in.
        names: Columns to read.
        media: Modality to column, for those among `names` that hold media.

    Yields:
        Cells of the columns without media, and handles on the media that exist.

    Raises:
        ValueError: If the file is damaged or a row group is too large to be read at once.
    """
    with _readable(path) as pyarrow, pyarrow.parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        heavy = {kind: name for kind, name in media.items() if not _is_text(pyarrow, schema.field(name).type)}
        light = [name for name in names if name not in heavy.values()]
        for group in range(file.num_row_groups):
            _check_group(path, file.metadata.row_group(group), names)
            there = {kind: _present(file, group, name) for kind, name in heavy.items()}
            for row, cells in enumerate(_light_rows(file, group, light)):
                parts: dict[str, MediaPart] = {
                    kind: inside(root, named) if (named := there[kind][row]) else ParquetPart(path, name, group, row, root)
                    for kind, name in heavy.items()
                    if there[kind][row] is not None
                }
                paths = {} if isinstance(cells, BadMedia) else {kind: cells[name] for kind, name in media.items() if kind not in heavy}
                parts.update({kind: inside(root, path) for kind, path in paths.items() if path})
                yield cells, parts


def _is_text(pyarrow: ModuleType, kind: Any) -> bool:
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _leaves(group: Any, name: str) -> list[Any]:
    """Physical columns of a column: itself, or the fields of a struct."""
    columns = (group.column(number) for number in range(group.num_columns))
    return [column for column in columns if column.path_in_schema.split(".")[0] == name]


def _check_group(path: Path, group: Any, names: Sequence[str]) -> None:
    """Refuse a row group that would not fit into memory."""
    size = sum(leaf.total_uncompressed_size for name in names for leaf in _leaves(group, name))
    if size > LARGEST_GROUP_BYTES:
        raise ValueError(f"{path} has a row group of {size} bytes, at most {LARGEST_GROUP_BYTES}; write it with smaller row groups")


def _present(file: Any, group: int, name: str) -> Sequence[str | None]:
    """`named_files` of a column: from the statistics if they suffice, otherwise by reading it."""
    stored = file.metadata.row_group(group)
    leaves = _leaves(stored, name)
    whole = [leaf for leaf in leaves if len(leaves) == 1 or leaf.path_in_schema == f"{name}.bytes"]
    if any(leaf.statistics is not None and leaf.statistics.null_count == 0 for leaf in whole):
        return [""] * stored.num_rows
    return named_files(file.read_row_group(group, columns=[name]).column(name))


def named_files(column: Any) -> list[str | None]:
    """What each media cell of an Arrow column holds: the path of a file, "" for the bytes themselves, None for nothing."""
    pyarrow = _pyarrow()
    if _is_text(pyarrow, column.type):
        return [path or None for path in column.to_pylist()]
    if not pyarrow.types.is_struct(column.type):
        return ["" if there else None for there in column.is_valid().to_pylist()]
    fields = [field.name for field in column.type]
    filled = [pyarrow.compute.struct_field(column, [number]).is_valid().to_pylist() for number in range(len(fields))]
    there = ["" if any(cells) else None for cells in zip(*filled, strict=True)]
    if "path" not in fields:
        return there
    paths = pyarrow.compute.struct_field(column, [fields.index("path")]).to_pylist()
    inline = filled[fields.index("bytes")] if "bytes" in fields else [False] * len(paths)
    return [found if found is None or held else path or found for found, held, path in zip(there, inline, paths, strict=True)]


def _light_rows(file: Any, group: int, names: Sequence[str]) -> Iterator[dict[str, Any] | BadMedia]:
    """Cells by column; invalid UTF-8 affects only its row."""
    if not names:
        yield from ({} for _ in range(file.metadata.row_group(group).num_rows))
        return
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[group], columns=list(names)):
        yield from light_cells(batch)


def light_cells(table: Any) -> list[dict[str, Any] | BadMedia]:
    """Rows of an Arrow table as plain values."""
    try:
        return list(table.to_pylist())
    except UnicodeDecodeError as error:
        if table.num_rows == 1:
            return [BadMedia(f"no UTF-8 in a cell ({error.reason})")]
        return [cells for row in range(table.num_rows) for cells in light_cells(table.slice(row, 1))]
