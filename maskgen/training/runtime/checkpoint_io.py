"""Checkpoints that survive: killed at any moment, there is one that loads and whose bytes are checked."""

import hashlib
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from maskgen.io.checkpoint import load_verified, previous_of, record_of, recorded_hashes
from maskgen.io.files import atomic_file, file_sha256, write_atomic

logger = logging.getLogger(__name__)
TEMPORARY = re.compile(r"\..+\.ckpt(\.sha256)?\.(\d{1,9})\.tmp")
"""Names of unfinished files: a dot, the final name, the process that writes it."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint whole or not at all, keeps the one before it under `<stem>.previous.ckpt`, and reads only what verifies.

    The file is written under a temporary name in its own folder, so that the last step is a rename on one file system. Its sha256 stands
    beside it, and there before the rename, followed by that of the file to be replaced: whichever of the two a kill leaves is known.
    """

    def __init__(self) -> None:
        self._ours: dict[Path, str] = {}
        """Hashes of what this process wrote: it need not be read again before it is kept as previous."""
        self._cleared: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Weights and plain data.
            path: Final name; its folder is made if missing.
            storage_options: Of other plugins; there are none here.

        Raises:
            TypeError: If storage options are given.
            ValueError: If the path is no local one.
            OSError: If it cannot be written; what stood there is untouched.
        """
        if storage_options is not None:
            raise TypeError(f"AtomicCheckpointIO has no storage options, got {storage_options!r}; leave them out")
        if "://" in str(path):
            raise ValueError(f"checkpoints go to local folders, got {path}; give a local path")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent not in self._cleared:
            remove_stale(target.parent)
            self._cleared.add(target.parent)
        with atomic_file(target) as handle:
            fresh = _write_hashed(checkpoint, handle)
            _record(target, [fresh, *self._keep_previous(target)])
        self._ours[target] = fresh

    def load_checkpoint(self, path: Path | str, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, or the one before it if it is damaged or missing.

        Args:
            path: The .ckpt file.
            map_location: Where the tensors go; None is the CPU.
            weights_only: Anything but False; a checkpoint is never unpickled as code.

        Returns:
            The checkpoint.

        Raises:
            ValueError: If neither can be read, or for `weights_only=False`.
        """
        if weights_only is False:
            raise ValueError("checkpoints are read with weights_only=True only, got weights_only=False; leave it out")
        return first_intact(Path(path), "cpu" if map_location is None else map_location)[1]

    def remove_checkpoint(self, path: Path | str) -> None:
        """Remove a checkpoint, the one before it, and the records of both; what is missing is no error."""
        target = Path(path)
        self._ours.pop(target, None)
        for checkpoint in (target, previous_of(target)):
            checkpoint.unlink(missing_ok=True)
            record_of(checkpoint).unlink(missing_ok=True)

    def _keep_previous(self, target: Path) -> list[str]:
        """Give the checkpoint that is about to be replaced a second name, beside its own; its hash, or none if it is not worth keeping."""
        if not target.is_file():
            return []
        if target not in self._ours:
            try:
                load_verified(target)
            except ValueError as error:
                logger.warning("%s; it is replaced and not kept", error)
                return []
        found, previous = self._ours.get(target) or file_sha256(target), previous_of(target)
        _record(previous, [found, *recorded_hashes(previous)[:2]])  # the file there has one of the two, for a kill may have come before
        _link(target.resolve(), previous)
        return [found]


def first_intact(path: Path, map_location: Any = "cpu") -> tuple[Path, dict[str, Any]]:
    """The checkpoint of that name, or the one before it if it is damaged or missing; a fall back is warned about.

    Args:
        path: The .ckpt file.
        map_location: Where the tensors go.

    Returns:
        Path and content of what was read.

    Raises:
        ValueError: If neither can be read.
    """
    try:
        return path, load_verified(path, map_location)
    except ValueError as error:
        previous = previous_of(path)
        if not previous.is_file():
            raise
        problem = error
    try:
        checkpoint = load_verified(previous, map_location)
    except ValueError as error:
        raise ValueError(f"neither {path.name} nor the one before it can be read: {problem}; {error}") from error
    logger.warning("%s; going on from the one before it, %s, of step %s", problem, previous, checkpoint.get("global_step", "unknown"))
    return previous, checkpoint


def remove_stale(folder: Path) -> list[str]:
    """Remove what killed processes left unfinished in a folder of checkpoints.

    Args:
        folder: Where checkpoints are written; need not exist.

    Returns:
        Names of the removed files.
    """
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        found = TEMPORARY.fullmatch(path.name)
        if found and not _is_writing(int(found[2])):
            path.unlink(missing_ok=True)
            removed.append(path.name)
    if removed:
        logger.info("removed %d unfinished files of killed processes from %s: %s", len(removed), folder, ", ".join(removed))
    return removed


def _is_writing(process: int) -> bool:
    """Whether another live process has this number; our own is not writing while it clears up."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, under another user
        return True
    return True


class _Hashing:
    """A file that hashes what passes through it, so that a checkpoint never stands in memory twice."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle, self.sha256 = handle, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        try:
            return self.handle.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.handle.flush()


def _write_hashed(checkpoint: dict[str, Any], handle: BinaryIO) -> str:
    """Write a checkpoint and give the hash of what should now be on the disk."""
    hashing = _Hashing(handle)
    try:
        torch.save(checkpoint, hashing)  # type: ignore[arg-type]
    except RuntimeError:
        if hashing.error is not None:  # torch hides a full disk behind an assertion of its own
            raise hashing.error from None
        raise
    return hashing.sha256.hexdigest()


def _record(path: Path, hashes: list[str]) -> None:
    """Write what a checkpoint hashes to once it is in place; others, which it may have until then, are comments for `sha256sum`."""
    lines = [f"{'# ' if number else ''}{found}  {path.name}\n" for number, found in enumerate(dict.fromkeys(hashes))]
    write_atomic(record_of(path), "".join(lines).encode())


def _link(source: Path, target: Path) -> None:
    """Give a file a further name, in place of what has that name."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links: the second name costs its space
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # a rename between two names of one file does nothing, not even to the first name
