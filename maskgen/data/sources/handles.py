"""Handles on undecoded bytes: a file, a member of a tar, a cell. Errors are raised when the bytes are read, with the reason."""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maskgen.io.limits import BadMedia

HASHED_BYTES = 2**30
"""Files and members of tars above this size are identified by size and time of change, smaller ones by their content."""
BLOCK_BYTES = 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LINE_BREAKS = re.compile(b"\r|\n|" + "|".join("\u2028\u2029").encode())


class MediaPart(ABC):
    """A handle on the undecoded bytes of one modality of one item: small and picklable, so millions can be held in memory."""

    @abstractmethod
    def read(self, limit: int) -> bytes:
        """The bytes.

        Args:
            limit: Maximum number of bytes.

        Raises:
            BadMedia: If there are more bytes, or they cannot be read.
        """

    def facts(self) -> Mapping[str, str | int | float]:
        """Attributes that are known only after the part was read; empty for most parts."""
        return {}


@dataclass(frozen=True)
class FilePart(MediaPart):
    """A whole file."""

    path: Path

    def read(self, limit: int) -> bytes:
        """See `MediaPart`; anything but a regular file is refused, so that a pipe cannot block."""
        return _read_slice(self.path, 0, None, limit)


@dataclass(frozen=True)
class TarPart(MediaPart):
    """A member of an uncompressed tar: `size` bytes from `offset`."""

    path: Path
    offset: int
    size: int

    def read(self, limit: int) -> bytes:
        """See `MediaPart`."""
        return _read_slice(self.path, self.offset, self.size, limit)


@dataclass(frozen=True)
class InlinePart(MediaPart):
    """Bytes that are already in memory, such as a caption in a cell."""

    content: bytes

    def read(self, limit: int) -> bytes:
        """See `MediaPart`."""
        return within(self.content, limit)


@dataclass(frozen=True)
class JoinedPart(MediaPart):
    """Texts from several places, joined as lines; a line that is there already is left out."""

    parts: tuple[MediaPart, ...]

    def read(self, limit: int) -> bytes:
        """See `MediaPart`."""
        lines: dict[bytes, bytes] = {}
        for line in b"\n".join(part.read(limit).removeprefix(BYTE_ORDER_MARK) for part in self.parts).splitlines():
            lines.setdefault(b" ".join(line.split()), line)
        return within(b"\n".join(lines.values()), limit)


@dataclass(frozen=True)
class OneTextPart(MediaPart):
    """A file whose lines are one text, such as a transcript; line breaks become spaces."""

    part: MediaPart

    def read(self, limit: int) -> bytes:
        """See `MediaPart`."""
        return LINE_BREAKS.sub(b" ", self.part.read(limit))


@dataclass(frozen=True)
class BadPart(MediaPart):
    """A part that the listing found unusable; reading it raises the reason."""

    reason: str

    def read(self, limit: int) -> bytes:
        """Raise BadMedia with the reason."""
        raise BadMedia(self.reason)


def within(content: bytes, limit: int) -> bytes:
    """The content, checked against a limit of bytes.

    Raises:
        BadMedia: If it is longer.
    """
    if len(content) > limit:
        raise BadMedia(f"{len(content)} bytes, at most {limit}")
    return content


def _read_slice(path: Path, offset: int, size: int | None, limit: int) -> bytes:
    """`size` bytes of a regular file, or all of it."""
    if size is not None and size > limit:
        raise BadMedia(f"{size} bytes, at most {limit}")
    try:
        if not path.is_file():
            raise BadMedia(f"{path.name!r} is missing or no plain file")
        with path.open("rb") as handle:
            handle.seek(offset)
            content = handle.read(limit + 1 if size is None else size)
    except OSError as error:
        raise BadMedia(f"{path.name!r} cannot be read ({error.strerror})") from error
    if size is not None and len(content) < size:
        raise BadMedia(f"{path.name!r} ends after {len(content)} of {size} bytes")
    if len(content) > limit:
        raise BadMedia(f"more than {limit} bytes")
    return content


def inside(root: Path, name: str) -> FilePart | BadPart:
    """The file that a name in the data refers to; names and links that lead outside are refused.

    Args:
        root: Resolved folder.
        name: Path, relative to the root or absolute.
    """
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            return BadPart(f"{name[:80]!r} leads outside of the folder of the data")
        return FilePart(path) if path.is_file() else BadPart(f"{name[:80]!r} is missing or no plain file")
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, a circle of links
        return BadPart(f"{name[:80]!r} is no path")


def digest_of(part: MediaPart) -> str:
    """What a part's bytes depend on, for identities: a hash of its content.

    Files and members of tars above `HASHED_BYTES` are identified by their size and the file's time of change. Other handles, such as
    cells of a table, give an empty text: their source identifies them.
    """
    if isinstance(part, InlinePart):
        return hashlib.sha256(part.content).hexdigest()
    if isinstance(part, BadPart):
        return part.reason
    if isinstance(part, FilePart):
        return _digest(part.path, 0, None)
    return _digest(part.path, part.offset, part.size) if isinstance(part, TarPart) else ""


def _digest(path: Path, offset: int, size: int | None) -> str:
    """sha256 of `size` bytes of a file, or of all of it."""
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            left = facts.st_size if size is None else size
            if left > HASHED_BYTES:
                return f"{left} bytes at {offset}, changed at {facts.st_mtime_ns}"
            file.seek(offset)
            digest = hashlib.sha256()
            while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
                digest.update(block)
                left -= len(block)
            return digest.hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def digests_of(parts: Mapping[str, MediaPart]) -> Sequence[tuple[str, str]]:
    """Kind and `digest_of` of each part, sorted by kind."""
    return [(kind, digest_of(part)) for kind, part in sorted(parts.items())]
