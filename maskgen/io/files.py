"""Atomic file writing, file hashes and reading and writing of text files."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
"""Errors of a write that name no file."""


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as a hexadecimal string."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for atomic writing: it appears under its final name only when complete.

    The data goes to a temporary file in the same folder, then fsync, rename and fsync of the folder. A crash leaves the old or new file.

    Args:
        path: Final name; its folder must exist.

    Yields:
        The open temporary file. An exception inside the block removes it.

    Raises:
        OSError: If it cannot be written, with the file's name also where the system's error has none (a full disk).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException as error:  # for example a full disk or Ctrl-C: remove the temporary file
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in NO_ROOM and error.filename is None:
            raise OSError(error.errno, f"{error.strerror}, so it was not written; make room or write elsewhere", str(path)) from error
        raise
    sync_folder(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_file(path) as handle:
        handle.write(data)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that they survive a power failure."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


LARGEST_TEXT_BYTES = 2**20


def read_text(path: Path | str) -> str:
    """Read a UTF-8 file, without the line break at its end.

    Raises:
        ValueError: If the file is missing, over 1 MiB or not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file; give a text file")
    if path.stat().st_size > LARGEST_TEXT_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, at most {LARGEST_TEXT_BYTES} are read; give a shorter text")
    try:
        return path.read_bytes().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}: {error.reason}); save it as UTF-8") from error


def write_text(text: str, path: Path | str) -> None:
    """Write text as UTF-8, with a line break at its end."""
    write_atomic(Path(path), f"{text}\n".encode())
