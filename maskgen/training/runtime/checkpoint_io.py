"""Checkpoint files that survive a kill at any moment: one always loads, and its bytes are verified."""

import hashlib
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from maskgen.io.checkpoint import hash_file_of, load_verified, previous_of, recorded_hashes
from maskgen.io.files import atomic_file, file_sha256, write_atomic
from maskgen.io.names import checkpoint_path
from maskgen.io.sharded import holds_shards, read_sharded, remove_sharded, verify_sharded
from maskgen.training.runtime.shards_io import make_room, require_everywhere, save_shards

logger = logging.getLogger(__name__)
TEMPORARY = re.compile(r"\..+\.ckpt(\.sha256)?\.(\d{1,9})\.tmp")
"""Names of unfinished files: a dot, the final name, the number of the process that writes it."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically, keeps the one before as `<stem>.previous.ckpt`, and reads only files whose hash matches.

    The file is written under a temporary name in the same folder, so that the last step is a rename on one file system. Its sha256 is
    recorded beside it before the rename, together with that of the file to be replaced: whichever of the two a kill leaves can be verified.
    """

    def __init__(self) -> None:
        self._ours: dict[Path, str] = {}
        """Hashes of the files this process wrote; they need not be read again before they are kept as previous."""
        self._cleared: set[Path] = set()
        self.mesh: Any = None
        """DeviceMesh over which the weights of a folder of shards are shared out when it is read; None reads them whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None) -> None:
        """Write a checkpoint: one file, or where each rank has a part of the weights a folder with a file a rank.

        Args:
            checkpoint: Weights and plain data. With sharded weights all ranks call this together.
            path: Final name; its folder is made if missing.
            storage_options: Must be None.

        Raises:
            TypeError: If storage options are given.
            ValueError: If the path is not local.
            OSError: If it cannot be written; the file that was there is untouched.
        """
        if storage_options is not None:
            raise TypeError(f"AtomicCheckpointIO has no storage options, got {storage_options!r}; leave them out")
        if "://" in str(path):
            raise ValueError(f"checkpoints go to local folders, got {path}; give a local path")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if holds_shards(checkpoint):
            save_shards(checkpoint, target)
            return
        if target.parent not in self._cleared:
            remove_stale(target.parent)
            self._cleared.add(target.parent)
        if target.is_dir():
            make_room(target)
        with atomic_file(target) as handle:
            fresh = _write_hashed(checkpoint, handle)
            _record(target, [fresh, *self._keep_previous(target)])
        self._ours[target] = fresh

    def load_checkpoint(self, path: Path | str, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, or the previous one if it is damaged or missing.

        Args:
            path: The .ckpt file.
            map_location: Where the tensors go; None is the CPU.
            weights_only: Must not be False; code in a checkpoint is never run.

        Returns:
            The checkpoint.

        Raises:
            ValueError: If neither can be read, or for `weights_only=False`.
        """
        if weights_only is False:
            raise ValueError("checkpoints are read with weights_only=True only, got weights_only=False; leave it out")
        return first_intact(Path(path), "cpu" if map_location is None else map_location, self.mesh)[1]

    def remove_checkpoint(self, path: Path | str) -> None:
        """Remove a checkpoint, the previous one, and the records of both; missing files are ignored.

        Raises:
            ValueError: If it is no local .ckpt file: a resumed training's state names what is removed, and may come from outside.
        """
        target = Path(checkpoint_path(path))
        self._ours.pop(target, None)
        for checkpoint in (target, previous_of(target)):
            if checkpoint.is_dir() and not checkpoint.is_symlink():
                remove_sharded(checkpoint)
                continue
            checkpoint.unlink(missing_ok=True)
            hash_file_of(checkpoint).unlink(missing_ok=True)

    def _keep_previous(self, target: Path) -> list[str]:
        """Link the checkpoint that is about to be replaced as the previous one; return its hash, or nothing if it is damaged."""
        if not target.is_file():
            return []
        if target not in self._ours:
            try:
                load_verified(target)
            except ValueError as error:
                logger.warning("%s; it is replaced and not kept", error)
                return []
        found, previous = self._ours.get(target) or file_sha256(target), previous_of(target)
        _record(previous, [found, *recorded_hashes(previous)[:2]])  # a kill may leave either of the two
        _link(target.resolve(), previous)
        return [found]


def first_intact(path: Path, map_location: Any = "cpu", mesh: Any = None) -> tuple[Path, dict[str, Any]]:
    """Read a checkpoint, or the previous one if it is damaged or missing, with a warning.

    Args:
        path: The .ckpt file or folder.
        map_location: Where the tensors go.
        mesh: As in `read_sharded`; all ranks then agree on which of the two is read.

    Returns:
        Path and content of the file that was read.

    Raises:
        ValueError: If neither can be read.
    """
    try:
        return path, _loaded(path, map_location, mesh)
    except ValueError as error:
        previous = previous_of(path)
        if not previous.exists():
            raise
        problem = error
    try:
        checkpoint = _loaded(previous, map_location, mesh)
    except ValueError as error:
        raise ValueError(f"neither {path.name} nor the one before it can be read: {problem}; {error}") from error
    logger.warning("%s; going on from the one before it, %s, of step %s", problem, previous, checkpoint.get("global_step", "unknown"))
    return previous, checkpoint


def _loaded(path: Path, map_location: Any, mesh: Any) -> dict[str, Any]:
    """Read one checkpoint; a folder of shards is verified by all ranks together, each a part of it."""
    if mesh is None or not path.is_dir():
        return load_verified(path, map_location)
    require_everywhere(lambda: verify_sharded(path, mesh.get_rank(), mesh.size()))
    return read_sharded(path, map_location, mesh)


def remove_stale(folder: Path) -> list[str]:
    """Remove unfinished files of killed processes from a folder of checkpoints.

    Args:
        folder: Folder of checkpoints; need not exist.

    Returns:
        Names of the removed files.
    """
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        found = TEMPORARY.fullmatch(path.name)
        if found and not _is_writing(int(found[2])):
            remove_sharded(path)
            if not path.is_dir():
                path.unlink(missing_ok=True)
            removed.append(path.name)
    if removed:
        logger.info("removed %d unfinished files of killed processes from %s: %s", len(removed), folder, ", ".join(removed))
    return removed


def _is_writing(process: int) -> bool:
    """Whether another live process has this number; this process is not writing while it cleans up."""
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
    """A file that hashes what is written to it, so that a checkpoint is never in memory twice."""

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
    """Write a checkpoint and return the hash of the bytes that should now be on the disk."""
    hashing = _Hashing(handle)
    try:
        torch.save(checkpoint, hashing)  # type: ignore[arg-type]
    except RuntimeError:
        if hashing.error is not None:  # torch hides a full disk behind an assertion
            raise hashing.error from None
        raise
    return hashing.sha256.hexdigest()


def _record(path: Path, hashes: list[str]) -> None:
    """Record the hash of a checkpoint once it is in place; hashes that it may have until then are comments for `sha256sum`."""
    lines = [f"{'# ' if number else ''}{found}  {path.name}\n" for number, found in enumerate(dict.fromkeys(hashes))]
    write_atomic(hash_file_of(path), "".join(lines).encode())


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, replacing the file that has it."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    remove_sharded(target)  # of a run with sharded weights, which this one went on from
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links: the second name costs its space
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # a rename between two names of one file does nothing, not even to the first name
