"""Callbacks that stop a training cleanly: a signal ends in a checkpoint, which never swaps averaged and trained weights."""

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging

from maskgen.networks.sharding import own_part, reshard
from maskgen.training.runtime.checkpoint_io import remove_stale

logger = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LAST = "last.ckpt"


class StopOnSignal(L.Callback):
    """On SIGTERM or Ctrl-C finishes the step, writes a checkpoint and exits with 128 + the signal's number. A second Ctrl-C exits at once.

    The checkpoint is the `last` one of a ModelCheckpoint, so that `--ckpt_path last` finds it; without a ModelCheckpoint it is `last.ckpt`
    in default_root_dir. During a validation the current batch is finished; the rest is done when the run is resumed.

    Args:
        go_on: How the run is resumed, for the last line that it logs; {path} is the checkpoint.
    """

    def __init__(self, go_on: str = "go on with --ckpt_path {path}") -> None:
        super().__init__()
        self._go_on = go_on
        self._asked: int | None = None
        self._process = 0

    def setup(self, trainer: Any, pl_module: L.LightningModule, stage: str) -> None:
        """Move behind all other callbacks: what they do after a step belongs in the checkpoint."""
        trainer.callbacks = [*(callback for callback in trainer.callbacks if callback is not self), self]
        self._asked = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove unfinished files of killed runs from the folders of the checkpoints."""
        if trainer.is_global_zero:
            for folder in {Path(keeper.dirpath) for keeper in _keepers(trainer) if keeper.dirpath}:
                remove_stale(folder)

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace Lightning's signal handlers, which are set by now, until it restores those from before the run."""
        self._listen()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same where there was no sanity check."""
        self._listen()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop between two steps; with accumulated gradients a step is several batches."""
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._leave_if_asked(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Stop between two batches of a validation, which may be long."""
        self._leave_if_asked(trainer)

    def on_exception(self, trainer: Any, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the checkpoint, after all other callbacks have cleaned up."""
        if self._asked is None or not isinstance(exception, SystemExit):
            return
        name = signal.Signals(self._asked).name
        if trainer.sanity_checking or trainer.fast_dev_run or trainer.global_step == 0:
            logger.warning("stopped by %s before there was anything to save", name)
            return
        path = last_path(trainer)
        trainer.save_checkpoint(path)
        logger.warning("stopped by %s after step %d; %s", name, trainer.global_step, self._go_on.format(path=path))

    def _listen(self) -> None:
        """Install the signal handlers; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            for number in SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        """Note the signal; a second Ctrl-C ends the process here."""
        if os.getpid() != self._process:  # a data worker, forked with our handlers: its parent decides
            return
        if self._asked is None:
            self._asked = number
            # No logging here: the signal may interrupt a line that is being logged.
            os.write(2, b"\nmaskgen: finishing the step, then writing a checkpoint; Ctrl-C leaves at once, without one\n")
        elif number == signal.SIGINT:
            os._exit(128 + number)

    def _leave_if_asked(self, trainer: L.Trainer) -> None:
        """Exit if asked; all processes after the same step."""
        asked = self._asked is not None
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(asked, all=False):
            self._asked = self._asked or signal.SIGTERM
        if self._asked is not None:
            raise SystemExit(128 + self._asked)


class UnswapAverages(L.Callback):
    """Swaps trained and averaged weights back when an exception ends a validation.

    Lightning swaps the two for a validation; a checkpoint saved on the way out would hold them swapped.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before: bytes | None = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the sums of the trained weights, before they are swapped."""
        self._before = _sums(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the sums: the weights have been swapped back."""
        self._before = None

    def on_exception(self, trainer: Any, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Swap the weights back if they are swapped; checkpoints are written after this."""
        if self._before is None or self._before == _sums(pl_module):
            return
        for callback in trainer.callbacks:
            if isinstance(callback, WeightAveraging):
                callback.on_validation_epoch_end(trainer, pl_module)
        self._before = None


def last_path(trainer: L.Trainer) -> Path:
    """Path of the checkpoint of a stopped run.

    Args:
        trainer: Its first ModelCheckpoint decides, one with `save_last` before others.

    Returns:
        The path of its `last` checkpoint, or of `last.ckpt` in default_root_dir. A `last` of an earlier run that this one did not
        resume is not overwritten, as in ModelCheckpoint.
    """
    keepers = sorted((keeper for keeper in _keepers(trainer) if keeper.dirpath), key=lambda keeper: not keeper.save_last)
    if not keepers:
        return Path(trainer.default_root_dir) / LAST
    keeper, version = keepers[0], ModelCheckpoint.STARTING_VERSION
    if not keeper.last_model_path:
        path = keeper.format_checkpoint_name({}, keeper.CHECKPOINT_NAME_LAST)
        while keeper.file_exists(path, trainer):
            path = keeper.format_checkpoint_name({}, keeper.CHECKPOINT_NAME_LAST, ver=version)
            version += 1
        keeper.last_model_path = path  # part of the checkpoint: the resumed run goes on with this file
    return Path(keeper.last_model_path)


def _keepers(trainer: L.Trainer) -> list[ModelCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]


def _sums(pl_module: L.LightningModule) -> bytes:
    """The sums of all parameters and buffers, as bytes; of a sharded one, those of this rank's part."""
    reshard(pl_module)
    tensors = [own_part(tensor) for tensor in (*pl_module.parameters(), *pl_module.buffers())]
    return b"".join(tensor.detach().double().sum().cpu().numpy().tobytes() for tensor in tensors)
