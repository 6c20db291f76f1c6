"""Checkpoints of a few bytes that show their number, and how to damage them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO


def content(number: int, size: int = 8) -> dict[str, Any]:
    """A checkpoint that shows its number and, by its weights, that it is whole."""
    return {"global_step": number, "state_dict": {"weight": torch.full((size,), float(number))}}


def saved(folder: Path, *numbers: int) -> Path:
    """`last.ckpt` after saves by as many processes."""
    for number in numbers:
        AtomicCheckpointIO().save_checkpoint(content(number), folder / "last.ckpt")
    return folder / "last.ckpt"


def number_of(checkpoint: dict[str, Any]) -> int:
    number = checkpoint["global_step"]
    assert bool((checkpoint["state_dict"]["weight"] == number).all())
    return int(number)


def loaded(path: Path) -> int:
    return number_of(AtomicCheckpointIO().load_checkpoint(path))


def flip(path: Path, place: int = -200) -> None:
    """Damage one byte under the same name, without writing through to other names of the file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.unlink()
    path.write_bytes(data)


def unfinished(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.tmp"))


def forked(run: Callable[[], None]) -> int:
    """Run in a child that pays for no import; its number."""
    child = os.fork()
    if child:
        return child
    try:
        run()
        os._exit(0)
    finally:
        os._exit(1)
