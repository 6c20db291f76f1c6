"""Lightning module that trains the transformer on wrong codes beside masks, so that it can judge and mend what it wrote."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.data.loading.grids import checked_grids
from maskgen.data.loading.token_spaces import merged_space, named
from maskgen.masking.noise import HybridNoise, Noised, NoiseLaw, Weight, cell_weights, divergences, draw_noise
from maskgen.networks.deferred import fresh
from maskgen.networks.pretrained import start_from
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.batch import TokenBatch
from maskgen.training.modules.base import TargetModule, mixed_seed
from maskgen.training.modules.global_batch import divided, gathered
from maskgen.training.modules.running_means import RunningMeans


class HybridNoiseModule(TargetModule[MaskTransformer]):
    """Learns a modality of one level from masked and wrong codes; checkpoints, data and optimizer are those of `MaskedTokenModule`.

    What it learns serves orders that take codes back, such as `maskgen.sampling.self_correction`: it has seen wrong codes.

    Args:
        shards: Folder of token shards; its index.json names the token space.
        transformer: Sizes of the model.
        noise: How codes are destroyed; None is `HybridNoise()`.
        weight: Weighting of the cells, see `cell_weights`.
        largest_weight: For "clamped".
        mask_rows: Share of rows whose noise is masks only, so that decoding from MASK is learned whatever the noise.
        target: Modality that is learned; it has one level.
        grid: Code grid of the target, which generation fills by default; None takes that of the shards, if all samples have one.
        drop_condition: Share of rows that learn without their condition.
        max_steps: Length of the learning-rate schedule in steps; `maskgen fit` takes trainer.max_steps.
        lr: Highest learning rate.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of the hidden matrices.
        clip: Largest gradient norm.
        seed: All noise is drawn from (seed, step) and the place in the global batch, so that it is the same on any number of ranks.
        compile: Compile the transformer with torch.compile.
        start: Folder or shipped name of a model whose weights initialise this one.

    Raises:
        ValueError: If the target has several levels, or `start` is not a model or has other sizes or another token space.

    Source: GIDD, arXiv:2503.04482. Differs: the model has no time input and infers the noise level from its input.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        transformer: TransformerConfig,
        noise: NoiseLaw | None = None,
        weight: Weight = "dynamic",
        largest_weight: float = 1.0,
        mask_rows: float = 0.0,
        target: str = "text",
        grid: Sequence[int] | None = None,
        drop_condition: float = 0.0,
        max_steps: int = 10_000,
        lr: float = 1e-3,
        warmup_steps: int = 200,
        weight_decay: float = 0.05,
        clip: float = 1.0,
        seed: int = 0,
        compile: bool = False,
        start: str | None = None,
    ) -> None:
        super().__init__()
        self.space, self.fingerprints = merged_space(shards)
        if len(self.space.target(target)) != 1:
            raise ValueError(f"{target} has {len(self.space.of(target))} levels, hybrid noise is for one; train it with MaskedTokenModule")
        sizes = self.space.size, len(self.space.modalities), self.space.feature_width
        self.model = fresh(lambda: MaskTransformer(transformer, *sizes), whole=start is not None)
        if start is not None:
            start_from(self.model, self.space, self.fingerprints, start, named(shards))
        self.target, self.segment = target, self.space.segment(target, 0)
        self.grids = checked_grids(shards, self.space, {} if grid is None else {target: grid})
        self.noise, self.weight, self.largest_weight = noise or HybridNoise(), weight, largest_weight
        self.mask_rows, self.drop_condition = mask_rows, drop_condition
        self.max_steps, self.lr, self.warmup_steps = max_steps, lr, warmup_steps
        self.weight_decay, self.clip, self.seed = weight_decay, clip, seed
        self._forward = (torch.compile(self.model, dynamic=False) if compile else self.model,)
        """In a tuple, so that the compiled copy isn't a submodule and the checkpoint holds its weights once."""

    def training_step(self, batch: TokenBatch, batch_index: int) -> Tensor:
        """Weighted divergence at the cells that the noise may have changed."""
        generator, whole = torch.Generator().manual_seed(mixed_seed(self.seed, self.global_step, 0)), gathered(batch)
        drawn = draw_noise(whole.batch, self.segment, self.noise, generator, self.drop_condition, self.mask_rows)
        loss, _ = self.losses(whole.part(drawn), self.weight, whole.per_rank(drawn.target.sum()))
        self.log(f"train/loss_{self.target}", loss, prog_bar=True, sync_dist=True)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return loss

    def validation_step(self, batch: TokenBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Log the bound per token and the accuracy at masked, wrong and right codes, with the same noise at every validation."""
        generator = torch.Generator().manual_seed(mixed_seed(batch_index, 0, 7))
        whole = divided(batch)
        means = self.means if whole.counts else RunningMeans()
        noised = whole.part(draw_noise(whole.batch, self.segment, self.noise, generator))
        tokens, stage = int(noised.target.sum()), f"val{dataloader_idx or ''}"
        loss, correct = self.losses(noised, "elbo")
        means.add(f"{stage}/loss_{self.target}", loss.expand(tokens))
        for name, values in correct.items():
            means.add(f"{stage}/accuracy_{self.target}_{name}", values)

    def losses(self, noised: Noised, weight: Weight, over: Float[Tensor, ""] | None = None) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss per token, and the correctness of each scored cell, by whether it was masked, wrong or right; `over` as in `reduced`."""
        weights = cell_weights(noised, self.segment, weight, self.largest_weight)
        cells, batch = weights > 0, noised.batch
        context = batch.modality != self.segment.index if self.model.config.blind_condition else None
        hidden = self._forward[0](batch, context=context)
        logits = self.model.logits(hidden[cells], self.segment.offset, self.segment.size).float()
        row, wanted = cells.nonzero()[:, 0], noised.clean[cells] - self.segment.offset
        seen = noised.seen(self.segment)[cells] - self.segment.offset
        code = noised.mixture.uniform / self.segment.size
        apart = divergences(logits, wanted, seen, noised.mixture.kept[row], code[row])
        loss = (weights[cells].to(apart.dtype) * apart).sum() / (noised.target.sum() if over is None else over)
        right = (logits.argmax(dim=-1) == wanted).float()
        kinds = {"masked": seen < 0, "wrong": (seen >= 0) & (seen != wanted), "right": seen == wanted}
        return loss, {name: right[here] for name, here in kinds.items()}
