"""Tiny modules, trainers and what watches them, for the tests of trainings that survive."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from maskgen.autoencoders.image import ImageAutoencoderConfig, PatchDiscriminator
from maskgen.autoencoders.quantizers import ResidualQuantizer
from maskgen.networks.transformer import TransformerConfig
from maskgen.training.modules.image_autoencoder import ImageAutoencoderModule
from maskgen.training.modules.masked import MaskedTokenModule
from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO
from maskgen.training.runtime.finite import SkipNonFinite
from maskgen.training.runtime.survival import StopOnSignal, UnswapAverages


def masked(shards: str) -> MaskedTokenModule:
    torch.manual_seed(0)
    return MaskedTokenModule(shards, TransformerConfig(dim=16, num_layers=1, num_heads=2), [4, 4], max_steps=100, warmup_steps=2, lr=1e-2)


def autoencoder(discriminator: bool = False) -> ImageAutoencoderModule:
    torch.manual_seed(0)
    config = ImageAutoencoderConfig(patch=4, encoder_channels=[16, 16], decoder_channels=[16, 16, 16], encoder_blocks=1, decoder_blocks=1)
    return ImageAutoencoderModule(
        config,
        ResidualQuantizer(2, 4, 16, level_dropout=0.0),
        warmup_steps=0,
        max_steps=100,
        discriminator=PatchDiscriminator(8, 2) if discriminator else None,
        adversarial_from=0,
    )


def pictures() -> list[Tensor]:
    return [*torch.rand(4, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))]


def loader(found: list[Any]) -> DataLoader[Any]:
    return DataLoader(found, batch_size=None)  # type: ignore[arg-type]


def trainer(folder: Path, steps: int, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """A trainer with all that `maskgen fit` adds."""
    return L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        plugins=[AtomicCheckpointIO()],
        callbacks=[StopOnSignal(), *callbacks, UnswapAverages(), *([] if has(callbacks, SkipNonFinite) else [SkipNonFinite()])],
        **{"enable_checkpointing": has(callbacks, ModelCheckpoint), **options},
    )


def has(callbacks: tuple[L.Callback, ...], kind: type[L.Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


def copied(value: Any) -> Any:
    """Plain data and tensors that later steps do not change."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: copied(part) for name, part in value.items()}
    return [copied(part) for part in value] if isinstance(value, (list, tuple)) else value


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(value, theirs[name]) for name, value in ours.items())
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(same(*pair) for pair in zip(ours, theirs, strict=True))
    return bool(ours == theirs)


class Watch(L.Callback):
    """After each batch: weights, buffers, optimizer state and averaged weights."""

    def __init__(self, average: EMAWeightAveraging | None = None) -> None:
        self.average, self.rows = average, list[Any]()

    def on_train_batch_end(self, trainer: Any, pl_module: L.LightningModule, *args: Any) -> None:
        states = [dict(optimizer.state_dict()) for optimizer in trainer.optimizers]
        for state in states:  # the learning rate goes on
            for part in state.get("inner", [state]):
                part.pop("param_groups", None)
        averaged = self.average._average_model.state_dict() if self.average and self.average._average_model else {}
        self.rows.append(copied([pl_module.state_dict(), states, averaged]))
