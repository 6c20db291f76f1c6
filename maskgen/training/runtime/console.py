"""What a training shows on the screen: every line of Lightning once, no advertisements, epochs without a wrong total."""

import logging
import warnings
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

NAMES = ("lightning", "lightning.pytorch", "lightning.fabric")
SPEAKERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")
ENDLESS = "/-2"
"""What Lightning's bar shows as the last epoch of a training whose epochs have no limit: its -1, less 1."""


def say_once() -> None:
    """Send Lightning's lines to the root logger alone where that has a handler; tips for other products are left out."""
    if logging.getLogger().handlers:
        for name in NAMES:
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
    for name in SPEAKERS:
        logging.getLogger(name).addFilter(_is_no_tip)
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\)")  # lightning about its own code


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def name_epochs(trainer: L.Trainer) -> None:
    """Make the progress bar show "Epoch 3" instead of "Epoch 3/-2" where the number of epochs has no limit.

    Args:
        trainer: Its bar is changed, ours and a configured one alike.
    """
    bar: Any = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and trainer.max_epochs == -1:
        lightnings = bar._get_train_description
        bar._get_train_description = lambda current_epoch: lightnings(current_epoch).replace(ENDLESS, " " * len(ENDLESS))  # type: ignore[method-assign]
