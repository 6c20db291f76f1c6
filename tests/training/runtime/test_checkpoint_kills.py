"""SIGKILL anywhere in a save: there is always a checkpoint that loads and verifies."""

import logging
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from builders.checkpoints import content, flip, forked, loaded, number_of, saved, unfinished

from maskgen.io.checkpoint import hash_file_of, load_verified, previous_of
from maskgen.training.runtime import checkpoint_io
from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO

SITUATIONS: dict[str, Callable[[Path], object]] = {
    "none": lambda folder: None,
    "one": lambda folder: saved(folder, 1),
    "two": lambda folder: saved(folder, 0, 1),
    "one without hash": lambda folder: hash_file_of(saved(folder, 1)).unlink(),
    "two, the last damaged": lambda folder: flip(saved(folder, 1, 0)),
    "two, the last missing": lambda folder: saved(folder, 1, 0).unlink(),
}
QUICK = ("two", "two, the last damaged")


def die_before(operation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL this process before its n-th serialisation, rename, link, removal or fsync."""
    left = [operation]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return act

    for name in ("replace", "link", "unlink", "fsync"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    monkeypatch.setattr(checkpoint_io, "_write_hashed", counted(checkpoint_io._write_hashed))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a kill spares what was not synced, so a disk would only cost time."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("situation", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SITUATIONS if name not in QUICK)])
def test_killed_before_any_operation_of_a_save_something_as_new_still_loads(
    situation: str, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every point of a save, and the clean start of a save after each."""
    for operation in range(200):
        folder = memory / str(operation)
        folder.mkdir()
        SITUATIONS[situation](folder)
        path = folder / "last.ckpt"

        def save(path: Path = path, operation: int = operation) -> None:
            die_before(operation, monkeypatch)
            AtomicCheckpointIO().save_checkpoint(content(2), path)

        status = os.waitpid(forked(save), 0)[1]
        if situation != "none" or path.exists():
            assert loaded(path) in (1, 2), f"killed before operation {operation}"
        if situation in ("one", "two"):
            load_verified(path)  # without falling back
        assert loaded(saved(folder, 3)) == 3
        assert loaded(previous_of(path)) in (1, 2) if previous_of(path).exists() else situation == "none"
        assert not unfinished(folder)
        shutil.rmtree(folder)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            assert operation > 5, "too few operations were counted to mean anything"
            return
    raise AssertionError("the save never ended")


def killed_while_saving(folder: Path, rng: random.Random, temporary: Path | None) -> int:
    """SIGKILL a child at a random moment of its saves, which go on from what is there; the newest number that it finished."""
    path = folder / "last.ckpt"
    start = loaded(path)
    ear, mouth = os.pipe()

    def save_forever() -> NoReturn:
        if temporary is not None:
            os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
            assert tempfile.gettempdir() == str(temporary)
        writer, number = AtomicCheckpointIO(), start
        while True:
            number += 1
            writer.save_checkpoint(content(number, size=100_000), path)
            os.write(mouth, number.to_bytes(4, "big"))

    child = forked(save_forever)
    os.close(mouth)
    finished = b"".join(os.read(ear, 4) for _ in range(rng.randint(1, 4)))
    time.sleep(rng.uniform(0.0, 0.02))
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    while more := os.read(ear, 4096):
        finished += more
    os.close(ear)
    return int.from_bytes(finished[-4:], "big")


def survives(kills: int, folder: Path, temporary: Path | None) -> dict[str, int]:
    """Kill so many times; what was lost and what was left."""
    rng, found = random.Random(kills), {"intact": 0, "torn": 0, "stale": 0}
    path = saved(folder, 1)
    for _ in range(kills):
        finished = killed_while_saving(folder, rng, temporary)
        found["torn"] += bool(unfinished(folder))
        checkpoint = load_verified(path)  # without falling back
        found["intact"] += number_of(checkpoint) in (finished, finished + 1)
        saved(folder, finished + 2)
        found["stale"] += len(unfinished(folder))
    return found


def test_after_six_kills_six_checkpoints_load_and_nothing_is_left_over(tmp_path: Path) -> None:
    found = survives(6, tmp_path, None)
    assert (found["intact"], found["stale"]) == (6, 0)


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same file system", "TMPDIR elsewhere"])
def test_after_fifty_kills_fifty_checkpoints_load_and_nothing_is_left_over(tmp_path: Path, elsewhere: bool) -> None:
    temporary = Path("/dev/shm")
    if elsewhere and (not temporary.is_dir() or temporary.stat().st_dev == tmp_path.stat().st_dev):
        pytest.skip("needs a second file system at /dev/shm")
    found = survives(50, tmp_path, temporary if elsewhere else None)
    logging.getLogger(__name__).info("%s", found)
    assert (found["intact"], found["stale"]) == (50, 0)
    assert found["torn"] >= 10, "too few kills hit a save to mean anything"
