"""Quantizers: the definitions in plain loops, bijections, closed forms and planted codebooks."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskgen.autoencoders.quantizers import BinaryQuantizer, FiniteScalarQuantizer, Quantizer, ResidualQuantizer, VectorQuantizer

MAKERS: dict[str, Callable[[], Quantizer]] = {
    "vector": lambda: VectorQuantizer(dim=4, codebook_size=8),
    "finite scalar": lambda: FiniteScalarQuantizer((4, 3, 5)),
    "binary": lambda: BinaryQuantizer(dim=5),
    "residual": lambda: ResidualQuantizer(num_levels=3, dim=4, codebook_size=8),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=MAKERS)
def quantizer(request: pytest.FixtureRequest) -> Quantizer:
    return MAKERS[request.param]()


def vectors(quantizer: Quantizer, batch: int = 3, cells: int = 7) -> Tensor:
    return torch.randn(batch, cells, quantizer.dim)


def seeded(codebook: Tensor, **settings: float) -> VectorQuantizer:
    """A vector quantizer with a given codebook."""
    quantizer = VectorQuantizer(codebook.shape[1], codebook.shape[0], **settings)
    quantizer.codebook.copy_(codebook)
    quantizer.total.copy_(codebook)
    quantizer.seeded.fill_(True)
    return quantizer


# What holds for all four


def test_shapes_ranges_and_dtypes(quantizer: Quantizer) -> None:
    found = quantizer(vectors(quantizer))
    assert found.values.shape == (3, 7, quantizer.dim)
    assert found.codes.shape == (3, quantizer.num_levels, 7)
    assert found.codes.dtype == torch.long
    assert 0 <= int(found.codes.min()) <= int(found.codes.max()) < quantizer.codebook_size
    assert found.loss.shape == ()


def test_lookup_of_the_codes_gives_the_quantized_values(quantizer: Quantizer) -> None:
    found = quantizer.eval()(vectors(quantizer))
    assert torch.allclose(quantizer.lookup(found.codes), found.values, atol=1e-6)


def test_args_rebuild_the_quantizer(quantizer: Quantizer) -> None:
    values = vectors(quantizer)
    quantizer(values)
    rebuilt = type(quantizer)(**quantizer.args)
    rebuilt.load_state_dict(quantizer.state_dict())
    assert rebuilt.args == quantizer.args
    assert torch.equal(rebuilt.eval()(values).codes, quantizer.eval()(values).codes)
    assert all(isinstance(value, int | float | list) for value in quantizer.args.values())


def test_evaluation_changes_no_buffer(quantizer: Quantizer) -> None:
    quantizer(vectors(quantizer))
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer.eval()(vectors(quantizer))
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())


def test_a_row_does_not_depend_on_its_batch(quantizer: Quantizer) -> None:
    values = vectors(quantizer, batch=5)
    quantizer.eval()
    together = quantizer(values).codes
    assert torch.equal(together, torch.cat([quantizer(values[row : row + 1]).codes for row in range(5)]))


@pytest.mark.parametrize("name", ["vector", "binary", "residual"])
def test_straight_through_gradient_is_the_identity(name: str) -> None:
    quantizer = MAKERS[name]().eval()
    values, weight = vectors(quantizer).requires_grad_(), vectors(quantizer)
    (quantizer(values).values * weight).sum().backward()
    assert torch.equal(values.grad, weight)


@pytest.mark.parametrize("name", ["vector", "binary", "residual"])
def test_half_precision_keeps_its_dtype_and_a_float32_loss(name: str) -> None:
    quantizer = MAKERS[name]().eval()
    found = quantizer(vectors(quantizer).bfloat16())
    assert found.values.dtype == torch.bfloat16
    assert found.loss.dtype == torch.float32


# Vector quantizer


def test_nearest_equals_a_naive_loop() -> None:
    quantizer = VectorQuantizer(dim=6, codebook_size=20)
    flat = torch.randn(50, 6)
    naive = [min(range(20), key=lambda code: float((vector - quantizer.codebook[code]).square().sum())) for vector in flat]
    assert quantizer.nearest(flat).tolist() == naive


def test_commitment_is_the_weighted_mean_squared_distance() -> None:
    quantizer = seeded(torch.tensor([[0.0, 0.0], [4.0, 4.0]]), commitment=0.5).eval()
    assert float(quantizer(torch.tensor([[[1.0, 0.0], [4.0, 2.0]]])).loss) == pytest.approx(0.5 * (1 + 0 + 0 + 4) / 4)


def test_one_step_of_the_moving_average_equals_the_closed_form() -> None:
    codebook, decay = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]), 0.9
    quantizer = seeded(codebook, decay=decay, restart_below=0.0)
    values = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [9.0, 1.0]]])
    quantizer.train()(values)
    usage = [decay + 0.1 * 2, decay + 0.1 * 1, decay + 0.1 * 0]
    total = [[0.1 * 1.0, 0.1 * 3.0], [decay * 10 + 0.1 * 9, 0.1 * 1], [0.0, decay * 10.0]]
    assert torch.allclose(quantizer.usage, torch.tensor(usage))
    assert torch.allclose(quantizer.total, torch.tensor(total))
    assert torch.allclose(quantizer.codebook, torch.tensor(total) / torch.tensor(usage)[:, None])


def test_training_quantizes_with_the_codebook_before_the_step() -> None:
    quantizer = seeded(torch.tensor([[0.0], [10.0]]), decay=0.5)
    found = quantizer.train()(torch.tensor([[[1.0], [9.0]]]))
    assert found.values.flatten().tolist() == [0.0, 10.0]


def test_the_first_training_batch_seeds_the_codebook() -> None:
    quantizer = VectorQuantizer(dim=3, codebook_size=5, decay=0.999)
    values = 100 + torch.randn(2, 40, 3)
    quantizer.train()(values)
    assert bool(quantizer.seeded)
    assert float(torch.cdist(quantizer.codebook, values.flatten(0, 1)).amin(1).max()) < 0.1


def test_a_dead_code_is_moved_onto_an_input_and_a_live_one_is_not() -> None:
    codebook = torch.tensor([[0.0, 0.0], [10.0, 0.0], [500.0, 500.0]])
    quantizer = seeded(codebook, restart_below=0.5)
    quantizer.usage[2] = 0.4
    values = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [0.0, 0.0], [10.0, 0.0]]])
    quantizer.train()(values)
    assert torch.allclose(quantizer.codebook[:2], codebook[:2])
    assert quantizer.codebook[2].tolist() in values[0].tolist()
    assert float(quantizer.usage[2]) == 1.0  # twice the threshold


def test_without_restarts_an_unused_code_stays_where_it_is_for_ever() -> None:
    quantizer = seeded(torch.tensor([[0.0], [500.0]]), decay=0.5, restart_below=0.0)
    for _ in range(400):
        quantizer.train()(torch.tensor([[[0.0], [1.0]]]))
    assert float(quantizer.codebook[1]) == 500.0
    assert float(quantizer.codebook[0]) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(3))
def test_planted_clusters_are_found(seed: int) -> None:
    """128 / 6 uses are fair; two codes on one cluster get half of that, fall under 14 and are sent to look elsewhere."""
    torch.manual_seed(seed)
    centres = 10 * torch.eye(6)
    quantizer = VectorQuantizer(dim=6, codebook_size=6, decay=0.8, restart_below=14.0).train()
    for _ in range(600):
        members = torch.arange(128)[None] % 6
        quantizer(centres[members] + 0.05 * torch.randn(1, 128, 6))
    codes = quantizer.nearest(centres)
    assert len(set(codes.tolist())) == 6
    assert float((quantizer.codebook[codes] - centres).norm(dim=1).max()) < 0.1


def test_a_restarted_code_has_time_before_the_next_restart() -> None:
    quantizer = seeded(torch.tensor([[0.0], [500.0]]), decay=0.9, restart_below=3.0)
    quantizer.usage.copy_(torch.tensor([8.0, 0.0]))
    quantizer.train()(torch.full((1, 8, 1), 2.0))
    assert quantizer.codebook[1].tolist() == [2.0]
    moved = float(quantizer.usage[1])
    quantizer(torch.full((1, 8, 1), -2.0))
    assert 3.0 < float(quantizer.usage[1]) < moved


def test_a_decay_outside_its_range_is_refused() -> None:
    for decay in (0.0, 1.0):
        with pytest.raises(ValueError, match="decay must lie in"):
            VectorQuantizer(decay=decay)


# Finite scalar quantizer


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 2, 2), (3, 7), (2,), (4, 9, 2)])
def test_codes_and_vectors_are_a_bijection(levels: tuple[int, ...]) -> None:
    quantizer = FiniteScalarQuantizer(levels)
    codes = torch.arange(quantizer.codebook_size)
    placed = quantizer.lookup(codes[None, None])[0]
    assert quantizer.codebook_size == math.prod(levels) == len({tuple(vector) for vector in placed.tolist()})
    assert float(placed.abs().max()) <= 1.0
    digits = placed * (quantizer.levels // 2) + quantizer.levels // 2
    assert torch.equal((digits.round().long() * quantizer.basis).sum(-1), codes)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 2, 2), (4, 9, 2)])
def test_every_code_can_be_reached_and_no_other(levels: tuple[int, ...]) -> None:
    quantizer = FiniteScalarQuantizer(levels)
    for channel, level in enumerate(levels):
        values = torch.zeros(1, 401, len(levels))
        values[0, :, channel] = torch.linspace(-9, 9, 401)
        found = quantizer(values)
        digits = found.codes[0, 0] // quantizer.basis[channel] % level
        assert digits.unique().tolist() == list(range(level))
        assert digits.tolist() == sorted(digits.tolist())
        assert float(found.values.abs().max()) <= 1.0


def _paper(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Codes by appendix A of arXiv:2309.15505, in float64."""
    half = (levels - 1) * (1 - 1e-3) / 2
    offset = np.where(levels % 2 == 1, 0.0, 0.5)
    bounded = np.tanh(values + np.tan(offset / half)) * half - offset
    digits = np.round(bounded) + levels // 2
    return (digits * np.concatenate([[1], np.cumprod(levels[:-1])])).sum(-1).astype(np.int64)


