"""Chance: codes from logits and noise for cells, each row from its own generator."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Gumbel(0, 1) noise in float64 on the generator's device; two logs of `rand` cost less than half of `exponential_` on a CPU."""
    noise = torch.rand(shape, dtype=torch.float64, generator=generator, device=generator.device)
    return noise.log_().neg_().log_().neg_()


def _candidates(
    logits: Float[Tensor, "cells size"], temperature: float, top_k: int | None, top_p: float | None
) -> tuple[Float[Tensor, "cells kept"], Int[Tensor, "cells kept"] | None]:
    """Logits that may be drawn and their codes; None for all of them in order."""
    size = logits.shape[-1]
    if temperature == 0 or (top_p is None and (top_k is None or top_k >= size)):
        return logits, None
    values, codes = logits.topk(size if top_k is None else min(top_k, size), dim=-1)
    if top_p is not None:
        shares = (values / temperature).softmax(dim=-1)
        values = values.masked_fill(shares.cumsum(dim=-1) - shares >= top_p, -torch.inf)
    return values, codes


def draw(
    logits: Float[Tensor, "cells size"],
    rows: Int[Tensor, " cells"],
    generators: Sequence[torch.Generator],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> tuple[Int[Tensor, " cells"], Float[Tensor, " cells"]]:
    """One code a cell, from softmax(logits / temperature) cut to the top_k most likely and then to the nucleus top_p.

    Gumbel-max: the noise is scaled instead of the logits, so the logits are neither copied nor edited.

    Args:
        logits: Natural-log scores; half precision is upcast to float32.
        rows: Row of each cell, ascending.
        generators: One a row; a row draws from its own alone.
        temperature: 0 takes the most likely code and draws no noise.
        top_k: Codes kept; None or more than there are keeps all.
        top_p: Smallest most likely set with at least this share is kept.

    Returns:
        Codes, and their log-probabilities under softmax(logits): before temperature, top_k and top_p, as the ranking of cells needs it.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    values, codes = _candidates(logits, temperature, top_k, top_p)
    if temperature == 0:
        picked = values.argmax(dim=-1)
    else:
        parts = torch.split(values, torch.bincount(rows, minlength=len(generators)).tolist())
        noises = (gumbel(tuple(part.shape), generator).to(part.device) for part, generator in zip(parts, generators, strict=True))
        picked = torch.cat([noise.mul_(temperature).add_(part).argmax(dim=-1) for part, noise in zip(parts, noises, strict=True)])
    chosen = picked if codes is None else codes.gather(-1, picked[:, None]).squeeze(-1)
    return chosen, logits.gather(-1, chosen[:, None]).squeeze(-1) - logits.logsumexp(dim=-1)


def scattered(cells: Bool[Tensor, "batch length"], values: Shaped[Tensor, " cells"], fill: int | float) -> Shaped[Tensor, "batch length"]:
    """Values of chosen cells laid out as the batch, `fill` elsewhere."""
    return torch.full(cells.shape, fill, dtype=values.dtype, device=cells.device).masked_scatter(cells, values)


def row_noise(
    cells: Bool[Tensor, "batch length"],
    generators: Sequence[torch.Generator],
    noise: Callable[[tuple[int, ...], torch.Generator], Tensor],
) -> Float[Tensor, "batch length"]:
    """Noise for chosen cells, each row from its own generator; 0 elsewhere, where nothing is drawn."""
    counts = cells.sum(dim=1).tolist()
    values = torch.cat([noise((count,), generator).to(cells.device) for count, generator in zip(counts, generators, strict=True)])
    return scattered(cells, values, 0.0)
