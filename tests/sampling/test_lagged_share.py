"""What MaskGCT's decode adds to the sampler `confidence`: a temperature that lags, and a ranking by shares of probability."""

from typing import Any

import pytest
import torch
from torch import Tensor

from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.sampling.draw import Cut, allowed_mass, cooled
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace


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


def test_shares_count_only_the_codes_that_may_be_drawn() -> None:
    """With one code allowed all shares are 1 and the later place wins the tie; probabilities still tell the surer cell."""
    space = TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=3)])
    batch, logits = pack([{"text": torch.full((1, 2), UNKNOWN)}], space), torch.tensor([[0.0, 5.0, 0.0], [1.0, 0.0, 0.0]])

    def logits_fn(_: TokenBatch, cells: Tensor, *__: Any) -> Tensor:
        return logits[cells[0]]

    for ranking, first in (("probability", [1, UNKNOWN]), ("share", [UNKNOWN, 0])):
        sampler = ConfidenceSampler(steps=2, ranking=ranking, choice_temperature=0.0, top_k=1)  # type: ignore[arg-type]
        _, trajectory = sampler.sample(logits_fn, batch, space.segment("text", 0), [torch.Generator()])
        assert trajectory.codes[0, 0].tolist() == first
        assert trajectory.codes[1, 0].tolist() == [1, 0]
