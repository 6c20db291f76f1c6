"""aMUSEd in our loop beside diffusers' own forward and pipeline, on random weights."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskgen.decoding.guidance import ConstantGuidance, GuidanceSchedule, IntervalGuidance, MaskRateGuidance
from maskgen.interop.amused_logits import Prompts, amused_logits, amused_space, blank_grids, read_prompts, read_uvit
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.tokens.micro import MicroConditions
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import MASK, TokenSpace

diffusers = pytest.importorskip("diffusers")

CODES, GRID = 24, (6, 4)
SPACE = amused_space(CODES)
IMAGE = SPACE.segment("image", 0)
MICRO = MicroConditions(width=64, height=96, crop=(3, 5), aesthetic=4.5)


def network(**changes: Any) -> Any:
    """A small UVit2DModel whose every weight is random, also those that start at 0 or 1."""
    sizes = {"hidden_size": 32, "in_channels": 16, "block_out_channels": 24, "block_num_heads": 2, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "intermediate_size": 40, "encoder_hidden_size": 20, "cond_embed_dim": 12}
    sizes |= {"micro_cond_encode_dim": 8, "micro_cond_embed_dim": 40, "vocab_size": CODES + 8, "codebook_size": CODES, "num_res_blocks": 2}
    model = diffusers.UVit2DModel(**{**sizes, **changes}).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        centre = float("norm" in name and name.endswith("weight"))
        parameter.copy_(noise * parameter.shape[-1] ** -0.5 * 1.5 if parameter.ndim == 2 else noise * 0.3 + centre)
    return model


def told(rows: int, seed: int) -> Prompts:
    generator = torch.Generator().manual_seed(seed)
    return Prompts(torch.randn(rows, 5, 20, generator=generator), torch.randn(rows, 12, generator=generator))


def partly(rows: int) -> Any:
    """Grids of which a part is unknown, more of it in later rows."""
    generator = torch.Generator().manual_seed(9)
    codes = torch.randint(CODES, (rows, 1, *GRID), generator=generator)
    hidden = torch.rand(codes.shape, generator=generator) < torch.linspace(0.4, 0.8, rows)[:, None, None, None]
    return pack([{"image": grid} for grid in codes.masked_fill(hidden, -1)], SPACE)


def own_forward(model: Any, batch: Any, prompts: Prompts) -> Tensor:
    """Logits [batch cells codes] of the model's forward."""
    ids = batch.ids[..., 0]
    grids = torch.where(ids == MASK, model.config.vocab_size - 1, ids - IMAGE.offset).view(-1, *GRID)
    logits: Tensor = model(grids, prompts.states, prompts.pooled, MICRO.repeated(len(prompts)))
    return logits.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("changes", [{}, {"use_bias": True}, {"downsample": True, "upsample": True}, {"block_out_channels": 32}], ids=str)
@pytest.mark.parametrize("rows", [1, 3])
def test_logits_equal_the_model_s_own_forward(changes: dict[str, Any], rows: int) -> None:
    model, batch, prompts, empty = network(**changes), partly(rows), told(rows, 1), told(rows, 2)
    every = torch.ones_like(batch.valid)
    conditional, unconditional = own_forward(model, batch, prompts), own_forward(model, batch, empty)
    assert (conditional - unconditional).abs().amax() > 0.1

    plain = amused_logits(model, prompts, MICRO)(batch, every, IMAGE, 0.0)
    torch.testing.assert_close(plain, conditional.flatten(0, 1), atol=1e-4, rtol=1e-4)
    guided = amused_logits(model, prompts, MICRO, ConstantGuidance(7.0), empty)
    wanted = unconditional + 7.0 * (conditional - unconditional)
    torch.testing.assert_close(guided(batch, every, IMAGE, 0.0), wanted.flatten(0, 1), atol=1e-3, rtol=1e-3)
    cells = batch.ids[..., 0] == MASK
    torch.testing.assert_close(guided(batch, cells, IMAGE, 0.5), wanted[cells], atol=1e-3, rtol=1e-3)


def test_guidance_may_be_off_for_some_steps_and_differ_between_rows() -> None:
    model, batch, prompts, empty = network(), partly(2), told(2, 1), told(2, 2)
    conditional, unconditional = own_forward(model, batch, prompts), own_forward(model, batch, empty)
    cells = batch.ids[..., 0] == MASK

    def found(guidance: GuidanceSchedule, progress: float) -> Tensor:
        return amused_logits(model, prompts, MICRO, guidance, empty)(batch, cells, IMAGE, progress)

    late = IntervalGuidance(4.0, 0.5, 1.0)
    torch.testing.assert_close(found(late, 0.0), conditional[cells], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found(late, 0.5), (unconditional + 4 * (conditional - unconditional))[cells], atol=1e-3, rtol=1e-3)
    scale = 1 + 3 * (~cells).float().mean(dim=1)[:, None, None]
    assert scale[0] != scale[1]
    wanted = (unconditional + scale * (conditional - unconditional))[cells]
    torch.testing.assert_close(found(MaskRateGuidance(4.0), 0.0), wanted, atol=1e-3, rtol=1e-3)


