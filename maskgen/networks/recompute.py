"""Activation checkpointing: parts of a network that are computed again in the backward pass instead of being kept in memory."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "elementwise", "blocks"]
"""What a training computes twice: nothing; all of a block but its linear layers and fused attention; whole blocks."""


def recomputed(what: Recompute, part: Callable[..., Any], *inputs: Any) -> Any:
    """Output of a part of a network that is computed again in the backward pass, with equal gradients, bit for bit on a CPU.

    Args:
        what: "none" runs the part as it is; so does a pass without gradients.
        part: The part; dropout repeats its random numbers.
        inputs: Its inputs.

    Source: arXiv:1604.06174; "elementwise" is the selective recomputation of arXiv:2205.05198, for any length.
    """
    if what == "none" or not torch.is_grad_enabled():
        return part(*inputs)
    options: dict[str, Any] = {"use_reentrant": False}
    if what == "elementwise":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    return checkpoint(part, *inputs, **options)


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keep what is expensive to compute: matrix products with weights, and fused attention."""
    return CheckpointPolicy.MUST_SAVE if operation in _expensive() else CheckpointPolicy.PREFER_RECOMPUTE


def _expensive() -> set[Any]:
    """Operations whose results "elementwise" keeps."""
    aten = torch.ops.aten
    attention = ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
    return {aten.mm.default, aten.addmm.default, *(getattr(aten, f"_scaled_dot_product_{name}").default for name in attention)}
