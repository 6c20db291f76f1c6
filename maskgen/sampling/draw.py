"""Chance: codes from logits and noise for cells, each row from its own generator."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

BLOCK, CELLS_AT_ONCE = 64, 32
"""Codes that are summed together before a running sum; cells whose codes fit a processor's cache."""


Cooling = Literal["none", "exact", "softened", "floored", "lagged", "onex"]
"""How a temperature falls over the steps."""
FLOOR = 0.01
"""Temperature under which the cooling "floored" does not fall."""


def cooled(step: int, steps: int, cooling: Cooling) -> float:
    """Factor of a temperature at step k of N, with r = 1 - (k + 1) / N; 1 for "onex", which `onex` computes.

    Args:
        step: k, from 0.
        steps: N.
        cooling: "none" is 1; "exact" is r, so 0 at the last step, and so is "floored", whose temperature stays at least `FLOOR`; "softened"
            is r (0.5 + 0.8 r), as where the logits too are divided by the second factor; "lagged" is 1 - k / N, but 0 at the last of
            several steps.

    Source: TiTok, arXiv:2406.07550 (`softmax_temperature_annealing` of its code); MAGNeT, arXiv:2401.04577 (the floor of its code);
    MaskGCT, arXiv:2409.00750 ("lagged").
    """
    left = 1 - (step + 1) / steps
    if cooling == "lagged":
        return 0.0 if steps > 1 and step == steps - 1 else 1 - step / steps
    return {"none": 1.0, "exact": left, "floored": left, "softened": left * (0.5 + 0.8 * left), "onex": 1.0}[cooling]


ONEX_END, ONEX_CELLS = 0.5, 196
"""Where the temperature of 4M ends, and the cells of the grid that sets its pace."""


def onex(step: int, steps: int, temperature: float) -> float:
    """Temperature of one step that falls steeply to 0.5, about as one over the root of what is decoded.

    With c the share of a grid of 196 cells that is decoded after step k, in even steps, and x = 1 + 99 k / 195, it is
    0.5 + (T - 0.5) (1 - c) (x^-0.5 - 0.1) / 0.9.

    Args:
        step: k, from 0.
        steps: Steps in all.
        temperature: T.

    Source: 4M, arXiv:2312.06647 (`onex:0.5:0.5` of its schedules). x grows with the steps and not with the cells, as in its code, so fewer
    steps end before the root has fallen far.
    """
    base, more = divmod(ONEX_CELLS, steps)
    shown = ((step + 1) * base + min(step + 1, more)) / ONEX_CELLS
    x = min(1 + 99 * step / (ONEX_CELLS - 1), 100.0)
    return ONEX_END + (temperature - ONEX_END) * (1 - shown) * (1 / math.sqrt(x) - 0.1) / 0.9


Distribution = Literal["model", "drawn"]
"""What cells are ranked by: the model's probabilities, or those that codes are drawn with, after temperature and cut."""
Fall = Literal["exact", "constant"]
"""How the noise of a ranking changes over the steps: falls to 0 at the last one, or does not."""


def check_ranking(distribution: str, annealing: str) -> None:
    """Raises ValueError if a ranking is of no known distribution, or its noise falls in no known way."""
    for name, value, known in (("distribution", distribution, get_args(Distribution)), ("annealing", annealing, get_args(Fall))):
        if value not in known:
            raise ValueError(f"{name} must be {' or '.join(known)}, got {value!r}")


