"""Mask schedules at another pace, and counts that are rounded step by step."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.masking.counts import masked_after
from maskgen.masking.schedule import Cosine, Linear
from maskgen.masking.time_shift import Shifted


@settings(max_examples=25, deadline=None)
@given(total=st.integers(0, 4000), steps=st.integers(1, 32), shift=st.floats(0.02, 20.0))
def test_each_step_takes_its_own_share_rounded_up_and_the_last_one_the_rest(total: int, steps: int, shift: float) -> None:
    left, law = total, Shifted(Cosine(), shift)
    for step in range(steps):
        share = law(step / steps) - law((step + 1) / steps)
        masked = int(masked_after(law, step, steps, torch.tensor([total])))
        assert masked == (0 if step == steps - 1 else max(left - math.ceil(share * total - 1e-8), 0))
        left = masked


def test_a_shift_below_one_starts_slowly_and_one_changes_no_ratio() -> None:
    progress = torch.linspace(0, 1, 33, dtype=torch.float64)
    assert (Shifted(shift=0.1)(progress)[1:-1] > Linear()(progress)[1:-1]).all()
    assert (Shifted(shift=3.0)(progress)[1:-1] < Linear()(progress)[1:-1]).all()
    torch.testing.assert_close(Shifted(Cosine(), 1.0)(progress), Cosine()(progress))
    assert Shifted(shift=0.1)(0.5) == pytest.approx(1 - 0.05 / 0.55)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="shift must be a positive number"):
            Shifted(shift=wrong)
