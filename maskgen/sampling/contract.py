"""What every sampler must keep, as checks for a test suite: maskgen's own tests run them, and so can those of a sampler of yours.

```python
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_contract(check):
    check(MySampler)
```
A check takes what makes a sampler (a class, or a function with the keywords of `Sampler`) and raises AssertionError where it fails.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from maskgen.masking.schedule import Cosine, Linear
from maskgen.masking.time_shift import Shifted
from maskgen.sampling.base import Sampler
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import MASK, Modality, Segment, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="image", kind="image", num_levels=1, codebook_size=16),
        Modality(name="audio", kind="audio", num_levels=3, codebook_size=8),
    ]
)
IMAGE = SPACE.segment("image", 0)
MakeSampler = Callable[..., Sampler]


def picture(rows: int, columns: int, unknown: int, seed: int = 0) -> dict[str, Tensor]:
    """A caption and a picture with that many unknown cells at random places."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(16, (1, rows, columns), generator=generator)
    codes.view(-1)[torch.randperm(rows * columns, generator=generator)[:unknown]] = -1
    return {"text": torch.randint(11, (1, 1 + seed % 4), generator=generator), "image": codes}


def contextual(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    """Logits that depend on the place of a cell, on progress and on all that its row knows; whole numbers, so sums are exact."""
    context = (batch.ids.sum(dim=2) * batch.valid).sum(dim=1, keepdim=True).expand_as(cells)[cells]
    time, row, column = batch.coords[cells].unbind(dim=1)
    keys = (context * 31 + time * 7 + row * 13 + column * 17 + round(progress * 100))[:, None]
    return ((keys + torch.arange(segment.size) * 5) * 2654435761 % 1013).float() / 300


def oracle(answer: TokenBatch) -> Callable[..., Tensor]:
    """A model that knows the answer."""

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        codes = answer.ids[..., segment.level][cells] - segment.offset
        return 60.0 * torch.nn.functional.one_hot(codes, segment.size).float()

    return logits_fn


def blank(batch: TokenBatch, segment: Segment) -> TokenBatch:
    """The batch with every cell of the segment's modality unknown at its level."""
    ids = batch.ids.clone()
    ids[..., segment.level][batch.cells(segment.index)] = MASK
    return batch.with_ids(ids)


def _seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def follows_an_oracle(make: MakeSampler, **options: int | float) -> None:
    """Certain logits give the answer, whatever the order of the cells."""
    answer = pack([picture(8, 8, 0, 1), picture(5, 9, 0, 2)], SPACE)
    filled, _ = make(steps=6, **options).sample(oracle(answer), blank(answer, IMAGE), IMAGE, _seeded(0, 1))
    assert torch.equal(filled.ids, answer.ids)


def returns_known_cells(make: MakeSampler) -> None:
    """Known cells come back, no tensor of the caller or of the model is edited, and new codes are codes of the segment."""
    batch = pack([picture(8, 8, 30, 1), picture(4, 4, 16, 2)], SPACE)
    before = {field.name: getattr(batch, field.name).clone() for field in dataclasses.fields(batch) if field.name != "features"}
    handed: list[tuple[Tensor, Tensor]] = []
    sampler = make(steps=5)

    def logits_fn(current: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        assert (batch.ids[..., 0][cells] == MASK).all(), "only what was unknown at the start is asked for"
        assert sampler.revokes or (current.ids[..., 0][cells] == MASK).all()
        logits = contextual(current, cells, segment, progress)
        handed.append((logits, logits.clone()))
        return logits

    filled, _ = sampler.sample(logits_fn, batch, IMAGE, _seeded(0, 1))
    assert all(torch.equal(getattr(batch, name), value) for name, value in before.items())
    assert all(torch.equal(logits, copy) for logits, copy in handed)
    target = batch.cells(IMAGE.index) & (batch.ids[..., 0] == MASK)
    assert torch.equal(filled.ids[~target], batch.ids[~target])
    written = filled.ids[..., 0][target]
    assert ((written >= IMAGE.offset) & (written < IMAGE.offset + IMAGE.size)).all()


def gives_a_row_the_same_alone_and_in_any_batch(make: MakeSampler, steps: int = 7) -> None:
    """A row's codes and log-probabilities depend on its own seed alone, bit for bit, in any batch and any order of it."""
    samples = [picture(8, 8, 0, 1), picture(8, 8, 1, 2), picture(3, 5, 5, 3), picture(8, 8, 64, 4)]
    sampler = make(steps=steps)
    filled, trajectory = sampler.sample(contextual, pack(samples, SPACE), IMAGE, _seeded(10, 11, 12, 13))
    together = unpack(filled, SPACE)
    order = [2, 0, 3, 1]
    rows = pack([samples[row] for row in order], SPACE)
    shuffled = unpack(sampler.sample(contextual, rows, IMAGE, _seeded(*(10 + row for row in order)))[0], SPACE)
    for row, sample in enumerate(samples):
        solo, own = sampler.sample(contextual, pack([sample], SPACE), IMAGE, _seeded(10 + row))
        length, taken = solo.ids.shape[1], len(own.codes)
        assert torch.equal(together[row]["image"], unpack(solo, SPACE)[0]["image"])
        assert torch.equal(together[row]["image"], shuffled[order.index(row)]["image"])
        assert torch.equal(trajectory.codes[:taken, row, :length], own.codes[:, 0])
        assert torch.equal(trajectory.logprobs[:taken, row, :length], own.logprobs[:, 0])


def is_decided_by_the_seed(make: MakeSampler) -> None:
    """The same seed gives the same codes, another seed gives others."""
    batch = pack([picture(8, 8, 64, 1)] * 3, SPACE)
    filled, _ = make(steps=4).sample(contextual, batch, IMAGE, _seeded(5, 6, 5))
    assert torch.equal(filled.ids[0], filled.ids[2])
    assert not torch.equal(filled.ids[0], filled.ids[1])


def decodes_one_level(make: MakeSampler, level: int) -> None:
    """The other levels of a cell stay as they are."""
    codes = torch.randint(8, (3, 12), generator=_seeded(0)[0])
    answer = pack([{"text": torch.tensor([[3, 4]]), "audio": codes}], SPACE)
    start = codes.clone()
    start[level:] = -1
    segment = SPACE.segment("audio", level)
    batch = pack([{"text": torch.tensor([[3, 4]]), "audio": start}], SPACE)
    filled, trajectory = make(steps=5).sample(oracle(answer), batch, segment, _seeded(0))
    expected = start.clone()
    expected[level] = codes[level]
    assert torch.equal(unpack(filled, SPACE)[0]["audio"], expected)
    assert torch.equal(trajectory.codes[-1, 0, 2:], codes[level])


def asks_nothing_where_nothing_is_unknown(make: MakeSampler) -> None:
    """Without unknown cells the model is never called."""

    def never(*_: object) -> Tensor:
        raise AssertionError("there is nothing to predict")

    batch = pack([picture(3, 3, 0)], SPACE)
    filled, trajectory = make().sample(never, batch, IMAGE, _seeded(0))
    assert torch.equal(filled.ids, batch.ids)
    assert trajectory.codes.shape == trajectory.changed.shape == (0, *batch.modality.shape)


def fills_only_the_wanted_modality(make: MakeSampler) -> None:
    """Unknown cells of other modalities stay unknown."""
    sample = {"text": torch.tensor([[1, -1, 2]]), "image": torch.full((1, 2, 3), -1)}
    filled, _ = make(steps=2).sample(contextual, pack([sample], SPACE), IMAGE, _seeded(0))
    result = unpack(filled, SPACE)[0]
    assert torch.equal(result["text"], sample["text"])
    assert (result["image"] >= 0).all()


def leaves_hidden_and_padding_cells(make: MakeSampler) -> None:
    """Cells that are not valid are never filled; all others are."""
    batch = pack([picture(2, 2, 4, 1), picture(4, 4, 16, 1)], SPACE)
    hidden = torch.zeros_like(batch.valid)
    hidden[1, -3:] = True
    filled, _ = make(steps=3).sample(contextual, batch.hide(hidden), IMAGE, _seeded(0, 1))
    assert torch.equal(filled.ids[hidden | ~batch.valid], batch.ids[hidden | ~batch.valid])
    assert (filled.ids[batch.valid & ~hidden] != MASK).all()


def ends_in_time(make: MakeSampler) -> None:
    """No cell is unknown after the last step, with any number of steps, of unknown cells and any schedule."""
    batch = pack([picture(4, 6, count, row) for row, count in enumerate((0, 1, 7, 24))], SPACE)
    for steps in (1, 2, 5, 20):
        for schedule in (Cosine(), Linear(), Shifted()):
            filled, trajectory = make(steps=steps, schedule=schedule).sample(contextual, batch, IMAGE, _seeded(0, 1, 2, 3))
            assert len(trajectory.codes) <= steps
            assert not (filled.ids == MASK).any()
            assert (filled.ids[..., 0][batch.cells(IMAGE.index)] >= IMAGE.offset).all()


CHECKS: dict[str, Callable[[MakeSampler], None]] = {
    "follows an oracle": follows_an_oracle,
    "follows an oracle, temperature 0": partial(follows_an_oracle, temperature=0.0),
    "follows an oracle, top-k and top-p": partial(follows_an_oracle, top_k=3, top_p=0.9),
    "returns known cells": returns_known_cells,
    **{
        f"a row is the same alone and in any batch, {steps} steps": partial(gives_a_row_the_same_alone_and_in_any_batch, steps=steps)
        for steps in (1, 7, 12)
    },
    "is decided by the seed": is_decided_by_the_seed,
    **{f"decodes level {level} alone": partial(decodes_one_level, level=level) for level in range(3)},
    "asks nothing where nothing is unknown": asks_nothing_where_nothing_is_unknown,
    "fills only the wanted modality": fills_only_the_wanted_modality,
    "leaves hidden and padding cells": leaves_hidden_and_padding_cells,
    "ends in time": ends_in_time,
}
"""All checks by name."""
