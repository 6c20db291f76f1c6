"""Drawing codes: unbiased, cut where asked, each row from its own generator."""

import math

import pytest
import torch
from torch import Tensor

from maskgen.draw import draw, gumbel, row_noise

SIZE = 8192


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def drawn_codes(logits: Tensor, count: int, **options: float) -> Tensor:
    """`count` codes from one row of logits, in pieces that fit in memory."""
    generators, piece = seeded(0), 512
    parts = [draw(logits.expand(piece, -1), torch.zeros(piece, dtype=torch.long), generators, **options)[0] for _ in range(count // piece)]
    return torch.cat(parts)


def chi_square_bound(freedom: int) -> float:
    """99 % quantile (Wilson and Hilferty)."""
    return freedom * (1 - 2 / (9 * freedom) + 2.3263 * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize(("dtype", "temperature"), [(torch.float32, 1.0), (torch.bfloat16, 0.5)])
def test_codes_follow_the_softmax_over_a_whole_codebook(dtype: torch.dtype, temperature: float) -> None:
    logits = (2 * torch.randn(SIZE, generator=seeded(1)[0])).to(dtype)
    shares = (logits.double() / temperature).softmax(dim=-1)
    order = shares.argsort()
    bins = torch.empty(SIZE, dtype=torch.long)
    bins[order] = (shares[order].cumsum(dim=-1) * 40).long().clamp(max=39)
    count = 12 * 512
    found = torch.bincount(bins[drawn_codes(logits, count, temperature=temperature)], minlength=40).double()
    expected = torch.zeros(40, dtype=torch.float64).index_add(0, bins, shares) * count
    kept = expected > 0
    assert ((found - expected)[kept] ** 2 / expected[kept]).sum() < chi_square_bound(int(kept.sum()) - 1)
    assert found[~kept].sum() == 0


def test_tied_half_precision_logits_do_not_favour_the_first_codes() -> None:
    codes = drawn_codes(torch.zeros(SIZE, dtype=torch.bfloat16), 2048)
    assert (codes < SIZE // 4).double().mean() == pytest.approx(0.25, abs=0.04)


def test_temperature_zero_is_argmax_and_draws_no_noise() -> None:
    logits = torch.randn(7, 30, generator=seeded(2)[0])
    generators = seeded(0)
    before = generators[0].get_state()
    codes, _ = draw(logits, torch.zeros(7, dtype=torch.long), generators, temperature=0.0, top_k=3, top_p=0.5)
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


def test_shares_inside_top_k_are_those_of_the_softmax() -> None:
    codes = drawn_codes(torch.tensor([0.1, 0.5, 0.3, 0.1]).log(), 10240, top_k=2)
    assert (codes == 1).double().mean() == pytest.approx(0.625, abs=0.015)


def test_log_probabilities_are_those_of_the_plain_softmax_in_float32() -> None:
    logits = torch.randn(50, 20, generator=seeded(3)[0]).bfloat16()
    codes, logprobs = draw(logits, torch.zeros(50, dtype=torch.long), seeded(0), temperature=0.3, top_k=5)
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
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_row_noise_stands_at_its_cells_and_nowhere_else() -> None:
    cells = torch.tensor([[True, False, True], [False, False, False], [False, True, True]])
    noise = row_noise(cells, seeded(0, 1, 2), gumbel)
    assert torch.equal(noise != 0, cells)
    assert torch.equal(noise[2, 1:], gumbel((2,), seeded(2)[0]))