def check_temperature(name: str, value: float) -> None:
    """Raises ValueError if a temperature is negative or no number."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value}")


def temperature_at(step: int, steps: int, temperature: float, sharpening: float, soft_steps: int, cooling: Cooling = "none") -> float:
    """Temperature of one step, where the logits are sharpened over the steps.

    Args:
        step: Steps done before it.
        steps: Steps in all.
        temperature: That of the first step.
        sharpening: The inverse temperature of the last step over that of the first; in between it runs in a straight line.
        soft_steps: First steps, at twice the temperature that they would have otherwise.
        cooling: How the temperature falls beside that; see `cooled` and `onex`.

    Raises:
        ValueError: If an option is out of range.

    Source: the softmax temperatures of valeoai/Halton-MaskGIT's sampler, which multiply logits.
    """
    check_temperature("temperature", temperature)
    if not 0 < sharpening < math.inf or soft_steps < 0:
        raise ValueError(f"sharpening must be a number above 0 (1 is off) and soft_steps at least 0, got {sharpening} and {soft_steps}")
    if cooling not in get_args(Cooling):
        raise ValueError(f"cooling must be {', '.join(get_args(Cooling))}, got {cooling!r}")
    if cooling == "onex":
        temperature = onex(step, steps, temperature)
    line = 1 + (sharpening - 1) * step / max(steps - 1, 1)
    found = temperature / line * (2 if step < soft_steps else 1) * cooled(step, steps, cooling)
    return max(found, FLOOR) if cooling == "floored" and temperature > 0 else found


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Gumbel(0, 1) noise in float64 on the generator's device; two logs of `rand` cost less than half of `exponential_` on a CPU."""
    noise = torch.rand(shape, dtype=torch.float64, generator=generator, device=generator.device)
    return noise.log_().neg_().log_().neg_()


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Numbers in [0, 1) in float64 on the generator's device."""
    return torch.rand(shape, dtype=torch.float64, generator=generator, device=generator.device)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which codes may be drawn at all; None everywhere is all of them. Several cuts work one after the other, in this order.

    Args:
        top_k: The most likely codes.
        top_p: The smallest most likely set with at least this share (nucleus).
        min_p: Codes at least this many times as likely as the likeliest.
        typical_p: The codes whose surprise is nearest the entropy, to at least this share.
        before_temperature: Whether the shares are those of the logits as they are, whatever temperature codes are drawn at, as in 4M.

    Source: nucleus, arXiv:1904.09751; min-p, arXiv:2407.01082; typical sampling, arXiv:2202.00666.
    """

    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    before_temperature: bool = False

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 or None, got {self.top_k}")
        for name in ("top_p", "min_p", "typical_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} must lie in (0, 1] or be None, got {value}")


def _candidates(
    logits: Float[Tensor, "cells size"], temperature: float, cut: Cut
) -> tuple[Float[Tensor, "cells kept"], Int[Tensor, "cells kept"] | None]:
    """Logits that may be drawn and their codes; None for all of them in order."""
    size = logits.shape[-1]
    kept = size if cut.top_k is None else min(cut.top_k, size)
    if temperature == 0 or (kept == size and (cut.top_p, cut.min_p, cut.typical_p) == (None, None, None)):
        return logits, None
    values, codes = logits.topk(kept, dim=-1)
    temperature = 1.0 if cut.before_temperature else temperature
    if cut.top_p is not None:
        shares = (values / temperature).softmax(dim=-1)
        values = values.masked_fill(shares.cumsum(dim=-1) - shares >= cut.top_p, -torch.inf)
    if cut.min_p is not None:
        values = values.masked_fill(values < values[..., :1] + temperature * math.log(cut.min_p), -torch.inf)
    if cut.typical_p is not None:
        values = _typical(values, temperature, cut.typical_p)
    return values, codes


def drawn_shares(logits: Float[Tensor, "cells size"], temperature: float, cut: Cut) -> Float[Tensor, "cells kept"]:
    """Probabilities that codes are drawn with, after temperature and cut, in float32; their order is that of the codes only without a cut.

    Args:
        logits: Natural-log scores.
        temperature: 0, which draws nothing, counts as 1.
        cut: Which codes may be drawn.
    """
    scale = temperature or 1.0
    return (_candidates(logits.float(), scale, cut)[0] / scale).softmax(dim=-1)


def share_of_drawn(
    logits: Float[Tensor, "cells size"], codes: Int[Tensor, " cells"], temperature: float, cut: Cut
) -> Float[Tensor, " cells"]:
    """The probability that each drawn code was drawn with; see `drawn_shares`."""
    scale, logits = temperature or 1.0, logits.float()
    found = logits.gather(-1, codes[:, None])[:, 0] / scale
    return (found - (_candidates(logits, scale, cut)[0] / scale).logsumexp(dim=-1)).exp()


def _typical(values: Float[Tensor, "cells kept"], temperature: float, share: float) -> Float[Tensor, "cells kept"]:
    """Logits with all but the most typical codes forbidden."""
    logprobs = (values / temperature).log_softmax(dim=-1)
    shares = logprobs.exp()
    entropy = -(shares * logprobs.masked_fill(shares == 0, 0)).sum(dim=-1, keepdim=True)
    order = (logprobs + entropy).abs().argsort(dim=-1, stable=True)
    ordered = shares.gather(-1, order)
    late = ordered.cumsum(dim=-1) - ordered >= share
    return values.masked_fill(torch.zeros_like(late).scatter(-1, order, late), -torch.inf)


def draw(
    logits: Float[Tensor, "cells size"],
    rows: Int[Tensor, " cells"],
    generators: Sequence[torch.Generator],
    *,
    temperature: float = 1.0,
    cut: Cut | None = None,
) -> tuple[Int[Tensor, " cells"], Float[Tensor, " cells"]]:
    """One code a cell, from softmax(logits / temperature), cut to the codes that may be drawn.

    The distribution is inverted: one uniform number in float64 a cell instead of a Gumbel number a code.

    Args:
        logits: Natural-log scores; half precision is upcast to float32.
        rows: Row of each cell, ascending.
        generators: One a row; a row draws from its own alone.
        temperature: 0 takes the most likely code and draws no noise.
        cut: Which codes may be drawn; None for all.

    Returns:
        Codes, and their log-probabilities under softmax(logits): before temperature and cut, as the ranking of cells needs it.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    values, codes = _candidates(logits, temperature, cut or Cut())
    if temperature == 0:
        picked = values.argmax(dim=-1)
    else:
        aims = row_uniforms(rows, generators).to(values.device)
        size = CELLS_AT_ONCE if values.device.type == "cpu" else max(len(values), 1)
        pairs = zip(torch.split(values, size), torch.split(aims, size), strict=True)
        picked = torch.cat([_passing_codes(some, aim, temperature) for some, aim in pairs])
    chosen = picked if codes is None else codes.gather(-1, picked[:, None]).squeeze(-1)
    return chosen, logits.gather(-1, chosen[:, None]).squeeze(-1) - logits.logsumexp(dim=-1)


