"""The identity of a sample is that of its content: an edit of the same size and time changes it, a new time or place does not."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from builders.sources import write

from maskgen.data.sources import handles
from maskgen.data.sources.folder import FolderSource, HuggingFaceSource, LinesSource, Source, TableSource, WebDatasetSource


def identities(source: Source) -> list[str]:
    return [item.identity for item in source.items()]


def folder(root: Path, word: str) -> Source:
    return FolderSource(write(root, {"a.wav": f"sound {word}", "b.png": "-", "b.txt": "-"}))


def caption(root: Path, word: str) -> Source:
    return FolderSource(write(root, {"in/deep/a.png": "-", "in/deep/a.txt": word, "b.png": "-"}))


def record(root: Path, word: str) -> Source:
    return FolderSource(write(root, {"a.png": "-", "a.json": json.dumps({"word": word}), "b.png": "-"}))


def metadata(root: Path, word: str) -> Source:
    return FolderSource(write(root, {"a.png": "-", "b.png": "-", "metadata.csv": f"file_name,text\na.png,{word}\nb.png,-\n"}))


def cells(root: Path, word: str) -> Source:
    return TableSource(write(root, {"t.csv": f"say,other\n{word},-\nb,-\n"}) / "t.csv", text="say")


def files_of_a_table(root: Path, word: str) -> Source:
    return TableSource(write(root, {"t.jsonl": '{"f": "a.png"}\n{"f": "b.png"}\n', "a.png": word, "b.png": "-"}) / "t.jsonl", image="f")


def tarred(root: Path, word: str) -> Source:
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / "t.tar", "w") as archive:
        for name, content in {"a.png": word, "b.png": "-"}.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content.encode()))
    return WebDatasetSource(root / "t.tar")


def lines(root: Path, word: str) -> Source:
    return LinesSource(write(root, {"t.txt": f"{word}\nb\n"}) / "t.txt")


def parquet(root: Path, word: str, **cell: object) -> Source:
    pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    root.mkdir(parents=True, exist_ok=True)
    writer.write_table(pyarrow.Table.from_pylist([{"f": cell or word.encode()}, {"f": None}]), root / "t.parquet")
    return TableSource(root / "t.parquet", image="f")


def parquet_paths(root: Path, word: str) -> Source:
    return parquet(write(root, {"a.png": word}), word, bytes=None, path="a.png")


KINDS = [folder, caption, record, metadata, cells, files_of_a_table, tarred, lines, parquet, parquet_paths]
WHOLE = (parquet,)
"""Kinds that are identified as a whole file: an edit changes every row."""


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_an_edit_of_the_same_size_and_time_changes_the_identity_and_a_new_time_or_place_does_not(
    tmp_path: Path, make: Callable[[Path, str], Source]
) -> None:
    before = identities(make(tmp_path / "one", "red"))
    times = {path: path.stat() for path in (tmp_path / "one").rglob("*")}
    after = identities(edited := make(tmp_path / "one", "sky"))
    for path, stat in times.items():
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert path.stat().st_size == stat.st_size or path.suffix == ".parquet"
    assert identities(edited) == after, "a time is no part of it"
    assert [a != b for a, b in zip(before, after, strict=True)].count(True) == (len(before) if make in WHOLE else 1)
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere")
    assert identities(make(tmp_path / "elsewhere", "sky")) == after
    assert identities(make(tmp_path / "one", "red")) == before


def test_a_column_that_is_not_read_is_no_part_of_it(tmp_path: Path) -> None:
    before = identities(cells(tmp_path, "red"))
    write(tmp_path, {"t.csv": "say,other\nred,+\nb,+\n"})
    assert identities(TableSource(tmp_path / "t.csv", text="say")) == before


def test_what_is_too_large_to_be_hashed_is_known_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "HASHED_BYTES", 4)
    source = FolderSource(write(tmp_path, {"a.png": "12345", "b.png": "1234"}))
    before = identities(source)
    write(tmp_path, {"a.png": "54321", "b.png": "4321"})
    os.utime(tmp_path / "a.png", ns=(5, 5))
    after = identities(source)
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, True]
    os.utime(tmp_path / "b.png", ns=(5, 5))
    assert identities(source) == after
    os.utime(tmp_path / "a.png", ns=(6, 6))
    assert identities(source) != after


@pytest.mark.slow
def test_a_saved_data_set_is_known_by_its_content(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    found = []
    for name, word, say in (("one", "red", "a"), ("two", "red", "a"), ("three", "sky", "a"), ("four", "red", "b")):
        rows = {"picture": [{"bytes": None, "path": "a.png"}], "say": [say]}
        datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / name))
        write(tmp_path / name, {"a.png": word})
        found.append(identities(HuggingFaceSource(str(tmp_path / name), image="picture", text="say")))
    assert found[0] == found[1]
    assert found[0] != found[2], "the file that a cell names"
    assert found[0] != found[3], "a cell"
