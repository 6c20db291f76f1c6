"""LightningCLI whose runs survive kills, stop signals and non-finite numbers, with linked arguments."""

import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO

from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO, first_intact
from maskgen.training.runtime.finite import SkipNonFinite
from maskgen.training.runtime.links import COMPUTED, SOURCES, require_equal
from maskgen.training.runtime.survival import StopOnSignal, UnswapAverages


class SurvivingCLI(LightningCLI):
    """LightningCLI that adds our checkpoint writer and callbacks; one of the same class in the configuration replaces ours.

    The length of the learning-rate schedule and the model's folders of shards follow from the trainer and the data.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the arguments that follow from others."""
        for key, sources in SOURCES.items():
            parser.link_arguments(sources, key, compute_fn=COMPUTED[key])

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and replace a damaged checkpoint by the previous one, because Lightning opens it before our reader does.

        Raises:
            ValueError: If a linked value is given and differs from what it follows from.
        """
        super().parse_arguments(parser, args)
        chosen = self.config[self.config.subcommand]
        require_equal(sys.argv[1:] if args is None else args, chosen)
        path = chosen.get("ckpt_path")
        if path and Path(path).is_file():
            chosen["ckpt_path"] = str(first_intact(Path(path))[0])

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer of the configuration, with the checkpoint writer and callbacks of every run."""
        configured = self.config_init[self.subcommand].trainer
        plugins, callbacks = _as_list(configured.plugins), _as_list(configured.callbacks)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        given = {type(callback) for callback in callbacks}
        callbacks += [kind() for kind in (SkipNonFinite, UnswapAverages, StopOnSignal) if kind not in given]
        return super().instantiate_trainer(**{"plugins": plugins, "callbacks": callbacks, **kwargs})


def _as_list(value: Any) -> list[Any]:
    """One, several or none, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
