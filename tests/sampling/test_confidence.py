"""MaskGIT's order against a naive twin that works one row and one cell at a time."""

import math

import pytest
import torch
from torch import Tensor

from maskgen.sampling import confidence
from maskgen.sampling.base import Decision
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.sampling.draw import gumbel
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, Segment, TokenSpace

SPACE = TokenSpace([Modality(name="image", kind="image", num_levels=1, codebook_size=32)])
IMAGE = SPACE.segment("image", 0)


def table_logits(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    """Fixed scores a place, tilted by how much of the row is known."""
    table = torch.randn(400, segment.size, generator=torch.Generator().manual_seed(1))
    known = ((batch.ids[..., 0] != MASK) & batch.valid).sum(dim=1, keepdim=True).expand_as(cells)[cells]
    place = batch.coords[cells][:, 1] * 20 + batch.coords[cells][:, 2]
    return 2 * table[place] + table[known.clamp(max=399)]


def naive(codes: Tensor, seed: int, steps: int, temperature: float, choice_temperature: float) -> Tensor:
    """MaskGIT for one picture, in plain loops, from F1 of the reference; it draws its noise in the same order."""
    generator, batch = torch.Generator().manual_seed(seed), pack([{"image": codes}], SPACE)
    start = int((codes == -1).sum())
    left = start
    for step in range(steps):
        unknown = [int(cell) for cell in (batch.ids[0, :, 0] == MASK).nonzero()]
        if not unknown:
            break
        masked = batch.ids[..., 0] == MASK
        logits = table_logits(batch, masked, IMAGE, step / steps).double()
        shares = torch.rand(len(unknown), dtype=torch.float64, generator=generator).tolist()
        order_noise = gumbel((len(unknown),), generator) if step + 1 < steps else torch.zeros(len(unknown))
        scored = []
        for number, cell in enumerate(unknown):
            weights = [math.exp(float(value) / temperature) for value in logits[number]]
            code, passed = 0, weights[0]
            while passed <= shares[number] * sum(weights):
                code += 1
                passed += weights[code]
            logprob = float(logits[number, code]) - math.log(sum(math.exp(float(value)) for value in logits[number]))
            confidence = logprob + choice_temperature * (1 - (step + 1) / steps) * float(order_noise[number])
            scored.append((confidence, cell, code))
        left = min(left - 1, math.floor(start * math.cos(math.pi / 2 * (step + 1) / steps)))
        ids = batch.ids.clone()
        for _, cell, code in sorted(scored)[left:]:
            ids[0, cell, 0] = code + IMAGE.offset
        batch = batch.with_ids(ids)
    return batch.ids[0, :, 0]


@pytest.mark.parametrize(("temperature", "choice_temperature"), [(1.0, 4.5), (0.7, 1.0)])
@pytest.mark.parametrize("steps", [1, 5, 12])
def test_it_equals_the_naive_twin_with_the_same_noise(steps: int, temperature: float, choice_temperature: float) -> None:
    pictures = [torch.full((1, 6, 6), -1), torch.full((1, 3, 7), -1), torch.full((1, 6, 6), 5)]
    pictures[2][0, 1:3, 2:5] = -1
    sampler = ConfidenceSampler(steps=steps, temperature=temperature, choice_temperature=choice_temperature)
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    filled, _ = sampler.sample(table_logits, pack([{"image": codes} for codes in pictures], SPACE), IMAGE, generators)
    for row, codes in enumerate(pictures):
        expected = naive(codes, row, steps, temperature, choice_temperature)
        assert torch.equal(filled.ids[row, : codes.numel(), 0], expected)


def test_greedy_in_both_needs_no_chance_and_takes_the_surest_first() -> None:
    batch = pack([{"image": torch.full((1, 4, 4), -1)}], SPACE)
    sampler = ConfidenceSampler(steps=16, temperature=0.0, choice_temperature=0.0)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()

    def sure_of_the_end(now: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        logits = torch.zeros(int(cells.sum()), segment.size)
        logits[:, 3] = (now.coords[cells][:, 1] * 4 + now.coords[cells][:, 2]).float()
        return logits

    _, trajectory = sampler.sample(sure_of_the_end, batch, IMAGE, [generator])
    assert [int(changed[0].nonzero()) for changed in trajectory.changed] == list(range(15, -1, -1))
    assert torch.equal(generator.get_state(), before)


def test_choice_noise_spreads_what_greedy_clusters() -> None:
    """The first cell kept is the surest without noise, and nearly any with much of it."""

    def slope(now: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        logits = torch.zeros(int(cells.sum()), segment.size)
        logits[:, 0] = 10 + 0.1 * now.coords[cells][:, 1].float()
        return logits

    batch = pack([{"image": torch.full((1, 8, 1), -1)}] * 40, SPACE)
    generators = [torch.Generator().manual_seed(seed) for seed in range(40)]
    _, trajectory = ConfidenceSampler(steps=8, choice_temperature=100.0).sample(slope, batch, IMAGE, generators)
    assert len({int(row.nonzero()[0]) for row in trajectory.changed[0]}) >= 6


@pytest.mark.parametrize(
    ("annealing", "scales"),
    [
        ("exact", [3.2, 2.4, 1.6, 0.8, 0.0]),
        ("linear", [4.0, 3.0, 2.0, 1.0, 0.0]),
        ("amused", torch.linspace(4, 0.01, 5).tolist()),
        ("constant", [4.0] * 5),
    ],
)
def test_the_noise_falls_along_the_line_of_its_annealing(monkeypatch: pytest.MonkeyPatch, annealing: str, scales: list[float]) -> None:
    heard: list[float] = []

    def listening(*arguments: object) -> Decision:
        heard.append(arguments[-1])
        return keep_surest(*arguments)

    keep_surest = confidence.keep_surest
    monkeypatch.setattr(confidence, "keep_surest", listening)
    sampler = ConfidenceSampler(steps=5, choice_temperature=4.0, annealing=annealing)
    sampler.sample(table_logits, pack([{"image": torch.full((1, 4, 4), -1)}], SPACE), IMAGE, [torch.Generator().manual_seed(0)])
    assert heard == pytest.approx(scales)


def test_one_step_needs_no_line() -> None:
    batch = pack([{"image": torch.full((1, 4, 4), -1)}], SPACE)
    filled, _ = ConfidenceSampler(steps=1, annealing="amused").sample(table_logits, batch, IMAGE, [torch.Generator().manual_seed(0)])
    assert (filled.ids != MASK).all()
