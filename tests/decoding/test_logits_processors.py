"""Noise at both ends of a decode, and drawing from what changed."""

import math
from collections.abc import Callable

import pytest
import torch
from builders.draws import seeded
from torch import Tensor

from maskgen.decoding.logits_processors import differential, noise_regularised
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, Segment, TokenSpace

SPACE = TokenSpace([Modality(name="audio", kind="audio", num_levels=2, codebook_size=16)])
COARSE, FINE = SPACE.of("audio")


def blank(*lengths: int) -> TokenBatch:
    return pack([{"audio": torch.full((2, length), UNKNOWN)} for length in lengths], SPACE)


def contextual(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    """Logits that depend on the place of a cell, the level and all that its row knows."""
    context = (batch.ids.sum(dim=2) * batch.valid).sum(dim=1, keepdim=True).expand_as(cells)[cells]
    keys = (context * 31 + batch.coords[cells][:, 0] * 7 + segment.level * 3)[:, None]
    return ((keys * 7919 + torch.arange(segment.size) ** 3 * 104729) * 2654435761 % 1000003).float().square() / 3e11


def first(batch: TokenBatch, *counts: int) -> Tensor:
    """The first `counts` cells of each row."""
    return torch.arange(batch.ids.shape[1])[None] < torch.tensor(counts)[:, None]


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_noise_is_strong_at_both_ends_and_gone_midway(steps: int) -> None:
    batch = blank(400)
    cells = first(batch, 400)
    noisy = noise_regularised(contextual, seeded(0), steps=steps, scale=2.0)
    plain = contextual(batch, cells, COARSE, 0.0)
    for step in range(steps):
        spread = (noisy(batch, cells, COARSE, step / steps) - plain).std()
        wanted = 2.0 * abs(math.cos(math.pi * step / (steps - 1))) if steps > 1 else 2.0
        assert float(spread) == pytest.approx(wanted, rel=0.05, abs=1e-6)


def test_a_row_draws_its_noise_alone_and_only_for_chosen_cells() -> None:
    batch, generators = blank(5, 8, 3), seeded(1, 2, 3)
    untouched = generators[1].get_state()
    cells = first(batch, 5, 0, 2)
    found = noise_regularised(contextual, generators, steps=4)(batch, cells, COARSE, 0.0)
    assert torch.equal(generators[1].get_state(), untouched)
    alone = batch.alone(2)
    own = noise_regularised(contextual, seeded(3), steps=4)(alone, first(alone, 2), COARSE, 0.0)
    assert torch.equal(found[5:], own)
    with pytest.raises(ValueError, match="3 rows needs one generator a row, got 2"):
        noise_regularised(contextual, generators[:2], steps=4)(batch, cells, COARSE, 0.0)


def test_no_noise_is_the_function_itself_and_bad_options_are_refused() -> None:
    batch, generators = blank(4), seeded(1)
    before = generators[0].get_state()
    noisy = noise_regularised(contextual, generators, steps=4, scale=0.0)
    assert torch.equal(noisy(batch, batch.valid, COARSE, 0.0), contextual(batch, batch.valid, COARSE, 0.0))
    assert torch.equal(generators[0].get_state(), before)
    for options, message in (({"steps": 0}, "steps must be"), ({"steps": 4, "scale": -1.0}, "scale must be")):
        with pytest.raises(ValueError, match=message):
            noise_regularised(contextual, generators, **options)
    with pytest.raises(ValueError, match="share must lie"):
        differential(contextual, share=1.5)


Cells = dict[tuple[int, int], Tensor]


def naive_difference(before: Cells, now: Cells, share: float) -> Cells:
    """Probabilities of each cell (row, place) after the trick, from those of two steps."""
    found = dict(now)
    for row in {row for row, _ in now}:
        both = [cell for cell in now if cell[0] == row and cell in before]
        changes = {cell: sum(float(p * (p.log() - q.log())) for p, q in zip(before[cell], now[cell], strict=True)) for cell in both}
        for cell in sorted(both, key=changes.__getitem__)[: math.floor(share * len(both))]:
            gained = torch.tensor([max(float(q - p), 1e-6) for p, q in zip(before[cell], now[cell], strict=True)])
            found[cell] = gained / gained.sum()
    return found


def by_cell(cells: Tensor, logits: Tensor) -> Cells:
    return {(row, place): values.double().softmax(dim=0) for (row, place), values in zip(cells.nonzero().tolist(), logits, strict=True)}


@pytest.mark.parametrize("share", [0.5, 0.75, 1.0])
def test_the_cells_that_changed_least_draw_from_the_difference(share: float) -> None:
    batch = blank(9, 6, 4)
    changed = differential(contextual, share)
    asked = [(first(batch, 9, 6, 4), 0.0), (first(batch, 7, 0, 3), 0.25), (first(batch, 8, 5, 1), 0.5)]  # a cell may come back
    before: Cells = {}
    for step, (cells, progress) in enumerate(asked):
        now = batch.with_ids(batch.ids.clone())
        now.ids[:, -1, 0] = COARSE.offset + step
        plain = contextual(now, cells, COARSE, progress)
        found = changed(now, cells, COARSE, progress)
        expected = naive_difference(before, by_cell(cells, plain), share)
        for cell, probabilities in by_cell(cells, found).items():
            torch.testing.assert_close(probabilities.float(), expected[cell].float(), atol=1e-5, rtol=1e-3)
        if step == 0:
            assert torch.equal(found, plain)
        else:
            assert not torch.equal(found, plain)
        before = by_cell(cells, plain)


def test_levels_have_memories_of_their_own_and_a_new_decode_starts_without() -> None:
    batch = blank(6)
    cells, changed = batch.valid, differential(contextual)
    for progress in (0.0, 0.5):  # two levels decoded together
        for segment in (COARSE, FINE):
            same = torch.equal(changed(batch, cells, segment, progress), contextual(batch, cells, segment, progress))
            assert same == (progress == 0)
    for segment, progress in ((COARSE, 0.0), (FINE, 0.25)):
        assert torch.equal(changed(batch, cells, segment, progress), contextual(batch, cells, segment, progress))


def test_a_forbidden_code_stays_forbidden() -> None:
    batch = blank(6)

    def forbidding(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        logits = contextual(batch, cells, segment, progress) + progress * torch.arange(16)
        logits[:, 3] = -torch.inf
        return logits

    changed = differential(forbidding, share=1.0)
    changed(batch, batch.valid, COARSE, 0.0)
    found = changed(batch, batch.valid, COARSE, 0.5)
    assert found[:, 3].isneginf().all()
    assert found[:, :3].isfinite().all()
    assert not torch.equal(found, forbidding(batch, batch.valid, COARSE, 0.5))


Wrapper = Callable[[list[torch.Generator]], Callable[..., Tensor]]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda generators: noise_regularised(contextual, generators, steps=5),
        lambda generators: differential(contextual),
        lambda generators: differential(noise_regularised(contextual, generators, steps=5), 0.5),
    ],
    ids=["noise", "differential", "both"],
)
def test_rows_of_a_decode_equal_their_solo_runs(wrapped: Wrapper) -> None:
    sampler, lengths = ConfidenceSampler(steps=5), (12, 1, 7)
    generators = seeded(10, 11, 12)
    together, _ = sampler.sample(wrapped(generators), blank(*lengths), COARSE, generators)
    plain, _ = sampler.sample(contextual, blank(*lengths), COARSE, seeded(10, 11, 12))
    assert not torch.equal(together.ids, plain.ids)
    for row, length in enumerate(lengths):
        own = seeded(10 + row)
        alone, _ = sampler.sample(wrapped(own), blank(length), COARSE, own)
        assert torch.equal(together.alone(row).ids, alone.ids)
