"""Zigzag: forth, back, forth, and nothing but cells of this decode."""

import pytest
import torch
from builders.draws import seeded
from torch import Tensor

from maskgen.masking.counts import masked_after
from maskgen.masking.schedule import Cosine, Linear
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.sampling.zigzag import ZigzagSampler
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, Segment, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=5),
        Modality(name="image", kind="image", num_levels=1, codebook_size=16),
    ]
)
IMAGE = SPACE.segment("image", 0)


def picture(rows: int, columns: int, unknown: int, seed: int) -> dict[str, Tensor]:
    codes = torch.randint(16, (1, rows, columns), generator=seeded(seed)[0])
    codes.view(-1)[torch.randperm(rows * columns, generator=seeded(seed)[0])[:unknown]] = UNKNOWN
    return {"text": torch.randint(5, (1, 2), generator=seeded(seed)[0]), "image": codes}


def hashed(salt: int, batch: TokenBatch, cells: Tensor) -> Tensor:
    """Logits that depend on place and on all that a row knows; squared, as cells whose logits differ by a constant alone would tie."""
    context = (batch.ids.sum(dim=2) * batch.valid).sum(dim=1, keepdim=True).expand_as(cells)[cells]
    keys = (context * 31 + batch.coords[cells] @ torch.tensor([7, 13, 17]) + salt)[:, None]
    return ((keys * 7919 + torch.arange(IMAGE.size) ** 3 * 104729) * 2654435761 % 1000003).float().square() / 3e11


