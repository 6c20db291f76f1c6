"""The options of MAGNeT's sampler: counts before a step, spans that overlap, and a temperature that stops falling."""

import math

import pytest
import torch
from builders.draws import seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskgen.masking.schedule import Cosine
from maskgen.sampling.draw import temperature_at
from maskgen.sampling.spans import SpanSampler, masked_before, overlapping_spans
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import Modality, Segment, TokenSpace

SPACE = TokenSpace([Modality(name="audio", kind="audio", num_levels=1, codebook_size=5)])
SEGMENT = SPACE.segment("audio", 0)


def by_place(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    """Logits that depend on the place of a cell and on the progress."""
    keys = batch.coords[cells][:, :1] * 7 + round(progress * 100)
    return ((keys + torch.arange(segment.size) * 5) * 2654435761 % 1013).float() / 300


@given(total=st.integers(1, 200), steps=st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_counts_before_a_step_leave_one_span_to_the_last(total: int, steps: int) -> None:
    counts = [int(masked_before(Cosine(), step, steps, torch.tensor([total]))) for step in range(steps)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0
    wanted = [max(1, math.floor(total * math.cos(math.pi / 2 * (step + 1) / (steps - 1)) + 1e-9)) for step in range(steps - 1)]
    assert all(one - 1 <= count <= one for count, one in zip(counts, wanted, strict=False))


def test_a_half_is_rounded_as_in_the_reference() -> None:
    """cos(pi / 3) of float32 lies below a half, so 82 of 166 spans stay masked after step 5 of 10, and not 83."""
    assert int(masked_before(Cosine(), 5, 10, torch.tensor([166]))) == 82


def test_a_temperature_falls_to_its_floor_and_greedy_stays_greedy() -> None:
    found = [temperature_at(step, 4, 3.0, 1.0, 0, "floored") for step in range(4)]
    assert found == pytest.approx([2.25, 1.5, 0.75, 0.01])
    assert temperature_at(3, 4, 0.0, 1.0, 0, "floored") == 0


@given(
    doubts=st.lists(st.integers(0, 50), min_size=1, max_size=20), cuts=st.sets(st.integers(1, 19), max_size=4), wanted=st.integers(1, 20)
)
@settings(max_examples=60, deadline=None)
def test_overlapping_spans_are_whole_and_do_not_leave_their_stretch(doubts: list[int], cuts: set[int], wanted: int) -> None:
    stretch = torch.tensor([sum(place >= cut for cut in cuts) for place in range(len(doubts))])
    covered = overlapping_spans(torch.tensor(doubts).float(), stretch, 3, wanted)
    for number in stretch.unique():
        own = covered[stretch == number]
        runs = "".join("x" if one else " " for one in own.tolist()).split()
        assert all(len(run) >= min(3, len(own)) for run in runs)


@pytest.mark.parametrize("arrangement", ["nonoverlap", "stride1"])
def test_known_cells_stay_and_rows_do_not_depend_on_each_other(arrangement: str) -> None:
    rows = [torch.full((1, 11), UNKNOWN), torch.full((1, 4), UNKNOWN), torch.full((1, 14), UNKNOWN)]
    rows[2][0, [2, 3, 9]] = 4
    sampler = SpanSampler(steps=5, arrangement=arrangement, counts="before", ranking="tempered", cooling="floored", temperature=2.0)  # type: ignore[arg-type]
    made, trajectory = sampler.sample(by_place, pack([{"audio": row} for row in rows], SPACE), SEGMENT, seeded(0, 1, 2))
    assert int((trajectory.changed.sum(dim=0) > 1).sum()) == 0
    for number, found in enumerate(unpack(made, SPACE)):
        assert torch.equal(found["audio"][rows[number] != UNKNOWN], rows[number][rows[number] != UNKNOWN])
        alone, _ = sampler.sample(by_place, pack([{"audio": rows[number]}], SPACE), SEGMENT, seeded(number))
        assert torch.equal(unpack(alone, SPACE)[0]["audio"], found["audio"])


def test_spans_that_overlap_take_no_noise() -> None:
    with pytest.raises(ValueError, match="ranked without noise"):
        SpanSampler(arrangement="stride1", choice_temperature=1.0)