def test_half_precision_is_guided_at_least_as_exactly_as_by_the_model_s_own_forward() -> None:
    batch, prompts, empty, half = partly(4), told(4, 1), told(4, 2), network().bfloat16()
    cells = batch.ids[..., 0] == MASK
    exact = amused_logits(network(), prompts, MICRO, ConstantGuidance(8.0), empty)(batch, cells, IMAGE, 0.0)
    ours = amused_logits(half, prompts, MICRO, ConstantGuidance(8.0), empty)(batch, cells, IMAGE, 0.0)
    assert ours.dtype == torch.float32
    rounded = [Prompts(told.states.bfloat16(), told.pooled.bfloat16()) for told in (prompts, empty)]
    conditional, unconditional = (own_forward(half, batch, told)[cells] for told in rounded)
    theirs = unconditional + 8 * (conditional - unconditional)
    assert (ours - exact).norm() < 1.1 * (theirs - exact).norm()


@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
def test_greedy_decode_equals_the_pipeline_of_diffusers(monkeypatch: pytest.MonkeyPatch, guidance_scale: float) -> None:
    """Greedy on both sides: their multinomial is replaced by the likeliest code, and the noise of the order is 0."""
    model, prompts, empty, grid = network(), told(2, 1), told(2, 2), (6, 5)
    height, width = 8 * grid[0], 8 * grid[1]
    micro = MicroConditions(width=width, height=height)
    batch = blank_grids(SPACE, 2, grid)
    guidance = None if guidance_scale == 1 else ConstantGuidance(guidance_scale)
    logits_fn = amused_logits(model, prompts, micro, guidance, empty)
    sampler = ConfidenceSampler(steps=7, temperature=0.0, choice_temperature=0.0)
    filled, _ = sampler.sample(logits_fn, batch, IMAGE, [torch.Generator().manual_seed(row) for row in range(2)])

    monkeypatch.setattr(torch, "multinomial", lambda probabilities, *_, **__: probabilities.argmax(dim=-1, keepdim=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import AmusedPipeline

        scheduler = diffusers.AmusedScheduler(mask_token_id=model.config.vocab_size - 1)
        pipeline = AmusedPipeline(vqvae=None, tokenizer=None, text_encoder=None, transformer=model, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        height=height,
        width=width,
        num_inference_steps=7,
        guidance_scale=guidance_scale,
        temperature=(0, 0),
        prompt_embeds=prompts.pooled,
        encoder_hidden_states=prompts.states,
        negative_prompt_embeds=empty.pooled,
        negative_encoder_hidden_states=empty.states,
        output_type="latent",
    ).images
    assert theirs.unique().numel() >= 4
    assert torch.equal(torch.stack([sample["image"][0] for sample in unpack(filled, SPACE)]), theirs)


def test_a_batch_that_does_not_fit_is_refused() -> None:
    model, every = network(), torch.ones(2, 24, dtype=torch.bool)
    logits_fn = amused_logits(model, told(2, 1), MICRO)
    with pytest.raises(ValueError, match="prompts for 2 rows, the batch has 1"):
        logits_fn(partly(1), every[:1], IMAGE, 0.0)
    uneven = pack([{"image": torch.zeros(1, *grid, dtype=torch.long)} for grid in ((6, 4), (4, 6))], SPACE)
    with pytest.raises(ValueError, match="whole grids of one size"):
        logits_fn(uneven, every, IMAGE, 0.0)
    other: TokenSpace = amused_space(CODES + 1)
    with pytest.raises(ValueError, match=r"knows 24 codes, the space 25; use amused_space\(24\)"):
        logits_fn(blank_grids(other, 2, GRID), every, other.segment("image", 0), 0.0)
    with pytest.raises(ValueError, match="guidance needs negative features for each of the 2 rows, got none"):
        amused_logits(model, told(2, 1), MICRO, ConstantGuidance(2.0))


def test_a_saved_network_is_read_and_a_damaged_one_refused(tmp_path: Path) -> None:
    model = network()
    model.save_pretrained(tmp_path)
    batch, prompts = partly(1), told(1, 1)
    cells = torch.ones_like(batch.valid)
    read = amused_logits(read_uvit(tmp_path), prompts, MICRO)(batch, cells, IMAGE, 0.0)
    assert torch.equal(read, amused_logits(model, prompts, MICRO)(batch, cells, IMAGE, 0.0))
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="no UVit2DModel can be read from"):
        read_uvit(tmp_path)


def test_prompts_are_the_states_before_the_last_layer_and_the_projected_embedding() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "projection_dim": 12, "num_hidden_layers": 2}
    config = transformers.CLIPTextConfig(**sizes, num_attention_heads=2, max_position_embeddings=7, eos_token_id=49)
    encoder = transformers.CLIPTextModelWithProjection(config).eval()

    class Pieces:
        """Stands for a tokenizer: numbers of the letters, padded."""

        model_max_length = 7

        def __call__(self, texts: list[str], **_: Any) -> Any:
            ids = [[ord(letter) - 96 for letter in text] + [49] * (7 - len(text)) for text in texts]
            return type("Encoded", (), {"input_ids": torch.tensor(ids)})

    prompts = read_prompts(Pieces(), encoder, ["cat", ""])
    with torch.no_grad():
        found = encoder(Pieces()(["cat", ""]).input_ids, output_hidden_states=True)
    assert torch.equal(prompts.states, found.hidden_states[1])
    assert torch.equal(prompts.pooled, found.text_embeds)
