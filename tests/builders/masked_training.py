"""A tiny masked module, its trainer and its batches."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from maskgen.networks.transformer import TransformerConfig
from maskgen.tokens.batch import TokenBatch
from maskgen.training.modules.masked import MaskedTokenModule

TINY = TransformerConfig(dim=32, num_layers=2, num_heads=2)


def module(shards: str, transformer: TransformerConfig = TINY, **options: Any) -> MaskedTokenModule:
    """A module over the tiny space; its weights start at seed 0."""
    torch.manual_seed(0)
    return MaskedTokenModule(shards, transformer, [4, 4], **{"max_steps": 100, "warmup_steps": 2, **options})


def trainer(steps: int, folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """A silent trainer on a CPU that writes no checkpoints of its own accord."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}
    return L.Trainer(max_steps=steps, accelerator="cpu", default_root_dir=folder, callbacks=[*callbacks], **{**quiet, **options})


def batches(*found: TokenBatch) -> DataLoader[Any]:
    """The batches as a loader."""
    return DataLoader([*found], batch_size=None)  # type: ignore[arg-type]
