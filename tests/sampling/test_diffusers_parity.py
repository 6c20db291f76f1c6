"""Our orders beside the schedulers of diffusers: AmusedScheduler on the same draws, EntropyBoundScheduler on the same scores."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from maskgen.masking.schedule import Cosine, Linear, MaskSchedule
from maskgen.sampling import base
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.sampling.entropy_bound import EntropyBoundSampler
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, Segment, TokenSpace

amused = pytest.importorskip("diffusers.schedulers.scheduling_amused")
entropy_bound = pytest.importorskip("diffusers.schedulers.scheduling_entropy_bound")

SPACE = TokenSpace([Modality(name="image", kind="image", num_levels=1, codebook_size=32)])
IMAGE = SPACE.segment("image", 0)


def table_logits(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    """Scores of a place, another table for each count of known cells."""
    known = int((batch.ids != MASK).sum())
    table = torch.randn(cells.shape[1], segment.size, generator=torch.Generator().manual_seed(known))
    return 2 * table[cells.nonzero()[:, 1]]


class Tape:
    """Tokens and Gumbel noise of each step of our decode, laid out over all cells."""

    def __init__(self) -> None:
        self.cells = torch.zeros(0)
        self.tokens: list[Tensor] = []
        self.noise: list[Tensor] = []

    def logits(self, batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        self.cells = cells
        return table_logits(batch, cells, segment, progress)

    def draw(self, drawing: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
        def recorded(*arguments: object, **options: object) -> tuple[Tensor, Tensor]:
            codes, logprobs = drawing(*arguments, **options)
            self.tokens.append(torch.zeros(self.cells.shape, dtype=torch.long).masked_scatter(self.cells, codes))
            return codes, logprobs

        return recorded

    def row_noise(self, drawing: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def recorded(*arguments: object) -> Tensor:
            self.noise.append(drawing(*arguments))
            return self.noise[-1]

        return recorded


@pytest.mark.parametrize(
    ("grid", "steps", "law", "name"),
    [
        ((8, 8), 12, Linear(), "linear"),
        ((16, 16), 12, Linear(), "linear"),
        ((17, 15), 12, Cosine(), "cosine"),
        ((16, 16), 13, Cosine(), "cosine"),
    ],
)
@pytest.mark.parametrize("choice_temperature", [0.5, 2.0, 10.5])
def test_amused_annealing_gives_the_tokens_of_the_scheduler_of_diffusers(
    monkeypatch: pytest.MonkeyPatch, grid: tuple[int, int], steps: int, law: MaskSchedule, name: str, choice_temperature: float
) -> None:
    """Cases in which the counts agree. A full mask: theirs come from the length of the row, ours from its unknown cells; neither the
    limit of one cell a step nor that of one cell left is reached before the last step, which takes all in both. And no cosine of a whole
    count: in 12 steps 256 cells leave exactly 128 after the eighth, where their float32 gives 127.
    """
    tape = Tape()
    monkeypatch.setattr(base, "draw", tape.draw(base.draw))
    monkeypatch.setattr(base, "row_noise", tape.row_noise(base.row_noise))
    batch = pack([{"image": torch.full((1, *grid), -1)}], SPACE)
    sampler = ConfidenceSampler(steps=steps, choice_temperature=choice_temperature, annealing="amused", schedule=law)
    _, trajectory = sampler.sample(tape.logits, batch, IMAGE, [torch.Generator().manual_seed(0)])

    scheduler = amused.AmusedScheduler(mask_token_id=-1, masking_schedule=name)
    scheduler.set_timesteps(steps, choice_temperature)
    sample = torch.full_like(trajectory.codes[0], -1)
    for step, timestep in enumerate(scheduler.timesteps):
        monkeypatch.setattr(torch, "multinomial", lambda *_, planted=tape.tokens[step], **__: planted.view(-1, 1))
        noise = tape.noise[step].float()
        monkeypatch.setattr(amused, "gumbel_noise", lambda *_, planted=noise, **__: planted)
        now = batch.with_ids(torch.where(sample == -1, MASK, sample + IMAGE.offset)[..., None])
        logits = table_logits(now, torch.ones_like(now.valid), IMAGE, 0.0)[None]
        sample = scheduler.step(logits, timestep, sample).prev_sample
        assert torch.equal(trajectory.codes[step], sample)
    assert (sample >= 0).all()


@pytest.mark.parametrize("bound", [0.05, 0.1, 2.0])
def test_entropy_bound_accepts_what_the_scheduler_of_diffusers_accepts(bound: float) -> None:
    scores = 8 * torch.randn(64, IMAGE.size, generator=torch.Generator().manual_seed(3))
    theirs = entropy_bound.EntropyBoundScheduler(entropy_bound=bound, t_max=1.0, t_min=1.0)
    accepted = theirs.step(scores[None], 0, torch.zeros(1, 64, dtype=torch.long)).accepted_index
    batch = pack([{"image": torch.full((1, 8, 8), -1)}], SPACE)
    _, trajectory = EntropyBoundSampler(steps=64, bound=bound).sample(
        lambda batch, cells, segment, progress: scores[cells[0]], batch, IMAGE, [torch.Generator().manual_seed(0)]
    )
    assert 1 < int(accepted.sum()) < 64
    assert torch.equal(trajectory.changed[0], accepted)
