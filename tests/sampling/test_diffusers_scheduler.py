"""Schedulers of diffusers in our loop: the contract, their own loop on the same noise, and our samplers where the rules agree."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from builders.draws import seeded
from torch import Tensor

from maskgen.decoding.settings import GenerationSettings
from maskgen.masking.schedule import Even
from maskgen.sampling import base, by_name, names
from maskgen.sampling.blocks import BlockSampler
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.sampling.contract import CHECKS, IMAGE, SPACE, MakeSampler, contextual, picture
from maskgen.sampling.diffusers_scheduler import DiffusersSchedulerSampler
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import MASK, Segment

diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install maskgen[diffusers]")

KINDS: dict[str, dict[str, Any]] = {
    "block refinement": {},
    "block refinement, threshold and editing": {"scheduler_options": {"threshold": 0.3, "editing_threshold": 0.4}},
    "block refinement, uniform": {"corruption": "uniform"},
    "amused": {"scheduler": "AmusedScheduler"},
    "entropy bound": {"scheduler": "EntropyBoundScheduler"},
    "entropy bound, uniform": {"scheduler": "EntropyBoundScheduler", "corruption": "uniform"},
    "ddim": {"scheduler": "DiscreteDDIMScheduler"},
    "ddim, corrector": {"scheduler": "DiscreteDDIMScheduler", "scheduler_options": {"corrector_steps": 2, "corrector_k": 3}},
}
NO_TEMPERATURE = ("amused", "entropy bound", "entropy bound, uniform")


def checks(kind: str) -> list[Callable[[MakeSampler], None]]:
    """The contract's checks, without options that the scheduler cannot use and, to save time, with 7 steps alone in some."""
    left_out = {*(["follows an oracle, temperature 0"] if kind in NO_TEMPERATURE else [])}
    left_out |= set() if kind.startswith("block") else {"follows an oracle, top-k and top-p"}
    left_out |= {f"a row is the same alone and in any batch, {steps} steps" for steps in (1, 12)} if kind != "amused" else set()
    return [check for name, check in CHECKS.items() if name not in left_out]


@pytest.mark.parametrize("kind", KINDS)
def test_every_scheduler_keeps_the_contract_of_samplers(kind: str) -> None:
    for check in checks(kind):
        check(partial(DiffusersSchedulerSampler, **KINDS[kind]))


