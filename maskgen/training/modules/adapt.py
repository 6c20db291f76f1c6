"""Lightning module that trains a pretrained encoder or causal language model as the masked transformer of a token space."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.data.loading.grids import checked_grids
from maskgen.data.loading.token_spaces import merged_space, named
from maskgen.masking.masks import Masked, draw_masks
from maskgen.masking.schedule import Linear, MaskSchedule
from maskgen.networks.adapted import AdaptedTransformer, adapt, open_share
from maskgen.networks.backbone import read_vocabulary
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import TokenSpace
from maskgen.training.modules.base import TargetModule, mixed_seed
from maskgen.training.modules.global_batch import divided, gathered
from maskgen.training.modules.objective import Weighting, code_losses, denominator, reduced


class AdaptedTokenModule(TargetModule[AdaptedTransformer]):
    """Trains a pretrained transformers model to predict masked codes, as `MaskedTokenModule` trains one from random weights.

    Args:
        shards: Folder of token shards whose first modality is text in the backbone's own codes.
        backbone: Folder that `save_pretrained` of transformers wrote, or a hub id.
        target: Modality whose codes are predicted.
        grid: Code grid of the target, which generation fills by default; None takes that of the shards, if all samples have one.
        schedule: Mask schedule; None is linear.
        level_weights: How often each level of the target is learned; None weighs all alike.
        shift: Predict a text cell from the hidden state of the cell before it; None does so for causal backbones only.
        causal_anneal_steps: Steps over which a causal backbone's attention mask is opened; 0 opens it at once.
        grid_places: Positions of cells that are not text, see `maskgen.networks.adapted.AdaptedConfig`.
        drop_condition: Share of rows that learn without their condition, for guidance.
        label_smoothing: Of the cross-entropy.
        weight: "maskgit" is the mean over masked cells; "elbo" is the bound on the likelihood.
        max_steps: Length of the learning-rate schedule in steps; `maskgen fit` takes trainer.max_steps.
        lr: Highest learning rate.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of the hidden matrices.
        clip: Largest gradient norm.
        seed: New embedding rows, every mask and every opened attention edge are drawn from it.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If the backbone cannot be read or does not fit the shards.

    Source: DiffuLLaMA, arXiv:2410.17891.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        backbone: str,
        target: str = "text",
        grid: Sequence[int] | None = None,
        schedule: MaskSchedule | None = None,
        level_weights: Sequence[float] | None = None,
        shift: bool | None = None,
        causal_anneal_steps: int = 0,
        grid_places: Literal["row", "shared"] = "row",
        drop_condition: float = 0.1,
        label_smoothing: float = 0.0,
        weight: Weighting = "elbo",
        max_steps: int = 10_000,
        lr: float = 3e-4,
        warmup_steps: int = 200,
        weight_decay: float = 0.05,
        clip: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.space, self.fingerprints = merged_space(shards)
        self.model = adapt(backbone, self.space, shift, grid_places, seed)
        require_vocabulary(backbone, self.space, self.fingerprints, named(shards))
        self.target, self.segments = target, self.space.of(target)
        self.grids = checked_grids(shards, self.space, {} if grid is None else {target: grid})
        self.schedule, self.causal_anneal_steps = schedule or Linear(), causal_anneal_steps
        self.level_weights = tuple(level_weights or [1.0] * len(self.segments))
        self.drop_condition, self.label_smoothing, self.weight = drop_condition, label_smoothing, weight
        self.max_steps, self.lr, self.warmup_steps = max_steps, lr, warmup_steps
        self.weight_decay, self.clip, self.seed = weight_decay, clip, seed

    def training_step(self, batch: TokenBatch, batch_index: int) -> Tensor:
        """Weighted cross-entropy at the masked cells, with the attention mask as far open as the step says."""
        generator, whole = torch.Generator().manual_seed(mixed_seed(self.seed, self.global_step, 0)), gathered(batch)
        drawn = draw_masks(whole.batch, self.segments, self.schedule, self.level_weights, self.drop_condition, generator)
        masked = whole.part(drawn)
        share = open_share(self.global_step, self.causal_anneal_steps)
        with contextlib.nullcontext() if share == 1.0 else self.model.annealed(share, mixed_seed(self.seed, self.global_step)):
            losses = self.losses(masked, self.label_smoothing)
        loss = self.reduced(masked, losses, whole.per_rank(denominator(self.weight, drawn)))
        self.log(f"train/loss_{self.target}", loss, prog_bar=True, sync_dist=True)
        self.log("train/open_share", share)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return loss

    def validation_step(self, batch: TokenBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Loss and accuracy with the same masks at every validation and with full attention: each level in turn."""
        whole = divided(batch)
        if whole.is_empty:
            return
        for segment in self.segments:
            weights = [float(segment == other) for other in self.segments]
            generator = torch.Generator().manual_seed(mixed_seed(batch_index, segment.level, 7))
            drawn = draw_masks(whole.batch, self.segments, self.schedule, weights, 0.0, generator)
            losses = self.losses(whole.part(drawn), 0.0)
            for name, key in (("loss", "loss"), ("accuracy", "correct")):
                self.means.add(f"val{dataloader_idx or ''}/{name}_{self.target}_level{segment.level}", losses[key])

    def losses(self, masked: Masked, label_smoothing: float) -> dict[str, Tensor]:
        """Cross-entropy, correctness, row and level of every masked code, level by level."""
        seen = masked.batch
        hidden = self.model(seen)
        return code_losses(self.model.logits, self.segments, masked, hidden, label_smoothing=label_smoothing)

    def reduced(self, masked: Masked, losses: Mapping[str, Tensor], over: Float[Tensor, ""] | None = None) -> Float[Tensor, ""]:
        """One number from the losses of all codes, by the weighting that `weight` names; `over` as in `reduced`."""
        return reduced(self.weight, losses, masked.total, over)


def require_vocabulary(backbone: str, space: TokenSpace, fingerprints: Mapping[str, str], shards: str) -> None:
    """Refuse shards whose text was not encoded by the backbone's tokenizer; a backbone folder without a tokenizer can't be checked.

    Raises:
        ValueError: If they differ; names both and the command that rebuilds.
    """
    vocabulary = read_vocabulary(backbone)
    if vocabulary is None:
        return
    name = space.modalities[0].name
    wanted, have = TransformersTextTokenizer.of(vocabulary).fingerprint, fingerprints.get(name, "none")
    if wanted != have:
        raise ValueError(
            f"the {name} of the shards in {shards} was made by the tokenizer {have[:12]}…, the backbone in {backbone} knows the words of "
            f"{wanted[:12]}…; rebuild: maskgen data tokenize --text {backbone}"
        )
