"""Training on 1, 2 and 4 local processes, data-parallel and with sharded weights: differences, resumes and a killed rank.

Run: python benchmarks/ranks.py [--out FOLDER]
Two minutes on two CPU cores that are free. Every run has the same global batch; all are compared with one process.
"""

import argparse
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from maskgen.data.loading.token_data import TokenData
from maskgen.data.shards.format import json_bytes, npy_bytes, write_shard
from maskgen.data.shards.manifest import Index, write_index
from maskgen.io.checkpoint import load_verified
from maskgen.networks.deferred import deferring
from maskgen.networks.transformer import TransformerConfig
from maskgen.tokens.space import Modality, TokenSpace
from maskgen.training.modules.masked import MaskedTokenModule
from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO
from maskgen.training.runtime.finite import SkipNonFinite
from maskgen.training.runtime.fsdp2 import FSDP2Strategy

GLOBAL_BATCH, STEPS, HALF, KILLED_AT = 16, 12, 6, 8
TRANSFORMER = TransformerConfig(dim=64, num_layers=3, num_heads=4)


def tokens(folder: Path) -> str:
    """Token shards of random captions of unequal length and 4 x 4 images of two levels."""
    draw = np.random.default_rng(0)
    text, image = (Modality(name=name, kind=name, num_levels=levels, codebook_size=64) for name, levels in (("text", 1), ("image", 2)))

    def row(number: int) -> tuple[str, dict[str, bytes]]:
        caption, codes = draw.integers(0, 64, (1, int(draw.integers(2, 8)))), draw.integers(0, 64, (2, 4, 4))
        return f"row-{number:04d}", {
            "text.npy": npy_bytes(caption.astype(np.int16)),
            "image.npy": npy_bytes(codes.astype(np.int16)),
            "json": json_bytes({}),
        }

    splits = {"train-000000": range(256), "A-000000": range(256, 275)}
    entries = [write_shard(folder / f"{name}.tar", name.partition("-")[0], map(row, rows)) for name, rows in splits.items()]
    space = TokenSpace([text, image])
    write_index(folder, Index(kind="tokens", shards=tuple(entries), space=space.to_dict(), fingerprints={"text": "t", "image": "i"}))
    return str(folder)


class Witness(L.Callback):
    """Notes loss and rows of every step; may kill its process in one."""

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at, self.losses, self.rows = kill_at, dict[int, float](), dict[int, Any]()

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if first and trainer.global_step == self.kill_at and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses[trainer.global_step] = float(trainer.callback_metrics["train/loss_image"])
        self.rows[trainer.global_step] = [ids[ids > 0].tolist() for ids in batch.ids]


