"""Callback that makes a resumed training count its epochs as the uninterrupted one does, wherever a checkpoint was written."""

from typing import Any

import lightning as L


class ExactEpochs(L.Callback):
    """Resumes a run in the right epoch: kills at the ends of epochs change neither the number of steps nor the order of samples.

    Lightning alone gets three places wrong. After a checkpoint of an epoch's last step the next epoch is not counted, so that a second
    resume trains one epoch too many. After a checkpoint of an epoch's end the place of the loader is not restored under `max_epochs`, and
    under `max_steps` an epoch of one step follows. A checkpoint of a run that `max_steps` ended inside an epoch counts the epoch as done.
    """

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the counts of an epoch's end as those of its last step, which are resumed with the loader's place."""
        if loops := checkpoint.get("loops"):
            as_last_step(loops["fit_loop"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a new epoch if the checkpoint's was closed while it was restored."""
        loop, counts = trainer.fit_loop, trainer.fit_loop.epoch_progress.current.state_dict()
        if loop.is_resuming and loop.restarted_mid_epoch and counts["processed"] == counts["ready"]:
            loop.reset_restart_stage()


def as_last_step(loop: dict[str, Any]) -> None:
    """Rewrite the counts of a checkpoint, in place, so that an epoch is done only once its last batch is.

    Args:
        loop: State of Lightning's fit loop. Counts of a checkpoint that was written inside an epoch stay as they are.
    """
    epochs, batches, steps = loop["epoch_progress"], loop["epoch_loop.batch_progress"], loop["epoch_loop.state_dict"]
    inside_a_step = batches["current"]["completed"] < batches["current"]["processed"]
    at_the_end = batches["current"]["processed"] > 0 and epochs["current"]["processed"] == epochs["current"]["ready"]
    for name in ("total", "current"):
        epoch, batch = epochs[name], batches[name]
        if inside_a_step:  # one more begun than done, which runs resumed before this callback existed did not count
            epoch["ready"] = epoch["started"] = epoch["processed"] + 1
        elif at_the_end:
            epoch["processed"] = epoch["completed"] = epoch["ready"] - 1
            batch["completed"] = batch["processed"] - 1
    if at_the_end and not inside_a_step:
        steps["_batches_that_stepped"] -= 1
