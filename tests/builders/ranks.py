"""A training of a tiny module on a number of ranks: run as a script by every rank, or called for one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch

from builders.mixed_shards import LABELS, PICTURES, SPEECH, picture, speech, write
from maskgen.data.loading.mixture import Part
from maskgen.data.loading.token_data import TokenData
from maskgen.masking.schedule import Linear
from maskgen.masking.tasks import TargetObjective, Task
from maskgen.networks.tower_config import Tower, TowersConfig
from maskgen.networks.transformer import TransformerConfig
from maskgen.training.modules.any_to_any import AnyToAnyModule
from maskgen.training.modules.hybrid_noise import HybridNoiseModule
from maskgen.training.modules.masked import MaskedTokenModule

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


def train(kind: str, shards: list[str], ranks: int, folder: Path) -> tuple[L.LightningModule, dict[str, float]]:
    """Train with the same global batch on any number of ranks; returns the module, and losses and validation means."""
    used = shards if kind in ("any", "towers") else shards[:1]
    trained, losses = module(kind, shards), Losses()
    data = TokenData([Part(folder=one) for one in used], GLOBAL_BATCH // ranks, validation_rows=12)
    trainer = L.Trainer(
        max_steps=STEPS,
        max_epochs=-1,
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        default_root_dir=folder,
        callbacks=[losses],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(trained, datamodule=data)
    validated = trainer.validate(trained, datamodule=data, verbose=False)[0]
    return trained, {**losses.by_step, **validated}


class Losses(L.Callback):
    """Keeps the logged loss of every step."""

    def __init__(self) -> None:
        self.by_step: dict[str, float] = {}

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        for name, value in trainer.callback_metrics.items():
            if name.startswith("train/loss"):
                self.by_step[f"{name} of step {trainer.global_step}"] = float(value)


def launch(kinds: list[str], shards: list[str], ranks: int, folder: Path) -> None:
    """Run the trainings one after another on `ranks` processes; each writes its weights and losses into the folder."""
    port = 20_000 + os.getpid() % 20_000
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(ranks), str(folder), json.dumps(shards), *kinds]
    running = [
        subprocess.Popen(command, env={**environment, "LOCAL_RANK": str(rank), "PYTHONPATH": os.pathsep.join(sys.path)})
        for rank in range(ranks)
    ]
    assert [one.wait(timeout=240) for one in running] == [0] * ranks


def main() -> None:
    """Arguments: ranks, folder for the results, folders of shards as JSON, trainings."""
    ranks, folder, shards = int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    for kind in sys.argv[4:]:
        trained, losses = train(kind, shards, ranks, folder)
        if trained.global_rank == 0:
            torch.save({"weights": trained.state_dict(), "losses": losses}, folder / f"{kind}.pt")


if __name__ == "__main__":
    main()
