"""Guidance: the scale over a decode, mixing and rescaling, and the view without what was given."""

import math
from collections.abc import Callable

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from maskgen.decoding.guidance import (
    GUIDANCE_SCHEDULES,
    ConstantGuidance,
    CosineGuidance,
    GuidanceSchedule,
    IntervalGuidance,
    LinearGuidance,
    MaskRateGuidance,
    check_rescale,
    guidance_by_name,
    is_off,
    mixed,
    rescale_guided,
)
from maskgen.decoding.logits import remask
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, PAD, Modality, TokenSpace


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("schedule", "first", "last"),
    [
        (ConstantGuidance(5.0), 5.0, 5.0),
        (LinearGuidance(5.0), 1.0, 5.0),
        (LinearGuidance(0.0), 1.0, 0.0),
        (CosineGuidance(5.0), 1.0, 5.0),
        (MaskRateGuidance(5.0), 1.0, 5.0),
        (IntervalGuidance(5.0, 0.25, 0.75), 1.0, 1.0),
        (IntervalGuidance(5.0, 0.0, 0.5), 5.0, 1.0),
    ],
    ids=str,
)
def test_guidance_starts_and_ends_where_it_says(schedule: GuidanceSchedule, first: float, last: float) -> None:
    assert schedule.scale(0.0) == first
    assert schedule.scale(1.0) == pytest.approx(last, abs=1e-12)


def test_guidance_equals_its_formula_at_every_step() -> None:
    scale, steps = 7.0, 12
    for k in range(steps):
        progress = k / steps
        muse = LinearGuidance(scale, reached_at=(steps - 1) / steps).scale(progress)
        assert muse == pytest.approx(1 + (scale - 1) * k / (steps - 1), rel=1e-12)
        assert LinearGuidance(scale).scale(progress) == pytest.approx(1 + (scale - 1) * k / steps, rel=1e-12)
        titok = 1 + (scale - 1) * (1 - math.cos(math.pi * (k / steps) ** 3)) / 2
        assert CosineGuidance(scale).scale(progress) == pytest.approx(titok, rel=1e-12)
        time = 1 - progress
        assert IntervalGuidance(scale, start=0.25, stop=0.75).scale(progress) == (scale if 0.25 < time <= 0.75 else 1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConstantGuidance(-1.0),
        lambda: ConstantGuidance(math.nan),
        lambda: MaskRateGuidance(-1.0),
        lambda: LinearGuidance(2.0, reached_at=0.0),
        lambda: CosineGuidance(2.0, power=0.0),
        lambda: IntervalGuidance(2.0, 0.5, 0.5),
        lambda: IntervalGuidance(2.0, 0.5, 1.5),
    ],
)
def test_bad_guidance_options_are_refused(make: Callable[[], GuidanceSchedule]) -> None:
    with pytest.raises(ValueError, match="got"):
        make()


def test_guidance_is_found_by_name_and_an_unknown_name_lists_them() -> None:
    kinds = {"constant": ConstantGuidance, "linear": LinearGuidance, "cosine": CosineGuidance, "mask_rate": MaskRateGuidance}
    assert {name: guidance_by_name(name, 4.0) for name in GUIDANCE_SCHEDULES} == {name: kind(4.0) for name, kind in kinds.items()}
    with pytest.raises(ValueError, match=r"'ramp'.*constant, linear, cosine, mask_rate"):
        guidance_by_name("ramp", 4.0)


def test_a_yaml_class_path_builds_a_guidance_schedule() -> None:
    parser = ArgumentParser()
    parser.add_argument("--guidance", type=GuidanceSchedule)
    entry = {"class_path": "maskgen.decoding.guidance.IntervalGuidance", "init_args": {"guidance_scale": 2.0, "start": 0.1, "stop": 0.9}}
    assert parser.instantiate(parser.parse_object({"guidance": entry})).guidance == IntervalGuidance(2.0, 0.1, 0.9)


def test_mask_rate_guidance_follows_the_known_share_of_each_row_and_not_the_step() -> None:
    length, left = 64, torch.tensor([64, 48, 7, 0])
    expected = [1 + (5.0 - 1) * (length - masked) / length for masked in left.tolist()]
    for progress in (0.0, 0.4):
        assert MaskRateGuidance(5.0).scale(progress, left / length).tolist() == pytest.approx(expected, rel=1e-6)
    assert MaskRateGuidance(5.0).scale(0.25) == 2.0  # without rows, the step decides


def test_only_the_mask_rate_reads_the_masked_share() -> None:
    for schedule in (ConstantGuidance(5.0), LinearGuidance(5.0), CosineGuidance(5.0), IntervalGuidance(5.0, 0.2, 0.8)):
        assert schedule.scale(0.5, torch.tensor([1.0, 0.0])) == schedule.scale(0.5)


