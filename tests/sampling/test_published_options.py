"""Options with which our samplers decode as published ones do."""

import pytest
import torch
from torch import Tensor

from maskgen.sampling.ancestral import AncestralSampler
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
