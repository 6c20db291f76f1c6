"""Hybrid noise of masks and uniform codes: noise schedules, noised training batches, and their loss."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.masking.masks import draw_rates
from maskgen.masking.schedule import Linear
from maskgen.tokens.batch import TokenBatch, condition_cells
from maskgen.tokens.space import MASK, Segment

EARLIEST = 1e-3
"""Times are drawn from [EARLIEST, 1 - EARLIEST], where all loss weights are moderate."""
Weight = Literal["elbo", "clamped", "dynamic"]


@dataclass(frozen=True)
class Mixture:
    """Marginal distribution of a cell at time t and its jump rates; every field holds one number per row.

    Args:
        kept: Probability alpha that the true code is kept.
        masked: Probability of MASK.
        uniform: Probability of a code drawn uniformly from all (the true one among them).
        mask_speed: Rate at which a cell jumps to MASK: alpha d(masked / alpha) / dt.
        uniform_speed: Rate at which it jumps to a uniform code: alpha d(uniform / alpha) / dt.
    """

    kept: Float[Tensor, " batch"]
    masked: Float[Tensor, " batch"]
    uniform: Float[Tensor, " batch"]
    mask_speed: Float[Tensor, " batch"]
    uniform_speed: Float[Tensor, " batch"]

    def where(self, rows: Bool[Tensor, " batch"], other: "Mixture") -> "Mixture":
        """This mixture in the chosen rows, the other mixture elsewhere."""
        return Mixture(*(torch.where(rows, getattr(self, one.name), getattr(other, one.name)) for one in dataclasses.fields(self)))


class NoiseLaw(ABC):
    """Noise schedule over time: no noise at t = 0, only noise at t = 1."""

    @abstractmethod
    def at(self, time: Float[Tensor, " batch"]) -> Mixture:
        """The mixture at each time in (0, 1)."""


@dataclass(frozen=True, kw_only=True)
class HybridNoise(NoiseLaw):
    """Noise schedule of masks with uniform codes at intermediate times.

    The shares of kept, MASK and uniform codes are in the ratio (1 - t) : t : c with c = B (t (1 - t))^(gamma / 2) and
    B = 2^gamma p / (1 - p), so that at t = 1/2 a share p is uniform. At t = 1 every cell is MASK, so decoding starts as with pure masking.

    Args:
        p_uniform: Largest share of uniform codes, p, in [0, 1); 0 is pure masking.
        gamma: How strongly it is concentrated around t = 1/2, in (0, 2).

    Source: GIDD, arXiv:2503.04482.
    """

    p_uniform: float = 0.1
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.p_uniform < 1:
            raise ValueError(f"p_uniform must lie in [0, 1), got {self.p_uniform}")
        if not 0 < self.gamma < 2:
            raise ValueError(f"gamma must lie in (0, 2), got {self.gamma}")

    def at(self, time: Float[Tensor, " batch"]) -> Mixture:
        strength = 2**self.gamma * self.p_uniform / (1 - self.p_uniform) * (time * (1 - time)) ** (self.gamma / 2)
        total = 1 + strength
        kept, masked, uniform = (1 - time) / total, time / total, strength / total
        # d(c / (1 - t)) / dt in a form without the derivative of c, which has no bound at t = 0.
        uniform_speed = uniform * (self.gamma / 2 + (1 - self.gamma) * time) / (time * (1 - time))
        return Mixture(kept, masked, uniform, 1 / (total * (1 - time)), uniform_speed)


@dataclass(frozen=True)
class UniformNoise(NoiseLaw):
    """Noise schedule of uniform codes only: a code is kept with probability 1 - t, else uniform.

    A model trained with it alone never sees MASK, from which decoding starts: set `mask_rows` of `HybridNoiseModule` above 0.

    Source: uniform diffusion of D3PM, arXiv:2107.03006; UDLM, arXiv:2412.10193.
    """

    def at(self, time: Float[Tensor, " batch"]) -> Mixture:
        return Mixture(1 - time, torch.zeros_like(time), time, torch.zeros_like(time), 1 / (1 - time))


@dataclass(frozen=True)
class Noised:
    """A noised batch for one training step.

    Args:
        batch: What the model sees.
        clean: Ids without noise, at the level of the target.
        target: Cells of the target.
        mixture: Marginal distribution of the cells of each row.
        time: Time t of each row.
    """

    batch: TokenBatch
    clean: Int[Tensor, "batch length"]
    target: Bool[Tensor, "batch length"]
    mixture: Mixture
    time: Float[Tensor, " batch"]

    def rows(self, index: slice) -> "Noised":
        """The chosen rows."""
        mixture = Mixture(*(getattr(self.mixture, one.name)[index] for one in dataclasses.fields(Mixture)))
        return Noised(self.batch.rows(index), self.clean[index], self.target[index], mixture, self.time[index])

    def seen(self, segment: Segment) -> Int[Tensor, "batch length"]:
        """Noised ids at the level of the target."""
        return self.batch.ids[..., segment.level]


def draw_noise(
    batch: TokenBatch, segment: Segment, law: NoiseLaw, generator: torch.Generator, drop_condition: float = 0.0, mask_rows: float = 0.0
) -> Noised:
    """Adds noise to a batch for training: draws the time, the noise of every target cell and the condition dropout of every row.

    Args:
        batch: Clean rows.
        segment: The target's only level.
        law: Noise schedule.
        generator: CPU generator of all random draws.
        drop_condition: Probability that a row's condition is hidden.
        mask_rows: Share of rows that get pure masking instead of the noise schedule.
    """
    device, target = batch.ids.device, batch.cells(segment.index)
    time = draw_rates(len(batch), Linear(), generator).double().clamp(EARLIEST, 1 - EARLIEST)
    chosen, dropped = (torch.rand(len(batch), generator=generator) < share for share in (mask_rows, drop_condition))
    mixture = HybridNoise(p_uniform=0.0).at(time).where(chosen, law.at(time))
    fate = torch.rand(target.shape, dtype=torch.float64, generator=generator)
    wrong = torch.randint(segment.size, target.shape, generator=generator).to(device) + segment.offset
    masked = (fate < mixture.masked[:, None]).to(device)
    uniform = (fate >= 1 - mixture.uniform[:, None]).to(device)
    clean, ids = batch.ids[..., segment.level], batch.ids.clone()
    noised = torch.where(masked, MASK, torch.where(uniform, wrong, clean))
    ids[..., segment.level] = torch.where(target, noised, clean)
    seen = batch.with_ids(ids).hide(condition_cells(batch, segment.index) & dropped.to(device)[:, None])
    on_device = Mixture(*(getattr(mixture, one.name).to(device) for one in dataclasses.fields(Mixture)))
    return Noised(seen, clean, target, on_device, time.to(device))


def cell_weights(noised: Noised, segment: Segment, weight: Weight, largest: float) -> Float[Tensor, "batch length"]:
    """Loss weight of each target cell; 0 outside the target, and where under this noise the visible code must be the true one.

    Args:
        noised: The batch.
        segment: The target's only level.
        weight: "elbo" makes the mean loss a bound on the likelihood: the jump rate into the visible code over its probability. "clamped"
            is "elbo" limited to `largest`. "dynamic" divides by the weight of a wrong code, which gives about 2 for MASK, 1 for a wrong
            code and little for a correct one.
        largest: Upper limit of "clamped".

    Source: GIDD, arXiv:2503.04482. Differs: "dynamic" is the exact ratio, which stays below 1 for a correct code as t nears 1, where
    the paper's (B / N) exp(-lambda / 2) grows without bound; without uniform noise MASK has weight 2 (gamma 1, the limit).
    """
    mix, seen = noised.mixture, noised.seen(segment)
    is_mask, is_clean, tiny = seen == MASK, seen == noised.clean, torch.finfo(mix.kept.dtype).tiny
    code, code_speed = mix.uniform / segment.size, mix.uniform_speed / segment.size
    of_mask, of_wrong = mix.mask_speed / mix.masked.clamp(min=tiny), code_speed / code.clamp(min=tiny)
    of_clean = code_speed / (mix.kept + code)
    if weight == "clamped":
        of_mask, of_wrong, of_clean = (one.clamp(max=largest) for one in (of_mask, of_wrong, of_clean))
    if weight == "dynamic":
        scale = torch.where(of_wrong > 0, of_wrong, of_mask / 2)
        of_mask, of_wrong, of_clean = (one / scale for one in (of_mask, of_wrong, of_clean))
    found = torch.where(is_mask, of_mask[:, None], torch.where(is_clean, of_clean[:, None], of_wrong[:, None]))
    return found.where(noised.target, torch.zeros_like(found))


def divergences(
    logits: Float[Tensor, "cells size"], wanted: Int[Tensor, " cells"], seen: Int[Tensor, " cells"], kept: Float[Tensor, " cells"],
    code: Float[Tensor, " cells"],
) -> Float[Tensor, " cells"]:  # fmt: skip
    """KL divergence between true and predicted marginal of each cell, plus the Itakura-Saito divergence at the visible code, in nats.

    The marginal is q(z) = kept [z = x] + code, with the prediction in place of x for the predicted one. MASK has the same probability in
    both and cancels.

    Args:
        logits: Logits of the codes.
        wanted: True codes x.
        seen: Visible codes, negative for MASK.
        kept: Probability that the true code was kept.
        code: Probability of each single code under the uniform noise; 0 is pure masking, where the result is kept x cross-entropy.
    """
    logprobs = logits.log_softmax(dim=-1)
    kept, code = kept.to(logprobs.dtype), code.to(logprobs.dtype)
    log_kept, log_code = kept.log(), code.log()

    def guessed(codes: Int[Tensor, " cells"]) -> Float[Tensor, " cells"]:
        """Log of the predicted marginal at one code per cell."""
        return torch.logaddexp(log_kept + logprobs.gather(-1, codes[:, None]).squeeze(-1), log_code)

    at_wanted = torch.logaddexp(log_kept, log_code)
    ratio = (kept / code.clamp(min=1e-20))[:, None]
    spread = torch.log1p(ratio * logprobs.exp())
    others = code * (spread.sum(dim=-1) - spread.gather(-1, wanted[:, None]).squeeze(-1))
    divergence = (kept + code) * (at_wanted - guessed(wanted)) - others
    standing = seen.clamp(min=0)
    log_rho = torch.where(standing == wanted, at_wanted, log_code) - guessed(standing)
    log_rho = torch.where((seen >= 0) & (code > 0), log_rho, torch.zeros_like(log_rho))
    return divergence + torch.expm1(log_rho) - log_rho
