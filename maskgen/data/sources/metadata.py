"""Tables that describe the files of a folder: `metadata.jsonl` and `metadata.csv`, as in Hugging Face's ImageFolder and AudioFolder."""

import csv
import logging
import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from maskgen.data.sources.pairing import folded
from maskgen.data.sources.tables import LARGEST_LINE_BYTES, Row, text_rows
from maskgen.io.limits import BadMedia

logger = logging.getLogger(__name__)

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
FILE_COLUMN = "file_name"
Rows = dict[str, list[Row | BadMedia]]
"""Name of a file, relative to the folder of the data, to the rows that describe it."""


def is_metadata(root: Path, name: str) -> bool:
    """Whether a file is a metadata table: called as one, and with the column file_name.

    Args:
        root: Folder of the data.
        name: Path relative to it.

    Raises:
        ValueError: If it is a damaged table.
    """
    base = name.rpartition("/")[2].lower()
    if base not in METADATA_FILES:
        if base == "metadata.parquet":
            logger.warning("%s is not read; write it as metadata.jsonl, or give it as a source of kind: table", root / name)
        return False
    named = FILE_COLUMN in _first_columns(root / name)
    if not named:
        logger.warning("%s has no column %s, so it is not read; give it as a source of kind: table", root / name, FILE_COLUMN)
    return named


def _first_columns(path: Path) -> Sequence[str]:
    """Columns of the header, or of the first object."""
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return next(csv.reader([file.readline(LARGEST_LINE_BYTES)]), [])
    return list(next((row for row in text_rows(path, ()) if not isinstance(row, BadMedia)), {}))


def metadata_rows(root: Path, tables: Sequence[str], names: Sequence[str]) -> Rows:
    """Rows of metadata tables by the file that they describe.

    Args:
        root: Folder of the data.
        tables: The tables, relative to it; the paths in them start at the folder of the table.
        names: Files of the data, to find those whose case or Unicode form differs from the table's.

    Raises:
        ValueError: If a table cannot be read, or two tables are in one folder.
    """
    folders = [posixpath.dirname(table) for table in tables]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise ValueError(f"{root / twice} holds {' and '.join(METADATA_FILES)}; keep one of them")
    exact, alike = set(names), _unique_folded(names)
    found: Rows = {}
    for folder, table in zip(folders, tables, strict=True):
        for number, row in enumerate(text_rows(root / table, ()), 1):
            name, filled = f"{table}-{number:08d}", row
            if not isinstance(row, BadMedia):
                named = row.get(FILE_COLUMN)
                filled = {column: cell for column, cell in row.items() if column != FILE_COLUMN and cell != ""}
                if isinstance(named, str) and named:
                    name = posixpath.normpath(posixpath.join(folder, named))
                else:
                    filled = BadMedia(f"row {number} of {posixpath.basename(table)} names no file")
            found.setdefault(name if name in exact else alike.get(folded(name), name), []).append(filled)
    return found


def _unique_folded(names: Sequence[str]) -> dict[str, str]:
    """Names by their folded form, without those that share it."""
    counts = Counter(map(folded, names))
    return {folded(name): name for name in names if counts[folded(name)] == 1}
