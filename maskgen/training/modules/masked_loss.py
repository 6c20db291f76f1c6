"""What trainings of networks that are not maskgen's own share: masks, the loss at masked cells, and its validation."""

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskgen.masking.masks import Masked, draw_masks
from maskgen.masking.schedule import MaskSchedule
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import Segment
from maskgen.training.modules.base import TargetModule, mixed_seed
from maskgen.training.modules.global_batch import divided, gathered
from maskgen.training.modules.objective import CodeLogits, Weighting, code_losses, denominator, reduced
from maskgen.training.modules.running_means import RunningMeans

Network = TypeVar("Network", bound=nn.Module)


class MaskedLossModule(TargetModule[Network]):
    """Base of modules whose network gives hidden states of a whole batch; a subclass sets the attributes declared here."""

    segments: Sequence[Segment]
    schedule: MaskSchedule
    level_weights: Sequence[float]
    drop_condition: float
    label_smoothing: float
    weight: Weighting
    seed: int

    def masked_loss(self, batch: TokenBatch) -> Tensor:
        """Weighted cross-entropy at the masked cells of a training step; logs it."""
        generator, whole = torch.Generator().manual_seed(mixed_seed(self.seed, self.global_step, 0)), gathered(batch)
        drawn = draw_masks(whole.batch, self.segments, self.schedule, self.level_weights, self.drop_condition, generator)
        masked = whole.part(drawn)
        loss = self.reduced(masked, self.losses(masked, self.label_smoothing), whole.per_rank(denominator(self.weight, drawn)))
        self.log(f"train/loss_{self.target}", loss, prog_bar=True, sync_dist=True)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return loss

    def validation_step(self, batch: TokenBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Loss and accuracy with the same masks at every validation, the condition visible: each level in turn."""
        whole = divided(batch)
        means = self.means if whole.counts else RunningMeans()
        for segment in self.segments:
            weights = [float(segment == other) for other in self.segments]
            generator = torch.Generator().manual_seed(mixed_seed(batch_index, segment.level, 7))
            drawn = draw_masks(whole.batch, self.segments, self.schedule, weights, 0.0, generator)
            losses = self.losses(whole.part(drawn), 0.0)
            for name, key in (("loss", "loss"), ("accuracy", "correct")):
                means.add(f"val{dataloader_idx or ''}/{name}_{self.target}_level{segment.level}", losses[key])

    def losses(self, masked: Masked, label_smoothing: float) -> dict[str, Tensor]:
        """Cross-entropy, correctness, row and level of every masked code, level by level."""
        hidden, head = self.model(masked.batch), cast(CodeLogits, self.model.logits)
        return code_losses(head, self.segments, masked, hidden, label_smoothing=label_smoothing)

    def reduced(self, masked: Masked, losses: Mapping[str, Tensor], over: Float[Tensor, ""] | None = None) -> Float[Tensor, ""]:
        """One number from the losses of all codes, by the weighting that `weight` names; `over` as in `reduced`."""
        return reduced(self.weight, losses, masked.total, over)