def forward(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    return hashed(0, batch, cells)


def doubting(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    return hashed(99, batch, cells)


def naive_step(batch: TokenBatch, target: list[int], left: int) -> TokenBatch:
    """One greedy step on a batch of one row: the surest of the masked cells take their likeliest code until `left` are masked."""
    ids = batch.ids.clone()
    masked = [cell for cell in target if ids[0, cell, 0] == MASK]
    logprobs = {cell: forward(batch, one(batch, cell), IMAGE, 0.0)[0].log_softmax(dim=0) for cell in masked}
    for cell in sorted(masked, key=lambda cell: float(logprobs[cell].max()))[left:]:
        ids[0, cell, 0] = IMAGE.offset + int(logprobs[cell].argmax())
    return batch.with_ids(ids)


def naive_back(batch: TokenBatch, target: list[int], count: int) -> TokenBatch:
    ids = batch.ids.clone()
    known = [cell for cell in target if ids[0, cell, 0] != MASK]
    likely = {
        cell: float(doubting(batch, one(batch, cell), IMAGE, 0.0)[0].log_softmax(dim=0)[ids[0, cell, 0] - IMAGE.offset]) for cell in known
    }
    for cell in sorted(known, key=likely.__getitem__)[:count]:
        ids[0, cell, 0] = MASK
    return batch.with_ids(ids)


def one(batch: TokenBatch, cell: int) -> Tensor:
    return torch.arange(batch.modality.shape[1])[None] == cell


@pytest.mark.parametrize("unknown", [1, 7, 24])
def test_a_step_is_a_step_a_step_back_and_the_step_again(unknown: int) -> None:
    steps, batch = 5, pack([picture(4, 6, unknown, 1)], SPACE)
    sampler = ZigzagSampler(steps=steps, temperature=0.0, inner=ConfidenceSampler(choice_temperature=0.0), inverse=doubting)
    filled, trajectory = sampler.sample(forward, batch, IMAGE, seeded(0))
    target = (batch.ids[0, :, 0] == MASK).nonzero()[:, 0].tolist()
    now, before = batch, unknown
    for step in range(steps):
        left = int(masked_after(Cosine(), step, steps, torch.tensor([unknown])))
        now = naive_step(naive_back(naive_step(now, target, left), target, before - left), target, left)
        before = left
        expected = [int(now.ids[0, cell, 0]) for cell in target]
        codes = trajectory.codes[step, 0, target]
        assert torch.where(codes == UNKNOWN, MASK, codes + IMAGE.offset).tolist() == expected
    assert torch.equal(filled.ids, now.ids)


@pytest.mark.parametrize("inner", [None, ConfidenceSampler(schedule=Linear())])
def test_a_step_costs_two_passes_forth_and_one_back_and_ends_as_the_schedule_says(inner: ConfidenceSampler | None) -> None:
    asked: list[str] = []
    batch = pack([picture(4, 6, 24, 1), picture(3, 3, 5, 2)], SPACE)
    given = batch.ids[..., 0] != MASK

    def forth(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        asked.append(f"forth {progress}")
        assert (batch.ids[..., 0][cells] == MASK).all()
        return forward(batch, cells, segment, progress)

    def back(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        asked.append(f"back {progress}")
        assert (batch.ids[..., 0][cells] != MASK).all()
        assert not (cells & given).any()
        return doubting(batch, cells, segment, progress)

    filled, trajectory = ZigzagSampler(steps=4, schedule=Linear(), inner=inner, inverse=back).sample(forth, batch, IMAGE, seeded(0, 1))
    assert asked == [f"{way} {step / 4}" for step in range(4) for way in ("forth", "back", "forth")]
    assert torch.equal(filled.ids[given], batch.ids[given])
    for step, codes in enumerate(trajectory.codes):
        masked = ((codes == UNKNOWN) & ~given).sum(dim=1)
        assert torch.equal(masked, masked_after(Linear(), step, 4, torch.tensor([24, 5])))


def test_a_code_that_the_inverse_doubts_is_drawn_again() -> None:
    """The model errs while the row is blank; only the inverse sees it."""

    def learns(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        blank = (batch.ids[..., 0] == MASK).sum(dim=1) == 16
        wanted = torch.where(blank, 3, 8)[:, None].expand_as(cells)[cells]
        return 20.0 * torch.nn.functional.one_hot(wanted, segment.size).float()

    def knows(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        return 20.0 * torch.nn.functional.one_hot(torch.full((int(cells.sum()),), 8), segment.size).float()

    batch = pack([picture(4, 4, 16, 1)], SPACE)
    surest = ConfidenceSampler(steps=4, schedule=Linear(), choice_temperature=0.0)
    plain, _ = surest.sample(learns, batch, IMAGE, seeded(0))
    filled, _ = ZigzagSampler(steps=4, schedule=Linear(), inner=surest, inverse=knows).sample(learns, batch, IMAGE, seeded(0))
    target = batch.cells(IMAGE.index)
    assert (plain.ids[..., 0][target] == IMAGE.offset + 3).sum() == 4
    assert (filled.ids[..., 0][target] == IMAGE.offset + 3).sum() == 0


def test_rows_equal_their_solo_runs() -> None:
    samples = [picture(4, 6, 24, 1), picture(3, 3, 4, 2), picture(4, 6, 0, 3)]
    sampler = ZigzagSampler(steps=6, inner=ConfidenceSampler(), inverse=doubting)
    together, _ = sampler.sample(forward, pack(samples, SPACE), IMAGE, seeded(5, 6, 7))
    for row, sample in enumerate(samples):
        alone, _ = sampler.sample(forward, pack([sample], SPACE), IMAGE, seeded(5 + row))
        assert torch.equal(together.alone(row).ids, alone.ids)


def test_without_inverse_logits_the_decode_does_not_start() -> None:
    with pytest.raises(ValueError, match="needs logits for its step back"):
        ZigzagSampler(steps=2).sample(forward, pack([picture(2, 2, 4, 1)], SPACE), IMAGE, seeded(0))


def test_inverse_logits_that_are_no_numbers_are_refused() -> None:
    def broken(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        return torch.full((int(cells.sum()), segment.size), torch.nan)

    with pytest.raises(FloatingPointError, match="step back are not finite at step 0 of 2"):
        ZigzagSampler(steps=2, inverse=broken).sample(forward, pack([picture(2, 2, 4, 1)], SPACE), IMAGE, seeded(0))
