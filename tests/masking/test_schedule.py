"""Mask laws and exact counts."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from maskgen.masking.counts import masked_after, whole_ceil, whole_floor
from maskgen.masking.schedule import (
    MASK_SCHEDULES,
    Arccos,
    ArccosFloat32,
    Cosine,
    Exp,
    Linear,
    Log,
    MaskSchedule,
    Power,
    TruncatedGaussian,
    schedule_by_name,
)

LAWS: list[MaskSchedule] = [
    Cosine(),
    Arccos(),
    ArccosFloat32(),
    Linear(),
    Power(2.0),
    Power(0.5),
    Log(),
    Exp(64),
    TruncatedGaussian(),
    TruncatedGaussian(0.9, 2.0, 0.0),
]

DEFINITIONS: dict[MaskSchedule, Callable[[float], float]] = {
    Cosine(): lambda r: math.cos(math.pi * r / 2),
    Arccos(): lambda r: 2 / math.pi * math.acos(r),
    Linear(): lambda r: 1 - r,
    Power(3.0): lambda r: 1 - r**3,
    Log(256): lambda r: -math.log2(r) / math.log2(256),
    Exp(256): lambda r: (1 - 2 ** (-math.log2(256) * (1 - r))) / (1 - 1 / 256),
}

# reference/image.md, section 7. The reference keeps one cell masked to the last step and then overwrites it: our last entry is 0.
GOLDEN = [
    (Cosine(), 256, "253 247 236 221 203 181 155 128 97 66 33 1"),
    (Cosine(), 256, "251 236 212 181 142 97 49 1"),
    (Cosine(), 1024, "1015 989 946 886 812 724 623 512 391 265 133 1"),
    (Arccos(), 32, "29 26 24 21 18 14 10 1"),
    (Arccos(), 128, "122 117 112 107 102 96 91 85 79 72 66 58 50 41 28 1"),
]


def counts(schedule: MaskSchedule, steps: int, total: int, rounding: Callable[..., torch.Tensor] = whole_floor) -> list[int]:
    return [int(masked_after(schedule, step, steps, torch.tensor([total]), rounding)) for step in range(steps)]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_every_law_runs_from_one_to_zero(law: MaskSchedule) -> None:
    assert law(0.0) == 1.0
    assert law(1.0) == pytest.approx(0.0, abs=1e-15)
    values = law(torch.linspace(0, 1, 101))
    assert values.dtype == torch.float32
    assert values.min() >= 0
    assert values.max() <= 1
    assert (values.diff() <= 0).all()


@pytest.mark.parametrize(("law", "definition"), DEFINITIONS.items(), ids=[str(law) for law in DEFINITIONS])
def test_a_law_equals_its_formula_for_floats_and_tensors(law: MaskSchedule, definition: Callable[[float], float]) -> None:
    for progress in (0.01, 0.25, 0.5, 0.9):
        assert law(progress) == pytest.approx(definition(progress), rel=1e-12)
        torch.testing.assert_close(law(torch.full((2, 3), progress)), torch.full((2, 3), definition(progress)))


def test_log_masks_everything_until_one_cell_of_its_length() -> None:
    assert Log(16)(1 / 16) == 1.0
    assert Log(16)(1 / 32) == 1.0
    assert Log(16)(0.25) == pytest.approx(0.5)


@pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan, torch.tensor([0.5, 1.5])])
def test_progress_outside_zero_to_one_is_refused(progress: float | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="progress must lie in"):
        Cosine()(progress)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Power(0.0),
        lambda: Power(math.inf),
        lambda: Log(1),
        lambda: Exp(1),
        lambda: TruncatedGaussian(std=0.0),
        lambda: TruncatedGaussian(low=1.0),
    ],
)
def test_bad_options_of_a_law_are_refused(make: Callable[[], MaskSchedule]) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()


def test_uniform_draws_give_the_rates_of_the_truncated_gaussian() -> None:
    """Share of rates up to x is (F(x) - F(low)) / (F(1) - F(low)), F the Gaussian's own; the last step of a decode takes what is left."""
    law, rates = TruncatedGaussian(), TruncatedGaussian()(torch.linspace(0, 1, 20001, dtype=torch.float64)[:-1])
    cumulated = torch.distributions.Normal(law.mean, law.std).cdf
    low, high = (float(cumulated(torch.tensor(edge, dtype=torch.float64))) for edge in (law.low, 1.0))
    for edge in (0.5, 0.55, 0.7, 0.9, 1.0):
        wanted = (float(cumulated(torch.tensor(edge, dtype=torch.float64))) - low) / (high - low)
        assert float((rates <= edge).double().mean()) == pytest.approx(wanted, abs=2e-4)
    assert rates.min() >= law.low
    assert counts(law, 4, 100)[-2:] == [int(100 * law(0.75)), 0]


