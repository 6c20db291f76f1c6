"""Files that are either whole or absent, and their hashes."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under its name only when complete.

    Temporary name in the same folder, fsync, rename, fsync of the folder: whenever the machine stops, it leaves the old file or the new.

    Args:
        path: Final name; its folder must exist.

    Yields:
        The open temporary file; an exception inside removes it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:  # a full disk or Ctrl-C: leave nothing behind
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole or absent."""
    with atomic_file(path) as handle:
        handle.write(data)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


LARGEST_TEXT_BYTES = 2**20


def read_text(path: Path | str) -> str:
    """Text of a UTF-8 file, without the line break at its end.

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
    """Write a text as UTF-8, with a line break at its end."""
    write_atomic(Path(path), f"{text}\n".encode())
