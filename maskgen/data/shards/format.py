"""Shards as WebDataset tars: written atomically with reproducible bytes, read with a fixed table of decoders.

Nothing in a shard is ever executed: members are png, flac, json or npy; everything else is refused.
"""

import io
import json
import logging
import mmap
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskgen.data.shards.manifest import Index, ShardEntry
from maskgen.data.shards.npy import npy_view
from maskgen.data.shards.tar import Member, members
from maskgen.io.files import atomic_file, file_sha256

logger = logging.getLogger(__name__)

MEMBER = re.compile(r"(?P<key>[a-z0-9][a-z0-9_-]*)\.(?P<field>[a-z0-9_]+(\.npy)?)")
LARGEST_MEMBER_BYTES = 64 * 2**20
LARGEST_SIDE = 4096
LARGEST_SAMPLES = 2**28
"""Samples of a FLAC, all channels together: 4 hours at 16 kHz. Silence compresses to nearly nothing, so the bytes are no bound."""
UNREADABLE = (
    ValueError, OSError, SyntaxError, EOFError, RecursionError, MemoryError, OverflowError, IndexError, KeyError, TypeError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What decoders raise on bytes that are none of theirs."""
Sample = dict[str, Any]


def _png(content: bytes) -> np.ndarray:
    """Pixels [rows columns 3], uint8."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        if max(picture.size) > LARGEST_SIDE:
            raise ValueError(f"a picture of {picture.size}, at most {LARGEST_SIDE} a side are read")
        return np.asarray(picture.convert("RGB"))


def _npy(content: bytes) -> np.ndarray:
    """An array of plain numbers; numpy's own reader reserves whatever size a header claims."""
    return npy_view(memoryview(content)).copy()


def _flac(content: bytes) -> np.ndarray:
    """Samples [channels samples], float32; the sample rate is in the json."""
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("audio needs soundfile: pip install maskgen[audio]") from error
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if file.frames * file.channels > LARGEST_SAMPLES:
                raise ValueError(f"a recording of {file.frames} samples in {file.channels} channels, at most {LARGEST_SAMPLES} are read")
            samples: np.ndarray = file.read(dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(f"no whole FLAC file: {error}") from error
    return np.ascontiguousarray(samples.T)


DECODERS: Mapping[str, Callable[[bytes], Any]] = {"png": _png, "flac": _flac, "json": json.loads, "npy": _npy}


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
    """Write one shard; the same samples give the same bytes on every machine.

    Args:
        path: Final path; the file appears there only when complete.
        split: Split of the samples.
        samples: Key and members (field name such as "png" or "image.npy" to bytes), keys strictly ascending.

    Returns:
        The index entry.

    Raises:
        ValueError: If a name is not allowed or the keys are not strictly ascending.
    """
    previous, count = "", 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as handle:
        with tarfile.open(fileobj=handle, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for key, members in samples:
                if key <= previous:
                    raise ValueError(f"key {key!r} follows {previous!r} in {path.name}; sort the samples by key and give each key once")
                for name in sorted(members):
                    _add(archive, f"{key}.{name}", members[name])
                previous, count = key, count + 1
        handle.flush()
        size, digest = handle.tell(), file_sha256(Path(handle.name))
    return ShardEntry(name=path.name, split=split, count=count, sha256=digest, bytes=size)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member whose header holds only name and size."""
    parse_member(name)
    header = tarfile.TarInfo(name)
    header.size = len(content)
    archive.addfile(header, io.BytesIO(content))


def parse_member(name: str) -> tuple[str, str]:
    """Split a member's name into key and field; paths, hidden names and unknown kinds are refused.

    Raises:
        ValueError: If the name is not allowed.
    """
    match = MEMBER.fullmatch(name)
    if match is None or match["field"].rsplit(".", 1)[-1] not in DECODERS:
        raise ValueError(f"member {name!r} is not <key>.<field> with one of {sorted(DECODERS)}; such shards are not read or written")
    return match["key"], match["field"]


def decode_member(field: str, content: bytes) -> Any:
    """Decode a member with the table of decoders.

    Raises:
        ValueError: If it does not decode.
    """
    try:
        return DECODERS[field.rsplit(".", 1)[-1]](content)
    except UNREADABLE as error:
        raise ValueError(f"member .{field} does not decode ({error})") from error


def read_shard(path: Path) -> Iterator[tuple[str, Sample]]:
    """Decoded samples of one shard, in file order.

    Args:
        path: An uncompressed tar.

    Yields:
        Key and fields: png as uint8 [rows columns 3], json as data, npy as array, by field name ("png", "json", "image.npy").

    Raises:
        ValueError: If the file is not a tar, or a member is not a regular allowed file, too large, repeated, or does not decode.
    """
    try:
        with path.open("rb") as handle:
            content = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)  # closed with its last reference
        yield from _grouped(_decoded(content, member) for member in members(content))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a shard ({error}); build it again") from error


def _decoded(content: mmap.mmap, member: Member) -> tuple[str, str, Any]:
    """Key, field and decoded value of one member."""
    key, field = parse_member(member.name)
    if member.size > LARGEST_MEMBER_BYTES:
        raise ValueError(f"member {member.name!r} has {member.size} bytes, at most {LARGEST_MEMBER_BYTES} are read")
    try:
        return key, field, decode_member(field, content[member.offset : member.offset + member.size])
    except ValueError as error:
        raise ValueError(f"{member.name!r}: {error}") from error


def _grouped(members: Iterable[tuple[str, str, Any]]) -> Iterator[tuple[str, Sample]]:
    """Consecutive members with the same key as one sample."""
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


def shard_damage(folder: Path, entry: ShardEntry, hashed: bool = True) -> str:
    """The damage of a shard's file in one sentence; empty if there is none.

    Args:
        folder: Folder of the shards.
        entry: Entry of the index.
        hashed: Compare the sha256 of all bytes; otherwise only the size.
    """
    path = folder / entry.name
    if not path.is_file():
        return f"{path} is in the index but not on disk; build it again"
    size = path.stat().st_size
    if entry.bytes not in (None, size):
        return f"{path} has {size} bytes, the index says {entry.bytes}: damaged or replaced; build it again"
    if hashed and (digest := file_sha256(path)) != entry.sha256:
        return f"{path} has sha256 {digest}, the index says {entry.sha256}: damaged or replaced; build it again"
    return ""


def check_shard(folder: Path, entry: ShardEntry) -> None:
    """Check a shard's bytes against the index.

    Raises:
        ValueError: If the file is missing or its size or sha256 differs.
    """
    if damage := shard_damage(folder, entry):
        raise ValueError(damage)


def read_split_shard(folder: Path, entry: ShardEntry) -> Iterator[tuple[str, Sample]]:
    """Every sample of one shard of an index; the sha256 is checked before and the count after reading.

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
