"""Attention masks: which cells attend to which."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def visible(
    valid: Bool[Tensor, "batch length"],
    document: Int[Tensor, "batch length"],
    context: Bool[Tensor, "batch length"] | None = None,
    near: Bool[Tensor, "batch length length"] | None = None,
) -> Bool[Tensor, "batch 1 length length"] | None:
    """Attention mask: valid cells of the same document, and every cell itself, so that no row is empty.

    Cells of `context` attend to `context` only, so no other cell affects their hidden states. `near` restricts the mask further.

    Returns None where all cells see each other, so that attention can use its fastest path.
    """
    whole = context is None and not torch.compiler.is_compiling() and bool(valid.all()) and bool((document == document[:, :1]).all())
    if whole and (near is None or bool(near.all())):
        return None
    same = (document[:, :, None] == document[:, None, :]) & valid[:, None, :]
    if context is not None:
        same = same & (context[:, None, :] | ~context[:, :, None])
    if near is not None:
        same = same & near
    return (same | torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device))[:, None]


def nearby(
    modality: Int[Tensor, "batch length"], time: Int[Tensor, "batch length"], window: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch length length"]:
    """Mask of restricted context: a cell sees its own modality within `window` time steps, and all of the others.

    Args:
        modality: Modality of each cell.
        time: Time of each cell; equal in all cells of an image, which is therefore never restricted.
        window: Window of each row in time steps; 0 sets no limit.

    Source: MAGNeT, arXiv:2401.04577 (5 steps at all levels but the coarsest).
    """
    reach = window[:, None, None]
    apart = (time[:, :, None] - time[:, None, :]).abs()
    return (reach == 0) | (apart <= reach) | (modality[:, :, None] != modality[:, None, :])
