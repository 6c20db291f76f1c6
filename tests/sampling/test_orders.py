"""The decoding orders beside MaskGIT's and Halton's: each against its paper's law, a naive loop or a planted table."""

import itertools
import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from maskgen.masking.schedule import Cosine, Linear, MaskSchedule
from maskgen.sampling.ancestral import AncestralSampler
from maskgen.sampling.base import Sampler, State
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.sampling.entropy import EntropySampler
from maskgen.sampling.entropy_bound import EntropyBoundSampler
from maskgen.sampling.first_hitting import FirstHittingSampler
from maskgen.sampling.margin import MarginSampler
from maskgen.sampling.moment import MomentSampler
from maskgen.sampling.threshold import ThresholdSampler
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, Segment, TokenSpace

SPACE = TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=4)])
TEXT = SPACE.segment("text", 0)


def line(length: int, known: int = 0) -> dict[str, Tensor]:
    """One row whose first cells are known."""
    codes = torch.full((1, length), -1)
    codes[0, :known] = 0
    return {"text": codes}


def seeded(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + row) for row in range(count)]


def table_logits(probabilities: Tensor) -> Callable[..., Tensor]:
    """A model that gives each place of a row its own fixed distribution; 0 forbids a code."""

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        return probabilities.log()[batch.coords[cells][:, 0]]

    return logits_fn


def cells_a_step(
    sampler: Sampler, logits_fn: Callable[..., Tensor], samples: list[dict[str, Tensor]], seed: int = 0
) -> list[list[list[int]]]:
    """For each row, the cells that each step set."""
    _, trajectory = sampler.sample(logits_fn, pack(samples, SPACE), TEXT, seeded(len(samples), seed))
    return [[changed[row].nonzero()[:, 0].tolist() for changed in trajectory.changed] for row in range(len(samples))]


class Enough(Exception):
    """Ends a decode of which only the first step is looked at."""


