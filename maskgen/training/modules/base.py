"""What the trainings of a generator share: optimizer, learning-rate schedule, clipping, seeds and the checkpoint's record of the model."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

import lightning as L
import torch
from torch import Tensor, nn

from maskgen.networks.towers import TowerTransformer
from maskgen.tokens.space import TokenSpace
from maskgen.training.modules.optim import MuonAdamW, gradient_norm, split_parameters, warmup_cosine
from maskgen.training.modules.running_means import RunningMeans

Network = TypeVar("Network", bound=nn.Module)


class GeneratorModule(L.LightningModule, ABC, Generic[Network]):
    """Base of modules that train a generator `model`; a subclass sets the attributes declared here."""

    model: Network
    space: TokenSpace
    fingerprints: dict[str, str]
    lr: float
    weight_decay: float
    warmup_steps: int
    max_steps: int
    clip: float
    lr_floor: ClassVar[float] = 0.02
    """Last learning rate, as a share of the highest."""

    def __init__(self) -> None:
        super().__init__()
        self.means = RunningMeans()
        """Means over a whole validation: all batches, loaders and ranks."""

    @property
    def is_compiled(self) -> bool:
        """Whether the network, or a part of it, is compiled."""
        forward = getattr(self, "_forward", (self.model,))[0]
        return forward is not self.model or bool(getattr(self.model, "is_compiled", False))

    def on_validation_epoch_start(self) -> None:
        """Reset the means."""
        self.means.clear()

    def on_validation_epoch_end(self) -> None:
        """Log the means over all batches, loaders and ranks."""
        self.log_dict(self.means.values(), sync_dist=True)

    @abstractmethod
    def generation_defaults(self) -> dict[str, Any]:
        """What a pipeline made from the checkpoint generates by default: its target and code grids, as plain data."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what `maskgen export` needs beside the weights: plain data and no path, so the checkpoint can be exported anywhere."""
        checkpoint["maskgen"] = {
            "kind": "masked_transformer",
            "space": self.space.to_dict(),
            "fingerprints": self.fingerprints,
            "transformer": dataclasses.asdict(self.model.config),  # type: ignore[call-overload]
            **self.generation_defaults(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model.

        Raises:
            ValueError: If its weights have other names or shapes; names one.
        """
        require_same_weights(self.state_dict(), checkpoint["state_dict"])

    def setup(self, stage: str) -> None:
        """Refuse data whose ids mean other codes than the model's: such a training would run and learn nonsense.

        On several ranks towers run without cells too, because a rank waits for the gradients of every weight of every other.

        Raises:
            ValueError: If the model's token space does not begin with the data's, or the tokenizers differ.
        """
        if self.trainer.world_size > 1 and isinstance(self.model, TowerTransformer):
            self.model.run_every_tower()
        data = getattr(self.trainer, "datamodule", None)
        space, fingerprints = getattr(data, "space", None), getattr(data, "fingerprints", {})
        if isinstance(space, TokenSpace) and not self.space.begins_with(space):
            raise ValueError(
                f"the data's tokens are {', '.join(one.name for one in space.modalities)}, the model's (shards) "
                f"{', '.join(one.name for one in self.space.modalities)}; name the same folders of shards in both, in the same order"
            )
        if others := [name for name, made in fingerprints.items() if self.fingerprints.get(name, made) != made]:
            raise ValueError(
                f"the data's {' and '.join(others)} codes come from other tokenizers than those of the model's shards; "
                "name the same folders of shards in both"
            )

    def configure_optimizers(self) -> Any:
        """Muon and AdamW with linear warm-up and cosine decay, stepped per batch."""
        optimizer = MuonAdamW(*split_parameters(self.model), lr=self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(self.warmup_steps, self.max_steps, floor=self.lr_floor))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip in the module: Lightning's own clipping refuses fused AdamW under mixed precision."""
        weights = [weight for weight in self.model.parameters() if weight.grad is not None]
        norm = gradient_norm([weight.grad for weight in weights if weight.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(weights, self.clip, norm)
        self.log("train/gradient_norm", norm)


class TargetModule(GeneratorModule[Network]):
    """Base of modules that learn one modality, the target."""

    target: str
    grids: dict[str, list[int]]

    @property
    def grid(self) -> list[int] | None:
        """Code grid of the target; None where every sample has its own length."""
        return self.grids.get(self.target)

    def generation_defaults(self) -> dict[str, Any]:
        """The target and its code grid, None where every sample has its own length, and the grids of what is only seen."""
        seen = {name: grid for name, grid in self.grids.items() if name != self.target}
        return {"target": self.target, "grid": self.grid, "seen_grids": seen}


def require_same_weights(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse the weights of another model.

    Args:
        own: Weights of the model that is trained.
        found: Weights of a checkpoint.

    Raises:
        ValueError: If names or shapes differ; names the first that does.
    """
    for name in sorted({*own, *found}):
        have, wanted = (str(tuple(side[name].shape)) if name in side else "missing" for side in (found, own))
        if have != wanted:
            raise ValueError(
                f"the checkpoint is of another model: {name} is {have} there and {wanted} here; resume with the configuration that wrote it"
            )


def mixed_seed(*parts: int) -> int:
    """One seed in [0, 2**63) from several small numbers such as (seed, step, rank)."""
    seed = 0
    for part in parts:
        seed = (seed * 1_000_003 + part + 1) % 2**63
    return seed
