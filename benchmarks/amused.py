"""aMUSEd beside diffusers: the same UVit2DModel, random weights and prompts, decoded by AmusedPipeline and by maskgen.

Run:    uv run python benchmarks/amused.py
        uv run python benchmarks/amused.py --size real --rounds 3
        uv run python benchmarks/amused.py --size real --device cuda --dtype bfloat16 --batch 1,8,64
"""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from side_by_side import arguments, batches, compare, missing, peak_flops, report, written
from torch import Tensor

from maskgen.decoding.guidance import ConstantGuidance
from maskgen.interop.amused_logits import Prompts, amused_logits, amused_space, blank_grids
from maskgen.networks.packed_linear import packed
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.micro import MicroConditions
from maskgen.tokens.space import MASK, Segment

STEPS, GUIDANCE, CHOICE_TEMPERATURE, WORDS = 12, 10.0, 2.0, 77
"""The defaults of AmusedPipeline."""
SIZES: dict[str, dict[str, int]] = {
    "real": {},
    "small": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1408, "in_channels": 384}
    | {"block_out_channels": 384, "block_num_heads": 6},
    "tiny": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "in_channels": 16}
    | {"block_out_channels": 16, "block_num_heads": 2, "num_res_blocks": 1, "codebook_size": 60, "vocab_size": 64},
}
"""What differs from aMUSEd's own network of 603 million parameters."""


def network(size: str, device: str, dtype: torch.dtype) -> Any:
    """A UVit2DModel with random weights."""
    from diffusers import UVit2DModel

    torch.manual_seed(0)
    return UVit2DModel(**SIZES[size]).eval().requires_grad_(False).to(device=device, dtype=dtype)


