"""Options with which our samplers decode as published ones do."""

from typing import Any

import pytest
import torch
from torch import Tensor

import maskgen.sampling.entropy
import maskgen.sampling.margin
from maskgen.masking.counts import masked_after
from maskgen.masking.schedule import ShareOfRest
from maskgen.sampling.ancestral import AncestralSampler
from maskgen.sampling.base import Sampler, keep_surest
from maskgen.sampling.draw import Cut, check_ranking, drawn_shares, share_of_drawn
from maskgen.sampling.entropy import EntropySampler
from maskgen.sampling.margin import MarginSampler
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, Segment, TokenSpace

SPACE = TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=4)])
TEXT = SPACE.segment("text", 0)


def blank(*lengths: int) -> TokenBatch:
    return pack([{"text": torch.full((1, length), -1)} for length in lengths], SPACE)


def seeded(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in range(count)]


def leaning(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    """Code 2 is a little likelier than the others."""
    return torch.tensor([0.0, 0.0, 0.1, 0.0]).expand(int(cells.sum()), 4)


def test_what_is_left_at_the_end_of_chance_takes_its_likeliest_code() -> None:
    """With time up to 0.5 half of the cells are left for the last step; without it the last step draws too."""
    kept: list[Tensor] = []
    sampler = AncestralSampler(steps=4, until=0.5)
    sampler.sample(leaning, blank(4000), TEXT, seeded(1), lambda state: kept.append(state.codes))  # type: ignore[func-returns-value]
    left = kept[2] == -1
    assert 0.47 < float(left.float().mean()) < 0.53
    assert set(kept[3][left].tolist()) == {2}
    assert set(kept[2][~left].tolist()) == {0, 1, 2, 3}
    drawn, _ = AncestralSampler(steps=1).sample(leaning, blank(100), TEXT, seeded(1))
    assert len(set(drawn.ids.flatten().tolist())) == 4


@pytest.mark.parametrize("until", [-0.1, 1.0])
def test_a_time_outside_of_the_decode_is_refused(until: float) -> None:
    with pytest.raises(ValueError, match=r"until is a time and must lie in \[0, 1\)"):
        AncestralSampler(until=until)


TWO_CELLS = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.6, 0.15, 0.15, 0.1]]).log().clamp(min=-60)
"""The first cell is torn between two codes, the second has one that is likelier and three others."""


def table(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    return TWO_CELLS[batch.coords[cells][:, 0]]


def first(sampler: Sampler) -> int:
    """The cell that is kept at the first of two steps."""
    kept: list[Tensor] = []
    sampler.sample(table, blank(2), TEXT, seeded(1), lambda state: kept.append(state.codes[0]))  # type: ignore[func-returns-value]
    return int((kept[0] != -1).nonzero()[0, 0])


def test_cells_are_ranked_by_what_codes_are_drawn_from() -> None:
    """The model's entropy is smaller in cell 0; where the two likeliest codes alone may be drawn, it is that of cell 1."""
    options = {"steps": 2, "temperature": 0.0, "top_k": 2}
    assert first(EntropySampler(**options)) == 0
    assert first(EntropySampler(**options, distribution="drawn")) == 1
    torn = {"steps": 2, "temperature": 0.0, "top_p": 0.7}
    assert first(MarginSampler(**torn)) == first(MarginSampler(**torn, distribution="drawn")) == 1


def test_a_share_of_the_rest_falls_to_nothing_at_the_end() -> None:
    assert [ShareOfRest()(progress) for progress in (0.0, 0.5, 1.0)] == [1.0, pytest.approx(0.5005), 0.0]
    left = [int(masked_after(ShareOfRest(), step, 8, torch.tensor([8]))) for step in range(8)]
    assert left == [8, 7, 6, 5, 4, 3, 2, 0], "the first step decodes none, the last what is left"


def test_the_share_of_a_drawn_code_counts_temperature_and_cut() -> None:
    logits = TWO_CELLS[1:]
    shares = torch.tensor([0.6, 0.15, 0.15, 0.1]) ** 2
    assert share_of_drawn(logits, torch.tensor([0]), 0.5, Cut()).item() == pytest.approx(float(shares[0] / shares.sum()), rel=1e-5)
    assert share_of_drawn(logits, torch.tensor([1]), 1.0, Cut(top_k=3)).item() == pytest.approx(0.15 / 0.9, rel=1e-5)
    assert share_of_drawn(logits, torch.tensor([0]), 0.0, Cut(top_p=0.5)).item() == pytest.approx(1.0)
    assert drawn_shares(logits, 0.0, Cut(top_k=2)).tolist()[0] == pytest.approx([0.8, 0.2], rel=1e-5)


@pytest.mark.parametrize(("annealing", "wanted"), [("constant", [2.0, 2.0]), ("exact", [1.0, 0.0])])
@pytest.mark.parametrize("module", [maskgen.sampling.entropy, maskgen.sampling.margin])
def test_noise_in_the_order_falls_or_is_constant(module: Any, annealing: str, wanted: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    noises: list[float] = []

    def keep(state: Any, drawn: Any, scores: Tensor, schedule: Any, noise: float) -> Any:
        noises.append(noise)
        return keep_surest(state, drawn, scores, schedule, noise)

    monkeypatch.setattr(module, "keep_surest", keep)
    kind = EntropySampler if module is maskgen.sampling.entropy else MarginSampler
    kind(steps=2, choice_temperature=2.0, annealing=annealing).sample(table, blank(2), TEXT, seeded(1))
    assert noises == wanted


@pytest.mark.parametrize(
    ("distribution", "annealing", "match"),
    [
        ("model", "linear", "annealing must be exact or constant, got 'linear'"),
        ("cut", "exact", "distribution must be model or drawn, got 'cut'"),
    ],
)
def test_an_unknown_ranking_is_refused_by_its_values(distribution: str, annealing: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        check_ranking(distribution, annealing)
