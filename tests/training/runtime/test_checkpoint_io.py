"""Checkpoints damaged, missing, written before there were hashes, or by Lightning through us."""

import errno
import logging
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import pytest
import torch
from builders.checkpoints import content, flip, forked, loaded, number_of, saved, unfinished
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from maskgen.io.checkpoint import hash_file_of, load_verified, previous_of, read_checkpoint, recorded_hashes
from maskgen.io.files import file_sha256
from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO, first_intact, remove_stale


def test_a_save_leaves_the_file_its_hash_and_the_one_before(tmp_path: Path) -> None:
    path = saved(tmp_path, 1, 2, 3)
    assert sorted(found.name for found in tmp_path.iterdir()) == [
        "last.ckpt",
        "last.ckpt.sha256",
        "last.previous.ckpt",
        "last.previous.ckpt.sha256",
    ]
    assert (loaded(path), loaded(previous_of(path))) == (3, 2)
    for found in (path, previous_of(path)):
        assert recorded_hashes(found)[0] == file_sha256(found)
        subprocess.run(["sha256sum", "--check", "--status", hash_file_of(found).name], cwd=tmp_path, check=True)
    for number in range(4, 9):
        saved(tmp_path, number)
    assert len(recorded_hashes(path)) == 2
    assert len(recorded_hashes(previous_of(path))) == 3


def test_removing_a_checkpoint_leaves_nothing_of_it(tmp_path: Path) -> None:
    path = saved(tmp_path, 1, 2)
    other = tmp_path / "step=5.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(5), other)
    AtomicCheckpointIO().remove_checkpoint(str(path))
    assert sorted(found.name for found in tmp_path.iterdir()) == ["step=5.ckpt", "step=5.ckpt.sha256"]
    AtomicCheckpointIO().remove_checkpoint(path)


@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(b""), Path.unlink], ids=["flipped", "emptied", "missing"])
def test_a_damaged_checkpoint_falls_back_with_a_warning_that_names_both(
    damage: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path, 1, 2)
    if damage not in (flip, Path.unlink):
        path.unlink()
    damage(path)
    assert loaded(path) == 1
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert str(path) in warning
    assert str(previous_of(path)) in warning
    assert "step 1" in warning


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole)
        flip(path, place)
        with pytest.raises(ValueError, match="is damaged"):
            load_verified(path)


def test_two_damaged_checkpoints_are_one_sentence(tmp_path: Path) -> None:
    path = saved(tmp_path, 1, 2)
    flip(path)
    flip(previous_of(path))
    with pytest.raises(ValueError, match=r"neither last\.ckpt nor the one before it can be read: .* is damaged.*previous\.ckpt is damaged"):
        loaded(path)
    with pytest.raises(ValueError, match="does not exist"):
        loaded(tmp_path / "other.ckpt")


def test_an_old_checkpoint_without_a_hash_is_read_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "old.ckpt"
    torch.save({**content(7), "maskgen": {"kind": "image_tokenizer"}}, path)
    with caplog.at_level(logging.INFO):
        assert number_of(read_checkpoint(path, "image_tokenizer")) == 7
        assert loaded(path) == 7
    assert "old.ckpt.sha256 beside it, so it is read unchecked" in caplog.text


def test_a_truncated_checkpoint_without_a_hash_falls_back_too(tmp_path: Path) -> None:
    path = saved(tmp_path, 1, 2)
    hash_file_of(path).unlink()
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])
    assert loaded(path) == 1


def test_reading_for_export_finds_a_flipped_byte_and_does_not_fall_back(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for number in (1, 2):
        AtomicCheckpointIO().save_checkpoint({**content(number), "maskgen": {"kind": "image_tokenizer"}}, path)
    assert number_of(read_checkpoint(path, "image_tokenizer")) == 2
    flip(path)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged: sha256 .* last\.previous\.ckpt"):
        read_checkpoint(path, "image_tokenizer")


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"canary": Canary(tmp_path / "sang")}, path)
    with pytest.raises(ValueError, match="holds more than weights"):
        loaded(path)
    with pytest.raises(ValueError, match="weights_only=True only"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not (tmp_path / "sang").exists()


def test_a_full_disk_is_an_os_error_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path, 0, 1)
    before = {found.name: found.read_bytes() for found in tmp_path.iterdir()}

    def save() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            AtomicCheckpointIO().save_checkpoint(content(2, size=1_000_000), path)
        except OSError as error:
            os._exit(error.errno or 1)

    assert os.WEXITSTATUS(os.waitpid(forked(save), 0)[1]) == errno.EFBIG
    assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == before