def by_place(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    """Logits of a place that depend on every code of the row: both loops see the same model."""
    seen = (batch.ids[..., 0] * torch.arange(1, batch.ids.shape[1] + 1)).sum(dim=1)
    tables = [torch.randn(cells.shape[1], segment.size, generator=torch.Generator().manual_seed(int(one))) for one in seen]
    return 3 * torch.stack(tables)[cells]


def their_loop(kind: str, scheduler: Any, steps: int, canvas: Tensor, generator: torch.Generator) -> Tensor:
    """The loop of AmusedPipeline, LLaDA2Pipeline and DiffusionGemmaPipeline, over a row of picture cells [1, length]."""
    uniform, sample, mask = "ddim" in kind or "uniform" in kind, canvas, IMAGE.size
    start = pack([{"image": torch.full((1, 4, 4), -1)}], SPACE)
    scheduler.set_timesteps(steps, **({"block_length": canvas.shape[1]} if kind.startswith("block") else {}))
    for number, timestep in enumerate(scheduler.timesteps):
        now = start.with_ids(torch.where(sample == mask, MASK, sample + IMAGE.offset)[..., None])
        logits = by_place(now, torch.ones_like(sample, dtype=torch.bool), IMAGE, 0.0)[None]
        options: dict[str, Any] = {"mask_token_id": None if uniform else mask, "temperature": 1.0} if kind.startswith("block") else {}
        options |= {"temperature": 1.0} if kind == "ddim" else {}
        timestep = number if kind.startswith("block") else timestep
        sample = scheduler.step(logits, timestep, sample, generator=generator, **options).prev_sample
    return sample


@pytest.mark.parametrize("kind", ["amused", "block refinement", "block refinement, uniform", "ddim"])
def test_a_whole_row_is_that_of_the_schedulers_own_loop_on_the_same_generator(kind: str) -> None:
    options = {"scheduler": "BlockRefinementScheduler", **KINDS[kind]}
    for seed, steps in ((0, 1), (1, 5), (2, 12)):
        sampler = DiffusersSchedulerSampler(steps=steps, **options)
        start = pack([{"image": torch.full((1, 4, 4), -1)}], SPACE)
        filled, _ = sampler.sample(by_place, start, IMAGE, seeded(seed))
        scheduler, mask = sampler.made(IMAGE.size)
        generator = torch.Generator().manual_seed(seed)
        random = sampler.uniform
        canvas = torch.randint(0, IMAGE.size, (1, 16), generator=generator) if random else torch.full((1, 16), mask)
        wanted = their_loop(kind, scheduler, steps, canvas, generator)
        assert torch.equal(filled.ids[..., 0] - IMAGE.offset, wanted)


def test_amused_is_our_confidence_sampler_on_the_same_codes_and_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are the likeliest on both sides and the Gumbel noise is given; counts agree, as the rows have no known cell."""
    from diffusers.schedulers import scheduling_amused

    tables = {length: torch.randn(length, generator=torch.Generator().manual_seed(3)) for length in (64, 15)}
    monkeypatch.setattr(torch, "multinomial", lambda probabilities, *_, **__: probabilities.argmax(dim=-1, keepdim=True))
    monkeypatch.setattr(scheduling_amused, "gumbel_noise", lambda probabilities, **_: tables[probabilities.shape[1]][None])
    rows = [{"image": torch.full((1, 8, 8), -1)}, {"image": torch.full((1, 3, 5), -1)}]

    def planted(cells: Tensor, *_: object) -> Tensor:
        whole = torch.zeros(cells.shape, dtype=torch.float64)
        whole[0, :64], whole[1, :15] = tables[64], tables[15]
        return whole * cells

    theirs = DiffusersSchedulerSampler(steps=10, scheduler="AmusedScheduler", choice_temperature=2.0)
    wanted = theirs.sample(contextual, pack(rows, SPACE), IMAGE, seeded(0, 1))[1]
    monkeypatch.setattr(base, "row_noise", planted)
    ours = ConfidenceSampler(steps=10, temperature=0.0, choice_temperature=2.0, annealing="amused")
    found = ours.sample(contextual, pack(rows, SPACE), IMAGE, seeded(0, 1))[1]
    assert torch.equal(found.codes, wanted.codes)


def test_block_refinement_without_threshold_is_the_block_sampler() -> None:
    """The likeliest codes, whole counts a step: no noise is drawn on either side. Blocks are those of our sampler."""
    options: dict[str, Any] = {"scheduler_options": {"threshold": 1.0}}
    batch = pack([picture(8, 8, 61, 1), picture(4, 6, 24, 2)], SPACE)
    inner = DiffusersSchedulerSampler(temperature=0.0, **options)
    theirs = BlockSampler(steps=20, temperature=0.0, block_size=8, inner=inner).sample(by_place, batch, IMAGE, seeded(0, 1))[1]
    ours = BlockSampler(steps=20, temperature=0.0, block_size=8, schedule=Even()).sample(by_place, batch, IMAGE, seeded(0, 1))[1]
    assert torch.equal(theirs.codes, ours.codes)


def test_entropy_bound_decides_every_cell_and_leaves_no_random_code_at_the_end() -> None:
    """EntropyBoundScheduler leaves random codes at cells that its last step does not accept; here the oracle's code stands everywhere."""
    wanted = torch.arange(16).view(1, 4, 4)

    def unsure(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        codes = wanted.view(-1)[cells.nonzero()[:, 1]]
        return (
            torch.full((len(codes), segment.size), -torch.inf).scatter(1, codes[:, None], 0.0)
            if progress > 0.6
            else torch.zeros(len(codes), segment.size)
        )

    for corruption in ("mask", "uniform"):
        sampler = DiffusersSchedulerSampler(
            steps=3, scheduler="EntropyBoundScheduler", scheduler_options={"entropy_bound": 0.0}, corruption=corruption
        )
        filled, trajectory = sampler.sample(unsure, pack([{"image": torch.full((1, 4, 4), -1)}], SPACE), IMAGE, seeded(0))
        kept = trajectory.codes[1, 0] if corruption == "mask" else torch.full((16,), -1)
        assert torch.equal(filled.ids[0, :, 0] - IMAGE.offset, torch.where(kept >= 0, kept, wanted.view(-1)))
        assert int((kept >= 0).sum()) <= 2


def test_a_scheduler_object_is_copied_and_its_mask_must_not_be_a_code() -> None:
    scheduler = diffusers.BlockRefinementScheduler(threshold=0.5)
    sampler = DiffusersSchedulerSampler(steps=4, scheduler=scheduler, corruption="uniform")
    batch = pack([picture(4, 4, 16)], SPACE)
    first, second = (unpack(sampler.sample(contextual, batch, IMAGE, seeded(0))[0], SPACE)[0]["image"] for _ in range(2))
    assert torch.equal(first, second)
    assert scheduler._committed is None
    wrong = DiffusersSchedulerSampler(scheduler=diffusers.AmusedScheduler(mask_token_id=3))
    with pytest.raises(ValueError, match="mask_token_id 3 of the scheduler is a code of this level, which has 16"):
        wrong.sample(contextual, batch, IMAGE, seeded(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "EulerDiscreteScheduler"}, "scheduler must be one of AmusedScheduler"),
        ({"min_p": 0.1}, "know no min_p and typical_p"),
        ({"scheduler": "AmusedScheduler", "temperature": 0.5}, "AmusedScheduler takes no temperature"),
        ({"scheduler": "EntropyBoundScheduler", "sharpening": 2.0}, "EntropyBoundScheduler takes no sharpening"),
        ({"scheduler": "AmusedScheduler", "cooling": "exact"}, "AmusedScheduler takes no cooling"),
        ({"scheduler": "DiscreteDDIMScheduler", "top_k": 3}, "DiscreteDDIMScheduler takes no top_k"),
        ({"choice_temperature": 1.0}, "BlockRefinementScheduler takes no choice_temperature"),
        ({"scheduler": "DiscreteDDIMScheduler", "corruption": "mask"}, "does not work with mask noise"),
        ({"scheduler_options": {"eta": 1}}, "BlockRefinementScheduler has no options eta; it has block_length"),
    ],
)
def test_options_that_a_scheduler_cannot_use_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusersSchedulerSampler(**options).sample(contextual, pack([picture(4, 4, 16)], SPACE), IMAGE, seeded(0))


def test_it_is_found_by_name_and_is_no_part_of_the_catalogue() -> None:
    assert by_name("diffusers_scheduler") is DiffusersSchedulerSampler
    assert "diffusers_scheduler" not in names()
    options = {"scheduler": "AmusedScheduler", "scheduler_options": {"masking_schedule": "linear"}}
    settings = GenerationSettings.from_dict(
        {"sampler": "diffusers_scheduler", "sampler_options": options, "steps": 5, "choice_temperature": 2}
    )
    assert settings.at(0) == DiffusersSchedulerSampler(steps=5, choice_temperature=2.0, **options)


def test_without_diffusers_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"^BlockRefinementScheduler needs diffusers: pip install maskgen\[diffusers\]$"):
        DiffusersSchedulerSampler().sample(contextual, pack([picture(4, 4, 16)], SPACE), IMAGE, seeded(0))
