"""What the trainings of a generator have in common: the optimizer, its schedule and the clipping."""

from typing import Any, ClassVar, Generic, TypeVar

import lightning as L
import torch
from torch import nn

from maskgen.training.optim import MuonAdamW, split_parameters, warmup_cosine

Network = TypeVar("Network", bound=nn.Module)


class GeneratorModule(L.LightningModule, Generic[Network]):
    """Base of modules that train a network `model`; a subclass sets what is declared here."""

    model: Network
    lr: float
    weight_decay: float
    warmup_steps: int
    max_steps: int
    clip: float
    lr_floor: ClassVar[float] = 0.02
    """Last learning rate, as a share of the highest."""

    def configure_optimizers(self) -> Any:
        """Muon and AdamW with warm-up and cosine, stepped per batch."""
        optimizer = MuonAdamW(*split_parameters(self.model), lr=self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(self.warmup_steps, self.max_steps, floor=self.lr_floor))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip in the module: Lightning's own clipping refuses fused AdamW under mixed precision."""
        self.log("train/gradient_norm", torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip))