def test_a_file_system_without_hard_links_costs_space_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> NoReturn:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = saved(tmp_path, 1, 2)
    assert (loaded(path), loaded(previous_of(path))) == (2, 1)


def test_only_files_of_dead_processes_are_cleared_up(tmp_path: Path) -> None:
    dead = forked(lambda: None)
    os.waitpid(dead, 0)
    names = [f".last.ckpt.{dead}.tmp", f".last.ckpt.sha256.{dead}.tmp", f".last.ckpt.{os.getpid()}.tmp"]
    kept = [f".last.ckpt.{os.getppid()}.tmp", f".notes.{dead}.tmp", f"last.ckpt.{dead}.tmp", ".last.ckpt.tmp"]
    for name in (*names, *kept):
        (tmp_path / name).touch()
    assert sorted(remove_stale(tmp_path)) == sorted(names)
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted(kept)
    assert remove_stale(tmp_path / "missing") == []


def test_a_remote_path_and_storage_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="local folders"):
        AtomicCheckpointIO().save_checkpoint(content(1), "s3://bucket/last.ckpt")
    with pytest.raises(TypeError, match="storage options"):
        AtomicCheckpointIO().save_checkpoint(content(1), tmp_path / "last.ckpt", storage_options={"a": 1})


class Line(L.LightningModule):
    """One linear layer that learns to give 1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: torch.Tensor, batch_index: int) -> torch.Tensor:
        loss = (self.layer(batch) - 1).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def fit(folder: Path, steps: int, resume: str | Path | None = None, **keep: Any) -> Line:
    trained = Line()
    loader: DataLoader[Any] = DataLoader([*torch.randn(4, 4, generator=torch.Generator().manual_seed(0))], batch_size=2)  # type: ignore[arg-type]
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        plugins=[AtomicCheckpointIO()],
        callbacks=[EMAWeightAveraging(decay=0.5), ModelCheckpoint(folder, **{"every_n_train_steps": 2, "monitor": None, **keep})],
    )
    trainer.fit(trained, loader, ckpt_path=resume)
    assert trainer.global_step == steps
    return trained


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize(
    "keep",
    [
        {"save_last": True, "save_top_k": 1},
        {"save_last": "link"},
        {"save_last": True, "save_top_k": 2, "monitor": "train/loss"},
        {"save_last": True, "filename": "best"},
    ],
    ids=["last", "link", "top two", "one name"],
)
def test_lightnings_checkpoints_go_through_us_and_resume_with_averages(keep: dict[str, Any], tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 8, **keep)
    fit(tmp_path / "cut", 4, **keep)
    assert same(fit(tmp_path / "cut", 8, "last", **keep), whole)
    for path in (tmp_path / "cut").rglob("*.ckpt"):
        assert file_sha256(path) in recorded_hashes(path)
    assert {hash_file_of(path).name for path in (tmp_path / "cut").glob("*.ckpt") if not path.is_symlink()} == {
        path.name for path in (tmp_path / "cut").glob("*.sha256")
    }
    assert not unfinished(tmp_path)


@pytest.mark.parametrize("named", ["last", "path"])
def test_a_run_resumes_from_the_one_before_when_the_last_is_damaged(named: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep = {"save_last": True, "save_top_k": 0}
    whole = fit(tmp_path / "whole", 8, **keep)
    fit(tmp_path / "cut", 4, **keep)
    flip(tmp_path / "cut" / "last.ckpt")
    resumed = fit(tmp_path / "cut", 8, "last" if named == "last" else tmp_path / "cut" / "last.ckpt", **keep)
    assert same(resumed, whole)
    assert "going on from the one before it" in caplog.text
    assert first_intact(tmp_path / "cut" / "last.ckpt")[1]["global_step"] == 8
