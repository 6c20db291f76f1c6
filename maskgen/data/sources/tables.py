"""Tables as a source: CSV, TSV, JSON lines, JSON and Parquet, with named columns of texts, paths or media."""

import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from maskgen.data.sources.handles import BadPart, FilePart, MediaPart, digest_of, digests_of, inside
from maskgen.data.sources.items import (
    Attribute,
    Item,
    Keys,
    Source,
    attribute_of,
    checked_split,
    identity_of,
    is_missing,
    parse_object,
    text_part,
    texts_of,
)
from maskgen.data.sources.parquet import Cells, parquet_columns, parquet_rows
from maskgen.io.limits import BadMedia

logger = logging.getLogger(__name__)
LARGEST_LINE_BYTES = 16 * 2**20
LARGEST_JSON_BYTES = 256 * 2**20
TABLE_ENDINGS = ("csv", "tsv", "jsonl", "json", "parquet")
MEDIA = ("image", "audio")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns to read.

    Args:
        text: Column of a caption or, in JSON and Parquet, a list of captions.
        image: Column of image paths or image bytes.
        audio: Column of audio paths or audio bytes.
        attributes: Columns of strings and numbers.
        split: Column of split names.
        key: Column of names that keys are made from; None numbers the rows.
    """

    text: str | None = None
    image: str | None = None
    audio: str | None = None
    attributes: Sequence[str] = ()
    split: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if not (self.text or self.image or self.audio):
            raise ValueError("a table needs at least one of the columns text, image, audio; name one")

    @property
    def names(self) -> list[str]:
        """Every column, each once."""
        single = (self.text, self.image, self.audio, self.split, self.key)
        return list(dict.fromkeys([name for name in single if name] + list(self.attributes)))

    def name_of(self, row: Row | BadMedia, number: str) -> str:
        """Name of a row: its cell in the key column, otherwise its number."""
        cell = None if isinstance(row, BadMedia) or self.key is None else row.get(self.key)
        return number if is_missing(cell) or cell == "" else str(cell)

    @property
    def media(self) -> dict[str, str]:
        """Modality to column, without text."""
        return {kind: name for kind, name in (("image", self.image), ("audio", self.audio)) if name}


def row_item(key: str, row: Row | BadMedia, media: Mapping[str, MediaPart], columns: Columns, facts: Sequence[object]) -> Item:
    """One row as an item.

    Args:
        key: The item's key.
        row: Cells other than media, or the reason why the row cannot be read.
        media: Handles by modality.
        columns: Names of the columns.
        facts: Further parts of the identity; needed if media is not in files.

    Returns:
        The item; errors of the row are raised when its parts are read.
    """
    cells: Row = {} if isinstance(row, BadMedia) else row
    used = json.dumps({name: cells.get(name) for name in columns.names}, sort_keys=True, default=str)
    identity = identity_of(key, str(row) if isinstance(row, BadMedia) else used, digests_of(media), *facts)
    try:
        if isinstance(row, BadMedia):
            raise row
        texts = texts_of(cells.get(columns.text or ""), "text")
        attributes = _attributes(cells, columns.attributes)
        split = checked_split(cells.get(columns.split or "") or None)
    except BadMedia as error:
        return Item(key=key, parts=dict.fromkeys(media or ["text"], BadPart(str(error))), identity=identity)
    parts: dict[str, MediaPart] = {**media, "text": text_part(texts)} if texts else dict(media)
    parts = parts or {"text": BadPart("a row without text, picture or sound")}
    return Item(key=key, parts=parts, attributes=attributes, split=split, identity=identity)


def _attributes(cells: Row, names: Sequence[str]) -> dict[str, Attribute]:
    return {name: attribute_of(cells[name], name) for name in names if not is_missing(cells.get(name))}


@dataclass(frozen=True)
class TableSource(Source):
    """Rows of a table as items.

    Media columns hold paths inside the table's folder or `root`; in Parquet also bytes, or the structs {"bytes", "path"} of Hugging
    Face. An empty cell or NaN means that the row lacks that modality or attribute. A cell is one caption, also with line breaks in it;
    a list in JSON and Parquet holds several. Quotes enclose cells in CSV; in TSV they are text, as in Common Voice and Tatoeba.

    Args:
        path: A .csv or .tsv with a header line, .jsonl or a .json list of objects, or .parquet.
        text: Column name, like the next five; see `Columns`.
        root: Folder of the media; None is the table's folder.
        weight: See `Source`.

    Raises:
        ValueError: If no column of texts or media is named.
    """

    path: Path
    _: KW_ONLY
    text: str | None = None
    image: str | None = None
    audio: str | None = None
    attributes: Sequence[str] = ()
    split: str | None = None
    key: str | None = None
    root: Path | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        self.columns  # noqa: B018  # says at once that no column is named

    @property
    def columns(self) -> Columns:
        """Names of the columns."""
        return Columns(text=self.text, image=self.image, audio=self.audio, attributes=self.attributes, split=self.split, key=self.key)

    @property
    def _is_parquet(self) -> bool:
        return self.path.suffix.lower() == ".parquet"

    def items(self) -> Iterator[Item]:
        """See `Source`; in the order of the rows.

        Raises:
            ValueError: If the table is missing, unreadable, empty, of another kind, or lacks a column.
            ImportError: If it is Parquet and pyarrow is not installed.
        """
        if not self.path.is_file():
            raise ValueError(f"{self.path} does not exist or is no file; give a table ({', '.join(TABLE_ENDINGS)})")
        keys, root, number = Keys(), (self.root or self.path.parent).resolve(), -1
        version = [digest_of(FilePart(self.path))] if self._is_parquet else []
        for number, (row, media) in enumerate(self._rows(root)):
            key = keys.of(self.columns.name_of(row, f"{self.path.stem}-{number:08d}"))
            yield row_item(key, row, media, self.columns, version)
        if number < 0:
            raise ValueError(f"{self.path} holds no rows; check the file")

    def _rows(self, root: Path) -> Iterator[Cells]:
        """Cells, and handles on the media."""
        if self._is_parquet:
            check_columns(self.path, parquet_columns(self.path), self.columns.names)
            yield from parquet_rows(self.path, root, self.columns.names, self.columns.media)
            return
        for row in text_rows(self.path, self.columns.names):
            cells: Row = {} if isinstance(row, BadMedia) else row
            there = {kind: cells.get(name) for kind, name in self.columns.media.items()}
            filled = {kind: value for kind, value in there.items() if not is_missing(value) and value != ""}
            yield row, {kind: path_part(root, value) for kind, value in filled.items()}


def path_part(root: Path, value: object) -> MediaPart:
    """Handle on the file named by a cell."""
    return inside(root, value) if isinstance(value, str) else BadPart(f"a cell holds {type(value).__name__}, wanted a path")


def check_columns(name: object, columns: Sequence[str], wanted: Sequence[str]) -> None:
    """Check that a table has the requested columns.

    Raises:
        ValueError: If one is missing.
    """
    missing = [column for column in wanted if column not in columns]
    if missing:
        raise ValueError(f"{name} has no column {missing[0]!r}, its columns are {', '.join(map(str, columns))}; name one of these")


def text_rows(path: Path, wanted: Sequence[str]) -> Iterator[Row | BadMedia]:
    """Rows of a text table; the columns of JSON are only known at its end."""
    kind = path.suffix.lower().removeprefix(".")
    if kind in ("csv", "tsv"):
        yield from _csv_rows(path, "," if kind == "csv" else "\t", wanted)
        return
    if kind not in ("jsonl", "json"):
        raise ValueError(f"{path} ends in {path.suffix!r}, wanted one of {', '.join(TABLE_ENDINGS)}; convert the table")
    columns: dict[str, None] = {}
    for row in _jsonl_rows(path) if kind == "jsonl" else _json_rows(path):
        columns.update(dict.fromkeys(row if not isinstance(row, BadMedia) else ()))
        yield row
    if columns:
        check_columns(path, list(columns), wanted)


def _csv_rows(path: Path, delimiter: str, wanted: Sequence[str]) -> Iterator[Row | BadMedia]:
    """Rows keyed by the header; invalid UTF-8 is left to the text decoder. Quotes enclose cells in CSV, in TSV they are text."""
    quotes, escaped = delimiter == ",", 0
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise ValueError(f"{path} names a column twice ({', '.join(header)}); rename one")
            check_columns(path, header, wanted)
            for cells in reader:
                escaped += not quotes and any(map(_is_escaped, cells))
                if cells:
                    same = len(cells) == len(header)
                    yield dict(zip(header, cells, strict=True)) if same else BadMedia(f"{len(cells)} cells, wanted {len(header)}")
        except csv.Error as error:
            raise ValueError(f"{path} is no table at line {reader.line_num} ({error}); mend or convert it") from error
    if escaped:
        logger.warning("%s: %d rows hold cells quoted as in CSV; in TSV quotes are text. Write such a table as .csv", path, escaped)


def _is_escaped(cell: str) -> bool:
    """Whether a cell is in quotes, with quotes inside that are all doubled."""
    inner = cell[1:-1]
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '""' in inner and '"' not in inner.replace('""', "")


def _jsonl_rows(path: Path) -> Iterator[Row | BadMedia]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LARGEST_LINE_BYTES + 1), b""), 1):
            if len(line) > LARGEST_LINE_BYTES:
                raise ValueError(f"{path} has more than {LARGEST_LINE_BYTES} bytes in line {number}; keep media in files beside it")
            if line.strip():
                yield _row(line)


def _row(line: bytes) -> Row | BadMedia:
    try:
        return parse_object(line)
    except BadMedia as error:
        return error


def _json_rows(path: Path) -> Iterator[Row | BadMedia]:
    if path.stat().st_size > LARGEST_JSON_BYTES:
        raise ValueError(f"{path} has more than {LARGEST_JSON_BYTES} bytes; write it as .jsonl, which is read line by line")
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); mend it") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds {type(rows).__name__}, wanted a list of objects; write it as .jsonl")
    for row in rows:
        yield row if isinstance(row, dict) else BadMedia(f"a row is {type(row).__name__}, wanted an object")
