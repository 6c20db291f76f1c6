"""Our samplers in the pipelines of diffusers: our own loop on the same generator, AmusedPipeline, LLaDA2Pipeline, files."""

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders.draws import seeded
from builders.hub_folders import clip_encoder, clip_tokenizer, scrambled, vq_model
from torch import Tensor, nn

from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.amused import published_settings
from maskgen.masking.counts import masked_after
from maskgen.sampling import by_name, names
from maskgen.sampling.diffusers_scheduler import DiffusersSchedulerSampler
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, Segment, TokenSpace

diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install maskgen[diffusers]")
from maskgen.interop.maskgen_scheduler import MaskgenScheduler  # noqa: E402

CODES, SIDE, MASKED = 24, 4, 31
SPACE = TokenSpace([Modality(name="image", kind="image", num_levels=1, codebook_size=CODES)])
IMAGE = SPACE.segment("image", 0)


def table(ids: Tensor) -> Tensor:
    """Logits of every cell, other ones for each state of a row; whole numbers of 8, so that sums are exact."""
    seen = (ids * torch.arange(1, ids.shape[1] + 1)).sum(dim=1)
    return torch.stack([torch.randn(ids.shape[1], CODES, generator=torch.Generator().manual_seed(int(one))) for one in seen]) * 2