@pytest.mark.parametrize(("law", "total", "published"), GOLDEN, ids=str)
def test_counts_equal_the_published_vectors(law: MaskSchedule, total: int, published: str) -> None:
    values = [int(value) for value in published.split()]
    assert counts(law, len(values), total) == [*values[:-1], 0]


@pytest.mark.parametrize(
    ("steps", "published"),
    [
        (
            32,
            "5 10 15 20 25 30 35 41 46 51 57 62 68 73 79 85 91 97 103 110 116 123 130 138 146 154 163 173 184 198 215 256",
        ),
        (12, "13 27 41 55 70 85 101 118 138 160 188 256"),
    ],
)
def test_revealed_counts_rounded_down_equal_halton_s(steps: int, published: str) -> None:
    revealed = [256 - masked for masked in counts(Arccos(), steps, 256, whole_ceil)]
    assert revealed == [int(value) for value in published.split()]


def test_counts_are_blind_to_float64_dust() -> None:
    assert counts(Linear(), 5, 5) == [4, 3, 2, 1, 0]  # 5 * (1 - 0.8) is 0.9999999999999998
    assert counts(Linear(), 10, 100) == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0]
    assert counts(Linear(), 49, 49, whole_ceil) == list(range(48, -1, -1))


@given(law=st.sampled_from(LAWS), totals=st.lists(st.integers(0, 3000), min_size=1, max_size=4), steps=st.integers(1, 60), up=st.booleans())
def test_every_step_takes_a_cell_until_none_is_left(law: MaskSchedule, totals: list[int], steps: int, up: bool) -> None:
    rounding = whole_ceil if up else whole_floor
    left = torch.tensor(totals)
    for step in range(steps):
        masked = masked_after(law, step, steps, torch.tensor(totals), rounding)
        assert ((masked < left) | (masked == 0)).all()
        assert (masked >= 0).all()
        assert (masked <= rounding(law((step + 1) / steps) * torch.tensor(totals).double())).all()
        left = masked
    assert left.tolist() == [0] * len(totals)


def test_a_row_s_counts_do_not_depend_on_its_neighbours() -> None:
    totals = torch.tensor([0, 1, 5, 64, 256])
    together = [masked_after(Cosine(), step, 12, totals).tolist() for step in range(12)]
    assert list(map(list, zip(*together, strict=True))) == [counts(Cosine(), 12, total) for total in totals.tolist()]


@pytest.mark.parametrize(("step", "steps"), [(0, 0), (-1, 4), (4, 4)])
def test_a_step_that_does_not_exist_is_refused(step: int, steps: int) -> None:
    with pytest.raises(ValueError, match="step must lie in"):
        masked_after(Cosine(), step, steps, torch.tensor([4]))


def test_schedules_are_found_by_name_and_an_unknown_name_lists_them() -> None:
    assert [type(schedule_by_name(name)).__name__.lower() for name in MASK_SCHEDULES] == list(MASK_SCHEDULES)
    with pytest.raises(ValueError, match=r"'cubic'.*cosine, arccos, arccosfloat32, linear, even, raisedcosine, power, log"):
        schedule_by_name("cubic")


def test_a_yaml_class_path_builds_a_schedule() -> None:
    parser = ArgumentParser()
    parser.add_argument("--mask", type=MaskSchedule)
    entries = {"mask": {"class_path": "maskgen.masking.schedule.Power", "init_args": {"exponent": 3.0}}}
    built = parser.instantiate(parser.parse_object(entries))
    assert built.mask == Power(3.0)
