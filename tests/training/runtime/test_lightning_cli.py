"""Every `maskgen fit` survives: what the command line adds, replaces and says."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from maskgen.cli.main import main
from maskgen.io.checkpoint import load_verified
from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO
from maskgen.training.runtime.earlier import set_aside
from maskgen.training.runtime.epochs import ExactEpochs
from maskgen.training.runtime.finite import SkipNonFinite
from maskgen.training.runtime.survival import StopOnSignal, UnswapAverages

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "data" / "emoji" / "sample"


@pytest.fixture(autouse=True)
def floating_point_as_before() -> Iterator[None]:
    """The command line sets up floating point for the whole process; later tests want it as it was."""
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision(precision)


def configuration(folder: Path, steps: int, **trainer: Any) -> Path:
    """A run of the command line on the sample that ships."""
    model = {
        "warmup_steps": 0,
        "autoencoder": {
            "patch": 4,
            "encoder_channels": [16, 16],
            "decoder_channels": [16, 16, 16],
            "encoder_blocks": 1,
            "decoder_blocks": 1,
        },
        "quantizer": {
            "class_path": "maskgen.autoencoders.quantizers.ResidualQuantizer",
            "init_args": {"num_levels": 1, "codebook_size": 16},
        },
    }
    keep = {"dirpath": str(folder / "checkpoints"), "save_last": True, "every_n_train_steps": 5, "save_top_k": 0, "monitor": None}
    config = {
        "model": {"class_path": "maskgen.training.modules.image_autoencoder.ImageAutoencoderModule", "init_args": model},
        "data": {"class_path": "maskgen.data.loading.raw_media.RawImages", "init_args": {"folder": str(SAMPLE), "batch_size": 4}},
        "trainer": {
            "accelerator": "cpu",
            "max_steps": steps,
            "max_epochs": -1,
            "logger": False,
            "enable_progress_bar": False,
            "limit_val_batches": 0,
            "default_root_dir": str(folder),
            "callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": keep}],
            **trainer,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def test_every_fit_survives_and_a_configuration_can_replace_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["maskgen"])
    from maskgen.training.runtime.fit import run

    made = run(["fit", "--config", str(configuration(tmp_path, 5))]).trainer
    assert isinstance(made.strategy.checkpoint_io, AtomicCheckpointIO)
    for kind in (StopOnSignal, SkipNonFinite, ExactEpochs, UnswapAverages, ModelCheckpoint):
        assert sum(isinstance(callback, kind) for callback in made.callbacks) == 1
    own = [{"class_path": "maskgen.training.runtime.finite.SkipNonFinite", "init_args": {"most_in_a_row": 3}}]
    plugins = [{"class_path": "maskgen.training.runtime.checkpoint_io.AtomicCheckpointIO"}]  # two would be refused
    made = run(["fit", "--config", str(configuration(tmp_path, 1, callbacks=own, plugins=plugins))]).trainer
    assert [callback.most_in_a_row for callback in made.callbacks if isinstance(callback, SkipNonFinite)] == [3]
    assert isinstance(made.strategy.checkpoint_io, AtomicCheckpointIO)


def test_the_command_line_resumes_from_a_damaged_checkpoint_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["maskgen"])
    main(["fit", "--config", str(configuration(tmp_path, 10))])
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.write_bytes(b"")  # the hard link of step 5 is another file
    main(["fit", "--config", str(configuration(tmp_path, 12)), "--ckpt_path", str(last)])
    assert "going on from the one before it" in caplog.text
    assert "of step 5" in caplog.text
    for path in last.parent.glob("*.ckpt"):
        path.unlink()
        path.write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(configuration(tmp_path, 14)), "--ckpt_path", str(last)])
    assert stop.value.code == 2
    assert "neither last.ckpt nor the one before it can be read" in capsys.readouterr().err.splitlines()[-1]


def test_too_many_skipped_steps_exit_with_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["maskgen"])
    monkeypatch.setattr(
        "maskgen.training.modules.image_autoencoder.pyramid_l1", lambda rebuilt, pixels, levels: (rebuilt * float("inf")).mean()
    )
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(configuration(tmp_path, 20))])
    assert stop.value.code == 2
    assert "training stopped at step 10: 10 steps in a row" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_real_process_stops_with_143_and_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "maskgen", "fit", "--config"]
    process = subprocess.Popen([*command, str(configuration(tmp_path, 100_000))], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    last = tmp_path / "checkpoints" / "last.ckpt"
    while not last.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    assert "go on with --ckpt_path" in said
    step = load_verified(last)["global_step"]
    done = subprocess.run(
        [*command, str(configuration(tmp_path, step + 3)), "--ckpt_path", "last"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    logging.getLogger(__name__).info("stopped after step %d", step)


def steps_in(folder: Path) -> dict[str, int]:
    """Step of every last checkpoint below a folder, by its path."""
    paths = [path for path in folder.rglob("last*.ckpt") if "previous" not in path.name]
    return {str(path.relative_to(folder)): load_verified(path)["global_step"] for path in paths}


def test_a_second_run_in_one_folder_moves_the_first_aside_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["maskgen"])
    for steps in (5, 10):
        main(["fit", "--config", str(configuration(tmp_path, steps))])
    assert steps_in(tmp_path) == {"checkpoints.1/last.ckpt": 5, "checkpoints/last.ckpt": 10}
    assert "held an earlier run, which is now" in caplog.text
    main(["fit", "--config", str(configuration(tmp_path, 15)), "--ckpt_path", str(tmp_path / "checkpoints" / "last.ckpt")])
    assert steps_in(tmp_path) == {"checkpoints.1/last.ckpt": 5, "checkpoints/last.ckpt": 15}
    main(["fit", "--config", str(configuration(tmp_path, 10)), "--ckpt_path", str(tmp_path / "checkpoints.1" / "last.ckpt")])
    assert steps_in(tmp_path) == {"checkpoints.1/last.ckpt": 5, "checkpoints.2/last.ckpt": 15, "checkpoints/last.ckpt": 10}


def test_a_run_with_a_logger_is_moved_whole_and_the_working_directory_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keeper = ModelCheckpoint("runs/mine/checkpoints", save_last=True)
    for name in ("config.yaml", "checkpoints/last.ckpt", "samples/step-5.png"):
        (tmp_path / "runs" / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / "mine" / name).write_bytes(b"1")
    assert [path.name for path in set_aside([keeper], "runs/mine", None)] == ["mine.1"]
    assert (tmp_path / "runs" / "mine.1" / "samples" / "step-5.png").is_file()
    assert not (tmp_path / "runs" / "mine").exists()
    assert set_aside([keeper], "runs/mine", None) == []
    (tmp_path / "last.ckpt").write_bytes(b"1")
    with pytest.raises(ValueError, match="holds checkpoints of an earlier run; give ModelCheckpoint a dirpath of its own"):
        set_aside([ModelCheckpoint(str(tmp_path))], None, None)
