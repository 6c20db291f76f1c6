"""Where the model calls of a decode run: in place, or where a server joins them with the calls of other decodes."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from jaxtyping import Float, Int
from torch import Tensor

from maskgen.tokens.batch import TokenBatch

T = TypeVar("T")


class ModelRunner(ABC):
    """Runs the model calls of a decode; `maskgen.serving.engine.Engine` has one for each request."""

    @abstractmethod
    def shared(self, model: Any, batch: TokenBatch, window: Int[Tensor, " batch"] | None) -> Float[Tensor, "batch length dim"]:
        """Hidden states of a call that depends on its arguments alone, so it may share a forward pass with other calls.

        Args:
            model: The network.
            batch: Rows of cells.
            window: See `MaskTransformer.forward`.
        """

    @abstractmethod
    def apart(self, rows: int, call: Callable[[], T]) -> T:
        """Result of a call that no other call may share, because its model remembers earlier calls or has shapes of its own.

        Args:
            rows: Rows of the call.
            call: Computes the result.
        """


@dataclass(frozen=True)
class RunModel:
    """A model whose calls go through a runner: a `TokenModel` for `model_logits` and `guided_model`.

    Args:
        model: The network, or an accelerated model around it.
        runner: Runs its calls.
        plain: Whether it is the network itself, whose calls may be shared.
    """

    model: Any
    runner: ModelRunner
    plain: bool

    def __call__(self, batch: TokenBatch, window: Int[Tensor, " batch"] | None = None) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every cell."""
        if self.plain:
            return self.runner.shared(self.model, batch, window)
        options = {} if window is None else {"window": window}
        hidden: Tensor = self.runner.apart(len(batch), lambda: self.model(batch, **options))
        return hidden

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """The head of the model."""
        found: Tensor = self.model.logits(hidden, offset, size)
        return found
