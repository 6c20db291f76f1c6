"""Shards: same bytes always, nothing but the table is read, damage is found."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.data.shards.format import check_shard, json_bytes, npy_bytes, png_bytes, read_shard, read_split, write_shard
from maskgen.data.shards.manifest import Index, read_index, write_index

PICTURE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def samples(count: int) -> list[tuple[str, dict[str, bytes]]]:
    members = {"png": png_bytes(PICTURE), "image.npy": npy_bytes(np.arange(6, dtype=np.int16).reshape(1, 2, 3))}
    return [(f"row-{number:03d}", {**members, "json": json_bytes({"number": number})}) for number in range(count)]


def foreign(path: Path, name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> Path:
    """A tar with one member that our writer would not write."""
    with tarfile.open(path, "w") as archive:
        header = tarfile.TarInfo(name)
        header.size, header.type, header.linkname = (len(content) if kind == tarfile.REGTYPE else 0), kind, "/etc/passwd"
        archive.addfile(header, io.BytesIO(content))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    entry = write_shard(tmp_path / "train-000000.tar", "train", samples(3))
    found = list(read_shard(tmp_path / entry.name))
    assert entry.count == 3
    assert [key for key, _ in found] == ["row-000", "row-001", "row-002"]
    assert all((sample["png"] == PICTURE).all() and sample["image.npy"].shape == (1, 2, 3) for _, sample in found)
    assert [sample["json"]["number"] for _, sample in found] == [0, 1, 2]


def test_bytes_depend_on_the_samples_alone(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "a.tar", "train", samples(4))
    second = write_shard(tmp_path / "b.tar", "train", [(key, dict(reversed(list(members.items())))) for key, members in samples(4)])
    assert first.sha256 == second.sha256
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_failed_write_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sort the samples"):
        write_shard(tmp_path / "a.tar", "train", list(reversed(samples(2))))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.pyd", "a.pth", "a.png.gz", ".hidden.png", "../a.png", "/a.png", "x/a.png", "a", "a.b.json", "A.png"])
def test_other_members_are_refused_by_reader_and_writer(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.tar cannot be read as a shard \(member .* is not <key>"):
        list(read_shard(foreign(tmp_path / "a.tar", name)))
    key, _, field = name.partition(".")
    with pytest.raises(ValueError, match="is not <key>"):
        write_shard(tmp_path / "b.tar", "train", [(key or ".", {field: b""})])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ValueError, match="no plain file"):
        list(read_shard(foreign(tmp_path / "a.tar", "a.json", kind=kind)))


def test_pickled_arrays_and_broken_members_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    for name, content in {"a.npy": stream.getvalue(), "a.png": png_bytes(PICTURE)[:-30], "a.json": b"{"}.items():
        with pytest.raises(ValueError, match="does not decode"):
            list(read_shard(foreign(tmp_path / "a.tar", name, content)))


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(ValueError, match="cannot be read as a shard"):
        list(read_shard(tmp_path / "a.tar"))


@settings(deadline=None)
@given(share=st.floats(0, 0.999), flip=st.booleans())
def test_every_cut_and_every_flipped_byte_is_found(tmp_path_factory: pytest.TempPathFactory, share: float, flip: bool) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    entry = write_shard(folder / "train-000000.tar", "train", samples(2))
    content = bytearray((folder / entry.name).read_bytes())
    place = int(share * len(content))
    damaged = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] if flip else content[:place]
    (folder / entry.name).write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged or replaced; build it again"):
        check_shard(folder, entry)
    with pytest.raises(ValueError, match="damaged or replaced"):
        list(read_split(folder, Index(kind="raw", shards=(entry,)), "train"))


def test_index_round_trip_and_its_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished shards"):
        read_index(tmp_path)
    entries = tuple(write_shard(tmp_path / f"{split}-000000.tar", split, samples(count)) for split, count in {"train": 3, "A": 1}.items())
    index = Index(kind="raw", shards=entries, fingerprints={"text": "f"}, about={"size": 64})
    write_index(tmp_path, index)
    assert read_index(tmp_path) == index
    assert index.counts == {"train": 3, "A": 1}
    with pytest.raises(ValueError, match=r"no shards of split 'B'.*train"):
        index.of("B")
    (tmp_path / "index.json").write_text('{"format": "maskgen-shards", "version": 99}')
    with pytest.raises(ValueError, match="version 99, wanted maskgen-shards version 1"):
        read_index(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        read_index(tmp_path)


def test_a_shard_with_another_count_is_refused(tmp_path: Path) -> None:
    entry = write_shard(tmp_path / "train-000000.tar", "train", samples(2))
    lying = type(entry)(name=entry.name, split="train", count=3, sha256=entry.sha256)
    with pytest.raises(ValueError, match="holds 2 samples, the index says 3"):
        list(read_split(tmp_path, Index(kind="raw", shards=(lying,)), "train"))