def allowed_mass(logits: Float[Tensor, "cells size"], temperature: float, cut: Cut) -> Float[Tensor, " cells"]:
    """Logarithm of the sum of exp(logits) over the codes that may be drawn.

    Args:
        logits: As for `draw`.
        temperature: As for `draw`; 0 allows all codes.
        cut: Which codes may be drawn.
    """
    return _candidates(logits.to(torch.promote_types(logits.dtype, torch.float32)), temperature, cut)[0].logsumexp(dim=-1)


def row_uniforms(rows: Int[Tensor, " cells"], generators: Sequence[torch.Generator]) -> Float[Tensor, " cells"]:
    """One number in [0, 1) a cell, each row's from its own generator; `rows` ascend."""
    counts = torch.bincount(rows, minlength=len(generators)).tolist()
    return torch.cat([uniform((count,), generator) for count, generator in zip(counts, generators, strict=True)])


def _passing_codes(values: Float[Tensor, "cells kept"], shares: Float[Tensor, " cells"], temperature: float) -> Int[Tensor, " cells"]:
    """Codes at which the cumulated probability of softmax(values / temperature) first passes each share.

    First among the sums of BLOCK codes, then inside the block: a running sum over all codes would cost as much as Gumbel noise.
    """
    mass = (values - values.amax(dim=-1, keepdim=True)).div_(temperature).exp_()
    size = BLOCK if mass.shape[-1] % BLOCK == 0 else mass.shape[-1]
    mass = rearrange(mass, "cells (blocks size) -> cells blocks size", size=size)
    upto = mass.sum(dim=-1).double().cumsum(dim=-1)
    aim = shares[:, None] * upto[:, -1:]
    block = _passing(upto, aim)
    before = torch.where(block > 0, upto.gather(-1, (block - 1).clamp(min=0)), 0.0)
    inside = mass[torch.arange(len(mass), device=mass.device), block[:, 0]].double().cumsum(dim=-1)
    return (block * size + _passing(inside, aim - before))[:, 0]


def _passing(sums: Float[Tensor, "cells sums"], aim: Float[Tensor, "cells 1"]) -> Int[Tensor, "cells 1"]:
    """First place whose sum lies above the aim. Rounding is kept below the last sum, so that a code of probability 0 is never met."""
    below = torch.minimum(aim, sums[:, -1:].nextafter(torch.zeros_like(sums[:, -1:])))
    return torch.searchsorted(sums, below, right=True).clamp(max=sums.shape[-1] - 1)  # NaN passes nothing; its log-probability tells


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
    values = torch.cat([noise((count,), generator) for count, generator in zip(counts, generators, strict=True)])
    return scattered(cells, values.to(cells.device), 0.0)