@settings(deadline=None, max_examples=40)
@given(
    levels=st.sampled_from([(8, 5, 5, 5), (8, 6, 5), (7, 2, 4, 3)]),
    seed=st.integers(0, 2**16),
    spread=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_codes_equal_the_formula_of_the_paper(levels: tuple[int, ...], seed: int, spread: float) -> None:
    values = spread * torch.randn(1, 50, len(levels), generator=torch.Generator().manual_seed(seed))
    codes = FiniteScalarQuantizer(levels)(values).codes[0, 0]
    assert (codes.numpy() == _paper(values[0].double().numpy(), np.array(levels))).all()


def test_gradients_flow_through_the_rounding() -> None:
    quantizer = FiniteScalarQuantizer((8, 5, 2))
    values = vectors(quantizer).requires_grad_()
    quantizer(values).values.sum().backward()
    assert bool((values.grad > 0).all())


def test_a_channel_of_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 values a channel"):
        FiniteScalarQuantizer((8, 1))


# Binary quantizer


def test_codes_are_the_bits_of_the_signs() -> None:
    values = torch.randn(2, 9, 6)
    codes = BinaryQuantizer(dim=6)(values).codes[:, 0]
    for vector, code in zip(values.flatten(0, 1), codes.flatten(), strict=True):
        assert int(code) == sum(2**bit for bit in range(6) if vector[bit] > 0)


def test_lookup_of_bits_is_the_inverse_over_all_codes() -> None:
    quantizer, codes = BinaryQuantizer(dim=6), torch.arange(64)[None, None]
    placed = quantizer.lookup(codes)
    assert placed.unique().tolist() == [-1.0, 1.0]
    assert torch.equal(quantizer(placed).codes, codes)


def test_the_entropy_loss_is_least_where_bits_are_sure_and_even() -> None:
    quantizer = BinaryQuantizer(dim=2, entropy_weight=1.0, commitment=0.0)
    signs = torch.tensor([[[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]])
    best = float(quantizer(signs * 20).loss)
    assert best == pytest.approx(-math.log(2), abs=1e-4)
    unsure, uneven = float(quantizer(signs * 0.01).loss), float(quantizer(signs.abs() * 20).loss)
    assert unsure == pytest.approx(0.0, abs=1e-3)
    assert uneven == pytest.approx(0.0, abs=1e-3)
    assert best < float(quantizer(torch.randn(1, 64, 2)).loss) < 0.0


# Residual quantizer


def trained_residual(level_dropout: float = 0.0) -> tuple[ResidualQuantizer, Tensor]:
    """A residual quantizer that has seen its data, and data."""
    torch.manual_seed(1)
    quantizer = ResidualQuantizer(num_levels=4, dim=4, codebook_size=16, decay=0.8, level_dropout=level_dropout).train()
    for _ in range(60):
        quantizer(torch.randn(4, 64, 4))
    return quantizer.eval(), torch.randn(4, 64, 4)


def test_each_level_quantizes_what_the_coarser_left() -> None:
    quantizer, values = trained_residual()
    codes = quantizer(values).codes
    left = values.flatten(0, 1).clone()
    for level, single in enumerate(quantizer.quantizers):
        naive = torch.cdist(left.double(), single.codebook.double()).argmin(1)
        assert torch.equal(codes[:, level].flatten(), naive)
        left -= single.codebook[naive]


def test_the_error_falls_with_every_level() -> None:
    quantizer, values = trained_residual()
    codes = quantizer(values).codes
    errors = [float((quantizer.lookup(codes[:, :levels]) - values).square().mean()) for levels in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.25 * errors[0]


def test_lookup_of_a_prefix_is_the_partial_sum() -> None:
    quantizer, values = trained_residual()
    codes = quantizer(values).codes
    for levels in (1, 2, 4):
        partial = sum(quantizer.quantizers[level].codebook[codes[:, level]] for level in range(levels))
        assert torch.allclose(quantizer.lookup(codes[:, :levels]), partial, atol=1e-6)


def test_a_prefix_of_the_levels_gives_the_same_first_codes() -> None:
    quantizer, values = trained_residual()
    coarser = quantizer.prefix(2).eval()
    codes = quantizer(values).codes[:, :2]
    assert coarser.num_levels == 2
    assert torch.equal(coarser(values).codes, codes)
    assert torch.equal(coarser.lookup(codes), quantizer.lookup(codes))


def test_level_dropout_shortens_the_stated_share_in_training_only() -> None:
    quantizer, _ = trained_residual(level_dropout=0.5)
    kept = quantizer.train()._kept_levels(40_000, torch.device("cpu"))
    shares = torch.bincount(kept, minlength=5) / 40_000
    assert shares[0] == 0
    assert torch.allclose(shares[1:4], torch.full((3,), 0.125), atol=0.01)
    assert float(shares[4]) == pytest.approx(0.625, abs=0.015)
    assert (quantizer.eval()._kept_levels(100, torch.device("cpu")) == 4).all()


def test_a_sample_with_dropped_levels_is_rebuilt_from_its_coarse_codes() -> None:
    quantizer, values = trained_residual(level_dropout=1.0)
    books = [single.codebook.clone() for single in quantizer.quantizers]
    found = quantizer.train()(values)
    for row in range(len(values)):
        sums = torch.stack([book[found.codes[row, level]] for level, book in enumerate(books)]).cumsum(0)
        assert any(torch.allclose(found.values[row], part, atol=1e-5) for part in sums)