def first_kept(sampler: Sampler, probabilities: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The cell that the first step keeps in each of many rows, and its code."""
    states: list[State] = []

    def stop(state: State) -> None:
        states.append(state)
        raise Enough

    with pytest.raises(Enough):
        sampler.sample(table_logits(probabilities), pack([line(len(probabilities))] * rows, SPACE), TEXT, seeded(rows), callback=stop)
    changed = states[0].changed
    assert (changed.sum(dim=1) == 1).all()
    cells = changed.long().argmax(dim=1)
    return cells, states[0].codes.gather(1, cells[:, None])[:, 0]


def assert_drawn_from(counts: Tensor, law: Tensor) -> None:
    """Pearson's test with a limit that a true law passes all but once in ten thousand times."""
    expected = law.flatten() / law.sum() * counts.sum()
    statistic = float(((counts.flatten() - expected) ** 2 / expected).sum())
    freedom = law.numel() - 1
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3, (counts, expected)


TRIPLE = torch.tensor([[0.7, 0.2, 0.05, 0.05], [0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.3, 0.2]])


@pytest.mark.parametrize(("temperature", "choice_temperature"), [(1.0, 1.0), (1.0, 4.5), (2.0, 0.5)])
def test_moment_draws_cell_and_code_from_the_powered_law(temperature: float, choice_temperature: float) -> None:
    sampler = MomentSampler(steps=3, temperature=temperature, choice_temperature=choice_temperature)
    cells, codes = first_kept(sampler, TRIPLE, 1500)
    sharpened = TRIPLE ** (1 / temperature)
    law = sharpened / sharpened.sum(dim=1, keepdim=True) * TRIPLE ** (1 / choice_temperature)
    if temperature == 1:
        torch.testing.assert_close(law, TRIPLE ** (1 + 1 / choice_temperature))
    assert_drawn_from(torch.bincount(cells * 4 + codes, minlength=12), law)


def test_maskgit_follows_the_law_of_the_moment_order_when_few_of_many_are_kept() -> None:
    cells, codes = first_kept(ConfidenceSampler(steps=96, choice_temperature=1.0, annealing="linear"), TRIPLE[:2].repeat(48, 1), 1500)
    shares = torch.bincount(cells % 2 * 4 + codes, minlength=8) / 1500
    law = (TRIPLE[:2] ** 2).flatten()
    assert (shares - law / law.sum()).abs().max() < 0.04
    assert (shares - (TRIPLE[:2] / 2).flatten()).abs().max() > 0.2


@pytest.mark.parametrize("choice_temperature", [0.0, 1e-3])
def test_moment_without_choice_temperature_is_greedy_in_cells_and_codes(choice_temperature: float) -> None:
    sampler = MomentSampler(steps=3, choice_temperature=choice_temperature)
    cells, codes = first_kept(sampler, TRIPLE, 20)
    assert set(cells.tolist()) == set(codes.tolist()) == {0}


def naive_ancestral(length: int, steps: int, law: MaskSchedule, grid: str, seed: int) -> list[list[int]]:
    """MDLM's posterior in plain loops: time runs from 1 down to 0 and alpha(t) is visible, as in the paper."""
    generator, masked, taken = seeded(1, seed)[0], list(range(length)), []

    def alpha(time: float) -> float:
        return 1 - law(min(1 - time, 1.0))

    for step in range(steps):
        if not masked:
            break
        t, s = (steps - step) / steps, (steps - step - 1) / steps
        if grid == "cosine":
            t, s = math.cos(math.pi / 2 * (1 - t)), math.cos(math.pi / 2 * (1 - s))
        chance = (alpha(s) - alpha(t)) / (1 - alpha(t))
        coins = torch.rand(len(masked), dtype=torch.float64, generator=generator).tolist()
        now = [cell for cell, coin in zip(masked, coins, strict=True) if coin < chance or step == steps - 1]
        masked = [cell for cell in masked if cell not in now]
        taken.append(now)
    return taken


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize(("law", "grid"), [(Linear(), "uniform"), (Linear(), "cosine"), (Cosine(), "uniform")], ids=str)
def test_ancestral_equals_the_naive_loop_with_the_same_coins(law: MaskSchedule, grid: str, steps: int) -> None:
    sampler = AncestralSampler(steps=steps, schedule=law, grid=grid, temperature=0.0)
    rows = cells_a_step(sampler, table_logits(torch.rand(60, 4)), [line(60), line(7), line(1)], seed=5)
    for row, length in enumerate((60, 7, 1)):
        expected = naive_ancestral(length, steps, law, grid, 5 + row)
        assert rows[row][: len(expected)] == expected
        assert not any(rows[row][len(expected) :])


def test_ancestral_asks_for_each_cell_once_and_for_none_without_a_pass() -> None:
    asked: list[int] = []

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        asked.append(int(cells.sum()))
        return torch.zeros(asked[-1], segment.size)

    rows = cells_a_step(AncestralSampler(steps=200), logits_fn, [line(5), line(2)])
    assert sum(asked) == 7
    assert len(asked) <= 7 < len(rows[0])


TORN = torch.tensor(
    [[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0], [0.55, 0.15, 0.15, 0.15], [0.7, 0.25, 0.04, 0.01], [0.0, 0.0, 1.0, 0.0]]
)
ENTROPIES = torch.tensor([-sum(p * math.log(p) for p in row if p > 0) for row in TORN.tolist()])
GAPS = torch.tensor([sorted(row)[-1] - sorted(row)[-2] for row in TORN.tolist()])


@pytest.mark.parametrize(("kind", "order"), [(EntropySampler, [4, 1, 3, 2, 0]), (MarginSampler, [4, 3, 2, 1, 0])])
def test_the_sharpest_cell_comes_first_by_its_own_measure(kind: type[Sampler], order: list[int]) -> None:
    (taken,) = cells_a_step(kind(steps=5), table_logits(TORN + torch.tensor([[0.0], [1e-6], [0.0], [0.0], [0.0]])), [line(5)])
    assert [cell for step in taken for cell in step] == order


@pytest.mark.parametrize(("kind", "scores"), [(EntropySampler, -ENTROPIES), (MarginSampler, GAPS)])
def test_choice_noise_keeps_a_cell_as_often_as_the_softmax_of_its_score(
    kind: Callable[..., EntropySampler | MarginSampler], scores: Tensor
) -> None:
    cells, _ = first_kept(kind(steps=5, choice_temperature=0.5), TORN, 1500)
    assert_drawn_from(torch.bincount(cells, minlength=5), (scores / (0.5 * (1 - 1 / 5))).softmax(dim=0))


def test_a_codebook_of_one_code_has_a_margin() -> None:
    space = TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=1)])
    filled, _ = MarginSampler(steps=2).sample(table_logits(torch.ones(3, 1)), pack([line(3)], space), space.segment("text", 0), seeded(1))
    assert not (filled.ids == MASK).any()


def peaked(*tops: float) -> Tensor:
    """One distribution a cell: its likeliest code, and the rest shared by the others."""
    return torch.tensor([[top, *[(1 - top) / 3] * 3] for top in tops])


SURE = peaked(0.5, 0.95, 0.3, 0.92, 0.89, 0.97)


def test_threshold_keeps_all_above_it_and_at_least_one_a_row() -> None:
    rows = cells_a_step(ThresholdSampler(steps=6), table_logits(SURE), [line(6), line(6, known=4), line(3), line(1)])
    assert rows[0] == [[1, 3, 5], [4], [0], [2]]
    assert rows[1] == [[5], [4], [], []]
    assert rows[2] == [[1], [0], [2], []]
    assert rows[3] == [[0], [], [], []]


