"""Drawing codes: unbiased, cut where asked, each row from its own generator."""

import dataclasses
import math

import pytest
import torch
from builders.draws import seeded
from torch import Tensor

from maskgen.sampling.draw import Cut, _candidates, _passing_codes, draw, gumbel, row_noise, temperature_at
from maskgen.sampling.halton import HaltonSampler

SIZE = 8192


def drawn_codes(logits: Tensor, count: int, temperature: float = 1.0, **cuts: float) -> Tensor:
    """`count` codes from one row of logits, in pieces that fit in memory."""
    generators, piece, cut = seeded(0), 512, Cut(**cuts)
    rows = torch.zeros(piece, dtype=torch.long)
    parts = [draw(logits.expand(piece, -1), rows, generators, temperature=temperature, cut=cut)[0] for _ in range(count // piece)]
    return torch.cat(parts)


def chi_square(codes: Tensor, shares: Tensor) -> float:
    """Statistic of drawn codes over its 99.9 % quantile (Wilson and Hilferty): above 1 they do not follow the shares.

    Neighbouring codes are grouped until at least 5 are expected, so a favour for low codes shows as well as a wrong temperature.
    """
    expected = shares * len(codes)
    group = (expected.cumsum(dim=0) / 5).long()
    group = torch.unique_consecutive(group, return_inverse=True)[1]
    wanted = torch.zeros(int(group.max()) + 1, dtype=torch.float64).index_add(0, group, expected)
    found = torch.bincount(group[codes], minlength=len(wanted)).double()
    wanted, found = (torch.cat([value[:-2], value[-2:].sum()[None]]) for value in (wanted, found))  # the last group may be short
    freedom = len(wanted) - 1
    quantile = freedom * (1 - 2 / (9 * freedom) + 3.0902 * math.sqrt(2 / (9 * freedom))) ** 3
    return float(((found - wanted) ** 2 / wanted).sum()) / quantile


@pytest.mark.parametrize(("dtype", "temperature"), [(torch.float32, 1.0), (torch.bfloat16, 0.5)])
def test_codes_follow_the_softmax_over_a_whole_codebook(dtype: torch.dtype, temperature: float) -> None:
    logits = (2 * torch.randn(SIZE, generator=seeded(1)[0])).to(dtype)
    shares = (logits.double() / temperature).softmax(dim=-1)
    codes = drawn_codes(logits, 6 * 512, temperature=temperature)
    assert chi_square(codes, shares) < 1
    warmer = torch.multinomial(shares**0.8, len(codes), replacement=True, generator=seeded(5)[0])
    assert chi_square(warmer, shares) > 1  # the test can see a temperature that is off by a fifth


def test_tied_half_precision_logits_do_not_favour_the_first_codes() -> None:
    codes = drawn_codes(torch.zeros(SIZE, dtype=torch.bfloat16), 2048)
    assert (codes < SIZE // 4).double().mean() == pytest.approx(0.25, abs=0.04)


def test_temperature_zero_is_argmax_and_draws_no_noise() -> None:
    logits = torch.randn(7, 30, generator=seeded(2)[0])
    generators, cut = seeded(0), Cut(top_k=3, top_p=0.5, min_p=0.9, typical_p=0.1)
    before = generators[0].get_state()
    codes, _ = draw(logits, torch.zeros(7, dtype=torch.long), generators, temperature=0.0, cut=cut)
    assert torch.equal(codes, logits.argmax(dim=-1))
    assert torch.equal(generators[0].get_state(), before)


def test_top_k_and_top_p_never_leave_their_set() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert set(drawn_codes(logits, 1024, top_k=2).tolist()) == {0, 1}
    assert set(drawn_codes(logits, 1024, top_p=0.75).tolist()) == {0, 1, 2}  # 0.4 + 0.3 is not yet 0.75
    assert set(drawn_codes(logits, 1024, top_p=1e-9).tolist()) == {0}
    assert set(drawn_codes(logits, 1024, top_k=100, top_p=1.0).tolist()) == {0, 1, 2, 3}
    assert set(drawn_codes(logits, 1024, top_k=3, top_p=0.5).tolist()) == {0, 1}
    cold = drawn_codes(logits, 1024, top_p=0.6, temperature=0.25)  # the nucleus is that of the tempered softmax: 0.72 for code 0
    assert set(cold.tolist()) == {0}


def naive_min_p(shares: list[float], least: float) -> set[int]:
    return {code for code, share in enumerate(shares) if share >= least * max(shares)}


def naive_typical(shares: list[float], wanted: float) -> set[int]:
    entropy = -sum(share * math.log(share) for share in shares)
    kept: set[int] = set()
    for code in sorted(range(len(shares)), key=lambda code: abs(-math.log(shares[code]) - entropy)):
        if sum(shares[one] for one in kept) < wanted:
            kept.add(code)
    return kept


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(4))
def test_min_p_and_typical_p_keep_the_sets_of_their_papers(seed: int, temperature: float) -> None:
    logits = 1.5 * torch.randn(8, generator=seeded(seed)[0])
    shares = (logits.double() / temperature).softmax(dim=-1).tolist()
    for value in (0.05, 0.3, 0.6):
        for cut, kept in ((Cut(min_p=value), naive_min_p(shares, value)), (Cut(typical_p=value), naive_typical(shares, value))):
            allowed = _candidates(logits[None], temperature, cut)
            assert allowed[1] is not None
            assert set(allowed[1][allowed[0] > -torch.inf].tolist()) == kept
            assert set(drawn_codes(logits, 512, temperature=temperature, **dataclasses.asdict(cut)).tolist()) <= kept


def test_typical_p_may_leave_out_the_likeliest_code() -> None:
    logits = torch.tensor([0.5, *[0.5 / 64] * 64]).log()
    assert 0 not in drawn_codes(logits, 1024, typical_p=0.4).tolist()


def test_cuts_work_one_after_the_other() -> None:
    logits = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]).log()
    assert set(drawn_codes(logits, 2048, top_k=4, min_p=0.3).tolist()) == {0, 1, 2}
    assert set(drawn_codes(logits, 2048, top_p=0.6, min_p=0.3).tolist()) == {0, 1}
    assert set(drawn_codes(logits, 2048, typical_p=0.33).tolist()) == {0, 1}
    assert set(drawn_codes(logits, 2048, top_k=3, typical_p=0.33).tolist()) == {1}  # 0.3 is 0.35 of the three that are left
    assert set(drawn_codes(logits, 2048, top_k=1, top_p=0.9, min_p=0.1, typical_p=0.9).tolist()) == {0}


