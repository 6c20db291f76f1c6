"""Folders of shards that survive a kill at any moment, as single files of checkpoints do."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from maskgen.io.checkpoint import hash_file_of, previous_of
from maskgen.io.files import sync_folder, write_atomic
from maskgen.io.sharded import is_sharded, remove_sharded, write_sharded

logger = logging.getLogger(__name__)


def save_shards(checkpoint: dict[str, Any], target: Path) -> None:
    """Write a checkpoint with sharded weights; all ranks call this together.

    The shards go to a folder with a temporary name beside the target, which is renamed when all are on the disk. The checkpoint that was
    there becomes `<stem>.previous.ckpt`.

    Args:
        checkpoint: Weights and plain data.
        target: Final name, on a file system that all ranks share.

    Raises:
        OSError: If a rank cannot write; the checkpoint that was there is untouched.
    """
    first = dist.get_rank() == 0
    temporary = target.with_name(from_first(f".{target.name}.{os.getpid()}.tmp"))
    if first:
        remove_sharded(temporary)
        temporary.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    require_everywhere(lambda: _require_shared(temporary))
    write_sharded(checkpoint, temporary)
    if first:
        make_room(target)
        temporary.rename(target)
        sync_folder(target.parent)
    dist.barrier()


def make_room(target: Path) -> None:
    """Rename a checkpoint that is about to be replaced to the previous one, file or folder."""
    previous = previous_of(target)
    if not os.path.lexists(target):
        return
    if target.is_symlink() or (target.is_dir() and not is_sharded(target)):
        if target.is_symlink():
            target.unlink()
        return
    remove_sharded(previous)
    previous.unlink(missing_ok=True)
    hash_file_of(previous).unlink(missing_ok=True)
    if target.is_file() and hash_file_of(target).is_file():
        found = hash_file_of(target).read_text().partition("  ")[0]
        write_atomic(hash_file_of(previous), f"{found}  {previous.name}\n".encode())
        hash_file_of(target).unlink()
    target.rename(previous)


def restore_interrupted(folder: Path) -> None:
    """Give checkpoints their names back whose save was killed between its two renames; every process may call this at once."""
    for previous in sorted(folder.glob("*.previous.ckpt")) if folder.is_dir() else []:
        target = previous.with_name(previous.name.removesuffix(".previous.ckpt") + ".ckpt")
        if is_sharded(previous) and not os.path.lexists(target):
            try:
                previous.rename(target)
            except OSError:  # another process was faster
                continue
            logger.warning("%s was being replaced when its run was killed; the one before it has its name again", target)


def from_first(value: str) -> str:
    """Rank 0's value, on every rank."""
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def require_everywhere(check: Callable[[], None]) -> None:
    """Run a check on every rank; if it fails on one, it fails on all.

    Raises:
        ValueError: With the first rank's problem.
    """
    try:
        check()
        problem = None
    except ValueError as error:
        problem = str(error)
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, problem)
    if first := next(filter(None, found), None):
        raise ValueError(first)


def _require_shared(folder: Path) -> None:
    """Refuse a folder that only some ranks see.

    Raises:
        ValueError: Names it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder.parent} is not the same folder on every machine; write sharded checkpoints to a shared file system")
