"""What a pipeline of diffusers hands to a scheduler, as our samplers take it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.decoding.settings import GenerationSettings
from maskgen.sampling import by_name
from maskgen.sampling.base import Sampler
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.space import Segment

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator, one a row, or None for the global one."""


def sampler_of(name: str, own: Mapping[str, Any], call: Mapping[str, Any], schedule: str | None, steps: int) -> Sampler:
    """A sampler by name, its own options before those of a call."""
    known = inspect.signature(by_name(name)).parameters
    told = {option: value for option, value in call.items() if value is not None and option in known and option not in own}
    choice = told.get("choice_temperature")
    if choice is not None:
        numbers = [float(one) for one in choice] if isinstance(choice, Sequence) else [float(choice)]
        if len(numbers) > 2 or numbers[1:] not in ([], [0.0]):
            raise ValueError(f"temperature must be a number or a pair that ends at 0, got {choice}; or give sampler_options")
        told["choice_temperature"] = numbers[0]
        if "annealing" in known:
            told["annealing"] = "linear" if len(numbers) == 2 else "amused"
    settings = GenerationSettings(sampler=name, sampler_options={**told, **own}, steps=(steps,), schedule=schedule)
    return settings.at(0)


def flat_cells(model_output: Tensor, sample: Tensor, mask: int) -> tuple[Float[Tensor, "batch length size"], Int[Tensor, "batch length"]]:
    """Logits and codes with one axis of cells; masked cells are UNKNOWN, and the mask's own id is forbidden."""
    logits = rearrange(model_output, "b v h w -> b (h w) v") if model_output.ndim == 4 else model_output
    flat = sample.reshape(len(sample), -1)
    if logits.ndim != 3 or logits.shape[:2] != flat.shape:
        found = f"logits of shape {tuple(model_output.shape)} for tokens of shape {tuple(sample.shape)}"
        raise ValueError(f"{found}; wanted [batch, length, codes] or [batch, codes, height, width], a place for every token")
    if 0 <= mask < logits.shape[-1]:
        logits = logits.index_fill(-1, torch.tensor([mask], device=logits.device), -torch.inf)
    codes = flat.masked_fill(flat == mask, UNKNOWN)
    if bool(((codes < 0) & (flat != mask)).any()) or int(codes.max()) >= logits.shape[-1]:
        raise ValueError(
            f"the sample holds tokens outside of [0, {logits.shape[-1]}) that are not the mask {mask}; give the right mask_token_id"
        )
    return logits, codes


def given_logits(
    name: str,
    now: TokenBatch,
    logits: Float[Tensor, "batch length size"],
    batch: TokenBatch,
    cells: Bool[Tensor, "batch length"],
    segment: Segment,
    progress: float,
) -> Float[Tensor, "cells size"]:
    """The model's output as a LogitsFn of the state that it was computed for."""
    if not torch.equal(batch.ids, now.ids):
        raise ValueError(f"the sampler {name} asks the model about a state of its own; a scheduler gets one output a step: choose another")
    return logits[cells]


def row_generators(generator: Generators, count: int) -> list[torch.Generator]:
    """One generator a row."""
    several = list(generator) if isinstance(generator, Sequence) else [generator] * count
    if len(several) != count:
        raise ValueError(f"generator has {len(several)} entries for {count} rows; give one a row, or a single one")
    if isinstance(generator, Sequence) or (count == 1 and isinstance(generator, torch.Generator)):
        return [one for one in several if isinstance(one, torch.Generator)]
    seeds = [int(torch.randint(2**63 - 1, (), generator=one, device=None if one is None else one.device)) for one in several]
    return [
        torch.Generator(device="cpu" if one is None else one.device).manual_seed(seed) for one, seed in zip(several, seeds, strict=True)
    ]
