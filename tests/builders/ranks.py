"""Trainings of tiny modules on a number of ranks, each a fork of this process: no rank imports anything again."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from builders.mixed_shards import LABELS, PICTURES, SPEECH, picture, speech, write
from maskgen.data.loading.mixture import Part
from maskgen.data.loading.token_data import TokenData
from maskgen.io.checkpoint import load_verified
from maskgen.masking.schedule import Linear
from maskgen.masking.tasks import TargetObjective, Task
from maskgen.networks.deferred import deferring
from maskgen.networks.tower_config import Tower, TowersConfig
from maskgen.networks.transformer import TransformerConfig
from maskgen.training.modules.any_to_any import AnyToAnyModule
from maskgen.training.modules.hybrid_noise import HybridNoiseModule
from maskgen.training.modules.masked import MaskedTokenModule
from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO
from maskgen.training.runtime.finite import SkipNonFinite
from maskgen.training.runtime.fsdp2 import FSDP2Strategy

GLOBAL_BATCH, STEPS = 8, 4
TINY = TransformerConfig(dim=32, num_layers=2, num_heads=2)
TARGETS = {"text": TargetObjective(schedule=Linear(), loss="elbo")}
TASKS = {
    "draw": Task(asked=["image"], given=["text"]),
    "caption": Task(asked=["text"], given=["image"]),
    "speak": Task(asked=["audio"], given=["transcript"]),
}
SOUNDS = Tower(modalities=["audio", "speaker", "transcript"], transformer=TINY)
TOWERS = TowersConfig(towers={"pictures": Tower(modalities=["text", "image"], transformer=TINY), "speech": SOUNDS})


@dataclass(frozen=True)
class Training:
    """One training to compare.

    Args:
        kind: Which module.
        strategy: "auto", "ddp" or "fsdp2".
        name: Its checkpoints go to the folder of this name, and its result to the file.
        resume: A checkpoint to resume.
        broken: Number of a step whose loss is not finite; it is skipped.
    """

    kind: str
    strategy: str = "auto"
    name: str = "run"
    resume: str | None = None
    broken: int | None = None


def folders(place: Path) -> list[str]:
    """Shards of pictures with captions of unequal length, and of speech; a last validation batch that ranks can't share evenly."""
    pictures = [picture(number % LABELS) for number in range(3 * LABELS)]
    sounds = [speech(number % LABELS) for number in range(2 * LABELS)]
    return [
        write(place / "pictures", PICTURES, {"train": pictures, "A": pictures[:9]}),
        write(place / "speech", SPEECH, {"train": sounds, "A": sounds[:3]}),
    ]


def module(kind: str, shards: list[str]) -> L.LightningModule:
    """The module of one training, with weights from seed 0."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"max_steps": STEPS, "warmup_steps": 1}
    if kind == "image":
        return MaskedTokenModule(shards[0], TINY, [2, 2], "image", prompt_share=0.3, drop_parts={"text": 0.3}, **sizes)
    if kind == "text_elbo":
        return MaskedTokenModule(shards[0], TINY, None, "text", Linear(), weight="elbo", **sizes)
    if kind == "hybrid":
        return HybridNoiseModule(shards[0], TINY, target="text", **sizes)
    network = TOWERS if kind == "towers" else TINY
    return AnyToAnyModule(shards, network, TASKS, TARGETS, fold_length=32, **sizes)


def train(training: Training, shards: list[str], ranks: int, folder: Path) -> dict[str, Any]:
    """Train with the same global batch on any number of ranks; losses, validation means, rows of each step and the checkpoints' folder."""
    used = shards if training.kind in ("any", "towers") else shards[:1]
    if training.strategy == "fsdp2":
        with deferring():
            trained = module(training.kind, shards)
    else:
        trained = module(training.kind, shards)
    witness = Witness(training.broken)
    data = TokenData([Part(folder=one) for one in used], global_batch=GLOBAL_BATCH, validation_rows=12)
    trainer = L.Trainer(
        max_steps=STEPS,
        max_epochs=-1,
        accelerator="cpu",
        devices=ranks,
        strategy=FSDP2Strategy() if training.strategy == "fsdp2" else training.strategy,
        plugins=[] if training.strategy == "fsdp2" else [AtomicCheckpointIO()],
        default_root_dir=folder,
        callbacks=[
            SkipNonFinite(),
            EMAWeightAveraging(decay=0.5),
            ModelCheckpoint(folder / training.name, "{step}", save_top_k=-1, every_n_train_steps=2, monitor=None),
            witness,
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        num_sanity_val_steps=0,
        val_check_interval=STEPS,
        check_val_every_n_epoch=None,
    )
    trainer.fit(trained, datamodule=data, ckpt_path=training.resume)
    return {"losses": witness.losses, "rows": witness.rows, "validation": witness.validation, "folder": str(folder / training.name)}


def checkpoint(found: dict[str, Any], step: int = STEPS) -> dict[str, Any]:
    """A checkpoint of a training, whole."""
    return load_verified(Path(found["folder"]) / f"step={step}.ckpt")


class Witness(L.Callback):
    """Keeps the losses and rows of every step, and the validation; may break one step."""

    def __init__(self, broken: int | None) -> None:
        self.losses: dict[str, float] = {}
        self.rows: dict[int, list[Any]] = {}
        self.validation: dict[str, float] = {}
        self._broken = broken

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        if trainer.global_step + 1 == self._broken and trainer.is_global_zero:
            loss.data.fill_(float("nan"))

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rows[trainer.global_step] = [ids[ids > 0].tolist() for ids in batch.ids]
        for name, value in trainer.callback_metrics.items():
            if name.startswith(("train/loss", "train/gradient")):
                self.losses[f"{name} of step {trainer.global_step}"] = float(value)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        self.validation = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val")}


def launch(trainings: Sequence[Training], shards: list[str], ranks: int, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Run the trainings one after another on `ranks` processes; by name, what each rank found."""

    def run(rank: int) -> None:
        for training in trainings:
            torch.save(train(training, shards, ranks, folder), folder / f"{training.name}.{rank}.pt")

    in_ranks(run, ranks)
    return {one.name: [torch.load(folder / f"{one.name}.{rank}.pt", weights_only=True) for rank in range(ranks)] for one in trainings}


def in_ranks(run: Callable[[int], None], ranks: int, timeout_s: float = 240) -> None:
    """Call a function in `ranks` forked processes that Lightning takes for its own; all must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def child(rank: int) -> None:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, NODE_RANK="0", LOCAL_RANK=str(rank), RANK=str(rank))
        os.environ["WORLD_SIZE"] = str(ranks)
        torch.set_num_threads(1)
        try:
            run(rank)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    running = [multiprocessing.get_context("fork").Process(target=child, args=(rank,), daemon=True) for rank in range(ranks)]
    for one in running:
        one.start()
    for one in running:
        one.join(timeout_s)
    ended = [one.exitcode for one in running]
    for one in running:
        one.kill()
    assert ended == [0] * ranks, f"ranks ended with {ended}"
