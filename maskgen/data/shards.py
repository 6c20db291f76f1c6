"""WebDataset tars: written with reproducible bytes under a temporary name, read by our own decoder table only.

Nothing in a shard is ever executed: members are png, json or npy, everything else is refused.
"""

import hashlib
import io
import json
import logging
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskgen.bundle import file_sha256, write_atomic
from maskgen.data.manifest import Index, ShardEntry

logger = logging.getLogger(__name__)

MEMBER = re.compile(r"(?P<key>[a-z0-9][a-z0-9_-]*)\.(?P<field>[a-z0-9_]+(\.npy)?)")
LARGEST_MEMBER_BYTES = 64 * 2**20
LARGEST_SIDE = 4096
Sample = dict[str, Any]


def _png(content: bytes) -> np.ndarray:
    """Pixels [rows columns 3], uint8."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        if max(picture.size) > LARGEST_SIDE:
            raise ValueError(f"a picture of {picture.size}, at most {LARGEST_SIDE} a side are read")
        return np.asarray(picture.convert("RGB"))


def _npy(content: bytes) -> np.ndarray:
    """An array that holds no Python objects."""
    array: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return array


DECODERS: Mapping[str, Callable[[bytes], Any]] = {"png": _png, "json": json.loads, "npy": _npy}


def png_bytes(pixels: np.ndarray) -> bytes:
    """Lossless PNG of uint8 pixels [rows columns 3]."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=9)
    return stream.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    """An array in npy format, without pickle."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def json_bytes(value: Any) -> bytes:
    """JSON with sorted keys: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def write_shard(path: Path, split: str, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> ShardEntry:
    """Writes one shard; the same samples give the same bytes anywhere.

    Args:
        path: Final name; the bytes appear there only when complete.
        split: Split that the samples belong to.
        samples: Key and members (field name such as "png" or "image.npy" to bytes), keys strictly ascending.

    Returns:
        The index entry.

    Raises:
        ValueError: If a name is not allowed or the keys are not strictly ascending.
    """
    stream, previous, count = io.BytesIO(), "", 0
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for key, members in samples:
            if key <= previous:
                raise ValueError(f"key {key!r} follows {previous!r} in {path.name}; sort the samples by key and give each key once")
            for name in sorted(members):
                _add(archive, f"{key}.{name}", members[name])
            previous, count = key, count + 1
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, stream.getvalue())
    return ShardEntry(name=path.name, split=split, count=count, sha256=hashlib.sha256(stream.getvalue()).hexdigest())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a member whose header holds nothing but name and size."""
    _parse(name)
    header = tarfile.TarInfo(name)
    header.size = len(content)
    archive.addfile(header, io.BytesIO(content))


def _parse(name: str) -> tuple[str, str]:
    """Key and field of a member's name; refuses paths, hidden names and kinds that the table lacks."""
    match = MEMBER.fullmatch(name)
    if match is None or match["field"].rsplit(".", 1)[-1] not in DECODERS:
        raise ValueError(f"member {name!r} is not <key>.<field> with one of {sorted(DECODERS)}; such shards are not read or written")
    return match["key"], match["field"]


def read_shard(path: Path) -> Iterator[tuple[str, Sample]]:
    """Decoded samples of one shard, in file order.

    Args:
        path: An uncompressed tar.

    Yields:
        Key and fields: png as uint8 [rows columns 3], json as data, npy as array, by field name ("png", "json", "image.npy").

    Raises:
        ValueError: If the file is no tar, or a member is not a plain allowed file, too large, given twice, or does not decode.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            yield from _grouped(_member(archive, member) for member in archive)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a shard ({error}); build it again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[str, str, Any]:
    """Key, field and decoded value of one member."""
    key, name = _parse(member.name)
    if not member.isreg() or member.size > LARGEST_MEMBER_BYTES:
        raise ValueError(f"member {member.name!r} is no plain file of at most {LARGEST_MEMBER_BYTES} bytes")
    stream = archive.extractfile(member)
    assert stream is not None, "a regular member has a stream"
    try:
        return key, name, DECODERS[name.rsplit(".", 1)[-1]](stream.read())
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"member {member.name!r} does not decode ({error})") from error


def _grouped(members: Iterable[tuple[str, str, Any]]) -> Iterator[tuple[str, Sample]]:
    """Members that follow each other under one key, as one sample."""
    current, sample = "", Sample()
    for key, name, value in members:
        if key != current and current:
            yield current, sample
            sample = {}
        if name in sample or key < current:
            raise ValueError(f"member {key}.{name} comes twice or out of order")
        current, sample[name] = key, value
    if current:
        yield current, sample


def check_shard(folder: Path, entry: ShardEntry) -> None:
    """Compares a shard's bytes with the index.

    Raises:
        ValueError: If the file is missing or its sha256 differs.
    """
    path = folder / entry.name
    if not path.is_file():
        raise ValueError(f"{path} is in the index but not on disk; build it again")
    found = file_sha256(path)
    if found != entry.sha256:
        raise ValueError(f"{path} has sha256 {found}, the index says {entry.sha256}: damaged or replaced; build it again")


def read_split_shard(folder: Path, entry: ShardEntry) -> Iterator[tuple[str, Sample]]:
    """Every sample of one shard of an index, checked by sha256 before and by its count after reading.

    Raises:
        ValueError: If the shard is missing, differs from the index or holds another number of samples.
    """
    check_shard(folder, entry)
    count = 0
    for sample in read_shard(folder / entry.name):
        yield sample
        count += 1
    if count != entry.count:
        raise ValueError(f"{folder / entry.name} holds {count} samples, the index says {entry.count}; build it again")


def read_split(folder: Path, index: Index, split: str) -> Iterator[tuple[str, Sample]]:
    """Every sample of a split, checked shard by shard as in `read_split_shard`."""
    for entry in index.of(split):
        yield from read_split_shard(folder, entry)
