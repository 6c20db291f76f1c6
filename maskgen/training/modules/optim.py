"""Learning-rate schedule and optimizers of the generator."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from maskgen.networks.sharding import is_shard
from maskgen.training.modules.sharded_muon import ShardedMuon


def warmup_cosine(warmup_steps: int, max_steps: int, floor: float = 0.0) -> Callable[[int], float]:
    """Factor on the learning rate: linear up over `warmup_steps`, then half a cosine down to `floor` at `max_steps`.

    Args:
        warmup_steps: Steps until the factor is 1.
        max_steps: Step at which `floor` is reached; it stays there.
        floor: Last factor.

    Returns:
        A function from the step to the factor, for LambdaLR.

    Raises:
        ValueError: If the warm-up does not fit into the run.
    """
    if not 0 <= warmup_steps < max_steps:
        raise ValueError(f"warmup_steps must lie in [0, max_steps={max_steps}), got {warmup_steps}")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / (max_steps - warmup_steps))
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the hidden matrices, AdamW for embeddings, heads and norms, behind one optimizer.

    Args:
        matrices: Two-dimensional hidden weights.
        others: Everything else.
        lr: Learning rate of both; Muon's update is scaled to the size of AdamW's.
        weight_decay: Of the matrices; embeddings and norms have none.
        betas: Of AdamW.
        momentum: Of Muon.

    Source: Muon, arXiv:2502.16982 (scaled to AdamW's update); torch.optim.Muon.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.98),
        momentum: float = 0.95,
    ) -> None:
        muon = ShardedMuon if any(is_shard(matrix) for matrix in matrices) else torch.optim.Muon
        self.inner: tuple[Any, ...] = (
            muon(matrices, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=betas, fused=True),
        )
        super().__init__([{"params": matrices}, {"params": others}], {"lr": lr})
        self.param_groups = [group for optimizer in self.inner for group in optimizer.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.inner:
            optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of both."""
        for optimizer in self.inner:
            optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """States of both, in order."""
        return {"inner": [optimizer.state_dict() for optimizer in self.inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`; the learning rate found there becomes that of the shared groups."""
        for optimizer, state in zip(self.inner, state_dict["inner"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.inner for group in optimizer.param_groups]


def gradient_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Norm of all gradients together, the same on every rank, also where each has only a part of them."""
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if is_shard(norm) else norm  # type: ignore[attr-defined]


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights of linear layers, and everything else, each parameter once."""
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in parameters if id(p) in linear], [p for p in parameters if id(p) not in linear]
