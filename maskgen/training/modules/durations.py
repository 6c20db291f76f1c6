"""Lightning module that trains the duration predictor."""

import dataclasses
from typing import Any

import lightning as L
import torch
from torch import Tensor

from maskgen.data.loading.timed_phonemes import Timed
from maskgen.networks.durations import DurationConfig, DurationPredictor
from maskgen.training.modules.optim import warmup_cosine


class DurationModule(L.LightningModule):
    """Trains a DurationPredictor on the logarithm of frames per phoneme.

    Args:
        predictor: Its sizes.
        max_steps: Length of the learning-rate schedule in steps; `maskgen fit` takes trainer.max_steps.
        lr: Highest learning rate.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of AdamW.

    Source: FastSpeech 2, arXiv:2006.04558. Differs: absolute instead of squared error, which learns the median of a duration, not its mean.
    """

    def __init__(
        self, predictor: DurationConfig, max_steps: int = 2_000, lr: float = 2e-3, warmup_steps: int = 50, weight_decay: float = 0.01
    ) -> None:
        super().__init__()
        self.network = DurationPredictor(predictor)
        self.max_steps, self.lr, self.warmup_steps, self.weight_decay = max_steps, lr, warmup_steps, weight_decay

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine, stepped per batch."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(self.warmup_steps, self.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what `maskgen export` needs beside the weights."""
        checkpoint["maskgen"] = {"kind": "duration_predictor", "predictor": dataclasses.asdict(self.network.config)}

    def _errors(self, batch: Timed) -> tuple[Tensor, Tensor]:
        """Mean absolute error of the logarithms, and the mean relative error of an utterance's length."""
        found = self.network(batch.ids, batch.speaker, batch.valid).float()
        distance = (found - batch.frames.clamp(min=0.5).log()).abs()[batch.valid].mean()
        totals, wanted = ((frames * batch.valid).sum(dim=1) for frames in (found.exp(), batch.frames))
        return distance, ((totals - wanted).abs() / wanted).mean()

    def training_step(self, batch: Timed, batch_index: int) -> Tensor:
        """Mean absolute error of the logarithms."""
        distance, length = self._errors(batch)
        self.log_dict({"train/log_duration": distance, "train/length_error": length}, prog_bar=True, sync_dist=True)
        return distance

    def validation_step(self, batch: Timed, batch_index: int, dataloader_idx: int = 0) -> None:
        """Log both errors on held-out utterances."""
        distance, length = self._errors(batch)
        self.log_dict({"val/log_duration": distance, "val/length_error": length}, prog_bar=True, batch_size=len(batch.ids), sync_dist=True)
