"""One run of a fine-tuning: trains a module on token shards, goes on where it stopped, and measures held-out losses before and after."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from maskgen.data.loading.token_data import TokenData
from maskgen.data.shards.manifest import read_index
from maskgen.io.files import write_atomic
from maskgen.networks.lora import LoraSettings
from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO, first_intact
from maskgen.training.runtime.console import name_epochs, say_once
from maskgen.training.runtime.epochs import ExactEpochs
from maskgen.training.runtime.finite import SkipNonFinite
from maskgen.training.runtime.survival import LAST, StopOnSignal

logger = logging.getLogger(__name__)
RUN_FILE, BEFORE_FILE = "run.json", "before.json"
HELD_OUT = "validation"
FULL_LR, LORA_LR = 3e-4, 2e-3
LARGEST_WARMUP = 50


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """How a model is fine-tuned.

    Args:
        steps: Optimizer steps.
        batch_size: Samples a step; fewer where the folder has fewer.
        lr: Highest learning rate; 0 takes FULL_LR, or LORA_LR for an adapter.
        lora: Size of the adapter; None trains all weights.
        drop_condition: Share of rows that learn without their condition, for guidance.
        checkpoint_steps: Steps between two checkpoints.
        seed: Seed of masks, sample order and the adapter's initial weights.
        device: cpu, or cuda for one GPU.

    Raises:
        ValueError: If a number is out of range.
    """

    steps: int = 200
    batch_size: int = 16
    lr: float = 0.0
    lora: LoraSettings | None = None
    drop_condition: float = 0.1
    checkpoint_steps: int = 50
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.lr < 1 or not 0 <= self.seed < 2**63:
            raise ValueError(f"lr must lie in [0, 1) and seed in [0, 2**63), got {self.lr:g} and {self.seed}")
        if self.device not in ("cpu", "cuda") or (self.device == "cuda" and not torch.cuda.is_available()):
            raise ValueError(f"device {self.device} is not usable here; use cpu" + (" or cuda" if torch.cuda.is_available() else ""))

    @property
    def highest_lr(self) -> float:
        """Highest learning rate, with the default filled in."""
        return self.lr or (FULL_LR if self.lora is None else LORA_LR)


@dataclass(frozen=True)
class TrainingRun:
    """What a fine-tuning measured.

    Args:
        before: Held-out loss of each level before the training; empty where nothing was held out.
        after: The same after it.
        elapsed_s: Seconds of training since this start.
        steps: Optimizer steps since this start; fewer than asked for where an earlier run was resumed.
    """

    before: dict[str, float]
    after: dict[str, float]
    elapsed_s: float
    steps: int


def run_training(module: L.LightningModule, shards: Path, work: Path, settings: FinetuneSettings, facts: Mapping[str, Any]) -> TrainingRun:
    """Train a module on token shards from the last checkpoint in `work`, if there is one, and measure the held-out loss before and after.

    Args:
        module: The module.
        shards: Folder of token shards; the split "validation" is held out.
        work: Folder for checkpoints and the facts of the run.
        settings: How to train.
        facts: What else decides the result; a run with others is refused in the same folder.

    Raises:
        ValueError: If there are no training rows, or `work` holds another run.
    """
    index = read_index(shards)
    if not index.counts.get("train"):
        raise ValueError(f"{shards} holds no sample to train on; add samples, or hold fewer out")
    _same_run(work, {**facts, "shards": index.plan, **_plain(settings)})
    data = TokenData(
        str(shards),
        batch_size=min(settings.batch_size, index.counts["train"]),
        validation_splits=[HELD_OUT] if index.counts.get(HELD_OUT) else [],
        seed=settings.seed,
    )
    before = _before(work, module, data, settings)
    last = work / "checkpoints" / LAST
    if last.is_file():
        logger.info("resuming from %s", last)
    started_s, trainer, begun = time.monotonic(), _trainer(work, settings), _Begun()
    trainer.callbacks.append(begun)  # type: ignore[attr-defined]
    trainer.fit(module, data, ckpt_path=str(first_intact(last)[0]) if last.is_file() else None)
    elapsed_s = time.monotonic() - started_s
    steps = 0 if begun.step is None else trainer.global_step - begun.step
    return TrainingRun(before, _validated(module, data, settings), elapsed_s, steps)


class _Begun(Callback):
    """The step at which a training began: above 0 for a resumed one, None where nothing is left to train."""

    step: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See Lightning."""
        self.step = trainer.global_step


def _trainer(work: Path, settings: FinetuneSettings, training: bool = True) -> L.Trainer:
    """A trainer with the checkpoint writer and callbacks of every training."""
    keeper = ModelCheckpoint(
        work / "checkpoints", save_last=True, every_n_train_steps=settings.checkpoint_steps, save_top_k=0, monitor=None
    )  # fmt: skip
    torch.set_float32_matmul_precision("high")
    torch.set_flush_denormal(True)
    say_once()
    trainer = L.Trainer(
        accelerator="cpu" if settings.device == "cpu" else "gpu",
        devices=1,
        precision="32-true" if settings.device == "cpu" else "bf16-mixed",
        max_steps=settings.steps,
        max_epochs=-1,
        limit_val_batches=None if not training else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=25,
        logger=False,
        enable_checkpointing=training,
        enable_model_summary=False,
        enable_progress_bar=training,
        plugins=[AtomicCheckpointIO()],
        callbacks=[keeper, SkipNonFinite(), ExactEpochs(), StopOnSignal("give the same command again to go on")] if training else [],
        default_root_dir=work,
    )
    name_epochs(trainer)
    return trainer


def _validated(module: L.LightningModule, data: TokenData, settings: FinetuneSettings) -> dict[str, float]:
    """Held-out loss of each level."""
    if not data.validation_splits:
        return {}
    trainer = _trainer(Path("."), settings, training=False)
    trainer.validate(module, data, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {name.removeprefix("val/loss_"): metrics[name] for name in sorted(metrics) if name.startswith("val/loss_") and "_level" in name}


def _before(work: Path, module: L.LightningModule, data: TokenData, settings: FinetuneSettings) -> dict[str, float]:
    """The held-out losses of the base, measured once per run."""
    path = work / BEFORE_FILE
    if not path.is_file():
        write_atomic(path, json.dumps(_validated(module, data, settings)).encode())
    return {str(name): float(value) for name, value in json.loads(path.read_text()).items()}


def _plain(settings: FinetuneSettings) -> dict[str, Any]:
    """The settings that decide the trained weights; device and checkpoint interval don't."""
    plain = {**asdict(settings), "lr": settings.highest_lr}
    return {name: value for name, value in plain.items() if name not in ("checkpoint_steps", "device")}


def _same_run(work: Path, facts: Mapping[str, Any]) -> None:
    """Refuse the work folder of another run, or record this one.

    Raises:
        ValueError: If it holds another run; names what differs.
    """
    work.mkdir(parents=True, exist_ok=True)
    path = work / RUN_FILE
    if not path.is_file():
        write_atomic(path, (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged; give --restart to begin again") from error
    wanted = json.loads(json.dumps(facts))
    other = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    if other:
        was, now = found.get(other[0]), wanted.get(other[0])
        raise ValueError(f"{work} holds another run: {other[0]} was {was}, it is {now} now; give another --out, or --restart")