@pytest.mark.parametrize("size", [1, 7, 64, 192, 1000])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_codes_are_those_where_the_running_sum_passes_a_uniform_number(size: int, temperature: float) -> None:
    logits = 2 * torch.randn(40, size, generator=seeded(3)[0])
    logits[:, 0] = -torch.inf if size > 1 else 0.0
    shares = torch.rand(40, dtype=torch.float64, generator=seeded(7)[0])
    codes, _ = draw(logits, torch.zeros(40, dtype=torch.long), seeded(7), temperature=temperature)
    for cell, (code, share) in enumerate(zip(codes.tolist(), shares.tolist(), strict=True)):
        upto = (logits[cell].double() / temperature).softmax(dim=-1).cumsum(dim=-1)
        assert float(upto[code - 1] if code else 0.0) - 1e-6 <= share <= float(upto[code]) + 1e-6
        assert logits[cell, code] > -torch.inf


def test_shares_of_almost_nothing_and_almost_everything_find_codes_that_may_be_drawn() -> None:
    values = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).expand(2, -1)
    ends = torch.tensor([0.0, math.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert _passing_codes(values, ends, 1.0).tolist() == [1, 2]


def test_a_cut_that_keeps_everything_draws_the_same_codes() -> None:
    logits = torch.randn(6, 40, generator=seeded(6)[0])
    rows = torch.zeros(6, dtype=torch.long)
    plain = draw(logits, rows, seeded(0))
    assert all(map(torch.equal, plain, draw(logits, rows, seeded(0), cut=Cut(top_k=40))))
    assert all(map(torch.equal, plain, draw(logits, rows, seeded(0), cut=Cut())))


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_p": 0.0}, {"min_p": 1.5}, {"typical_p": math.nan}])
def test_a_cut_that_means_nothing_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Cut(**options)


def test_shares_inside_top_k_are_those_of_the_softmax() -> None:
    codes = drawn_codes(torch.tensor([0.1, 0.5, 0.3, 0.1]).log(), 10240, top_k=2)
    assert (codes == 1).double().mean() == pytest.approx(0.625, abs=0.015)


def test_log_probabilities_are_those_of_the_plain_softmax_in_float32() -> None:
    logits = torch.randn(50, 20, generator=seeded(3)[0]).bfloat16()
    codes, logprobs = draw(logits, torch.zeros(50, dtype=torch.long), seeded(0), temperature=0.3, cut=Cut(top_k=5))
    expected = logits.float().log_softmax(dim=-1).gather(-1, codes[:, None]).squeeze(-1)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected)


def test_logits_are_not_edited_and_minus_infinity_forbids_a_code() -> None:
    logits = torch.zeros(200, 4)
    logits[:, 2] = -torch.inf
    copy = logits.clone()
    codes, logprobs = draw(logits, torch.zeros(200, dtype=torch.long), seeded(0))
    assert torch.equal(logits, copy)
    assert set(codes.tolist()) == {0, 1, 3}
    torch.testing.assert_close(logprobs, torch.full((200,), -math.log(3)))


def test_a_row_draws_from_its_own_generator_alone() -> None:
    logits = torch.randn(9, 40, generator=seeded(4)[0])
    rows = torch.tensor([0, 0, 2, 2, 2, 2, 3, 3, 3])
    together, _ = draw(logits, rows, seeded(10, 11, 12, 13))
    for row, seed in enumerate((10, 11, 12, 13)):
        own = logits[rows == row]
        alone, _ = draw(own, torch.zeros(len(own), dtype=torch.long), seeded(seed))
        assert torch.equal(together[rows == row], alone)


def test_no_cells_at_all_is_no_error() -> None:
    codes, logprobs = draw(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), seeded(0, 1))
    assert codes.shape == logprobs.shape == (0,)


def test_gumbel_noise_has_its_mean_and_spread() -> None:
    noise = gumbel((200_000,), seeded(0)[0])
    assert noise.dtype == torch.float64
    assert noise.isfinite().all()
    assert len(noise.unique()) == len(noise)  # of 24 random bits a thousand would repeat, and none could pass 16.6
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_row_noise_stands_at_its_cells_and_nowhere_else() -> None:
    cells = torch.tensor([[True, False, True], [False, False, False], [False, True, True]])
    noise = row_noise(cells, seeded(0, 1, 2), gumbel)
    assert torch.equal(noise != 0, cells)
    assert torch.equal(noise[2, 1:], gumbel((2,), seeded(2)[0]))


def test_the_temperature_of_a_step_is_over_a_straight_line_of_its_inverse() -> None:
    found = [1 / temperature_at(step, 5, temperature=1 / 0.8, sharpening=1.5, soft_steps=1) for step in range(5)]
    assert found == pytest.approx([0.4, 0.9, 1.0, 1.1, 1.2])
    assert temperature_at(0, 1, 2.0, 1.5, 0) == 2.0
    for options in ({"sharpening": 0.0}, {"sharpening": float("nan")}, {"soft_steps": -1}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            HaltonSampler(**options)
