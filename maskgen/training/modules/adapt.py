"""Lightning module that trains a pretrained encoder or causal language model as the masked transformer of a token space."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from maskgen.data.loading.grids import checked_grids
from maskgen.data.loading.token_spaces import merged_space, named
from maskgen.masking.masks import check_shares, checked_weights
from maskgen.masking.schedule import Linear, MaskSchedule
from maskgen.networks.adapted import AdaptedTransformer, adapt, open_share
from maskgen.networks.backbone import read_vocabulary
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import TokenSpace
from maskgen.training.modules.base import mixed_seed
from maskgen.training.modules.masked_loss import MaskedLossModule
from maskgen.training.modules.objective import Weighting


class AdaptedTokenModule(MaskedLossModule[AdaptedTransformer]):
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
        check_shares(drop_condition)
        self.space, self.fingerprints = merged_space(shards)
        self.model = adapt(backbone, self.space, shift, grid_places, seed)
        require_vocabulary(backbone, self.space, self.fingerprints, named(shards))
        self.target, self.segments = target, self.space.of(target)
        self.grids = checked_grids(shards, self.space, {} if grid is None else {target: grid})
        self.schedule, self.causal_anneal_steps = schedule or Linear(), causal_anneal_steps
        self.level_weights = checked_weights(level_weights, len(self.segments))
        self.drop_condition, self.label_smoothing, self.weight = drop_condition, label_smoothing, weight
        self.max_steps, self.lr, self.warmup_steps = max_steps, lr, warmup_steps
        self.weight_decay, self.clip, self.seed = weight_decay, clip, seed

    def training_step(self, batch: TokenBatch, batch_index: int) -> Tensor:
        """Weighted cross-entropy at the masked cells, with the attention mask as far open as the step says."""
        share = open_share(self.global_step, self.causal_anneal_steps)
        self.log("train/open_share", share)
        with contextlib.nullcontext() if share == 1.0 else self.model.annealed(share, mixed_seed(self.seed, self.global_step)):
            return self.masked_loss(batch)


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
