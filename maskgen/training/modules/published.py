"""Lightning module that trains a published network further: a low-rank adapter, or all weights that generate."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maskgen.data.loading.grids import checked_grids
from maskgen.data.loading.token_spaces import merged_space, named
from maskgen.interop.fetching import fetched
from maskgen.masking.masks import check_shares, checked_weights
from maskgen.masking.schedule import Cosine, MaskSchedule
from maskgen.networks.lora import LoraSettings, adapt_published
from maskgen.networks.published import PublishedNetwork
from maskgen.pipelines.loading import load_parts
from maskgen.tokens.batch import TokenBatch
from maskgen.training.modules.masked_loss import MaskedLossModule
from maskgen.training.modules.objective import Weighting
from maskgen.training.modules.optim import warmup_cosine

PUBLISHED_KIND = "published_network"


class PublishedTokenModule(MaskedLossModule[PublishedNetwork]):
    """Trains a published network further on token shards that were made with its own tokenizers.

    Text encoders and tokenizers stay as they are; features of texts are computed once and kept. A checkpoint holds the trained weights
    alone, and `maskgen export published` writes the model in its family's own layout.

    Args:
        shards: Folder of token shards in the model's token space, or in one with which it begins.
        start: Folder or hub id of the model.
        target: Modality whose codes are predicted.
        rank: Rank of the low-rank adapter; 0 trains all weights of the network that generates.
        alpha: The adapter is scaled by alpha / rank; 0 takes twice the rank.
        schedule: Mask schedule; None is cosine.
        level_weights: How often each level of the target is learned; None weighs all alike.
        drop_condition: Share of rows that learn without their condition, for guidance.
        label_smoothing: Of the cross-entropy.
        weight: "maskgit" is the mean over masked cells; "elbo" is the bound on the likelihood.
        max_steps: Length of the learning-rate schedule in steps; `maskgen fit` takes trainer.max_steps.
        lr: Highest learning rate.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of AdamW.
        clip: Largest gradient norm.
        seed: Masks are drawn from (seed, step), the adapter's first weights from the seed.

    Raises:
        ValueError: If `start` is no model of a published family, or the shards were made with other tokenizers than its own.
        ImportError: If there is an adapter and peft is missing.

    Source: LoRA, arXiv:2106.09685.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        start: str,
        target: str = "image",
        rank: int = 16,
        alpha: float = 0.0,
        schedule: MaskSchedule | None = None,
        level_weights: Sequence[float] | None = None,
        drop_condition: float = 0.1,
        label_smoothing: float = 0.0,
        weight: Weighting = "maskgit",
        max_steps: int = 1_000,
        lr: float = 1e-4,
        warmup_steps: int = 50,
        weight_decay: float = 0.01,
        clip: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_shares(drop_condition)
        space, self.fingerprints = merged_space(shards)
        parts = load_parts(fetched(start))
        if not isinstance(parts.model, PublishedNetwork):
            raise ValueError(f"{start} is a model of maskgen's own; train it with MaskedTokenModule and start")
        if not parts.space.begins_with(space):
            raise ValueError(
                f"{start} has other tokens than the shards in {named(shards)}; build them with its own tokenizers: maskgen finetune"
            )
        for name, made in self.fingerprints.items():
            if parts.tokenizers[name].fingerprint != made:
                raise ValueError(f"the {name} codes in {named(shards)} are not from {start}; build them with its own tokenizers")
        self.space, self.model, self.start = parts.space, parts.model, start
        self.target, self.segments = target, parts.space.of(target)
        self.grids = checked_grids(shards, space, {name: list(grid) for name, grid in parts.grids.items() if name in self.fingerprints})
        self.lora = LoraSettings(rank=rank, alpha=alpha) if rank else None
        adapt_published(self.model, self.lora, seed)
        self.schedule, self.level_weights = schedule or Cosine(), checked_weights(level_weights, len(self.segments))
        self.drop_condition, self.label_smoothing, self.weight = drop_condition, label_smoothing, weight
        self.max_steps, self.lr, self.warmup_steps = max_steps, lr, warmup_steps
        self.weight_decay, self.clip, self.seed = weight_decay, clip, seed

    def training_step(self, batch: TokenBatch, batch_index: int) -> Tensor:
        """Weighted cross-entropy at the masked cells."""
        return self.masked_loss(batch)

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and cosine decay, stepped per batch."""
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(self.warmup_steps, self.max_steps, floor=self.lr_floor))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def trained(self) -> dict[str, Tensor]:
        """The weights that training changes, by their names in the network."""
        return {name: weight.detach() for name, weight in self.model.named_parameters() if weight.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained weights alone: the others are those of the published model."""
        names = {f"model.{name}" for name in self.trained()}
        checkpoint["state_dict"] = {name: tensor for name, tensor in checkpoint["state_dict"].items() if name in names}
        rank, alpha = (0, 0.0) if self.lora is None else (self.lora.rank, self.lora.alpha)
        checkpoint["maskgen"] = {"kind": PUBLISHED_KIND, "start": self.start, "rank": rank, "alpha": alpha, "target": self.target}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fill in the weights that are not in the checkpoint."""
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}
        super().on_load_checkpoint(checkpoint)
