"""The interface of networks that others published: what decoding, scoring and pipelines ask of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.tokens.batch import TokenBatch


@dataclass(frozen=True)
class PublishedConfig:
    """What decoding asks of a network's configuration.

    Args:
        dim: Width of the hidden states.
        blind_condition: Whether the condition is computed without the target, so that it can be kept; published networks have none.
        rescales_states: Whether `guidance_rescale` acts on the hidden states before the head, and not on the logits.
    """

    dim: int
    blind_condition: bool = False
    rescales_states: bool = False


class PublishedNetwork(nn.Module, ABC):
    """A published network over one of our token spaces. Implementations are in `maskgen.interop`.

    Everything that the network is told is a known cell: text, a class, micro-conditions. Text and classes may be hidden or absent, which
    is the null condition of guidance.
    """

    config: PublishedConfig
    adapted: str = (
        r"(?!prompts\.).*\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out|"
        r"q_proj|k_proj|v_proj|attn_out|wq|wk|wv|wo|query|key|value|qkv)"
    )
    """Regular expression for the names of the linear layers that a low-rank adapter changes: those of attention."""
    asked_alone: frozenset[int] = frozenset()
    """Numbers of modalities of which a decode shows the network, beside known cells, only the unknown ones whose logits it wants."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[Any, Any] = {}
        """What is kept between calls because it depends on the condition alone. It is cleared when weights change."""

    def trained_parts(self) -> Sequence[nn.Module]:
        """The modules that a training changes where it changes all: those that generate, not what encodes their conditions."""
        return [module for name, module in self.named_children() if name != "prompts"]

    @property
    @abstractmethod
    def embed(self) -> nn.Embedding | nn.Linear:
        """A module whose `weight` has the device and the precision of the network."""

    @abstractmethod
    def forward(
        self, batch: TokenBatch, context: Bool[Tensor, "batch length"] | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every cell, the input of `logits`; 0 at cells for which the network computes none.

        Args:
            batch: Rows of cells; those that are not valid influence nothing.
            context: Must be None: there is no `blind_condition`.
            window: Must be None unless the network was trained with windows.

        Raises:
            ValueError: If the rows are not of the form that the network needs.
        """

    @abstractmethod
    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the ids `offset` to `offset + size - 1` at the given cells: affine in `hidden`, so guidance may mix hidden states.

        Raises:
            ValueError: If the network does not generate these ids.
        """
