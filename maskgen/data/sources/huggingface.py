"""Hugging Face data sets as a source: rows are read undecoded, so that only our own decoders handle media."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from maskgen.data.sources.handles import FilePart, MediaPart, digest_of, inside
from maskgen.data.sources.items import Item, Keys, Source
from maskgen.data.sources.parquet import cell_bytes, light_cells, named_files
from maskgen.data.sources.tables import Columns, check_columns, row_item
from maskgen.io.limits import BadMedia

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""owner/name. Names without an owner are loaders of the library, one of which unpickles."""
SAVED = ("state.json", "dataset_dict.json")
"""Files that `save_to_disk` writes."""
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class HubPart(MediaPart):
    """A cell of a media column."""

    path: str
    subset: str | None
    split: str | None
    column: str
    row: int

    def read(self, limit: int) -> bytes:
        """See `MediaPart`."""
        table = _load(self.path, self.subset)[self.split].select_columns(self.column)[self.row : self.row + 1]
        return cell_bytes(table.column(self.column)[0].as_py(), _media_root(self.path), limit)


@dataclass(frozen=True)
class HuggingFaceSource(Source):
    """Rows of a Hugging Face data set as items. Code of a data set is never run.

    Args:
        path: A folder written by `save_to_disk`, or "owner/name", which is downloaded.
        subset: Configuration, for a data set with several.
        split: Split to read; None reads all. Its name becomes the items' split.
        text: Column names, like the next four; see `Columns`. Media columns hold bytes, paths or structs of both.
        weight: See `Source`.

    Raises:
        ValueError: If the path is neither, or no column of texts or media is named.
    """

    path: str
    _: KW_ONLY
    subset: str | None = None
    split: str | None = None
    text: str | None = None
    image: str | None = None
    audio: str | None = None
    attributes: Sequence[str] = ()
    key: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not _is_saved(self.path) and (Path(self.path).exists() or not HUB_NAME.fullmatch(self.path)):
            raise ValueError(
                f"{self.path!r} is no folder of save_to_disk and no owner/name; other files are kind folder, table or webdataset"
            )
        self.columns  # noqa: B018  # says at once that no column is named

    @property
    def columns(self) -> Columns:
        """Names of the columns."""
        return Columns(text=self.text, image=self.image, audio=self.audio, attributes=self.attributes, key=self.key)

    def items(self) -> Iterator[Item]:
        """See `Source`; split by split by name, in the order of the rows.

        Raises:
            ValueError: If the data set cannot be loaded, is empty, or lacks the split or a column.
            ImportError: If datasets is not installed.
        """
        keys, splits = Keys(), _load(self.path, self.subset)
        if self.split is not None and self.split not in splits:
            raise ValueError(f"{self.path} has no split {self.split!r}, it has {', '.join(map(str, splits))}; name one of these")
        names = [self.split] if self.split is not None else sorted(splits, key=str)
        if not any(splits[name].num_rows for name in names):
            raise ValueError(f"{self.path} holds no rows; name another split")
        for name in names:
            check_columns(self.path, splits[name].column_names, self.columns.names)
            yield from self._split_items(keys, name, splits[name])

    def _split_items(self, keys: Keys, split: str | None, rows: Any) -> Iterator[Item]:
        classes = {name: feature.names for name, feature in rows.features.items() if hasattr(feature, "names")}
        light = [name for name in self.columns.names if name not in self.columns.media.values()]
        chosen, named, version = rows.select_columns(self.columns.names), "" if split is None else f"{split}-", _version(rows)
        for start in range(0, rows.num_rows, ROWS_AT_ONCE):
            table = chosen[start : start + ROWS_AT_ONCE]
            there = {kind: named_files(table.column(name)) for kind, name in self.columns.media.items()}
            for place, cells in enumerate(light_cells(table.select(light)) if light else [{} for _ in range(table.num_rows)]):
                key = keys.of(self.columns.name_of(cells, f"{named}{start + place:08d}"))
                media = self._media(split, start + place, {kind: column[place] for kind, column in there.items()})
                yield replace(row_item(key, _spelled(cells, classes), media, self.columns, version), split=split)

    def _media(self, split: str | None, row: int, cells: Mapping[str, str | None]) -> dict[str, MediaPart]:
        """Handles on the filled media cells of a row, given as in `named_files`."""
        root, columns = _media_root(self.path), self.columns.media
        return {
            kind: inside(root, path) if path else HubPart(self.path, self.subset, split, columns[kind], row)
            for kind, path in cells.items()
            if path is not None
        }


def _version(rows: Any) -> list[str]:
    """What the rows depend on: the content of their Arrow files, or the fingerprint of rows in memory."""
    files = sorted(str(file["filename"]) for file in rows.cache_files)
    return [digest_of(FilePart(Path(file))) for file in files] or [str(rows._fingerprint)]


def _spelled(cells: dict[str, Any] | BadMedia, classes: Mapping[str, Sequence[str]]) -> dict[str, Any] | BadMedia:
    """Cells with class names instead of class numbers; -1, which means no label, becomes None."""
    if isinstance(cells, BadMedia):
        return cells
    known = {name: number for name, number in cells.items() if name in classes and number is not None}
    return {**cells, **{name: classes[name][number] if number >= 0 else None for name, number in known.items()}}


def _is_saved(path: str) -> bool:
    return any(Path(path, name).is_file() for name in SAVED)


def _media_root(path: str) -> Path:
    """Folder that paths in cells must stay in: the data set's own, or the cache that it was downloaded to."""
    from datasets import config

    return Path(path if _is_saved(path) else config.HF_CACHE_HOME).resolve()


@lru_cache(maxsize=4)
def _load(path: str, subset: str | None) -> dict[str | None, Any]:
    """Data sets by split, undecoded; the key is None for a data set without splits.

    Raises:
        ValueError: If it cannot be loaded.
        ImportError: If datasets is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("Hugging Face data sets are read with datasets; install it with: pip install maskgen[data]") from error
    try:
        loaded = datasets.load_from_disk(path) if _is_saved(path) else datasets.load_dataset(path, subset)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError) as error:
        raise ValueError(f"{path} cannot be loaded ({str(error)[:200]}); check the name, the folder and the connection") from error
    splits = loaded if isinstance(loaded, Mapping) else {None: loaded}
    return {name: rows.with_format("arrow") for name, rows in splits.items()}