@pytest.mark.parametrize(
    ("steps", "threshold", "expected"),
    [
        (2, 0.9, [[1, 3, 5], [0, 2, 4]]),
        (1, 1.0, [[0, 1, 2, 3, 4, 5]]),
        (9, 0.0, [[0, 1, 2, 3, 4, 5]]),
        (9, 1.0, [[5], [1], [3], [4], [0], [2]]),
    ],
)
def test_threshold_ends_within_its_steps(steps: int, threshold: float, expected: list[list[int]]) -> None:
    assert cells_a_step(ThresholdSampler(steps=steps, threshold=threshold), table_logits(SURE), [line(6)]) == [expected]


def naive_bound(probabilities: Tensor, known: int, bound: float) -> list[int]:
    """The paper's rule by trying every k."""
    entropies = [-sum(p * math.log(p) for p in row if p > 0) for row in probabilities.double().tolist()]
    order = sorted(range(known, len(entropies)), key=entropies.__getitem__)
    fitting = [k for k in range(1, len(order) + 1) if sum(entropies[cell] for cell in order[:k]) - entropies[order[k - 1]] <= bound]
    return sorted(order[: max(fitting)])


@pytest.mark.parametrize("bound", [0.0, 0.1, 1.0, 3.0, 100.0])
def test_entropy_bound_equals_the_paper_s_rule_in_every_row(bound: float) -> None:
    sharpness = torch.linspace(0.2, 12, 24)[torch.randperm(24, generator=torch.Generator().manual_seed(1)), None]
    probabilities = (torch.randn(24, 4, generator=torch.Generator().manual_seed(2)) * sharpness).softmax(dim=1)
    known = [0, 9, 23]
    rows = cells_a_step(EntropyBoundSampler(steps=30, bound=bound), table_logits(probabilities), [line(24, count) for count in known])
    for row, count in enumerate(known):
        assert rows[row][0] == naive_bound(probabilities, count, bound)
    assert (len(rows[0]) == 1) == (bound == 100.0)


def test_entropy_bound_keeps_the_rest_at_the_last_step() -> None:
    (taken,) = cells_a_step(EntropyBoundSampler(steps=3, bound=0.0), table_logits(TRIPLE.repeat(3, 1)), [line(9)])
    assert [len(step) for step in taken] == [1, 1, 7]


def naive_first_hitting(length: int, generator: torch.Generator) -> list[int]:
    """The paper's events: the mask ratio falls to r u^(1/n), then one of the n masked cells, any of them, is unmasked."""
    masked, ratio, order = list(range(length)), 1.0, []
    while masked:
        fallen = ratio * float(torch.rand((), generator=generator)) ** (1 / len(masked))
        assert fallen <= ratio
        ratio = fallen
        order.append(masked.pop(int(torch.randint(len(masked), (), generator=generator))))
    return order


def test_first_hitting_draws_orders_from_the_law_of_the_naive_events() -> None:
    rows, generator = 1000, torch.Generator().manual_seed(0)
    ours = Counter(
        tuple(cell for (cell,) in steps)
        for steps in cells_a_step(FirstHittingSampler(steps=4), table_logits(peaked(*[0.5] * 4)), [line(4)] * rows)
    )
    theirs = Counter(tuple(naive_first_hitting(4, generator)) for _ in range(rows))
    orders = list(itertools.permutations(range(4)))
    for counts in (ours, theirs):
        assert_drawn_from(torch.tensor([counts[order] for order in orders]), torch.ones(24))


def test_first_hitting_takes_one_cell_a_pass_and_wastes_no_pass() -> None:
    asked: list[list[int]] = []

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        asked.append(cells.sum(dim=1).tolist())
        return torch.zeros(int(cells.sum()), segment.size)

    cells_a_step(FirstHittingSampler(steps=9), logits_fn, [line(7), line(9, known=6), line(4, known=4)])
    assert asked == [[1, 1, 0]] * 3 + [[1, 0, 0]] * 4


def test_first_hitting_takes_as_few_cells_a_pass_as_its_steps_allow() -> None:
    rows = cells_a_step(FirstHittingSampler(steps=5), table_logits(peaked(*[0.5] * 16)), [line(16), line(11), line(5)])
    assert [[len(step) for step in steps] for steps in rows] == [[4, 4, 4, 4, 0], [3, 3, 3, 2, 0], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (MomentSampler, {"choice_temperature": -1.0}, "choice_temperature must be"),
        (EntropySampler, {"choice_temperature": math.inf}, "choice_temperature must be"),
        (MarginSampler, {"choice_temperature": math.nan}, "choice_temperature must be"),
        (ThresholdSampler, {"threshold": 1.5}, r"threshold must lie in \[0, 1\], got 1.5"),
        (EntropyBoundSampler, {"bound": -0.1}, "bound must be a finite number of at least 0, got -0.1"),
    ],
)
def test_bad_options_of_the_orders_are_refused(kind: Callable[..., Sampler], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)
