"""The loss of masked codes: cross-entropy of each code, and the two ways to reduce it to one number.

Only logits of masked codes of one level are computed, and of so many at a time that they stay below `CHUNK_LOGITS`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from maskgen.masking.masks import Masked
from maskgen.tokens.space import Segment

Weighting = Literal["maskgit", "elbo"]
"""How the losses of codes become one number: their mean, or the bound on the likelihood (`order_agnostic_bound`)."""

CHUNK_LOGITS = 2**25
"""Logits of a training that exist at a time, 128 MiB in float32."""

CodeLogits = Callable[[Tensor, int, int], Tensor]
"""The head of a generator: hidden states of chosen cells, offset and size of a level's ids -> logits [cells size]."""


def code_losses(
    logits_of: CodeLogits,
    segments: Sequence[Segment],
    masked: Masked,
    hidden: Tensor,
    place: Int[Tensor, "batch length"] | None = None,
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """Cross-entropy and correctness of every masked code, level by level, in float32.

    Args:
        logits_of: The model's head.
        segments: Segments of the modality that is learned, coarse to fine.
        masked: Which codes are to be guessed.
        hidden: Hidden states of the model: [batch length dim], or [cells dim] with `place`.
        place: Row of `hidden` that belongs to each cell of the batch; None where `hidden` has the shape of the batch.
        label_smoothing: Of the cross-entropy.

    Returns:
        "loss" in nats, "correct" (1.0 or 0.0), "row" and "level" of every masked code: four tensors [codes] in one order.
    """
    parts = []
    for segment in segments:
        here = masked.cells[..., segment.level]
        row, wanted = here.nonzero()[:, 0], masked.codes[..., segment.level][here]
        states = hidden[here if place is None else place[here]]
        loss, correct = chunked_cross_entropy(logits_of, states, wanted, segment, label_smoothing)
        parts.append((loss, correct, row, torch.full_like(row, segment.level)))
    return {name: torch.cat(part) for name, part in zip(("loss", "correct", "row", "level"), zip(*parts, strict=True), strict=True)}


def chunked_cross_entropy(
    logits_of: CodeLogits,
    states: Float[Tensor, "codes dim"],
    wanted: Int[Tensor, " codes"],
    segment: Segment,
    label_smoothing: float = 0.0,
) -> tuple[Float[Tensor, " codes"], Float[Tensor, " codes"]]:
    """Cross-entropy in nats and correctness of each code, without a tensor of all logits.

    The codes are cut into equal chunks of at most `CHUNK_LOGITS` logits. With several chunks the backward pass computes the logits of each
    again, so one chunk of logits and its gradient is all that either pass holds.

    Args:
        logits_of: The model's head.
        states: Hidden states of the codes' cells.
        wanted: The codes.
        segment: Their level.
        label_smoothing: Of the cross-entropy.
    """

    def losses(states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(states, segment.offset, segment.size).float()
        loss = functional.cross_entropy(logits, wanted, reduction="none", label_smoothing=label_smoothing)
        return loss, (logits.detach().argmax(dim=-1) == wanted).float()

    count = -(-len(wanted) * segment.size // CHUNK_LOGITS)
    if count < 2:
        return losses(states, wanted)
    size = -(-len(wanted) // count)
    chunks = zip(torch.split(states, size), torch.split(wanted, size), strict=True)
    if torch.is_grad_enabled():
        found = [checkpoint(losses, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    else:
        found = [losses(*chunk) for chunk in chunks]
    return torch.cat([loss for loss, _ in found]), torch.cat([correct for _, correct in found])


def reduced(
    weighting: str, losses: Mapping[str, Tensor], total: Int[Tensor, " batch"], over: Float[Tensor, ""] | None = None
) -> Float[Tensor, ""]:
    """One number from the losses of all masked codes.

    Args:
        weighting: "maskgit" for the mean, "elbo" for the bound on the likelihood.
        losses: Of `code_losses`.
        total: Codes of each row that could have been masked.
        over: What the sum is divided by where these rows are one rank's part of a global batch (`denominator` of that batch, divided by the
            number of ranks); None is the rows' own count.
    """
    if weighting == "maskgit":
        return losses["loss"].mean() if over is None else losses["loss"].sum() / over
    return order_agnostic_bound(losses["loss"], losses["row"], total, over)


def denominator(weighting: str, masked: Masked) -> Int[Tensor, ""]:
    """Number of codes that `reduced` takes the mean over: the masked ones, or for the bound all that could have been masked."""
    return (masked.cells.sum() if weighting == "maskgit" else masked.total.sum()).clamp(min=1)


def order_agnostic_bound(
    loss: Float[Tensor, " codes"], row: Int[Tensor, " codes"], total: Int[Tensor, " batch"], over: Float[Tensor, ""] | None = None
) -> Float[Tensor, ""]:
    """Nats per code of the likelihood bound that masked diffusion optimises, for rates drawn by the linear schedule.

    With k of a row's n codes masked, k uniform from 1 to n, n / k times the sum of their losses is an unbiased estimate of the expected
    loss of generating the row in a random order. The weight uses the share that is masked, not the rate that was drawn: in a short text
    at least one code is masked however small the rate, and 1 / rate would make its loss arbitrarily large.

    Args:
        loss: Cross-entropy of each masked code.
        row: Its row.
        total: Codes of each row that could have been masked.
        over: Number of codes that the mean is over; None is the sum of `total`.

    Source: order-agnostic bounds, arXiv:2110.02037; 1 / rate weighting as in MDLM, arXiv:2406.07524, and LLaDA, arXiv:2502.09992.
    """
    count = torch.bincount(row, minlength=len(total)).clamp(min=1)
    return (loss * (total / count)[row]).sum() / (total.sum().clamp(min=1) if over is None else over)
