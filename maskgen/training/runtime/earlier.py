"""What an earlier run left in the folder of a new one is moved aside, so that two runs never mix."""

import logging
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint

logger = logging.getLogger(__name__)


def set_aside(keepers: Iterable[ModelCheckpoint], log_dir: str | None, resumed: str | None) -> list[Path]:
    """Rename the folders of an earlier run: `runs/name` becomes `runs/name.1`, or the next free number.

    A folder is left alone if the new run continues the earlier one: if the checkpoint that it resumes lies in it.

    Args:
        keepers: Callbacks that write the checkpoints of the new run.
        log_dir: Folder of the logger, with the run's configuration, logs and samples; it is renamed whole if the checkpoints are in it.
        resumed: What the new run resumes: a path, "last" or "best" for one of its own checkpoints, None for nothing.

    Returns:
        The new names.

    Raises:
        ValueError: If an earlier run's checkpoints lie in the working directory or above it, which can't be renamed.
    """
    if resumed is not None and not Path(resumed).exists():
        return []
    moved = []
    for folder in dict.fromkeys(Path(keeper.dirpath) for keeper in keepers if keeper.dirpath):
        if not any(folder.glob("*.ckpt")) or (resumed is not None and Path(resumed).resolve().parent == folder.resolve()):
            continue
        whole = _run_folder(folder, log_dir)
        free = next(path for number in range(1, 10**6) if not (path := whole.with_name(f"{whole.name}.{number}")).exists())
        last = free / folder.resolve().relative_to(whole) / "last.ckpt"
        whole.rename(free)
        logger.warning("%s held an earlier run, which is now %s; to continue it: --ckpt_path %s", whole, free, last)
        moved.append(free)
    return moved


def _run_folder(folder: Path, log_dir: str | None) -> Path:
    """The folder to rename for one with checkpoints: the logger's if that holds it.

    Raises:
        ValueError: If neither can be renamed.
    """
    own, here = folder.resolve(), Path.cwd().resolve()
    wholes = [Path(log_dir).resolve()] if log_dir else []
    for whole in (*(one for one in wholes if own.is_relative_to(one)), own):
        if not here.is_relative_to(whole):
            return whole
    raise ValueError(
        f"{folder} holds checkpoints of an earlier run; give ModelCheckpoint a dirpath of its own, or continue that run with --ckpt_path"
    )
