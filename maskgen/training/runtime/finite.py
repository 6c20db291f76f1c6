"""Callback that skips and counts training steps that are not finite, and ends the run after too many in a row."""

import logging
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from maskgen.networks.sharding import own_part
from maskgen.training.modules.optim import gradient_norm

logger = logging.getLogger(__name__)


class SkipNonFinite(L.Callback):
    """Skips a step whose loss or gradient is NaN or infinite: weights, buffers, optimizer state and averaged weights do not change.

    Works with automatic and manual optimisation. The step counts towards `max_steps` and the learning-rate schedule goes on, so that the
    next step draws other data. `train/skipped_steps` logs the number of skipped steps.

    Args:
        most_in_a_row: Number of skipped steps in a row that ends the run.

    Raises:
        ValueError: If most_in_a_row is not positive.
    """

    def __init__(self, most_in_a_row: int = 10) -> None:
        super().__init__()
        if most_in_a_row < 1:
            raise ValueError(f"most_in_a_row must be at least 1, got {most_in_a_row}")
        self.most_in_a_row, self.skipped_steps, self.in_a_row = most_in_a_row, 0, 0
        self._losses: list[Tensor] = []
        self._buffers: list[Tensor] = []
        self._updates: list[str] = []
        """What was wrong with each optimizer update since the last batch; an empty string where nothing was."""

    def setup(self, trainer: Any, pl_module: L.LightningModule, stage: str) -> None:
        """Move before all other callbacks: averages must know of a skipped step before they update."""
        trainer.callbacks = [self, *(callback for callback in trainer.callbacks if callback is not self)]

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the buffers before the step: a codebook that learns without gradients changes in the forward pass."""
        if not self._losses:  # else gradients are being accumulated, and the step began with an earlier batch
            self._buffers = [buffer.detach().clone() for buffer in pl_module.buffers()]

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Remember the loss; it is checked together with the gradients, because each check waits for the device."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Set the gradients to None if they or the loss are not finite: an optimizer skips parameters without a gradient."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.grad is not None]
        norm = gradient_norm([parameter.grad for parameter in parameters])
        finite = bool(torch.stack([value.float().isfinite().all().to(norm.device) for value in (norm, *self._losses)]).all())
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        self._updates.append("" if finite else self._culprit(pl_module, norm))
        if not finite:
            for parameter in parameters:
                parameter.grad = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Undo the traces of a skipped step, count it, and end the run after too many.

        Raises:
            FloatingPointError: If `most_in_a_row` steps in a row were skipped.
        """
        if self._updates:
            problem = next(filter(None, self._updates), "")
            self._losses, self._updates = [], []
            self.in_a_row = self.in_a_row + 1 if problem else 0
            if problem:
                self._undo(trainer, pl_module)
                self._count(trainer.global_step, problem)
        pl_module.log("train/skipped_steps", float(self.skipped_steps))

    def state_dict(self) -> dict[str, Any]:
        """The number of skipped steps."""
        return {"skipped_steps": self.skipped_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of skipped steps."""
        self.skipped_steps = state_dict["skipped_steps"]

    def _culprit(self, pl_module: L.LightningModule, norm: Tensor) -> str:
        """What is not finite, in words."""
        for loss in self._losses:
            if not bool(loss.isfinite().all()):
                return f"the loss is {float(loss)}"
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is None:
                continue
            own = own_part(parameter.grad)  # this rank's alone: others may not ask
            if count := int((~own.isfinite()).sum()):
                return f"the gradient of {name} has {count} of {own.numel()} values not finite"
        return f"the gradient norm is {float(norm)}" if not bool(norm.isfinite()) else "another process had no finite loss or gradient"

    def _undo(self, trainer: Any, pl_module: L.LightningModule) -> None:
        """Restore the buffers, and mark the step as seen by the averages."""
        for buffer, before in zip(pl_module.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        for callback in trainer.callbacks:
            if isinstance(callback, WeightAveraging):
                callback.load_state_dict({**callback.state_dict(), "latest_update_step": trainer.global_step})

    def _count(self, step: int, problem: str) -> None:
        """Count a skipped step; raise after too many in a row."""
        self.skipped_steps += 1
        logger.warning("step %d is skipped, the %d. in a row: %s", step, self.in_a_row, problem)
        if self.in_a_row >= self.most_in_a_row:
            raise FloatingPointError(
                f"training stopped at step {step}: {self.in_a_row} steps in a row were not finite, at the last one {problem}; "
                "resume from a checkpoint with a lower learning rate, or look for broken data"
            )
