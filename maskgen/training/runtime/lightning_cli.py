"""LightningCLI whose runs survive kills, stop signals and non-finite numbers, with linked arguments."""

import logging
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import Strategy, StrategyRegistry

from maskgen.networks.deferred import deferring
from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO, first_intact
from maskgen.training.runtime.console import name_epochs
from maskgen.training.runtime.earlier import set_aside
from maskgen.training.runtime.epochs import ExactEpochs
from maskgen.training.runtime.finite import SkipNonFinite
from maskgen.training.runtime.fsdp2 import FSDP2Strategy
from maskgen.training.runtime.links import COMPUTED, SOURCES, require_equal
from maskgen.training.runtime.shards_io import restore_interrupted
from maskgen.training.runtime.survival import StopOnSignal, UnswapAverages

logger = logging.getLogger(__name__)
NEW_STORE = "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun"
FSDP2 = "fsdp2"
"""Name of `FSDP2Strategy` on the command line, as Lightning's `ddp` is that of DDPStrategy."""


class SurvivingCLI(LightningCLI):
    """LightningCLI that adds our checkpoint writer and callbacks; a callback of the same class in the configuration replaces ours.

    No checkpoint is read but by `AtomicCheckpointIO`, whatever the configuration says: Lightning's own readers can run code. The length of
    the learning-rate schedule and the model's folders of shards follow from the trainer and the data.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the arguments that follow from others."""
        for key, sources in SOURCES.items():
            parser.link_arguments(sources, key, compute_fn=COMPUTED[key])

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and replace a damaged checkpoint by the previous one, because Lightning opens it before our reader does.

        Raises:
            ValueError: If a linked value is given and differs from what it follows from, for `weights_only: false`, and for a checkpoint
                that is not on this machine.
        """
        super().parse_arguments(parser, args)
        chosen = self.config[self.config.subcommand]
        require_equal(sys.argv[1:] if args is None else args, chosen)
        path = chosen.get("ckpt_path")
        if chosen.get("weights_only") is False:
            raise ValueError(
                "weights_only is false, but checkpoints are read with weights_only=True only, which runs no code; leave it out"
            )
        if path and ("://" in str(path) or str(path).lower().startswith("registry")):
            raise ValueError(f"ckpt_path {path} is not a local file; fetch the checkpoint yourself and give its path")
        if path and Path(path).is_file():
            chosen["ckpt_path"] = str(first_intact(Path(path))[0])

    def before_fit(self) -> None:
        """Move an earlier run in the same folders aside."""
        keepers = [callback for callback in self.trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        for folder in {Path(keeper.dirpath) for keeper in keepers if keeper.dirpath}:
            restore_interrupted(folder)
        if self.trainer.is_global_zero:
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
                logger.warning("a restart by torchrun may wait forever, because it reads old addresses; %s", NEW_STORE)
            set_aside(keepers, self.trainer.log_dir if self.trainer.loggers else None, self.config.fit.ckpt_path)

    def instantiate_classes(self) -> None:
        """Make the objects; a network that will be sharded gets no memory for its weights before that."""
        StrategyRegistry.register(FSDP2, FSDP2Strategy, description="weights in shards over all ranks", override=True)
        strategy = self.config[self.subcommand].trainer.strategy
        name = strategy if isinstance(strategy, str) else (strategy or {}).get("class_path", "")
        with deferring() if name.rpartition(".")[2] in (FSDP2, FSDP2Strategy.__name__) else nullcontext():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer of the configuration, with the checkpoint writer and callbacks of every run.

        Raises:
            ValueError: If another checkpoint reader is configured, or a strategy that reads checkpoints on its own.
        """
        configured = self.config_init[self.subcommand].trainer
        plugins, callbacks = _as_list(configured.plugins), _as_list(configured.callbacks)
        carried = configured.strategy._checkpoint_io if isinstance(configured.strategy, Strategy) else None
        readers = [plugin for plugin in (*plugins, carried) if isinstance(plugin, CheckpointIO)]
        for reader in readers:
            _require_ours(reader)
        if not readers:
            plugins.append(AtomicCheckpointIO())
        given = {type(callback) for callback in callbacks}
        callbacks += [kind() for kind in (SkipNonFinite, ExactEpochs, UnswapAverages, StopOnSignal) if kind not in given]
        trainer = super().instantiate_trainer(**{"plugins": plugins, "callbacks": callbacks, **kwargs})
        _require_ours(trainer.strategy.checkpoint_io)
        kind = type(trainer.strategy)
        if kind.load_checkpoint is not Strategy.load_checkpoint and kind is not FSDP2Strategy:
            raise ValueError(
                f"strategy {kind.__name__} reads checkpoints on its own, which can run code in them; use one that leaves that to the "
                "trainer, such as auto, ddp or fsdp2"
            )
        name_epochs(trainer)
        return trainer


def _require_ours(reader: CheckpointIO) -> None:
    """Refuse a checkpoint reader that is not `AtomicCheckpointIO` itself.

    Raises:
        ValueError: Names its class.
    """
    if type(reader) is not AtomicCheckpointIO:
        raise ValueError(
            f"{type(reader).__name__} is configured as the checkpoint reader, but AtomicCheckpointIO alone may read checkpoints, "
            "because it runs no code in them; leave it out"
        )


def _as_list(value: Any) -> list[Any]:
    """One, several or none, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
