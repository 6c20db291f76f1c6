"""Random access into shards, far and near, and what is said of damaged ones."""

import logging
import pickle
from pathlib import Path

import fsspec
import numpy as np
import pytest

from maskgen.data.loading.rows import MOST_OPEN, ShardRows
from maskgen.data.shards.format import json_bytes, npy_bytes, png_bytes, read_shard, write_shard
from maskgen.data.shards.manifest import Index, ShardEntry, write_index
from maskgen.data.shards.npy import npy_view
from maskgen.data.shards.store import ShardStore

PICTURE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def members(number: int) -> dict[str, bytes]:
    array = np.full((1, 3), number, np.int16)
    return {"png": png_bytes(PICTURE), "x.npy": npy_bytes(array), "json": json_bytes({"n": number})}


def build(folder: Path, counts: list[int]) -> list[ShardEntry]:
    """Shards of samples that say their number over all shards."""
    entries, first = [], 0
    for shard, count in enumerate(counts):
        rows = range(first, first + count)
        samples = [
            (f"row-{n:04d}", {"png": png_bytes(PICTURE), "x.npy": npy_bytes(np.full((1, 3), n, np.int16)), "json": json_bytes({"n": n})})
            for n in rows
        ]
        entries.append(write_shard(folder / f"train-{shard:06d}.tar", "train", samples))
        first += count
    write_index(folder, Index(kind="raw", shards=tuple(entries)))
    return entries


def test_every_row_is_found_in_any_order_and_after_pickling(tmp_path: Path) -> None:
    rows = ShardRows(ShardStore(str(tmp_path)).locate, build(tmp_path, [3, 0, 4]))
    copy = pickle.loads(pickle.dumps(rows))
    for row in [6, 0, 2, 3, 5, 1, 4]:
        assert rows.key(row) == copy.key(row) == f"row-{row:04d}"
        assert rows.field(row, "x.npy").tolist() == [[row] * 3]
        assert copy.meta(row) == {"n": row}
        assert (rows.field(row, "png") == PICTURE).all()
    with pytest.raises(IndexError, match="row 7 of 7"):
        rows.key(7)
    with pytest.raises(ValueError, match=r"row-0001 of train-000000.tar has no wav; it holds"):
        rows.field(1, "wav")


def test_rows_are_those_of_the_reader(tmp_path: Path) -> None:
    entry = build(tmp_path, [5])[0]
    rows = ShardRows(ShardStore(str(tmp_path)).locate, [entry])
    for row, (key, sample) in enumerate(read_shard(tmp_path / entry.name)):
        assert rows.key(row) == key
        assert rows.meta(row) == sample["json"]
        assert (rows.field(row, "x.npy") == sample["x.npy"]).all()


def test_few_shards_stay_open(tmp_path: Path) -> None:
    rows = ShardRows(ShardStore(str(tmp_path)).locate, build(tmp_path, [1] * (MOST_OPEN + 5)))
    kept = rows.field(0, "x.npy")
    assert [rows.meta(row)["n"] for row in range(len(rows))] == list(range(MOST_OPEN + 5))
    assert len(rows.open) == MOST_OPEN
    assert kept.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.zeros((0, 4), np.int16), np.float32(3.5), np.array([True])])
def test_a_view_equals_what_numpy_reads(array: np.ndarray) -> None:
    found = npy_view(memoryview(npy_bytes(np.asarray(array))))
    assert found.dtype == np.asarray(array).dtype
    np.testing.assert_array_equal(found, array)


def test_arrays_with_objects_or_cut_short_are_refused() -> None:
    content = npy_bytes(np.arange(6))
    for bad in (
        content[:-1],
        content + b"x",
        b"\x93NUMPY\x02\x00" + content[8:],
        content.replace(b"<i8", b"|O8"),
        content.replace(b"(6,)", b"(-6)"),
    ):
        with pytest.raises(ValueError, match="npy"):
            npy_view(memoryview(bad))


def test_a_damaged_shard_stops_or_is_skipped_with_a_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = build(tmp_path, [3, 4])
    path = tmp_path / entries[1].name
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    store = ShardStore(str(tmp_path))
    with pytest.raises(ValueError, match=r"train-000001.tar has sha256 .* damaged or replaced"):
        store.whole(entries)
    with caplog.at_level(logging.WARNING):
        assert store.whole(entries, damage="skip") == entries[:1]
    assert "1 of 2 shards with 4 samples are left out" in caplog.text
    assert store.whole(entries, check="size") == entries
    path.write_bytes(content[:-512])
    with pytest.raises(ValueError, match="bytes, the index says"):
        store.whole(entries, check="size")
    (tmp_path / entries[0].name).unlink()
    with pytest.raises(ValueError, match="all 2 shards"):
        store.whole(entries, damage="skip")


def test_far_shards_are_fetched_once_and_tested(tmp_path: Path) -> None:
    near = tmp_path / "near"
    near.mkdir()
    entries = build(near, [3, 2])
    far = fsspec.filesystem("memory")
    for path in near.iterdir():
        far.pipe_file(f"/shards/{path.name}", path.read_bytes())
    store = ShardStore("memory://shards/", tmp_path / "cache")
    assert store.index().shards == tuple(entries)
    rows = ShardRows(store.locate, entries)
    assert [rows.meta(row)["n"] for row in range(5)] == list(range(5))
    far.pipe_file(f"/shards/{entries[0].name}", b"other")
    again = ShardRows(ShardStore("memory://shards", tmp_path / "cache").locate, entries)
    assert again.meta(0) == {"n": 0}
    with pytest.raises(ValueError, match="damaged or replaced"):
        ShardRows(ShardStore("memory://shards", tmp_path / "other").locate, entries).meta(0)
    with pytest.raises(ValueError, match="cannot be fetched"):
        ShardStore("memory://nowhere", tmp_path / "other").index()


@pytest.mark.parametrize("place", ["pipe://cat", "simplecache::s3://x", "shell://ls", "zip://a::file://b", "reference://x"])
def test_other_schemes_are_refused(place: str) -> None:
    if "://" in place:
        with pytest.raises(ValueError, match="the scheme must be one of"):
            ShardStore(place)
