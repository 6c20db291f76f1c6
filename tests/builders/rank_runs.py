"""Runs of `maskgen fit` on several ranks: their configuration, and a callback that kills one rank."""

from pathlib import Path
from typing import Any

import yaml

KILLER = '''"""Kills rank 1 once, in the middle of a step."""

import os
import signal

import lightning as L


class KillOnce(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: object) -> None:
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if first and trainer.global_step == self.step and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
'''


def configuration_of(folder: Path, shards: str, steps: int = 8, kill_at: int | None = None, **trainer: Any) -> Path:
    """Configuration of a tiny training with averaged weights and a checkpoint every two steps; its checkpoints go to folder/checkpoints.

    Args:
        folder: Of the run; its working directory holds the module of the killer.
        shards: Folder of token shards.
        steps: Steps in all.
        kill_at: Step in which rank 1 is killed, once; None kills none.
        trainer: More options of the trainer.
    """
    keep = {"dirpath": str(folder / "checkpoints"), "save_last": True, "every_n_train_steps": 2, "save_top_k": 0, "monitor": None}
    sizes = {"transformer": {"dim": 32, "num_layers": 2, "num_heads": 2}, "grid": [2, 2], "warmup_steps": 1}
    data = {"parts": [{"folder": shards}], "global_batch": 8, "validation_rows": 12}
    callbacks: list[dict[str, Any]] = [
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": keep},
        {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}},
    ]
    folder.mkdir(parents=True, exist_ok=True)
    if kill_at is not None:
        (folder / "killer.py").write_text(KILLER)
        callbacks.append({"class_path": "killer.KillOnce", "init_args": {"step": kill_at}})
    config = {
        "model": {"class_path": "maskgen.training.modules.masked.MaskedTokenModule", "init_args": sizes},
        "data": {"class_path": "maskgen.data.loading.token_data.TokenData", "init_args": data},
        "trainer": {
            "accelerator": "cpu",
            "max_steps": steps,
            "max_epochs": -1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "val_check_interval": 4,
            "check_val_every_n_epoch": None,
            "default_root_dir": str(folder),
            "callbacks": callbacks,
            **trainer,
        },
    }
    (folder / "fit.yaml").write_text(yaml.safe_dump(config))
    return folder / "fit.yaml"