def test_guidance_is_off_where_no_cell_has_another_scale_than_one() -> None:
    assert is_off(1.0)
    assert is_off(torch.ones(3, 1))
    assert not is_off(torch.tensor([[1.0], [1.5]]))
    assert not is_off(0.0)


def test_each_cell_is_mixed_at_its_own_scale_and_at_one_it_is_the_conditional_to_the_bit() -> None:
    conditional, unconditional = random(3, 50), 1e4 * random(3, 50, seed=1)
    found = mixed(conditional, unconditional, torch.tensor([[3.0], [1.0], [0.0]]))
    assert torch.equal(found[0], mixed(conditional, unconditional, 3.0)[0])
    assert torch.equal(found[1], conditional[1])
    assert not torch.equal(mixed(conditional, unconditional, 1.0)[1], conditional[1])  # there the rounding would show
    assert torch.equal(found[2], unconditional[2])


def test_rescaling_is_that_of_the_paper_with_the_spread_of_a_row() -> None:
    rows, guided, conditional = torch.tensor([0, 0, 2]), 4 * random(3, 20), random(3, 20, seed=1)
    found = rescale_guided(guided, conditional, rows, 0.7)
    for row in (0, 2):
        own, wanted = guided[rows == row], conditional[rows == row]
        expected = 0.7 * own * wanted.std() / own.std() + 0.3 * own
        torch.testing.assert_close(found[rows == row], expected)
    assert rescale_guided(guided, conditional, rows, 0.0) is guided


def test_a_row_s_rescaling_does_not_depend_on_its_neighbours() -> None:
    guided, conditional, rows = 4 * random(5, 20), random(5, 20, seed=1), torch.tensor([0, 0, 1, 1, 1])
    louder = torch.cat([guided[:2], 100 * guided[2:]])
    assert torch.equal(rescale_guided(guided, conditional, rows, 1.0)[:2], rescale_guided(louder, conditional, rows, 1.0)[:2])
    assert torch.equal(rescale_guided(guided, conditional, rows, 1.0)[2:], rescale_guided(guided[2:], conditional[2:], rows[2:], 1.0))


def test_rescaling_leaves_alone_what_has_the_spread_already_or_none() -> None:
    conditional, rows = random(4, 20), torch.zeros(4, dtype=torch.long)
    assert torch.equal(rescale_guided(conditional.clone(), conditional, rows, 0.7), conditional)
    assert torch.equal(rescale_guided(torch.ones(4, 20), conditional, rows, 0.7), torch.ones(4, 20))
    assert rescale_guided(conditional[:0], conditional[:0], rows[:0], 0.7).shape == (0, 20)


@pytest.mark.parametrize("rescale", [-0.1, 1.1, math.nan])
def test_a_rescaling_that_is_no_share_is_refused(rescale: float) -> None:
    with pytest.raises(ValueError, match="rescale must lie in"):
        check_rescale(rescale)


LEVELS = TokenSpace(
    [
        Modality(name="phones", kind="phones", num_levels=2, codebook_size=9),
        Modality(name="audio", kind="audio", num_levels=3, codebook_size=8),
    ]
)


def test_given_cells_are_masked_at_the_levels_that_they_have_and_what_was_generated_stays() -> None:
    phones, audio = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5, 6, -1], [1, -1, -1], [-1, -1, -1]])
    batch = pack([{"phones": phones, "audio": audio}, {"phones": phones[:, :1], "audio": audio}], LEVELS)
    given = batch.cells(LEVELS.index("phones"))
    given[0, 2] = True  # the first frame of row 0 is part of the prompt
    seen, before = remask(given)(batch), batch.ids.clone()
    for row in range(2):
        for cell in range(batch.ids.shape[1]):
            for level in range(3):
                old = int(batch.ids[row, cell, level])
                assert int(seen.ids[row, cell, level]) == (MASK if given[row, cell] and old != PAD else old)
    assert (seen.ids[0, 0] == torch.tensor([MASK, MASK, PAD])).all()
    assert torch.equal(batch.ids, before)
    assert torch.equal(seen.valid, batch.valid)


def test_given_cells_of_other_rows_are_refused() -> None:
    batch = pack([{"audio": torch.zeros(3, 4, dtype=torch.long)}] * 2, LEVELS)
    with pytest.raises(ValueError, match=r"given marks cells of \(1, 4\) rows and places, the batch has \(2, 4\)"):
        remask(batch.valid[:1])(batch)
    with pytest.raises(ValueError, match="given marks cells"):
        remask(batch.valid[:, :-1])(batch)