def pipeline(model: Any) -> Any:
    """AmusedPipeline around the network, without text encoder and VQ model: the decode alone."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import AmusedPipeline, AmusedScheduler

        scheduler = AmusedScheduler(mask_token_id=model.config.vocab_size - 1)
        made = AmusedPipeline(vqvae=None, tokenizer=None, text_encoder=None, transformer=model, scheduler=scheduler)
    made.set_progress_bar_config(disable=True)
    return made


class Decode:
    """One decode of blank grids by both sides.

    Args:
        model: UVit2DModel.
        rows: Grids at once.
        side: Cells a side.
        noise: Device of our generators.
    """

    def __init__(self, model: Any, rows: int, side: int, noise: str) -> None:
        self.model, self.rows, self.side, self.noise = model, rows, side, noise
        self.served = packed(model) if model.device.type == "cpu" else model
        self.space = amused_space(model.config.codebook_size)
        self.segment = self.space.segment("image", 0)
        self.batch = blank_grids(self.space, rows, (side, side)).to(model.device)
        self.prompts, self.empty = self._told(1), self._told(2)
        self.pipeline = pipeline(model)
        self.sampler = ConfidenceSampler(steps=STEPS, choice_temperature=CHOICE_TEMPERATURE, annealing="linear")
        self.micro = MicroConditions(width=8 * side, height=8 * side)  # without its VQ model the pipeline takes 8 pixels a cell

    def _told(self, seed: int) -> Prompts:
        config, generator = self.model.config, torch.Generator().manual_seed(seed)
        shapes = ((self.rows, WORDS, config.encoder_hidden_size), (self.rows, config.cond_embed_dim))
        states, pooled = (torch.randn(shape, generator=generator).to(self.model.device, self.model.dtype) for shape in shapes)
        return Prompts(states, pooled)

    def ours(self) -> Tensor:
        """Codes by our loop; the work that a prompt costs once is in it."""
        return self._sampled(amused_logits(self.served, self.prompts, self.micro, ConstantGuidance(GUIDANCE), self.empty))

    def theirs(self) -> Tensor:
        """Codes by AmusedPipeline."""
        told = {"prompt_embeds": self.prompts.pooled, "encoder_hidden_states": self.prompts.states}
        told |= {"negative_prompt_embeds": self.empty.pooled, "negative_encoder_hidden_states": self.empty.states}
        sizes: dict[str, Any] = {"height": 8 * self.side, "width": 8 * self.side, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
        found: Tensor = self.pipeline(**told, **sizes, temperature=(CHOICE_TEMPERATURE, 0), output_type="latent").images
        return found

    def _sampled(self, logits_fn: Callable[[TokenBatch, Tensor, Segment, float], Tensor]) -> Tensor:
        generators = [torch.Generator(self.noise).manual_seed(row) for row in range(self.rows)]
        filled, _ = self.sampler.sample(logits_fn, self.batch, self.segment, generators)
        return filled.ids[..., 0] - self.segment.offset

    def table(self) -> Tensor:
        """Logits [batch codes rows columns] that stand for the model where the sampler alone is measured."""
        shape = (self.rows, self.model.config.codebook_size, self.side, self.side)
        return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(self.model.device, self.model.dtype)

    def our_sampler(self, table: Tensor) -> Callable[[], Tensor]:
        """Draws and ranking of all steps on given logits; taking the masked cells' out of the table is in it."""
        cells_first = table.flatten(2).transpose(1, 2).contiguous()
        return lambda: self._sampled(lambda batch, cells, segment, progress: cells_first[cells])

    def their_sampler(self, table: Tensor) -> Callable[[], Tensor]:
        """AmusedScheduler.step of all steps on the same logits."""
        scheduler, mask = self.pipeline.scheduler, self.model.config.vocab_size - 1

        def run() -> Tensor:
            scheduler.set_timesteps(STEPS, (CHOICE_TEMPERATURE, 0), self.model.device)
            sample = torch.full((self.rows, self.side, self.side), mask, device=self.model.device)
            for timestep in scheduler.timesteps:
                sample = scheduler.step(table, timestep, sample).prev_sample
            return sample

        return run

    def check(self) -> float:
        """Largest difference of the first guided logits to those of the model's own forward, over their largest size."""
        every = torch.ones_like(self.batch.valid)
        logits_fn = amused_logits(self.served, self.prompts, self.micro, ConstantGuidance(GUIDANCE), self.empty)
        ours = logits_fn(self.batch, every, self.segment, 0.0)
        assert (self.batch.ids == MASK).all()
        ids = torch.full((self.rows, self.side, self.side), self.model.config.vocab_size - 1, device=self.model.device)
        told = [(told.states, told.pooled) for told in (self.prompts, self.empty)]
        scalars = self.micro.repeated(self.rows).to(ids.device)
        found = [self.model(ids, states, pooled, scalars).float().flatten(2).transpose(1, 2).flatten(0, 1) for states, pooled in told]
        theirs = found[1] + GUIDANCE * (found[0] - found[1])
        for codes in (self.ours(), self.theirs()):
            assert ((codes >= 0) & (codes < self.model.config.codebook_size)).all()
        return float((ours - theirs).abs().amax() / theirs.abs().amax())


def measured(size: str, rows: int, rounds: int, device: str, dtype: torch.dtype, side: int = 16, noise: str = "cpu") -> dict[str, Any]:
    """Both sides at one batch size."""
    decode = Decode(network(size, device, dtype), rows, side, noise)
    with torch.no_grad():
        difference, peak, table = decode.check(), peak_flops(device, dtype), decode.table()
        comparisons = [
            compare("end to end", decode.ours, decode.theirs, rounds, device),
            compare("sampler alone", decode.our_sampler(table), decode.their_sampler(table), rounds, device),
        ]
    parameters = sum(parameter.numel() for parameter in decode.model.parameters())
    settings = {"size": size, "parameters": f"{parameters / 1e6:.0f} M", "batch": rows, "dtype": str(dtype).removeprefix("torch.")}
    settings |= {"grid": f"{side}x{side}", "steps": STEPS, "guidance": GUIDANCE, "logits differ by": f"{difference:.1e}"}
    return report("aMUSEd: maskgen beside diffusers", settings, comparisons, max(peak, peak_flops(device, dtype)), device)


def main() -> None:
    """Measure each batch size."""
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--noise", help="device of our generators; a seed means the same everywhere with cpu", default="cpu")
    args = parser.parse_args()
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        missing("diffusers", error, "pip install maskgen[diffusers]")
    dtype = getattr(torch, args.dtype)
    results = [measured(args.size, rows, args.rounds, args.device, dtype, noise=args.noise) for rows in batches(args)]
    written(results, args.json)


if __name__ == "__main__":
    main()
