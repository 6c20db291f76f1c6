"""The bound is a bound: never below the exact likelihood, equal to it where it can be, and the same whatever the schedule."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from maskgen.evaluation.text.perplexity import (
    falling_speed,
    paired_counts,
    row_bounds,
    schedule_bounds,
    scored_cells,
    summed_losses,
    text_bound,
)
from maskgen.masking.schedule import Arccos, Cosine, Linear, MaskSchedule, Power
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, Segment, TokenSpace

SIZE, LENGTH = 3, 4
SPACE = TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=SIZE)])
TEXT = SPACE.segment("text", 0)
LogitsFn = Callable[[TokenBatch, Tensor, Segment, float], Tensor]


def texts(*rows: list[int]) -> TokenBatch:
    return pack([{"text": torch.tensor([row])} for row in rows], SPACE)


def planted(seed: int) -> LogitsFn:
    """A model without sense but with a table: any logits for every pattern of masked and visible codes, row by row."""
    table: dict[tuple[tuple[int, ...], int], Tensor] = {}

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        found = []
        for row, place in cells.nonzero().tolist():
            key = tuple(batch.ids[row, batch.valid[row], 0].tolist()), place
            if key not in table:
                mixed = hash((seed, *key[0], place)) % 2**31
                table[key] = torch.randn(SIZE, generator=torch.Generator().manual_seed(mixed), dtype=torch.float64)
            found.append(table[key])
        return torch.stack(found)

    return logits_fn


def lawful(law: Tensor) -> LogitsFn:
    """The model that knows the law of the data: exact conditionals of any cell given any visible ones."""

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        found = []
        for row, place in cells.nonzero().tolist():
            ids = batch.ids[row, :, 0].tolist()
            shown = law[tuple(slice(None) if one == MASK else slice(one - TEXT.offset, one - TEXT.offset + 1) for one in ids)]
            found.append(shown.sum(dim=[axis for axis in range(LENGTH) if axis != place]).log())
        return torch.stack(found)

    return logits_fn


def exact_nats(logits_fn: LogitsFn, codes: list[int]) -> float:
    """-log of the model's probability of a text: one cell after another, the order uniform over all orders."""
    total = []
    for order in itertools.permutations(range(len(codes))):
        shown, logprob = [-1] * len(codes), 0.0
        for place in order:
            cells = torch.zeros(1, len(codes), dtype=torch.bool)
            cells[0, place] = True
            logprob += float(logits_fn(texts(shown), cells, TEXT, 0.0).log_softmax(dim=-1)[0, codes[place]])
            shown[place] = codes[place]
        total.append(logprob)
    return -float(torch.tensor(total, dtype=torch.float64).logsumexp(0)) + math.log(len(total))


def enumerated(logits_fn: LogitsFn, codes: list[int]) -> Tensor:
    """Summed loss of every set of masked cells, and how many it has: [sets 2]."""
    found = []
    for hidden in itertools.product([False, True], repeat=len(codes)):
        found.append([float(summed_losses(logits_fn, texts(codes), TEXT, torch.tensor([hidden]))[0]), sum(hidden)])
    return torch.tensor(found, dtype=torch.float64)


def bound_by_counts(logits_fn: LogitsFn, codes: list[int]) -> float:
    """The definition: sum over counts of the mean over sets of the mean loss."""
    sets = enumerated(logits_fn, codes)
    return sum(float(sets[sets[:, 1] == count, 0].mean()) / count for count in range(1, len(codes) + 1))


def bound_by_schedule(logits_fn: LogitsFn, codes: list[int], schedule: MaskSchedule, points: int = 200_000) -> float:
    """The integral over time of weight times expected loss, every set of masked cells enumerated."""
    time = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    rate, weight = schedule(time), falling_speed(schedule, time)
    sets = enumerated(logits_fn, codes)
    return sum(float((weight * rate**count * (1 - rate) ** (len(codes) - count)).mean() * loss) for loss, count in sets.tolist())


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_lies_above_the_exact_likelihood_of_any_model(seed: int) -> None:
    codes = [0, 2, 1, 1]
    assert bound_by_counts(planted(seed), codes) > exact_nats(planted(seed), codes)


@pytest.mark.parametrize("seed", range(2))
def test_the_bound_is_the_likelihood_where_the_model_knows_the_law(seed: int) -> None:
    law = torch.rand((SIZE,) * LENGTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
    codes, law = [2, 0, 1, 1], law / law.sum()
    assert bound_by_counts(lawful(law), codes) == pytest.approx(-math.log(float(law[tuple(codes)])), rel=1e-9)
    assert exact_nats(lawful(law), codes) == pytest.approx(-math.log(float(law[tuple(codes)])), rel=1e-9)


def test_a_factorised_law_is_met_exactly_by_every_pair_of_masks() -> None:
    one = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    law = torch.einsum("a,b,c,d->abcd", one, one, one, one)
    batch = texts([0, 0, 0, 0], [1, 1, 1, 1])
    found = row_bounds(lawful(law), batch, TEXT, torch.Generator().manual_seed(0), masks=4)
    wanted = torch.tensor([4 * -math.log(0.7), 4 * -math.log(0.2)], dtype=torch.float64)
    assert torch.allclose(found.draws, wanted[:, None].expand(2, 4))
    bound = text_bound([found])
    assert bound.monte_carlo_error < 1e-12
    assert bound.nats_per_token == pytest.approx(float(wanted.sum()) / 8)
    assert bound.perplexity == pytest.approx(1 / math.sqrt(0.7 * 0.2))


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Arccos(), Power(2.0)], ids=lambda schedule: type(schedule).__name__)
def test_the_bound_does_not_depend_on_the_schedule(schedule: MaskSchedule) -> None:
    """MDLM's 1 / t, MD4's cosine weight and the form without a schedule are one number."""
    codes = [1, 0, 2, 2]
    assert bound_by_schedule(planted(5), codes, schedule) == pytest.approx(bound_by_counts(planted(5), codes), rel=2e-3)


