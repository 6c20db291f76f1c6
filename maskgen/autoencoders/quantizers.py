"""Quantizers that map vectors to codes, all with one interface."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


class Quantized(NamedTuple):
    """Output of a quantizer.

    Args:
        values: Quantized vectors `[batch cells dim]`; gradients pass straight through to the input.
        codes: Codes `[batch level cells]`.
        loss: Scalar that ties encoder and codebook together; 0 where the quantizer needs none.
    """

    values: Tensor
    codes: Tensor
    loss: Tensor


class Quantizer(nn.Module, ABC):
    """Interface of a quantizer: vectors to codes and codes to vectors.

    Attributes:
        dim: Width of the vectors.
        num_levels: Number of codes per cell.
        codebook_size: Number of values of a code.
    """

    dim: int
    num_levels: int
    codebook_size: int

    @property
    @abstractmethod
    def args(self) -> dict[str, Any]:
        """Arguments that rebuild the quantizer for inference, as plain data; training-only arguments keep their defaults."""

    @abstractmethod
    def forward(self, values: Float[Tensor, "batch cells dim"]) -> Quantized:
        """Quantize vectors; in training mode also update a codebook that is learned without gradients."""

    @abstractmethod
    def lookup(self, codes: Int[Tensor, "batch level cells"]) -> Float[Tensor, "batch cells dim"]:
        """Vectors of the given codes."""


class VectorQuantizer(Quantizer):
    """Quantize to the nearest of `codebook_size` learned vectors, which exponential moving averages update.

    A code whose smoothed usage falls below `restart_below` is reset to a random input vector of the batch, so no code stays unused.
    The first training batch initialises the codebook.

    Args:
        dim: Width of the vectors.
        codebook_size: Number of codes.
        decay: Decay of the moving averages, in (0, 1).
        commitment: Weight of the commitment loss.
        restart_below: Smoothed uses per batch below which a code is restarted; 0 disables restarts.

    Source: VQ-VAE, arXiv:1711.00937 (appendix A.1, moving averages); restarts as in Jukebox, arXiv:2005.00341.
    """

    num_levels = 1

    def __init__(
        self, dim: int = 32, codebook_size: int = 1024, decay: float = 0.99, commitment: float = 0.25, restart_below: float = 0.2
    ) -> None:
        super().__init__()
        if not 0.0 < decay < 1.0:
            raise ValueError(f"decay must lie in (0, 1), got {decay}")
        self.dim, self.codebook_size = dim, codebook_size
        self.decay, self.commitment, self.restart_below = decay, commitment, restart_below
        self.codebook: Tensor
        self.usage: Tensor
        self.total: Tensor
        self.seeded: Tensor
        self.register_buffer("codebook", torch.randn(codebook_size, dim) / math.sqrt(dim))
        self.register_buffer("usage", torch.ones(codebook_size))
        self.register_buffer("total", self.codebook.clone())
        self.register_buffer("seeded", torch.tensor(False))

    @property
    def args(self) -> dict[str, Any]:
        return {"dim": self.dim, "codebook_size": self.codebook_size}

    def forward(self, values: Float[Tensor, "batch cells dim"]) -> Quantized:
        flat = values.detach().float().flatten(0, 1)
        if self.training and not self.seeded:
            self._seed(flat)
        codes = self.nearest(flat)
        chosen = self.codebook[codes]
        if self.training:
            self._learn(flat, codes)
        chosen = chosen.view_as(values)
        loss = self.commitment * functional.mse_loss(values.float(), chosen)
        return Quantized(values + (chosen.to(values.dtype) - values).detach(), codes.view(values.shape[0], 1, -1), loss)

    def lookup(self, codes: Int[Tensor, "batch level cells"]) -> Float[Tensor, "batch cells dim"]:
        return self.codebook[codes[:, 0]]

    def nearest(self, flat: Float[Tensor, "vectors dim"]) -> Int[Tensor, " vectors"]:
        """Code of the nearest codebook vector, by Euclidean distance in float32."""
        with torch.autocast(flat.device.type, enabled=False):
            scores = torch.addmm(self.codebook.square().sum(1), flat, self.codebook.T, beta=-0.5)
        return scores.argmax(dim=-1)

    def _seed(self, flat: Tensor) -> None:
        """Initialise the codebook with input vectors."""
        picked = flat[torch.randint(len(flat), (self.codebook_size,), device=flat.device)]
        self.codebook.copy_(picked + 1e-3 * torch.randn_like(picked))
        self.total.copy_(self.codebook)
        self.seeded.fill_(True)

    @torch.no_grad()
    def _learn(self, flat: Tensor, codes: Tensor) -> None:
        """One moving-average step of usage and vector sums, then restarts."""
        counts = torch.bincount(codes, minlength=self.codebook_size).to(flat.dtype)
        sums = torch.zeros_like(self.total).index_add_(0, codes, flat)
        self.usage.lerp_(counts, 1.0 - self.decay)
        self.total.lerp_(sums, 1.0 - self.decay)
        dead = self.usage < self.restart_below
        fresh = flat[torch.randint(len(flat), (self.codebook_size,), device=flat.device)]
        # A restarted code gets initial usage, as time to attract inputs: with less it would be below the threshold again at the next batch.
        start = max(1.0, 2.0 * self.restart_below)
        self.total.copy_(torch.where(dead[:, None], fresh * start, self.total))
        self.usage.copy_(torch.where(dead, start, self.usage))
        # Without restarts, the averages of an unused code decay to 0 / 0; it keeps its vector.
        used = self.usage[:, None] > 1e-6
        self.codebook.copy_(torch.where(used, self.total / self.usage[:, None], self.codebook))


class FiniteScalarQuantizer(Quantizer):
    """Quantize by rounding each of a few bounded channels to its levels; the codebook is the grid of all combinations.

    Args:
        levels: Values per channel, for example (8, 5, 5, 5) for 1,000 codes.

    Source: FSQ, arXiv:2309.15505.
    """

    num_levels = 1

    def __init__(self, levels: Sequence[int] = (8, 5, 5, 5)) -> None:
        super().__init__()
        if min(levels) < 2:
            raise ValueError(f"FSQ needs at least 2 values a channel, got {tuple(levels)}")
        self.dim, self.codebook_size = len(levels), math.prod(levels)
        self.levels: Tensor
        self.basis: Tensor
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]), persistent=False)

    @property
    def args(self) -> dict[str, Any]:
        return {"levels": self.levels.tolist()}

    def forward(self, values: Float[Tensor, "batch cells dim"]) -> Quantized:
        # The tangent is the paper's; the inverse of tanh would be exact but is undefined for 2 levels.
        half = (self.levels - 1) * (1.0 - 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = torch.tanh(values.float() + torch.tan(offset / half)) * half - offset
        digits = bounded.round() + self.levels // 2
        codes = (digits.long() * self.basis).sum(-1)
        grid = self._place(digits)
        soft = self._place(bounded + self.levels // 2)
        return Quantized((soft + (grid - soft).detach()).to(values.dtype), codes[:, None], values.new_zeros(()))

    def lookup(self, codes: Int[Tensor, "batch level cells"]) -> Float[Tensor, "batch cells dim"]:
        digits = codes[:, 0, :, None] // self.basis % self.levels
        return self._place(digits.float())

    def _place(self, digits: Tensor) -> Tensor:
        """Convert digits 0 to levels - 1 to coordinates in [-1, 1]."""
        return (digits - self.levels // 2) / (self.levels // 2)


class BinaryQuantizer(Quantizer):
    """Quantize to the sign of each channel (LFQ): a code of `dim` bits, with no embedding table.

    Args:
        dim: Bits per code.
        entropy_weight: Weight of the entropy loss: each bit should be confident, and evenly used over the batch.
        commitment: Weight of the commitment loss.

    Source: LFQ, MAGVIT-v2, arXiv:2310.05737; bits as independent channels as in MaskBit, arXiv:2409.16211. The entropy is taken per bit,
    exact because the bits are independent, instead of over the whole codebook.
    """

    num_levels = 1

    def __init__(self, dim: int = 10, entropy_weight: float = 0.1, commitment: float = 0.25) -> None:
        super().__init__()
        self.dim, self.codebook_size = dim, 2**dim
        self.entropy_weight, self.commitment = entropy_weight, commitment
        self.basis: Tensor
        self.register_buffer("basis", 2 ** torch.arange(dim), persistent=False)

    @property
    def args(self) -> dict[str, Any]:
        return {"dim": self.dim}

    def forward(self, values: Float[Tensor, "batch cells dim"]) -> Quantized:
        hard = torch.where(values > 0, 1.0, -1.0)
        codes = ((hard > 0).long() * self.basis).sum(-1)
        share = torch.sigmoid(4.0 * values.float())
        entropy = _bit_entropy(share).mean() - _bit_entropy(share.mean(dim=(0, 1))).mean()
        loss = self.commitment * functional.mse_loss(values.float(), hard) + self.entropy_weight * entropy
        return Quantized(values + (hard.to(values.dtype) - values).detach(), codes[:, None], loss)

    def lookup(self, codes: Int[Tensor, "batch level cells"]) -> Float[Tensor, "batch cells dim"]:
        return (codes[:, 0, :, None] // self.basis % 2).float() * 2.0 - 1.0


def _bit_entropy(share: Tensor) -> Tensor:
    """Entropy in nats of a bit that is 1 with the given probability."""
    share = share.clamp(1e-6, 1 - 1e-6)
    return -(share * share.log() + (1 - share) * (1 - share).log())


class ResidualQuantizer(Quantizer):
    """Quantize with several vector quantizers in sequence, each on the residual of the one before.

    Args:
        num_levels: Number of quantizers.
        dim: Width of the vectors.
        codebook_size: Number of codes per level.
        level_dropout: Share of the training samples that are reconstructed from a random number of coarse levels, so that coarse levels
            carry most of the information and a decoder works with any prefix.
        decay: Decay of the moving averages.
        commitment: Weight of the commitment loss.
        restart_below: See VectorQuantizer.

    Source: SoundStream, arXiv:2107.03312 (residual quantization, quantizer dropout).
    """

    def __init__(
        self,
        num_levels: int = 4,
        dim: int = 32,
        codebook_size: int = 1024,
        level_dropout: float = 0.25,
        decay: float = 0.99,
        commitment: float = 0.25,
        restart_below: float = 0.2,
    ) -> None:
        super().__init__()
        self.num_levels, self.dim, self.codebook_size, self.level_dropout = num_levels, dim, codebook_size, level_dropout
        self.quantizers = nn.ModuleList(VectorQuantizer(dim, codebook_size, decay, commitment, restart_below) for _ in range(num_levels))

    @property
    def args(self) -> dict[str, Any]:
        return {"num_levels": self.num_levels, "dim": self.dim, "codebook_size": self.codebook_size}

    def forward(self, values: Float[Tensor, "batch cells dim"]) -> Quantized:
        residual, loss = values.float(), values.new_zeros((), dtype=torch.float32)
        kept = self._kept_levels(len(values), values.device)
        total = torch.zeros_like(residual)
        codes = []
        for level, quantizer in enumerate(self.quantizers):
            step = quantizer(residual)
            chosen = step.values.detach()
            total = total + chosen * (level < kept)[:, None, None]
            residual = residual - chosen
            codes.append(step.codes)
            loss = loss + step.loss
        return Quantized(values + (total.to(values.dtype) - values).detach(), torch.cat(codes, dim=1), loss)

    def lookup(self, codes: Int[Tensor, "batch level cells"]) -> Float[Tensor, "batch cells dim"]:
        """Sum over the given levels; fewer levels than `num_levels` give the coarser vector."""
        levels = [cast(VectorQuantizer, quantizer) for quantizer in self.quantizers][: codes.shape[1]]
        parts = [quantizer.lookup(codes[:, level : level + 1]) for level, quantizer in enumerate(levels)]
        return torch.stack(parts).sum(dim=0)

    def prefix(self, num_levels: int) -> "ResidualQuantizer":
        """Quantizer with only the first levels."""
        coarser = ResidualQuantizer(num_levels, self.dim, self.codebook_size, self.level_dropout)
        coarser.load_state_dict({name: tensor for name, tensor in self.state_dict().items() if int(name.split(".")[1]) < num_levels})
        return coarser

    def _kept_levels(self, batch: int, device: torch.device) -> Tensor:
        """Number of levels that each sample keeps."""
        kept = torch.full((batch,), self.num_levels, device=device)
        if not self.training or self.level_dropout == 0.0:
            return kept
        drawn = torch.randint(1, self.num_levels + 1, (batch,), device=device)
        return torch.where(torch.rand(batch, device=device) < self.level_dropout, drawn, kept)
