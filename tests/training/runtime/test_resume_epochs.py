"""Kills at the ends of epochs: runs over `max_epochs` and over `max_steps` end with the uninterrupted run's steps, epochs and weights."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from maskgen.data.loading.loader import ResumableLoader
from maskgen.data.loading.order import ShuffledOrder
from maskgen.training.runtime.epochs import ExactEpochs

BATCHES, EPOCHS = 5, 6
STEPS = BATCHES * EPOCHS
LIMITS = {"max_epochs": {"max_epochs": EPOCHS}, "max_steps": {"max_epochs": -1, "max_steps": STEPS}}
SAVES: dict[str, dict[str, Any]] = {
    "step": {"every_n_train_steps": 1},
    "validation": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
    "epoch": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
}
"""When the checkpoint that a kill leaves was written."""
QUICK = [(10, 20), (12, 20)]
"""Steps of two kills; ten and twenty end an epoch."""


class Tiny(L.LightningModule):
    """One weight matrix whose learning rate falls with every epoch; notes number, epoch and batch of every step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)
        self.seen: list[tuple[int, int, int, list[float]]] = []

    def training_step(self, batch: Tensor, number: int) -> Tensor:
        self.seen.append((self.global_step, self.current_epoch, number, batch[:, 0].tolist()))
        return self.layer(batch).square().mean() + self.layer.weight.sum()

    def validation_step(self, batch: Tensor, number: int) -> None:
        self.log("val/loss", self.layer(batch).square().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


def loader() -> ResumableLoader:
    """Batches of 2 from 11 rows: five an epoch, and a row that begins the next one."""
    rows = [torch.tensor([row, row % 3, 1.0]) for row in range(11)]

    class Drawn(torch.utils.data.Dataset[Tensor]):
        def __getitem__(self, draw: Any) -> Tensor:
            return rows[draw[0]]

    return ResumableLoader(Drawn(), ShuffledOrder([6, 5], seed=0), 2, lambda batch: torch.stack([sample for (sample,) in batch]))


def train(folder: Path, limits: dict[str, int], save: dict[str, Any], resume: Path | None = None) -> tuple[Tiny, L.Trainer]:
    """Train to the end, with a checkpoint wherever `save` says."""
    module = Tiny()
    trainer = L.Trainer(
        **limits,  # type: ignore[arg-type]
        accelerator="cpu",
        callbacks=[ExactEpochs(), ModelCheckpoint(folder, "{step}", save_top_k=-1, monitor=None, **save)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    data = torch.utils.data.DataLoader(torch.ones(2, 3))
    trainer.fit(module, loader(), data, ckpt_path=None if resume is None else str(resume), weights_only=True)
    return module, trainer


def facts(module: Tiny, trainer: L.Trainer) -> dict[str, Any]:
    """What must be alike: counts, place in the data, learning rate and weights."""
    loop = trainer.fit_loop
    epochs, batches = loop.epoch_progress.state_dict(), loop.epoch_loop.batch_progress.state_dict()
    return {
        "step": trainer.global_step,
        "logged step": loop.epoch_loop._batches_that_stepped,
        "epoch": trainer.current_epoch,
        "epochs": epochs["total"],
        "batches": batches["total"],
        "place": trainer.train_dataloader.state_dict(),
        "lr": trainer.optimizers[0].param_groups[0]["lr"],
        "weights": module.layer.weight.tolist(),
    }


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(
    ("save", "kills"),
    [
        *(("step", kills) for kills in QUICK),
        *(pytest.param("step", kills, marks=pytest.mark.slow) for kills in [(5, 10), (10, 12), (5, 25), (25, STEPS)]),
        *((save, (10, 20)) for save in ("validation", "epoch")),
        *(pytest.param(save, (5, 10), marks=pytest.mark.slow) for save in ("validation", "epoch")),
    ],
)
def test_two_kills_leave_no_trace(tmp_path: Path, limit: str, save: str, kills: tuple[int, int]) -> None:
    whole, trainer = train(tmp_path / "0", LIMITS[limit], SAVES[save])
    wanted = facts(whole, trainer)
    assert (wanted["step"], wanted["epochs"]["completed"]) == (STEPS, EPOCHS)
    for number, kill in enumerate(kills, start=1):
        resumed, trainer = train(tmp_path / str(number), LIMITS[limit], SAVES[save], tmp_path / str(number - 1) / f"step={kill}.ckpt")
        assert resumed.seen == whole.seen[kill:], f"after the kill at {kill}"
    found = facts(resumed, trainer)
    if kills[-1] == STEPS:  # nothing was left to do, so nothing was counted
        wanted = {name: wanted[name] for name in ("step", "place", "lr", "weights")}
    assert {name: found[name] for name in wanted} == wanted


def test_a_run_that_ended_inside_an_epoch_goes_on_inside_it(tmp_path: Path) -> None:
    whole, trainer = train(tmp_path / "whole", LIMITS["max_steps"], SAVES["epoch"])
    wanted = facts(whole, trainer)
    train(tmp_path / "short", {"max_epochs": -1, "max_steps": 12}, SAVES["epoch"])
    longer, trainer = train(tmp_path / "longer", LIMITS["max_steps"], SAVES["epoch"], tmp_path / "short" / "step=12.ckpt")
    assert longer.seen == whole.seen[12:]
    assert facts(longer, trainer) == wanted