def train(shards: str, folder: Path, strategy: str, ranks: int, resume: str | None = None, kill_at: int | None = None) -> None:
    """One rank of a training; writes what it saw to folder/seen.RANK.pt."""
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with deferring() if strategy == "fsdp2" else nullcontext():
        module = MaskedTokenModule(shards, TRANSFORMER, target="image", max_steps=STEPS, warmup_steps=2)
    witness = Witness(kill_at)
    trainer = L.Trainer(
        max_steps=STEPS,
        max_epochs=-1,
        accelerator="cpu",
        devices=ranks,
        strategy=FSDP2Strategy() if strategy == "fsdp2" else strategy if ranks > 1 else "auto",
        plugins=[] if strategy == "fsdp2" else [AtomicCheckpointIO()],
        callbacks=[
            SkipNonFinite(),
            EMAWeightAveraging(decay=0.9),
            ModelCheckpoint(folder, "{step}", save_top_k=-1, save_last=True, every_n_train_steps=2, monitor=None),
            witness,
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(module, TokenData(shards, global_batch=GLOBAL_BATCH, validation_rows=19), ckpt_path=resume)
    torch.save({"losses": witness.losses, "rows": witness.rows}, folder / f"seen.{trainer.global_rank}.pt")


def forked(run: Callable[[], None], ranks: int) -> None:
    """Run a function in forked processes, each a rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def child(rank: int) -> None:
        names = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": 0, "LOCAL_RANK": rank, "RANK": rank, "WORLD_SIZE": ranks}
        os.environ.update({name: str(value) for name, value in names.items()})
        run()

    running = [multiprocessing.get_context("fork").Process(target=child, args=(rank,), daemon=True) for rank in range(ranks)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    if any(one.exitcode for one in running):
        raise SystemExit(f"ranks ended with {[one.exitcode for one in running]}")


def compared(found: Path, wanted: Path, ranks: int, from_step: int = 0) -> str:
    """Columns of the table: differences from the training on one process."""
    seen = [torch.load(found / f"seen.{rank}.pt", weights_only=True) for rank in range(ranks)]
    want = torch.load(wanted / "seen.0.pt", weights_only=True)
    steps = [step for step in want["losses"] if step > from_step and step in seen[0]["losses"]]
    loss = max(abs(seen[0]["losses"][step] - want["losses"][step]) / want["losses"][step] for step in steps)
    rows = all([row for rank in seen for row in rank["rows"][step]] == want["rows"][step] for step in steps)
    have, whole = (load_verified(folder / f"step={STEPS}.ckpt") for folder in (found, wanted))
    weights = [
        max(float((have[part][name] - weight).abs().max()) for name, weight in whole[part].items())
        for part in ("current_model_state", "state_dict")
    ]
    return f"{len(steps)} | {'same' if rows else 'OTHER'} | {loss:.1e} | {weights[0]:.1e} | {weights[1]:.1e} |"


def killed(shards: str, folder: Path, strategy: str) -> None:
    """A training of two processes under torchrun, one of which is killed with SIGKILL in the middle."""
    folder.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    rank = [__file__, "--rank", shards, str(folder), strategy]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # else restarts read old addresses
    ended = subprocess.run([sys.executable, *launcher, *rank], capture_output=True, text=True, env=environment)
    if ended.returncode or "exitcode: -9" not in ended.stderr:
        raise SystemExit(f"torchrun ended with {ended.returncode}: {ended.stderr[-2000:]}")


def main() -> None:
    """Run all trainings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the runs (default: a temporary one)")
    parser.add_argument("--rank", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.rank:
        shards, folder, strategy = args.rank
        train(shards, Path(folder), strategy, 2, "last", KILLED_AT)
        return
    out = args.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    shards = tokens(out / "shards")
    alone = out / "auto-1"
    train(shards, alone, "auto", 1)
    print("| run | processes | steps | rows | loss, largest relative difference | weights, largest difference | their average |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for strategy in ("ddp", "fsdp2"):
        for ranks in (1, 2, 4) if strategy == "fsdp2" else (2, 4):
            place = out / f"{strategy}-{ranks}"
            forked(lambda place=place, strategy=strategy, ranks=ranks: train(shards, place, strategy, ranks), ranks)  # type: ignore[misc]
            print(f"| {strategy} | {ranks} | {compared(place, alone, ranks)}", flush=True)
    half = str(out / "fsdp2-2" / f"step={HALF}.ckpt")
    for name, strategy, ranks, start in (
        ("fsdp2, resumed on as many", "fsdp2", 2, half),
        ("fsdp2, resumed on one", "auto", 1, half),
        ("one, resumed by fsdp2", "fsdp2", 4, str(alone / f"step={HALF}.ckpt")),
        ("fsdp2, resumed by ddp", "ddp", 4, half),
    ):
        place = out / f"{name.replace(', ', '-').replace(' ', '-')}-{ranks}"
        forked(lambda place=place, strategy=strategy, ranks=ranks, start=start: train(shards, place, strategy, ranks, start), ranks)  # type: ignore[misc]
        came = 2 if start == half else 1
        print(f"| {name} | {came} to {ranks} | {compared(place, alone, ranks, HALF)}", flush=True)
    print("\n| rank killed in step 9 of 12, started again by torchrun | weights that differ from the uninterrupted run |")
    print("| --- | --- |", flush=True)
    for strategy in ("ddp", "fsdp2"):
        place = out / f"killed-{strategy}"
        killed(shards, place, strategy)
        have, want = (load_verified(folder / f"step={STEPS}.ckpt") for folder in (place, out / f"{strategy}-2"))
        states = ("current_model_state", "state_dict")
        other = sum(not torch.equal(have[part][name], weight) for part in states for name, weight in want[part].items())
        print(f"| {strategy}, 2 processes | {other} of {sum(len(want[part]) for part in states)} |", flush=True)


if __name__ == "__main__":
    main()
