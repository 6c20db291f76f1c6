"""CTC alignment: the likelihood of a text's codes over all alignments to slots, and the best alignment."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

IMPOSSIBLE = -1e30
"""Log-likelihood of an impossible event; finite, so that sums don't become NaN."""


@dataclass(frozen=True)
class Placement:
    """An alignment of codes to slots.

    Args:
        log_likelihood: Log-likelihood of the codes in nats, summed over all alignments.
        places: Slot of each code in the most probable alignment, ascending.
    """

    log_likelihood: float
    places: tuple[int, ...]


def place_codes(log_probs: Float[Tensor, "slots codes"], codes: Sequence[int], empty: int) -> Placement:
    """Aligns codes to slots in order, at most one code per slot; all other slots are empty.

    Slots are treated as independent, with the given probabilities: those of one model call with all slots masked.

    Args:
        log_probs: Log-probabilities of all codes in each slot.
        codes: Codes to align.
        empty: Code of an empty slot.

    Raises:
        ValueError: If there are more codes than slots.

    Source: the forward and Viterbi recursions of CTC (Graves et al. 2006) without merging of repeats, because a code occupies exactly one
    slot here; masked models that are trained by such sums: Imputer, arXiv:2002.08926.
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
    """Log-likelihoods by number of placed codes, after one more code is placed."""
    return functional.pad(likelihood[:-1] + written, (1, 0), value=IMPOSSIBLE)
