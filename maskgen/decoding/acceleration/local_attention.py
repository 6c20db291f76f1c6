"""A transformer whose cells see only near cells of their own modality: what finer levels are learned with is what they are decoded with."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.decoding.acceleration.kv_cache import PrefixCacheModel
from maskgen.decoding.runner import RunModel
from maskgen.networks.auto import Network
from maskgen.tokens.batch import TokenBatch


@dataclass(frozen=True)
class LocalAttentionModel:
    """A model with the same window in every row: a `TokenModel` for `model_logits` and `guided_model`.

    Args:
        model: The transformer.
        window: Steps of time, see `maskgen.networks.visibility.nearby`; 0 is the model as it is.

    Raises:
        ValueError: If window is negative.

    Source: restricted context of MAGNeT, arXiv:2401.04577.
    """

    model: Network | PrefixCacheModel | RunModel
    window: int

    def __post_init__(self) -> None:
        if self.window < 0:
            raise ValueError(f"window must be at least 0 (0 restricts nothing), got {self.window}")

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every cell."""
        window = torch.full((len(batch),), self.window, device=batch.ids.device) if self.window else None
        hidden: Tensor = self.model(batch, window=window)
        return hidden

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """The head of the model."""
        return self.model.logits(hidden, offset, size)
