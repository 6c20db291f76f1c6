"""A resumed training is the uninterrupted one, bit for bit: weights, average, optimizer, order, masks."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from maskgen.data.loading.grouping import Grouping, Packed
from maskgen.data.loading.mixture import Part
from maskgen.data.loading.token_data import TokenData
from maskgen.data.shards.format import json_bytes, npy_bytes, write_shard
from maskgen.data.shards.manifest import Index, write_index
from maskgen.networks.transformer import TransformerConfig
from maskgen.tokens.space import Modality, TokenSpace
from maskgen.training.modules.masked import MaskedTokenModule

STEPS = 27
"""Three passes of 9 batches: 38 rows in batches of 4."""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training shards and one for validation, of random codes."""
    folder = tmp_path_factory.mktemp("tokens")
    space = TokenSpace(
        [
            Modality(name="text", kind="text", num_levels=1, codebook_size=16),
            Modality(name="image", kind="image", num_levels=2, codebook_size=8),
        ]
    )
    draw = np.random.default_rng(0)

    def row(number: int) -> tuple[str, dict[str, bytes]]:
        captions = np.array([draw.integers(0, 16, 5), [*draw.integers(0, 16, 3), -1, -1]], np.int16)
        image = draw.integers(0, 8, (2, 2, 2)).astype(np.int16)
        return f"row-{number:03d}", {"text.npy": npy_bytes(captions), "image.npy": npy_bytes(image), "json": json_bytes({"n": number})}

    splits = {"train-000000": range(21), "train-000001": range(21, 38), "A-000000": range(38, 42)}
    entries = [write_shard(folder / f"{name}.tar", name.partition("-")[0], map(row, rows)) for name, rows in splits.items()]
    write_index(folder, Index(kind="tokens", shards=tuple(entries), space=space.to_dict(), fingerprints={"text": "t", "image": "i"}))
    return folder


class Witness(L.Callback):
    """Notes what each step saw and lost."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, list[Any], float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps.append((trainer.global_step, batch.ids.tolist(), float(outputs["loss"])))


def train(
    tokens: Path, folder: Path, resume: Path | None = None, workers: int = 0, grouping: Grouping | None = None
) -> tuple[Any, Witness]:
    """Train to the end, a checkpoint at every step; the last checkpoint and what the steps saw."""
    torch.manual_seed(99 if resume else 0)  # a resumed run must not need the seed of the first
    module = MaskedTokenModule(str(tokens), TransformerConfig(dim=16, num_layers=1, num_heads=2), [2, 2], max_steps=STEPS, warmup_steps=3)
    data = TokenData([Part(folder=str(tokens), window=1)], batch_size=4, validation_splits=["A"], num_workers=workers, grouping=grouping)
    witness = Witness()
    saver = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1, monitor=None)
    trainer = L.Trainer(
        max_steps=STEPS,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[witness, saver, EMAWeightAveraging(decay=0.9, update_starting_at_step=2)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=4,
        check_val_every_n_epoch=None,
    )
    trainer.fit(module, data, ckpt_path=None if resume is None else str(resume), weights_only=True)
    return torch.load(folder / f"step={STEPS}.ckpt", weights_only=True), witness


def require_equal(found: Any, wanted: Any, where: str = "") -> None:
    """Every number and tensor alike, bit for bit; callbacks and wall-clock facts are left out by the caller."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for name in wanted:
            require_equal(found[name], wanted[name], f"{where}/{name}")
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted), where
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            require_equal(one, other, f"{where}/{number}")
    elif isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), where
    else:
        assert found == wanted, where


PARTS = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step", "averaging_state")


def check_cuts(tokens: Path, tmp_path: Path, cuts: list[int], workers: tuple[int, int], grouping: Grouping | None = None) -> None:
    """Resume from each cut and compare with the run that was not cut."""
    wanted, whole = train(tokens, tmp_path / "whole", workers=workers[0], grouping=grouping)
    assert [step for step, _, _ in whole.steps] == list(range(1, STEPS + 1))
    for cut in cuts:
        found, rest = train(tokens, tmp_path / f"cut-{cut}", tmp_path / "whole" / f"step={cut}.ckpt", workers[1], grouping)
        assert rest.steps == whole.steps[cut:], f"cut at {cut}"
        for part in PARTS:
            require_equal(found.get(part), wanted.get(part), f"cut at {cut}: {part}")
        require_equal(found["loops"]["fit_loop"]["state_dict"], wanted["loops"]["fit_loop"]["state_dict"], f"cut at {cut}: place")


def test_resume_inside_and_at_the_end_of_a_pass_is_exact(tokens: Path, tmp_path: Path) -> None:
    check_cuts(tokens, tmp_path, [2, 9, 14], (0, 0))


def test_packed_rows_resume_exactly(tokens: Path, tmp_path: Path) -> None:
    check_cuts(tokens, tmp_path, [7], (0, 0), Packed(20, draws=12))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(0, 0), (2, 2), (0, 2)])
def test_resume_from_every_step_of_three_passes_is_exact(tokens: Path, tmp_path: Path, workers: tuple[int, int]) -> None:
    check_cuts(tokens, tmp_path, list(range(1, STEPS)), workers)
