"""Laws of noise keep their shares, and the weighted loss under each of them is a bound on the likelihood."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskgen.masking.noise import HybridNoise, Mixture, Noised, NoiseLaw, UniformNoise, Weight, cell_weights, divergences, draw_noise
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, TokenSpace

SIZE = 5
SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=SIZE),
        Modality(name="tone", kind="attribute", num_levels=1, codebook_size=3),
    ]
)
TEXT = SPACE.segment("text", 0)
LAWS = [
    HybridNoise(p_uniform=0.0),
    HybridNoise(p_uniform=0.3),
    HybridNoise(p_uniform=0.8, gamma=0.5),
    HybridNoise(p_uniform=0.1, gamma=1.5),
    UniformNoise(),
]
WEIGHTS: list[Weight] = ["elbo", "clamped", "dynamic"]


def many(rows: int, length: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    return pack(
        [{"text": torch.randint(SIZE, (1, length), generator=generator), "tone": torch.tensor([[row % 3]])} for row in range(rows)], SPACE
    )


def looked_at(law: NoiseLaw, time: float, clean: int, seen: int) -> Noised:
    """One cell with a planted fate; `seen` -1 is MASK."""
    mixture = law.at(torch.tensor([time], dtype=torch.float64))
    batch = pack([{"text": torch.tensor([[clean]])}], SPACE)
    ids = torch.tensor([[[MASK if seen < 0 else seen + TEXT.offset]]])
    return Noised(batch.with_ids(ids), batch.ids[..., 0], torch.ones(1, 1, dtype=torch.bool), mixture, torch.tensor([time]))


@given(time=st.floats(0.001, 0.999), law=st.sampled_from(LAWS))
def test_shares_sum_to_one_and_speeds_are_the_derivatives(time: float, law: NoiseLaw) -> None:
    step = 1e-6 * min(time, 1 - time)
    now, before, after = (law.at(torch.tensor([at], dtype=torch.float64)) for at in (time, time - step, time + step))
    assert float(now.kept + now.masked + now.uniform) == pytest.approx(1.0)
    for share, speed in ((("masked"), "mask_speed"), ("uniform", "uniform_speed")):
        slope = (getattr(after, share) / after.kept - getattr(before, share) / before.kept) / (2 * step)
        assert float(now.kept * slope) == pytest.approx(float(getattr(now, speed)), rel=1e-3, abs=1e-6)


def test_the_shares_are_the_formula() -> None:
    """GIDD: at the middle a share p is uniform; kept to MASK is as 1 - t to t; the ends are clean text and MASK alone."""
    half = HybridNoise(p_uniform=0.3).at(torch.tensor([0.5], dtype=torch.float64))
    assert float(half.uniform) == pytest.approx(0.3)
    ends = HybridNoise(p_uniform=0.3).at(torch.tensor([1e-9, 1 - 1e-9, 0.2], dtype=torch.float64))
    assert ends.kept[0] > 0.9999
    assert ends.masked[1] > 0.9999
    assert float(ends.masked[2] / ends.kept[2]) == pytest.approx(0.25)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_what_is_drawn_has_the_marginals_of_the_law(law: NoiseLaw) -> None:
    batch = many(400, 40)
    noised = draw_noise(batch, TEXT, law, torch.Generator().manual_seed(1))
    cells, seen = noised.target, noised.seen(TEXT)
    wanted = {
        "masked": noised.mixture.masked,
        "kept": noised.mixture.kept + noised.mixture.uniform / SIZE,
        "wrong": noised.mixture.uniform * (SIZE - 1) / SIZE,
    }
    found = {"masked": seen == MASK, "kept": seen == noised.clean, "wrong": (seen != MASK) & (seen != noised.clean)}
    for third in range(3):
        rows = (noised.time * 3).long() == third
        for name, share in wanted.items():
            shares = share[rows, None].expand(-1, 40)
            error = 5 * math.sqrt(float((shares * (1 - shares)).sum())) / shares.numel() + 1e-9
            assert abs(float(found[name][rows][cells[rows]].double().mean()) - float(share[rows].mean())) < error
    assert torch.equal(noised.batch.ids[~cells], batch.ids[~cells])
    assert torch.equal(noised.batch.valid, batch.valid)


def test_some_rows_are_masked_alone_and_some_lose_their_condition() -> None:
    noised = draw_noise(many(1000, 6), TEXT, UniformNoise(), torch.Generator().manual_seed(0), drop_condition=0.2, mask_rows=0.25)
    alone = noised.mixture.uniform == 0
    seen = noised.seen(TEXT)
    assert bool(((seen == MASK) | (seen == noised.clean))[alone].all())
    assert not bool((seen == MASK)[~alone].any())
    assert float(alone.double().mean()) == pytest.approx(0.25, abs=0.06)
    assert float((~noised.batch.valid).any(dim=1).double().mean()) == pytest.approx(0.2, abs=0.06)


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("clean", [0, 3])
def test_the_bound_of_the_right_model_is_the_likelihood(law: NoiseLaw, clean: int) -> None:
    """A text of one cell: the model that always guesses the law of the data reverses the noise exactly, so nothing is lost."""
    probabilities = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)
    points = 4000
    at = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    time = at**4 / (at**4 + (1 - at) ** 4)  # dense at both ends
    slope = 4 * (at * (1 - at)) ** 3 / (at**4 + (1 - at) ** 4) ** 2
    mixture, batch = law.at(time), pack([{"text": torch.tensor([[clean]])}], SPACE).repeat(points)
    total = torch.zeros(points, dtype=torch.float64)
    for seen in range(-1, SIZE):
        ids = torch.full((points, 1, 1), MASK if seen < 0 else seen + TEXT.offset)
        noised = Noised(batch.with_ids(ids), batch.ids[..., 0], torch.ones(points, 1, dtype=torch.bool), mixture, time)
        weight = cell_weights(noised, TEXT, "elbo", 1.0)[:, 0]
        code = mixture.uniform / SIZE
        logits, stands = probabilities.log().expand(points, -1), torch.full((points,), seen)
        apart = divergences(logits, torch.full((points,), clean), stands, mixture.kept, code)
        share = mixture.masked if seen < 0 else code + mixture.kept * (seen == clean)
        total += torch.where(share > 0, share * weight * apart, 0.0)
    assert float((total * slope).mean()) == pytest.approx(-math.log(float(probabilities[clean])), rel=2e-3)


def test_a_worse_model_has_a_larger_bound_at_every_cell() -> None:
    kept, code, wanted = torch.tensor([0.5]), torch.tensor([0.02]), torch.tensor([1])
    for seen in (-1, 1, 4):
        stands, guesses = torch.tensor([seen]), (torch.tensor([[0.0, scale, 0.0, 0.0, 0.0]]) for scale in (3.0, -3.0))
        good, bad = (float(divergences(logits, wanted, stands, kept, code)) for logits in guesses)
        assert 0 <= good < bad


def test_masks_alone_cost_the_cross_entropy() -> None:
    logits, wanted = torch.randn(7, SIZE, generator=torch.Generator().manual_seed(0)), torch.arange(7) % SIZE
    found = divergences(logits, wanted, torch.full((7,), -1), torch.full((7,), 0.3), torch.zeros(7))
    assert torch.allclose(found, 0.3 * torch.nn.functional.cross_entropy(logits, wanted, reduction="none"), rtol=1e-6)


def test_the_naive_definition_gives_the_same() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(40, SIZE, generator=generator, dtype=torch.float64)
    wanted, seen = torch.randint(SIZE, (40,), generator=generator), torch.randint(-1, SIZE, (40,), generator=generator)
    kept, uniform = 0.4, 0.35
    found = divergences(logits, wanted, seen, torch.full((40,), kept), torch.full((40,), uniform / SIZE))
    for row in range(40):
        true, guess = (torch.full((SIZE + 1,), uniform / SIZE, dtype=torch.float64) for _ in range(2))
        true[wanted[row]] += kept
        guess[:SIZE] += kept * logits[row].softmax(dim=-1)
        true[SIZE] = guess[SIZE] = 1 - kept - uniform
        ratio = true[seen[row]] / guess[seen[row]]  # -1 is the last place: MASK
        expected = (true * (true / guess).log()).sum() + ratio - ratio.log() - 1
        assert float(found[row]) == pytest.approx(float(expected), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("uniform", [0.0, 0.3])
def test_gradients_are_those_of_finite_differences(uniform: float) -> None:
    logits = torch.randn(6, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    seen = torch.tensor([-1, -1, -1, -1, -1, -1]) if uniform == 0 else torch.tensor([-1, 0, 1, 2, 3, 4])
    kept, code = torch.full((6,), 0.4, dtype=torch.float64), torch.full((6,), uniform / SIZE, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda found: divergences(found, torch.tensor([0, 1, 1, 2, 4, 0]), seen, kept, code), (logits,))


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_weights_and_gradients_are_finite_at_both_ends(law: NoiseLaw, weight: Weight) -> None:
    for time, seen in itertools.product((1e-6, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-6), (-1, 1, 2)):
        noised = looked_at(law, time, 1, seen)
        found = cell_weights(noised, TEXT, weight, 1.0)
        assert bool(found.isfinite().all())
        assert bool((found >= 0).all())
        logits = torch.tensor([[60.0, -60.0, 0.0, 0.0, 0.0]], requires_grad=True)
        code = noised.mixture.uniform / SIZE
        if float(found) > 0 and bool((noised.mixture.masked > 0).all() if seen < 0 else (code > 0).all()):
            loss = found[0] * divergences(logits, torch.tensor([1]), torch.tensor([seen]), noised.mixture.kept, code)
            (gradient,) = torch.autograd.grad(loss.sum(), logits)
            assert bool(loss.isfinite().all())
            assert bool(gradient.isfinite().all())


def test_weights_are_those_of_the_paper() -> None:
    law, time = HybridNoise(p_uniform=0.3), 0.4
    strength = 2 * 0.3 / 0.7 * math.sqrt(time * (1 - time))
    slope = 2 * 0.3 / 0.7 * (1 - 2 * time) / (2 * math.sqrt(time * (1 - time)))
    rise = strength + (1 - time) * slope
    wanted = {-1: 1 / (time * (1 - time)), 2: rise / ((1 - time) * strength)}
    wanted[1] = rise / (SIZE * (1 - time) * (1 - time + strength / SIZE))
    for seen, value in wanted.items():
        noised = looked_at(law, time, 1, seen)
        assert float(cell_weights(noised, TEXT, "elbo", 1.0)) == pytest.approx(value)
        assert float(cell_weights(noised, TEXT, "clamped", 1.5)) == pytest.approx(min(value, 1.5))
        assert float(cell_weights(noised, TEXT, "dynamic", 1.0)) == pytest.approx(value / wanted[2])
    assert float(cell_weights(looked_at(law, time, 1, -1), TEXT, "dynamic", 1.0)) == pytest.approx(2)


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="p_uniform"):
        HybridNoise(p_uniform=1.0)
    with pytest.raises(ValueError, match="gamma"):
        HybridNoise(gamma=2.0)


def test_a_mixture_takes_each_row_from_one_side() -> None:
    rows = torch.tensor([True, False])
    time = torch.tensor([0.3, 0.3], dtype=torch.float64)
    found = HybridNoise(p_uniform=0.0).at(time).where(rows, UniformNoise().at(time))
    assert found.masked.tolist() == [pytest.approx(0.3), 0.0]
    assert [one.name for one in dataclasses.fields(Mixture)] == ["kept", "masked", "uniform", "mask_speed", "uniform_speed"]