def test_the_weights_are_those_of_the_papers() -> None:
    time = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    assert torch.allclose(falling_speed(Linear(), time), 1 / (1 - time))
    assert torch.allclose(falling_speed(Cosine(), time), math.pi / 2 * torch.tan(math.pi / 2 * time))


@pytest.mark.parametrize("schedule", [None, Linear(), Cosine()], ids=["counts", "linear", "cosine"])
def test_every_estimator_agrees_with_the_enumeration_within_its_error(schedule: MaskSchedule | None) -> None:
    codes, repeats = [1, 0, 2, 2], 256
    batch, generator = texts(codes).repeat(repeats), torch.Generator().manual_seed(1)
    if schedule is None:
        found = row_bounds(planted(5), batch, TEXT, generator, masks=8)
    else:
        found = schedule_bounds(planted(5), batch, TEXT, generator, schedule, masks=8)
    error = float(found.nats.std()) / math.sqrt(repeats)
    assert abs(float(found.nats.mean()) - bound_by_counts(planted(5), codes)) < 4 * error
    assert error < 0.2


def test_exact_counts_in_pairs_have_less_variance_than_times() -> None:
    batch = texts([1, 0, 2, 2]).repeat(128)
    ours = row_bounds(planted(5), batch, TEXT, torch.Generator().manual_seed(1), masks=8)
    theirs = schedule_bounds(planted(5), batch, TEXT, torch.Generator().manual_seed(1), Linear(), masks=8)
    assert float(ours.nats.std()) < 0.7 * float(theirs.nats.std())


@given(total=st.integers(1, 60), half=st.integers(2, 20), seed=st.integers(0, 1000))
def test_counts_lie_in_their_strata_and_partners_mirror_them(total: int, half: int, seed: int) -> None:
    counts = paired_counts(torch.tensor([total]), 2 * half, torch.Generator().manual_seed(seed))[0]
    assert bool(((counts >= 1) & (counts <= total)).all())
    assert (counts[:half] + counts[half:]).tolist() == [total + 1] * half
    for stratum in range(half):
        assert math.floor(total * stratum / (2 * half)) <= counts[stratum] <= math.ceil(total * (stratum + 1) / (2 * half))


def test_counts_are_uniform() -> None:
    counts = paired_counts(torch.full((20_000,), 5), 4, torch.Generator().manual_seed(0))
    shares = torch.bincount(counts.flatten(), minlength=6)[1:] / counts.numel()
    assert torch.allclose(shares, torch.full((5,), 0.2), atol=0.006)


def test_a_pair_of_masks_asks_about_every_cell_and_known_cells_stay() -> None:
    asked: list[Tensor] = []

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        assert bool((batch.ids[..., 0][cells] == MASK).all())
        assert bool((batch.ids[..., 0][~cells & batch.valid] != MASK).all())
        asked.append(cells)
        return torch.zeros(int(cells.sum()), SIZE)

    batch = texts([0, 1, 2, 0, 1], [2, 2], [1])
    found = row_bounds(logits_fn, batch, TEXT, torch.Generator().manual_seed(0), masks=6)
    for first, second in zip(asked[::2], asked[1::2], strict=True):
        assert torch.equal((first | second), batch.valid)
        assert torch.equal((first & second).sum(dim=1), torch.ones(3, dtype=torch.long))
    assert torch.allclose(found.nats, found.tokens.double() * math.log(SIZE))


@pytest.mark.parametrize(("behind", "nats"), [("cut", 3), ("scored", 5)])
def test_tokens_are_counted_up_to_and_with_the_first_end(behind: str, nats: int) -> None:
    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        return torch.zeros(int(cells.sum()), SIZE)

    batch = texts([0, 1, 2, 2, 2], [1, 1, 1, 0, 0])
    assert scored_cells(batch, TEXT, 2).sum(dim=1).tolist() == [3, 5]
    found = row_bounds(logits_fn, batch, TEXT, torch.Generator().manual_seed(0), masks=4, end=2, behind=behind)  # type: ignore[arg-type]
    assert found.tokens.tolist() == [3, 5]
    assert float(found.nats[0]) == pytest.approx(nats * math.log(SIZE))


def test_what_cannot_be_scored_is_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="even and at least 4"):
        row_bounds(planted(0), texts([0, 1]), TEXT, generator, masks=3)
    with pytest.raises(ValueError, match="row 1 has no cell"):
        row_bounds(planted(0), pack([{"text": torch.tensor([[0]])}, {}], SPACE), TEXT, generator)
    with pytest.raises(ValueError, match="at least 2 texts"):
        text_bound([row_bounds(planted(0), texts([0, 1]), TEXT, generator)])


def test_the_mean_over_texts_is_met_within_the_error_by_masks_and_the_interval_is_wider() -> None:
    rows = [[int(code) for code in torch.randint(0, SIZE, (LENGTH,), generator=torch.Generator().manual_seed(seed))] for seed in range(24)]
    truth = sum(bound_by_counts(planted(5), row) for row in rows) / (LENGTH * len(rows))
    found = text_bound([row_bounds(planted(5), texts(*rows), TEXT, torch.Generator().manual_seed(3), masks=16)])
    assert abs(found.nats_per_token - truth) < 4 * found.monte_carlo_error
    assert 2 * 1.96 * found.monte_carlo_error < found.interval[1] - found.interval[0]
    assert len(found.nats_by_rate) == 4