def model(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    return table(batch.ids[..., 0])[cells]


def decoded(scheduler: Any, sample: Tensor, steps: int, generators: Any) -> Tensor:
    """The loop of a pipeline of diffusers."""
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        flat = sample.flatten(1)
        logits = table(torch.where(flat == MASKED, MASK, flat + IMAGE.offset))
        logits = logits.view(len(sample), SIDE, SIDE, CODES).permute(0, 3, 1, 2)
        sample = scheduler.step(logits, timestep, sample, generator=generators).prev_sample
    return sample


@pytest.mark.parametrize("name", [name for name in names() if not by_name(name).needs])
def test_a_decode_in_diffusers_is_that_of_our_loop_on_the_same_generators(name: str) -> None:
    """Two rows with known cells at other places; codes are compared, so also what is taken back on the way counts."""
    steps = 16 if name == "first_hitting" else 5
    start = torch.full((2, SIDE, SIDE), -1)
    start[0, 0], start[1, :, 1:3] = torch.arange(SIDE), 7
    settings = GenerationSettings(sampler=name, steps=(steps,))
    wanted, _ = settings.at(0).sample(model, pack([{"image": row[None]} for row in start], SPACE), IMAGE, seeded(3, 4))
    scheduler = MaskgenScheduler(sampler=name, mask_token_id=MASKED)
    found = decoded(scheduler, start.masked_fill(start == -1, MASKED), steps, seeded(3, 4))
    assert torch.equal(found.flatten(1), wanted.ids[..., 0] - IMAGE.offset)
    assert torch.equal(found[start >= 0], start[start >= 0])


def test_there_and_back_is_the_sampler_itself() -> None:
    """Our sampler as a scheduler of diffusers, as a sampler of ours."""
    for name in ("confidence", "remdm"):
        batch = pack([{"image": torch.full((1, SIDE, SIDE), -1)}], SPACE)
        wrapped = DiffusersSchedulerSampler(steps=6, scheduler=MaskgenScheduler(sampler=name, mask_token_id=MASKED))
        wanted = GenerationSettings(sampler=name, steps=(6,)).at(0).sample(model, batch, IMAGE, seeded(5))[0]
        if name == "confidence":
            assert torch.equal(wrapped.sample(model, batch, IMAGE, seeded(5))[0].ids, wanted.ids)
        assert not (wrapped.sample(model, batch, IMAGE, seeded(5))[0].ids == MASK).any()


@pytest.fixture(scope="module")
def amused(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny AmusedPipeline."""
    place = tmp_path_factory.mktemp("amused")
    words = clip_tokenizer(place / "tokenizer")
    sizes = {"hidden_size": 32, "in_channels": 16, "block_out_channels": 24, "block_num_heads": 2, "num_hidden_layers": 1}
    sizes |= {"sample_size": SIDE, "num_attention_heads": 4, "intermediate_size": 40, "encoder_hidden_size": 20, "cond_embed_dim": 12}
    sizes |= {"micro_cond_encode_dim": 8, "micro_cond_embed_dim": 40, "vocab_size": MASKED + 1, "codebook_size": CODES, "num_res_blocks": 1}
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    made = diffusers.AmusedPipeline(
        vq_model(place / "vqvae", CODES),
        words,
        clip_encoder(place / "text_encoder", 20, 12, words),
        scrambled(diffusers.UVit2DModel(**sizes)),
        diffusers.AmusedScheduler(mask_token_id=MASKED),
    )
    made.set_progress_bar_config(disable=True)
    return made


def test_amused_pipeline_draws_the_same_greedily_with_our_scheduler(amused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "multinomial", lambda probabilities, *_, **__: probabilities.argmax(dim=-1, keepdim=True))
    options = {"num_inference_steps": 5, "guidance_scale": 3.0, "temperature": (0, 0), "output_type": "latent"}
    theirs = amused(["a dog", "a cat"], **options).images
    ours = MaskgenScheduler.from_config(amused.scheduler.config, sampler_options={"temperature": 0.0})
    monkeypatch.setattr(amused, "scheduler", ours)
    found = amused(["a dog", "a cat"], **options).images
    assert theirs.unique().numel() >= 3
    assert torch.equal(found, theirs)


@pytest.mark.parametrize("name", ["halton", "remdm"])
def test_amused_pipeline_keeps_known_tokens_and_is_decided_by_its_generator(
    amused: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(amused, "scheduler", MaskgenScheduler.from_config(amused.scheduler.config, sampler=name))
    latents = torch.full((2, SIDE, SIDE), MASKED)
    latents[0, 1], latents[1, :, 3] = 5, 9
    known = latents != MASKED
    options = {"num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "latent"}
    first, second, third = (
        amused(["a dog"] * 2, latents=latents.clone(), generator=torch.Generator().manual_seed(seed), **options).images
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(first[known], latents[known])
    assert int(first.max()) < CODES


def test_a_pipeline_with_our_scheduler_is_saved_and_loaded(amused: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = {"choice_temperature": 3.0, "top_k": 5}
    monkeypatch.setattr(amused, "scheduler", MaskgenScheduler.from_config(amused.scheduler.config, sampler_options=options))
    amused.register_modules(scheduler=amused.scheduler)
    amused.save_pretrained(tmp_path)
    again = MaskgenScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert (
        again.sampler(7)
        == amused.scheduler.sampler(7)
        == GenerationSettings(steps=(7,), choice_temperature=(3.0,), top_k=5, schedule="cosine").at(0)
    )
    loaded = diffusers.AmusedPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert isinstance(loaded.scheduler, MaskgenScheduler)
    found = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert published_settings(found, steps=7, guidance_scale=1.0).at(0) == again.sampler(7)
    assert dict(loaded.scheduler.config)["sampler_options"] == options


class Blocks(nn.Module):
    """A causal-block language model of tables: logits depend on every token before the end of the block."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, ids: Tensor, **_: Any) -> Any:
        logits = table(ids)
        logits[..., CODES - 1] = -torch.inf  # the mask is a token of the vocabulary
        return SimpleNamespace(logits=logits)


def test_llada2_pipeline_writes_the_same_with_our_scheduler() -> None:
    """Greedy, threshold 1: whole counts of the surest tokens. Prompts end inside a block.

    With an end token answers are equal up to it, and ours stop there. BlockRefinementScheduler goes on where the prompt too holds the end
    token, as chat templates do, or where the end was written before a token ahead of it.
    """
    prompt = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    options = {
        "input_ids": prompt,
        "gen_length": 11,
        "block_length": 4,
        "num_inference_steps": 4,
        "threshold": 1.0,
        "mask_token_id": CODES - 1,
    }
    options |= {"output_type": "seq", "editing_threshold": None, "eos_early_stop": True}
    ours = MaskgenScheduler(sampler_options={"choice_temperature": 0.0}, masking_schedule="even", block_length=4)
    made = {}
    for end in (None, 3):
        for name, scheduler in (("theirs", diffusers.BlockRefinementScheduler(block_length=4)), ("ours", ours)):
            pipeline = diffusers.LLaDA2Pipeline(model=Blocks(), scheduler=scheduler, tokenizer=None)
            pipeline.set_progress_bar_config(disable=True)
            made[name] = pipeline(**options, eos_token_id=end).sequences
        for ours_row, their_row in zip(made["ours"], made["theirs"], strict=True):
            length = 11 if end is None else ours_row.tolist().index(end) + 1
            assert torch.equal(ours_row[:length], their_row[:length]), end
    assert made["ours"].shape == (2, 11)
    assert (made["ours"][:, -1] == CODES - 1).all()
    assert (made["theirs"][:, -1] != CODES - 1).all()


def test_noise_masks_the_counts_of_the_schedule_in_every_row() -> None:
    scheduler = MaskgenScheduler(mask_token_id=MASKED, masking_schedule="linear")
    scheduler.set_timesteps(7)
    for timestep in range(7):
        noised = scheduler.add_noise(torch.zeros(3, 5, 5, dtype=torch.long), timestep, seeded(0, 1, 0))
        count = int(masked_after(scheduler.sampler(1).schedule, timestep, 7, torch.tensor([25]))[0])
        assert (noised == MASKED).sum(dim=(1, 2)).tolist() == [count] * 3
        assert torch.equal(noised[0], noised[2])


def test_what_cannot_run_is_said() -> None:
    with pytest.raises(ValueError, match="the sampler zigzag needs inverse, which a scheduler is not given"):
        MaskgenScheduler(sampler="zigzag")
    with pytest.raises(ValueError, match="no sampler is called 'euler'"):
        MaskgenScheduler(sampler="euler")
    sample = torch.full((1, 6), MASKED)
    with pytest.raises(ValueError, match="works on masked tokens; give it mask_token_id"):
        MaskgenScheduler().step(torch.zeros(1, 6, CODES), 0, sample)
    with pytest.raises(ValueError, match=r"holds tokens outside of \[0, 24\) that are not the mask 30"):
        MaskgenScheduler(mask_token_id=30).step(torch.zeros(1, 6, CODES), 0, sample)
    with pytest.raises(ValueError, match=r"logits of shape \(1, 5, 24\) for tokens of shape \(1, 6\)"):
        MaskgenScheduler(mask_token_id=MASKED).step(torch.zeros(1, 5, CODES), 0, sample)


def test_without_diffusers_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.configuration_utils", None)
    monkeypatch.delitem(sys.modules, "maskgen.interop.maskgen_scheduler")
    with pytest.raises(ImportError, match=r"^MaskgenScheduler needs diffusers: pip install maskgen\[diffusers\]$"):
        __import__("maskgen.interop.maskgen_scheduler")
