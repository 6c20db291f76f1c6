"""Lightning module that trains a masked transformer to predict one modality."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.data.loading.grids import checked_grids
from maskgen.data.loading.token_spaces import merged_space, named
from maskgen.masking.masks import Masked, check_shares, checked_weights, draw_masks, drop_modalities, level_groups, level_windows
from maskgen.masking.schedule import Cosine, MaskSchedule
from maskgen.networks.deferred import fresh
from maskgen.networks.pretrained import start_from
from maskgen.networks.recompute import Recompute
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.batch import TokenBatch
from maskgen.training.modules.base import TargetModule, mixed_seed
from maskgen.training.modules.global_batch import divided, gathered
from maskgen.training.modules.objective import Weighting, code_losses, denominator, reduced
from maskgen.training.modules.running_means import RunningMeans

RATE_BUCKETS = 4
"""Validation losses are also given per quarter of the mask rate."""


class MaskedTokenModule(TargetModule[MaskTransformer]):
    """Trains a masked transformer to predict the masked codes of one modality, given everything else in the row.

    Args:
        shards: Folder of token shards, or several as in the data's parts; their index.json name the token space.
        transformer: Sizes of the model.
        grid: Code grid of the target, which generation fills by default; None takes that of the shards, if all samples have one.
        target: Modality whose codes are predicted.
        schedule: Mask schedule; None is cosine.
        level_weights: How often each level (or group) of the target is learned; None weighs all alike.
        groups: Levels that are masked and learned together; None learns one level at a time. Decode with the same `groups`.
        windows: Steps of time that a cell sees of its own modality while a level (or group) is learned, one each, 0 for all; None
            restricts none. Decode with the same windows (`maskgen.decoding.acceleration.local_attention.LocalAttentionModel`).
        span: Neighbouring cells of the target that are masked together.
        drop_condition: Share of rows that learn without their condition, for guidance.
        prompt_share: Share of rows that keep the first part of their target on all levels, as a prompt.
        infill_share: Share of rows that keep both ends of their target on all levels.
        drop_parts: Modality to the share of rows that don't see it, independent of `drop_condition`.
        label_smoothing: Of the cross-entropy.
        weight: "maskgit" is the mean over masked codes; "elbo" the bound on the likelihood, which weighs each row by 1 / rate.
        max_steps: Length of the learning-rate schedule in steps; `maskgen fit` takes trainer.max_steps.
        lr: Highest learning rate.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of the hidden matrices.
        clip: Largest gradient norm.
        seed: Every mask is drawn from (seed, step) and the place in the global batch, so that it is the same on any number of ranks.
        compile: Compile the transformer with torch.compile.
        recompute: What the backward pass computes again instead of keeping it: "elementwise" keeps the results of linear layers and fused
            attention, "blocks" the input of each block alone. Gradients are equal.
        start: Folder or shipped name of a model whose weights initialise this one; sizes and token space must be the same.

    Raises:
        ValueError: If `start` is not a model, or has other sizes or another token space.

    Source: MaskGIT, arXiv:2202.04200; Muse, arXiv:2301.00704; windows and spans, MAGNeT, arXiv:2401.04577.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        transformer: TransformerConfig,
        grid: Sequence[int] | None = None,
        target: str = "image",
        schedule: MaskSchedule | None = None,
        level_weights: Sequence[float] | None = None,
        groups: Sequence[Sequence[int]] | None = None,
        windows: Sequence[int] | None = None,
        span: int = 1,
        drop_condition: float = 0.1,
        prompt_share: float = 0.0,
        infill_share: float = 0.0,
        drop_parts: dict[str, float] | None = None,
        label_smoothing: float = 0.0,
        weight: Weighting = "maskgit",
        max_steps: int = 10_000,
        lr: float = 1e-3,
        warmup_steps: int = 200,
        weight_decay: float = 0.05,
        clip: float = 1.0,
        seed: int = 0,
        compile: bool = False,
        recompute: Recompute = "none",
        start: str | None = None,
    ) -> None:
        super().__init__()
        check_shares(drop_condition, prompt_share, infill_share)
        self.space, self.fingerprints = merged_space(shards)
        sizes = self.space.size, len(self.space.modalities), self.space.feature_width
        self.model = fresh(lambda: MaskTransformer(transformer, *sizes), whole=start is not None)
        self.model.recompute = recompute
        if start is not None:
            start_from(self.model, self.space, self.fingerprints, start, named(shards))
        self.target, self.segments = target, self.space.target(target)
        self.grids = checked_grids(shards, self.space, {} if grid is None else {target: grid})
        self.schedule = schedule or Cosine()
        self.groups = level_groups(groups, len(self.segments))
        self.windows, self.span = level_windows(windows, self.groups), span
        self.level_weights = checked_weights(level_weights, len(self.groups))
        self.drop_condition, self.label_smoothing, self.weight = drop_condition, label_smoothing, weight
        self.prompt_share, self.infill_share = prompt_share, infill_share
        self.timed = tuple(self.space.index(one.name) for one in self.space.modalities if one.kind == "phones")
        self.drop_parts = {self.space.index(name): share for name, share in (drop_parts or {}).items()}
        self.max_steps, self.lr, self.warmup_steps = max_steps, lr, warmup_steps
        self.weight_decay, self.clip, self.seed = weight_decay, clip, seed
        self._forward = (torch.compile(self.model, dynamic=False) if compile else self.model,)
        """In a tuple, so that the compiled copy isn't a submodule and the checkpoint holds its weights once."""

    def training_step(self, batch: TokenBatch, batch_index: int) -> Tensor:
        """Weighted cross-entropy at the masked cells."""
        generator, whole = torch.Generator().manual_seed(mixed_seed(self.seed, self.global_step, 0)), gathered(batch)
        clean = drop_modalities(whole.batch, self.drop_parts, generator)
        shares = self.drop_condition, generator, self.prompt_share, self.infill_share, self.timed, self.groups, self.span
        drawn = draw_masks(clean, self.segments, self.schedule, self.level_weights, *shares)
        masked = whole.part(drawn)
        losses = self.losses(masked, self.label_smoothing)
        loss = self.reduced(masked, losses, whole.per_rank(denominator(self.weight, drawn)))
        self.log(f"train/loss_{self.target}", loss, prog_bar=True, sync_dist=True)
        accuracy = whole.mean(losses["correct"], drawn.cells.sum())
        self.log(f"train/accuracy_{self.target}", accuracy, prog_bar=True, sync_dist=True)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        if self.global_step % 50 == 0:
            means = RunningMeans()
            self._count_parts("train", losses, means)
            self.log_dict(means.values())
        return loss

    def validation_step(self, batch: TokenBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Log loss and accuracy of each level at all mask rates, with the condition visible and the same masks at every validation."""
        whole = divided(batch)
        means = self.means if whole.counts else RunningMeans()
        for group in self.groups:
            weights = [float(group == other) for other in self.groups]
            generator = torch.Generator().manual_seed(mixed_seed(batch_index, group[0], 7))
            masked = whole.part(
                draw_masks(whole.batch, self.segments, self.schedule, weights, 0.0, generator, groups=self.groups, span=self.span)
            )
            losses, stage = self.losses(masked, 0.0), f"val{dataloader_idx or ''}"
            self._count_parts(stage, losses, means)
            if group[0] == 0:
                self._count_buckets(stage, masked, losses, means)

    def losses(self, masked: Masked, label_smoothing: float) -> dict[str, Tensor]:
        """Cross-entropy and correctness of every masked code, level by level, plus row and level of each."""
        seen = masked.batch
        window = None if self.windows is None else torch.tensor(self.windows, device=masked.level.device)[masked.level]
        context = seen.modality != self.space.index(self.target) if self.model.config.blind_condition else None
        hidden = self._forward[0](seen, context=context, window=window)
        return code_losses(self.model.logits, self.segments, masked, hidden, label_smoothing=label_smoothing)

    def reduced(self, masked: Masked, losses: Mapping[str, Tensor], over: Float[Tensor, ""] | None = None) -> Float[Tensor, ""]:
        """One number from the losses of all codes, by the weighting of the paper that `weight` names; `over` as in `reduced`."""
        return reduced(self.weight, losses, masked.total, over)

    def _count_parts(self, stage: str, losses: Mapping[str, Tensor], means: RunningMeans) -> None:
        """Loss and accuracy per level."""
        for segment in self.segments:
            here = losses["level"] == segment.level
            if bool(here.any()):
                means.add(f"{stage}/loss_{self.target}_level{segment.level}", losses["loss"][here])
                means.add(f"{stage}/accuracy_{self.target}_level{segment.level}", losses["correct"][here])

    def _count_buckets(self, stage: str, masked: Masked, losses: Mapping[str, Tensor], means: RunningMeans) -> None:
        """Loss per quarter of the mask rate."""
        bucket = (masked.rate[losses["row"]] * RATE_BUCKETS).long().clamp(max=RATE_BUCKETS - 1)
        for number in range(RATE_BUCKETS):
            means.add(f"{stage}/loss_{self.target}_rate{number}of{RATE_BUCKETS}", losses["loss"][bucket == number])
