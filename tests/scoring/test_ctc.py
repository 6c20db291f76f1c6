"""Placing a text along slots: against the sum and the best of all ways, one by one."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.scoring.ctc import place_codes

EMPTY = 3


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.lists(st.integers(0, 2), max_size=4), st.integers(0, 10_000))
def test_all_ways_are_summed_and_the_best_is_found(slots: int, codes: list[int], seed: int) -> None:
    codes = codes[:slots]
    table = torch.randn(slots, 4, generator=torch.Generator().manual_seed(seed)).mul(2.0).log_softmax(dim=-1)

    def of(places: tuple[int, ...]) -> float:
        written = dict(zip(places, codes, strict=True))
        return math.fsum(float(table[slot, written.get(slot, EMPTY)]) for slot in range(slots))

    ways = {places: of(places) for places in combinations(range(slots), len(codes))}
    found = place_codes(table, codes, EMPTY)
    assert found.log_likelihood == pytest.approx(math.log(math.fsum(math.exp(one) for one in ways.values())), abs=1e-5)
    assert ways[found.places] == pytest.approx(max(ways.values()), abs=1e-5)


def test_all_texts_together_are_certain() -> None:
    """The likelihoods of all texts sum to one: no way is counted twice, none is forgotten."""
    table = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).log_softmax(dim=-1)
    texts = [[]] + [[a] for a in (0, 1)] + [[a, b] for a in (0, 1) for b in (0, 1)]
    texts += [[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    assert math.fsum(math.exp(place_codes(table, text, 2).log_likelihood) for text in texts) == pytest.approx(1.0, abs=1e-6)


def test_more_codes_than_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="3 codes do not fit into 2 slots"):
        place_codes(torch.zeros(2, 4), [0, 1, 2], EMPTY)
