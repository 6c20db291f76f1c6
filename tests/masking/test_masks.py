import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskgen.decoding.logits import hide_condition
from maskgen.masking.masks import draw_masks, draw_rates, drop_modalities, level_groups, mask_group, random_cells, span_starts
from maskgen.masking.schedule import Cosine
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="image", kind="image", num_levels=3, codebook_size=5),
    ]
)
SEGMENTS = SPACE.of("image")


def batch_of(rows: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(rows)
    return pack(
        [
            {
                "text": torch.randint(0, 11, (1, 1 + row % 3), generator=generator),
                "image": torch.randint(0, 5, (3, 2, 1 + row % 4), generator=generator),
            }
            for row in range(rows)
        ],
        SPACE,
    )


@given(seed=st.integers(0, 2**20))
def test_levels_below_are_clean_and_levels_above_are_masked(seed: int) -> None:
    batch = batch_of(9)
    masked = draw_masks(batch, SEGMENTS, Cosine(), [1.0, 1.0, 1.0], 0.0, torch.Generator().manual_seed(seed))
    target = batch.cells(2)
    for row in range(9):
        level = int(masked.level[row])
        ids, clean = masked.batch.ids[row], batch.ids[row]
        assert torch.equal(ids[:, :level], clean[:, :level])
        assert bool((ids[target[row], level + 1 :] == MASK).all())
        cells, codes = masked.cells[row, :, level], masked.codes[row, :, level]
        assert int(masked.cells[row].sum()) == int(cells.sum()), "one level alone is guessed"
        assert torch.equal(ids[:, level] == MASK, cells)
        assert torch.equal(codes[cells] + SEGMENTS[level].offset, clean[cells, level])
        assert bool((masked.codes[row][~masked.cells[row]] == UNKNOWN).all())
        assert int(cells.sum()) == max(1, math.ceil(float(masked.rate[row]) * int(target[row].sum())))
    assert torch.equal(masked.batch.ids[~target], batch.ids[~target]), "conditions stay"


def test_the_dropped_share_is_the_probability_and_the_null_is_that_of_guidance() -> None:
    batch = batch_of(2000)
    masked = draw_masks(batch, SEGMENTS, Cosine(), [1.0, 0.0, 0.0], 0.3, torch.Generator().manual_seed(0))
    seen = (masked.batch.valid & (batch.modality == 1)).any(dim=1)
    assert torch.equal(seen, ~masked.dropped)
    assert abs(float(masked.dropped.float().mean()) - 0.3) < 3 * math.sqrt(0.3 * 0.7 / 2000)
    null = hide_condition((1,))(batch)
    assert torch.equal(masked.batch.valid[masked.dropped], null.valid[masked.dropped])
    assert torch.equal(masked.batch.valid[~masked.dropped], batch.valid[~masked.dropped])


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_condition_dropout_reaches_its_ends(probability: float, share: float) -> None:
    masked = draw_masks(batch_of(50), SEGMENTS, Cosine(), [1.0, 1.0, 1.0], probability, torch.Generator().manual_seed(0))
    assert float(masked.dropped.float().mean()) == share


def test_levels_come_with_their_weights() -> None:
    masked = draw_masks(batch_of(3000), SEGMENTS, Cosine(), [2.0, 0.0, 1.0], 0.0, torch.Generator().manual_seed(0))
    share = torch.bincount(masked.level, minlength=3) / 3000
    assert share[1] == 0
    assert abs(float(share[0]) - 2 / 3) < 0.03


def test_rates_cover_the_law_evenly() -> None:
    rates = draw_rates(64, Cosine(), torch.Generator().manual_seed(0)).sort().values
    strata = torch.arccos(rates) * 2 / math.pi
    assert bool(((strata.flip(0) * 64).floor() == torch.arange(64)).all())


def test_a_row_without_target_has_nothing_to_guess() -> None:
    target = torch.tensor([[True, True], [False, False]])
    cells = random_cells(target, torch.tensor([0.0, 1.0]), torch.Generator().manual_seed(0))
    assert cells.sum(dim=1).tolist() == [1, 0]


def test_the_callers_batch_is_never_edited() -> None:
    batch = batch_of(4)
    before = batch.ids.clone()
    mask_group(batch, SEGMENTS, torch.zeros(4, dtype=torch.long), batch.cells(2)[..., None].expand(-1, -1, 3), batch.cells(2))
    assert torch.equal(batch.ids, before)


@pytest.mark.parametrize(("weights", "drop", "message"), [([1.0, 1.0], 0.0, "3 levels"), ([1.0, 1.0, 1.0], 1.5, "probability")])
def test_wrong_options_are_refused(weights: list[float], drop: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_masks(batch_of(2), SEGMENTS, Cosine(), weights, drop, torch.Generator())


SOUND = TokenSpace(
    [
        Modality(name="phones", kind="phones", num_levels=2, codebook_size=128),
        Modality(name="speaker", kind="attribute", num_levels=1, codebook_size=4),
        Modality(name="audio", kind="audio", num_levels=3, codebook_size=5),
    ]
)


def spoken(lengths: list[int]) -> TokenBatch:
    """Rows of sound with one phoneme of two frames after another."""
    return pack(
        [
            {
                "phones": torch.tensor([[1] * (length // 2), [2] * (length // 2)]),
                "speaker": torch.tensor([[1]]),
                "audio": torch.zeros(3, length, dtype=torch.long),
            }
            for length in lengths
        ],
        SOUND,
    )


@given(seed=st.integers(0, 2**20), prompt=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_context_is_clean_at_every_level_and_the_target_is_one_stretch(seed: int, prompt: float) -> None:
    batch = spoken([5, 17, 30, 1])
    segments = SOUND.of("audio")
    masked = draw_masks(
        batch, segments, Cosine(), [1.0, 1.0, 1.0], 0.0, torch.Generator().manual_seed(seed), prompt, 1 - prompt, timed=(1,)
    )
    for row, length in enumerate([5, 17, 30, 1]):
        audio = batch.modality[row] == 3
        finest = (masked.batch.ids[row][audio][:, 2] == MASK).nonzero()[:, 0]
        hidden = masked.cells[row, :, int(masked.level[row])][audio].nonzero()[:, 0]
        assert len(hidden) >= 1
        if int(masked.level[row]) < 2:
            assert finest.tolist() == list(range(int(finest[0]), int(finest[-1]) + 1))
            assert set(hidden.tolist()) <= set(finest.tolist())
            assert prompt < 1 or int(finest[-1]) == length - 1
        context = [place for place in range(length) if place not in finest.tolist() and place not in hidden.tolist()]
        assert bool((masked.batch.ids[row][audio][context] != MASK).all()) or int(masked.level[row]) == 2


def test_half_of_the_contexts_come_without_their_phonemes() -> None:
    batch = spoken([40] * 400)
    generator = torch.Generator().manual_seed(0)
    masked = draw_masks(batch, SOUND.of("audio"), Cosine(), [1.0, 0.0, 0.0], 0.0, generator, 1.0, 0.0, timed=(1,))
    phones = batch.modality == 1
    unseen = (phones & ~masked.batch.valid).any(dim=1)
    assert 0.4 < float(unseen.float().mean()) < 0.6
    first = (masked.batch.ids[..., 1] == MASK).float().argmax(dim=1)
    starts = batch.coords[torch.arange(400), first, 0]
    gone = (phones & ~masked.batch.valid).nonzero()
    assert bool((batch.coords[gone[:, 0], gone[:, 1], 0] < starts[gone[:, 0]]).all())
    assert bool(masked.batch.valid[batch.modality == 2].all())


def test_a_dropped_modality_is_hidden_in_its_share_of_the_rows() -> None:
    batch = drop_modalities(spoken([6] * 2000), {2: 0.3}, torch.Generator().manual_seed(0))
    assert abs(float((~batch.valid[batch.modality == 2]).float().mean()) - 0.3) < 0.04
    assert bool(batch.valid[batch.modality == 3].all())


@given(seed=st.integers(0, 2**20))
def test_a_group_is_masked_jointly_over_cells_and_levels(seed: int) -> None:
    batch = batch_of(9)
    masked = draw_masks(batch, SEGMENTS, Cosine(), [1.0, 1.0], 0.0, torch.Generator().manual_seed(seed), groups=[[0], [1, 2]])
    target = batch.cells(2)
    for row in range(9):
        ids, cells, count = masked.batch.ids[row], masked.cells[row], int(target[row].sum())
        if int(masked.level[row]) == 0:
            assert not bool(cells[:, 1:].any())
            assert bool((ids[target[row], 1:] == MASK).all())
            assert int(masked.total[row]) == count
        else:
            assert torch.equal(ids[:, 0], batch.ids[row][:, 0]), "the coarser group is clean"
            assert torch.equal(ids[:, 1:] == MASK, cells[:, 1:])
            assert int(masked.total[row]) == 2 * count
            assert int(cells.sum()) == max(1, math.ceil(float(masked.rate[row]) * 2 * count))


@pytest.mark.parametrize("groups", [[[0], [2, 1]], [[0, 1]], [[0], [], [1, 2]], [[0], [1], [1, 2]]])
def test_groups_hold_every_level_once_in_order(groups: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="must hold the levels 0 to 2 in order"):
        level_groups(groups, 3)


def covered(starts: tuple[int, ...], total: int, span: int) -> int:
    return len({(start + cell) % total for start in starts for cell in range(span)})


@pytest.mark.parametrize(("total", "span"), [(10, 3), (7, 3), (3, 3), (2, 3), (1, 3), (8, 2), (9, 5)])
def test_the_number_of_starts_covers_the_share_nearest_to_the_rate(total: int, span: int) -> None:
    """The mean over every choice of starts, by enumeration."""
    means = []
    for count in range(1, total + 1):
        every = [covered(starts, total, span) for starts in combinations(range(total), count)]
        means.append(sum(every) / len(every) / total)
    for rate in (0.0, 0.03, 0.2, 0.45, 0.71, 0.9, 1.0):
        found = int(span_starts(torch.tensor([total]), torch.tensor([rate]), span))
        assert abs(means[found - 1] - rate) <= min(abs(mean - rate) for mean in means) + 1e-6


def test_the_mean_masked_share_is_the_rate_and_no_place_is_favoured() -> None:
    target = torch.zeros(3000, 44, dtype=torch.bool)
    target[:, 3:43] = True
    cells = random_cells(target, torch.full((3000,), 0.5), torch.Generator().manual_seed(0), span=3)
    wanted = 1 - math.comb(37, 8) / math.comb(40, 8)  # 8 starts are nearest to one half
    assert abs(wanted - 0.5) < 0.02
    assert abs(float(cells[target].float().mean()) - wanted) < 0.005
    assert bool((cells[:, 3:43].float().mean(dim=0).sub(wanted).abs() < 0.04).all())
    assert not bool(cells[~target].any())


@given(seed=st.integers(0, 2**20), rate=st.floats(0, 1))
def test_masked_cells_are_whole_spans_of_neighbours_in_time(seed: int, rate: float) -> None:
    """Gaps in the target are jumped, and the end goes on at the beginning."""
    target = torch.ones(4, 20, dtype=torch.bool)
    target[1, 7:] = False
    target[2, ::3] = False
    target[3] = False
    cells = random_cells(target, torch.full((4,), rate), torch.Generator().manual_seed(seed), span=3)
    assert not bool((cells & ~target).any())
    assert cells.any(dim=1).tolist() == [True, True, True, False]
    for row in range(3):
        circle = cells[row][target[row]]
        runs = [bool((circle.roll(-start)[:3]).all()) for start in range(len(circle))]
        assert all(any(runs[(place - back) % len(circle)] for back in range(3)) for place in circle.nonzero()[:, 0].tolist())


def test_spans_of_a_row_lie_in_time_level_by_level() -> None:
    batch, groups = spoken([24] * 40), [[0], [1, 2]]
    masked = draw_masks(batch, SOUND.of("audio"), Cosine(), [1.0, 1.0], 0.0, torch.Generator().manual_seed(3), groups=groups, span=3)
    for row in range(40):
        levels = groups[int(masked.level[row] > 0)]
        circle = masked.cells[row][batch.modality[row] == 3][:, levels].T.flatten()
        runs = [bool(circle.roll(-start)[:3].all()) for start in range(len(circle))]
        assert all(any(runs[(place - back) % len(circle)] for back in range(3)) for place in circle.nonzero()[:, 0].tolist())


def test_cells_one_by_one_are_those_with_the_least_noise() -> None:
    """What a seed masked before there were spans it masks still."""
    target, rate = torch.rand(5, 13, generator=torch.Generator().manual_seed(1)) < 0.7, torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    noise = torch.rand(5, 13, generator=torch.Generator().manual_seed(2))
    cells = random_cells(target, rate, torch.Generator().manual_seed(2))
    for row in range(5):
        places = sorted(target[row].nonzero()[:, 0].tolist(), key=lambda place: float(noise[row, place]))
        assert cells[row].nonzero()[:, 0].tolist() == sorted(places[: max(1, math.ceil(float(rate[row]) * len(places)))])


def test_a_span_has_a_cell() -> None:
    with pytest.raises(ValueError, match="span must be at least 1, got 0"):
        draw_masks(batch_of(2), SEGMENTS, Cosine(), [1.0, 1.0, 1.0], 0.0, torch.Generator(), span=0)
