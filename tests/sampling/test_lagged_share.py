"""What MaskGCT's decode adds to the sampler `confidence`: a temperature that lags, and a ranking by shares of probability."""

import math

import pytest
import torch

from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.sampling.draw import Cut, allowed_mass, cooled


def test_a_lagged_temperature_is_whole_at_the_first_step_and_greedy_at_the_last() -> None:
    assert [cooled(step, 4, "lagged") for step in range(4)] == [1.0, 0.75, 0.5, 0.0]
    assert cooled(0, 1, "lagged") == 1.0


def test_the_mass_of_what_may_be_drawn_counts_no_other_codes() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]))
    for cut, temperature, masses in (
        (Cut(), 1.0, [1.0, 1.0]),
        (Cut(top_k=2), 1.0, [0.8, 0.9]),
        (Cut(top_k=1), 2.0, [0.5, 0.7]),
        (Cut(top_k=1), 0.0, [1.0, 1.0]),  # no code is drawn
        (Cut(min_p=0.5), 1.0, [0.8, 0.7]),
    ):
        assert allowed_mass(logits, temperature, cut).exp().tolist() == pytest.approx(masses)


def test_an_unknown_ranking_or_annealing_is_named() -> None:
    for options in ({"ranking": "sure"}, {"annealing": "late"}, {"cooling": "slow"}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be .*, got"):
            ConfidenceSampler(**options)  # type: ignore[arg-type]
    assert math.isclose(ConfidenceSampler(ranking="share", annealing="lagged").choice_temperature, 4.5)
