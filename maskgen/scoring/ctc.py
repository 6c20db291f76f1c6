"""CTC alignment: the likelihood of all ways to place a text's codes in slots, and the likeliest way."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

IMPOSSIBLE = -1e30
"""Log-likelihood of what cannot be; finite, so that sums of it stay numbers."""


@dataclass(frozen=True)
class Placement:
    """Codes in slots.

    Args:
        log_likelihood: Of the codes, in nats: all ways to place them together.
        places: Slot of each code in the likeliest way, ascending.
    """

    log_likelihood: float
    places: tuple[int, ...]


def place_codes(log_probs: Float[Tensor, "slots codes"], codes: Sequence[int], empty: int) -> Placement:
    """Place codes in order, at most one a slot, all other slots empty.

    Slots are taken as independent, each with the probabilities given: those of one pass with all slots masked.

    Args:
        log_probs: Log-probabilities of all codes in each slot.
        codes: What is to be placed.
        empty: Code of an empty slot.

    Raises:
        ValueError: If there are more codes than slots.

    Source: the forward and Viterbi recursions of CTC (Graves et al. 2006) without its merging of repeats, for here a code stands in one
    slot; masked models that are trained by such sums: Imputer, arXiv:2002.08926.
    """
    if len(codes) > len(log_probs):
        raise ValueError(f"{len(codes)} codes do not fit into {len(log_probs)} slots; leave the text out, or give longer audio")
    table = log_probs.double().cpu()
    nothing, written = table[:, empty], table[:, list(codes)]
    together = torch.full((len(codes) + 1,), IMPOSSIBLE, dtype=torch.float64)
    together[0] = 0.0
    best, wrote = together.clone(), torch.zeros(len(table), len(codes) + 1, dtype=torch.bool)
    for slot in range(len(table)):
        together, wrote_all = together + nothing[slot], _shifted(together, written[slot])
        together = torch.logaddexp(together, wrote_all)
        stays, writes = best + nothing[slot], _shifted(best, written[slot])
        wrote[slot], best = writes > stays, torch.maximum(stays, writes)
    left, places = len(codes), list[int]()
    for slot in reversed(range(len(table))):
        if left and bool(wrote[slot, left]):
            places.append(slot)
            left -= 1
    return Placement(float(together[-1]), tuple(reversed(places)))


def _shifted(likelihood: Float[Tensor, " counts"], written: Float[Tensor, " codes"]) -> Float[Tensor, " counts"]:
    """Likelihood of each count of codes after one more is written."""
    return functional.pad(likelihood[:-1] + written, (1, 0), value=IMPOSSIBLE)
