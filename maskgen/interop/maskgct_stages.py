"""The networks of MaskGCT's two stages over vectors of cells, under the published names."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.interop.maskgct_trunk import NarLlama, NarLlamaConfig

PHONES = 1024
"""Rows of the table of phones; the last one is padding in the reference."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Size of one stage.

    Args:
        trunk: Size of its layers.
        semantic_codes: Codes of the semantic codec.
        num_levels: Acoustic levels; 0 for the stage from text to semantic codes.
        codebook_size: Codes of an acoustic level.
    """

    trunk: NarLlamaConfig
    semantic_codes: int
    num_levels: int = 0
    codebook_size: int = 0

    @classmethod
    def from_published(cls, config: Mapping[str, Any], source: str) -> "StageConfig":
        """Size from a section of the authors' `maskgct.json`.

        Raises:
            ValueError: If a size is missing or no positive whole number.
        """
        acoustic = ("num_quantizer", "codebook_size") if "num_quantizer" in config else ()
        for name in ("hidden_size", "num_layers", "num_heads", "cond_codebook_size", *acoustic):
            if not isinstance(config.get(name), int) or isinstance(config[name], bool) or config[name] < 1:
                raise ValueError(f"{source} gives {config.get(name)!r} for {name}, wanted a positive whole number; copy the file again")
        trunk = NarLlamaConfig(dim=config["hidden_size"], num_layers=config["num_layers"], num_heads=config["num_heads"])
        levels, size = (config["num_quantizer"], config["codebook_size"]) if acoustic else (0, 0)
        return cls(trunk=trunk, semantic_codes=config["cond_codebook_size"], num_levels=levels, codebook_size=size)


class SemanticStage(nn.Module):
    """From phones, and the semantic codes of a recording, to semantic codes.

    Args:
        config: Size.

    Source: MaskGCT, arXiv:2409.00750 (T2S).
    """

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        self.config, dim = config, config.trunk.dim
        self.mask_emb, self.cond_emb = nn.Embedding(1, dim), nn.Embedding(config.semantic_codes, dim)
        self.phone_emb = nn.Embedding(PHONES, dim)
        self.to_logit = nn.Linear(dim, config.semantic_codes)
        self.diff_estimator = NarLlama(config.trunk)

    def phones(self, ids: Int[Tensor, " cells"]) -> Float[Tensor, "cells dim"]:
        """Vectors of phones."""
        found: Tensor = self.diff_estimator.cond_mlp(self.phone_emb(ids))
        return found

    def codes(self, ids: Int[Tensor, " cells"]) -> Float[Tensor, "cells dim"]:
        """Vectors of semantic codes; -1 is an unknown one."""
        found: Tensor = torch.where((ids < 0)[:, None], self.mask_emb.weight, self.cond_emb(ids.clamp(min=0)))
        return found


class AcousticStage(nn.Module):
    """From semantic codes, and the acoustic codes of a recording, to acoustic codes of one level after another.

    Args:
        config: Size. With one level it is the network of the coarsest level, with all levels that of the finer ones.

    Source: MaskGCT, arXiv:2409.00750 (S2A).
    """

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        self.config, dim, size = config, config.trunk.dim, config.codebook_size
        self.layer_emb, self.mask_emb = nn.Embedding(config.num_levels, dim), nn.Embedding(1, dim)
        self.token_emb = nn.ModuleList([nn.Embedding(size, dim) for _ in range(config.num_levels)])
        self.to_logits = nn.ModuleList([nn.Linear(dim, size) for _ in range(config.num_levels)])
        self.cond_emb = nn.Embedding(config.semantic_codes, dim)
        self.diff_estimator = NarLlama(config.trunk)

    def codes(self, codes: Int[Tensor, "cells level"]) -> Float[Tensor, "cells dim"]:
        """Sum over the levels of the code's vector, or of the mask vector where a code is unknown (-1)."""
        found = self.mask_emb.weight.new_zeros(len(codes), self.config.trunk.dim)
        for level, table in enumerate(self.token_emb):
            ids = codes[:, level]
            found = found + torch.where((ids < 0)[:, None], self.mask_emb.weight, table(ids.clamp(min=0)))
        return found

    def condition(self, semantic: Int[Tensor, " cells"], level: Int[Tensor, " cells"]) -> Float[Tensor, "cells dim"]:
        """What a cell is told of its semantic code and of the level that is drawn."""
        found: Tensor = self.diff_estimator.cond_mlp(self.cond_emb(semantic) + self.layer_emb(level))
        return found


def time_of(masked: Int[Tensor, " batch"], total: Int[Tensor, " batch"], steps: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Time at which so many cells are masked, where floor(sin(pi t / 2) total) are at time t.

    Among the times at which that holds it is the one at a step of a decode of `steps` steps, if there is one, or else the first.

    Args:
        masked: Masked cells of each row.
        total: Cells of each row.
        steps: Steps of the published decode, each row's.
    """
    whole = total.clamp(min=1).double()
    first = torch.asin((masked / whole).clamp(max=1)) * (2 / math.pi)
    after = torch.asin(((masked + 1) / whole).clamp(max=1)) * (2 / math.pi)
    step = torch.ceil(first * steps - 1e-6) / steps
    return torch.where((step < after - 1e-9) | (masked >= total), step, first).clamp(0, 1).float()


def visible_first(
    vectors: Float[Tensor, "batch length dim"], visible: Bool[Tensor, "batch length"]
) -> tuple[Float[Tensor, "batch places dim"], Bool[Tensor, "batch places"], Int[Tensor, "batch places"]]:
    """The visible cells of each row without gaps, which places exist, and where each cell stood."""
    counts = visible.sum(dim=1)
    order = (~visible).long().argsort(dim=1, stable=True)[:, : max(int(counts.max()), 1)]
    seen = torch.arange(order.shape[1], device=order.device) < counts[:, None]
    return vectors.gather(1, order[..., None].expand(-1, -1, vectors.shape[-1])), seen, order
