"""Sources of raw samples, read from a recipe's YAML: folders here; tars, tables and Hugging Face data sets in their own files."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Any

from maskgen.data.sources.handles import BadPart, FilePart, InlinePart, MediaPart, TarPart, inside
from maskgen.data.sources.huggingface import HuggingFaceSource
from maskgen.data.sources.items import Item, Keys, Source
from maskgen.data.sources.metadata import is_metadata, metadata_rows
from maskgen.data.sources.pairing import ENDINGS, FileGroup, SampleFile, folded, joined_groups, listed, paired
from maskgen.data.sources.synthesized import SpokenSource
from maskgen.data.sources.tables import TableSource
from maskgen.data.sources.text_lines import LinesSource
from maskgen.data.sources.webdataset import WebDatasetSource

__all__ = [
    "BadPart",
    "FilePart",
    "FolderSource",
    "HuggingFaceSource",
    "InlinePart",
    "Item",
    "LinesSource",
    "MediaPart",
    "Source",
    "SpokenSource",
    "TableSource",
    "TarPart",
    "WebDatasetSource",
    "read_sources",
]


@dataclass(frozen=True)
class FolderSource(Source):
    """Files paired by their path without the ending: `cat.png`, `cat.txt` and `cat.json` are one item.

    Paths may differ in case and Unicode form (`Cat.PNG`), as long as they name one sample; `cat.png.txt` belongs to `cat.png`. Images,
    audio clips and texts are the endings of `ENDINGS`. A text file holds one caption per line; beside an audio clip it is one text. A
    JSON object adds captions, "split", and attributes, and so does a row of `metadata.jsonl` or `metadata.csv` (column "file_name"); see
    `sample_record`. Hidden files and other endings are ignored; links that lead outside are refused.

    Args:
        path: The folder; read recursively.
        weight: See `Source`.
        labels: Attribute that holds the name of the folder which a file lies in (`cat/1.png` is a "cat"), as in ImageFolder; "" for none.
    """

    path: Path
    _: KW_ONLY
    weight: float = 1.0
    labels: str = ""

    def items(self) -> Iterator[Item]:
        """See `Source`; in the order of the paths.

        Raises:
            ValueError: If the folder is missing or holds no sample.
        """
        if not self.path.is_dir():
            raise ValueError(f"{self.path} is no folder; give a folder of images, audio and texts")
        ignored: Counter[str] = Counter()
        yield from listed(self.path, self._items(ignored), ignored)

    def _items(self, ignored: Counter[str]) -> Iterator[Item | None]:
        root, keys = self.path.resolve(), Keys()
        names, tables = list[str](), list[str]()
        for name in _files(root, ignored):
            (tables if _ending(name) not in ENDINGS else names).append(name)
        for group in joined_groups(_groups(root, names, metadata_rows(root, tables, names) if tables else {})):
            item = paired(keys.of(group.stem), group)
            yield self._labelled(item, group.stem) if item is not None and self.labels else item

    def _labelled(self, item: Item, stem: str) -> Item:
        """The item with the name of its folder as an attribute.

        Raises:
            ValueError: If it lies in no folder, or a file beside it gives that attribute another value.
        """
        name = stem.rpartition("/")[0].rpartition("/")[2]
        said = item.attributes.get(self.labels, name)
        if not name or str(said) != name:
            raise ValueError(
                f"{stem} of {self.path} has {self.labels} {str(said)!r} and lies in the folder {name!r}; "
                "put every picture into the folder of its class, or leave labels out"
            )
        return replace(item, attributes={**item.attributes, self.labels: name}, identity=f"{item.identity}:{name}")


def _groups(root: Path, names: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> list[FileGroup]:
    """Files by their stem, with the rows that describe them; rows of files that are not there stand alone, and are refused when read."""
    files, alike, groups = set(names), set(map(folded, names)), dict[str, list[str]]()
    for name in names:
        stem = name.rpartition(".")[0]
        whole = folded(stem) in alike and ENDINGS[_ending(name)] in ("text", "record")  # cat.png.txt
        groups.setdefault(stem.rpartition(".")[0] if whole else stem, []).append(name)
    found = []
    for stem in sorted(groups):
        members = [SampleFile(_ending(name), name, inside(root, name)) for name in groups[stem]]
        found.append(FileGroup(stem, members, [row for name in groups[stem] for row in rows.get(name, ())]))
    for name in sorted(set(rows) - files):
        part = inside(root, name)
        reason = part.reason if isinstance(part, BadPart) else f"{name[:80]!r} is of a kind that is not read"
        ending = _ending(name) if _ending(name) in ENDINGS else "txt"
        found.append(FileGroup(name, [SampleFile(ending, name, BadPart(reason))], rows[name]))
    return found


def _ending(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[2].lower()


def _files(root: Path, ignored: Counter[str]) -> Iterator[str]:
    """Sorted paths, relative to the root with "/", of files that are not hidden and have a known ending, and of metadata tables."""
    for folder, folders, files in os.walk(root):
        if links := sum(os.path.islink(os.path.join(folder, name)) for name in folders):
            ignored["links to folders"] += links
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith("."):
                continue
            path = Path(folder, name).relative_to(root).as_posix()
            if "." in name and (_ending(name) in ENDINGS or is_metadata(root, path)):
                yield path
            else:
                ignored[Path(name).suffix.lower()] += 1


KINDS: Mapping[str, type[Source]] = {
    "folder": FolderSource,
    "table": TableSource,
    "webdataset": WebDatasetSource,
    "huggingface": HuggingFaceSource,
    "spoken": SpokenSource,
    "lines": LinesSource,
}


def read_sources(specs: object, root: Path) -> list[Source]:
    """Sources of a recipe.

    Args:
        specs: A list of mappings, as YAML gives it, still unchecked: `kind`, `path`, `weight` and the other arguments of the kind's class.
        root: Folder that relative paths start from.

    Returns:
        One source per mapping; nothing is opened yet.

    Raises:
        ValueError: If there is none, a kind or key is unknown, a key is missing, or a value has the wrong type.
    """
    if not isinstance(specs, list | tuple) or not specs:
        raise ValueError(f"sources is {type(specs).__name__}, wanted a list with at least one of {', '.join(KINDS)}")
    return [_read_source(f"source {number}", spec, root) for number, spec in enumerate(specs, 1)]


def _read_source(name: str, spec: object, root: Path) -> Source:
    """One source; `name` stands for it in errors."""
    kind = spec.get("kind") if isinstance(spec, Mapping) else type(spec).__name__
    if not isinstance(spec, Mapping) or not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"{name} is of kind {kind!r}, wanted one of {', '.join(KINDS)}")
    types = {field.name: field.type for field in fields(KINDS[kind])}  # type: ignore[arg-type]
    values = {key: value for key, value in spec.items() if key != "kind"}
    unknown = sorted(str(key) for key in values if key not in types)
    if unknown or "path" not in values:
        problem = f"unknown keys {unknown}" if unknown else "no 'path'"
        raise ValueError(f"{name} ({kind}) has {problem}; its keys are kind, {', '.join(types)}")
    for key, value in values.items():
        values[key] = _checked(f"{name} ({kind}): {key}", types[key], value)
    return KINDS[kind](**{**values, **_located(kind, values, root)})


def _located(kind: str, values: Mapping[str, Any], root: Path) -> dict[str, Path | str]:
    """Resolve paths relative to the recipe's folder; a Hugging Face path that is not a folder there is a name on the hub."""
    if kind == "huggingface":
        folder = root / values["path"]
        return {"path": str(folder) if folder.is_dir() else values["path"]}
    return {key: root / values[key] for key in ("path", "root") if key in values}


def _checked(name: str, wanted: object, value: object) -> object:
    """Check a value against its argument: a number above 0 for a weight, a list of strings for columns, otherwise a string."""
    if wanted is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf"):
            return float(value)
        raise ValueError(f"{name} is {value!r}, wanted a number above 0")
    if wanted == Sequence[str]:
        good, what = isinstance(value, list | tuple) and all(isinstance(part, str) for part in value), "a list of texts"
    else:
        good, what = isinstance(value, str) and value != "" and "\0" not in value, "a text"
    if not good:
        raise ValueError(f"{name} is {value!r}, wanted {what}")
    return value
