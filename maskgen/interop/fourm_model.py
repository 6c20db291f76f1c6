"""4M's encoder and decoder with the embeddings of its modalities, under their published names."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.interop.fourm_blocks import FourMBlockConfig, FourMDecoderBlock, FourMEncoderBlock, FourMNorm

Shape = Literal["sequence", "grid", "pixels", "features"]


@dataclass(frozen=True, kw_only=True)
class FourMDomain:
    """A modality as 4M publishes it.

    Args:
        name: Published name, such as "tok_rgb@224".
        shape: "sequence" is text, "grid" codes in rows and columns, "pixels" patches of an image, "features" those of a text encoder.
        size: Codes; numbers of a patch or a feature where there are no codes.
        places: Places that have a position.
        reads: Whether the encoder takes it.
        writes: Whether the decoder makes it.
        learned: Whether its positions are learned; else they are fixed waves that the file stores as buffers.
    """

    name: str
    shape: Shape
    size: int
    places: int
    reads: bool
    writes: bool
    learned: bool = False

    @property
    def coded(self) -> bool:
        """Whether its cells hold codes."""
        return self.shape in ("sequence", "grid")

    @property
    def side(self) -> int:
        """Rows and columns of a grid or of patches."""
        return math.isqrt(self.places)


@dataclass(frozen=True, kw_only=True)
class FourMConfig:
    """Size of a 4M.

    Args:
        block: Size of a block.
        encoder_depth: Blocks of the encoder.
        decoder_depth: Blocks of the decoder.
        domains: Modalities.
    """

    block: FourMBlockConfig
    encoder_depth: int
    decoder_depth: int
    domains: tuple[FourMDomain, ...]

    @classmethod
    def of(cls, told: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], source: str) -> "FourMConfig":
        """The size of a published model.

        Vocabularies, grids and patches are in no configuration, so they are read from the shapes of the tensors.

        Args:
            told: Published configuration.
            shapes: Shape of every tensor.
            source: Where both come from, for errors.

        Raises:
            ValueError: If a part is missing, or asks for what this code lacks.
        """
        try:
            flags = ("qkv_bias", "proj_bias", "mlp_bias", "norm_bias", "qk_norm")
            block = FourMBlockConfig(
                dim=int(told["dim"]),
                num_heads=int(told["num_heads"]),
                feed_dim=int(int(told["dim"]) * float(told.get("mlp_ratio", 4.0))),
                gated=bool(told.get("gated_mlp", False)),
                activation=str(told["act_layer"]),
                **{name: bool(told.get(name, False)) for name in flags},
            )
            domains = _domains(list(told["domains_in"]), list(told["domains_out"]), shapes)
            depths = int(told["encoder_depth"]), int(told["decoder_depth"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{source} lacks {error.args[0]}, which 4M's configuration has; copy the whole folder of the model") from error
        if told.get("decoder_causal_mask") or int(told.get("num_register_tokens") or 0) or told.get("decoder_sep_mask") is False:
            raise ValueError(f"{source} has register tokens or another decoder attention than the published models; use another model")
        return cls(block=block, encoder_depth=depths[0], decoder_depth=depths[1], domains=domains)


def _domains(inside: list[str], out: list[str], shapes: Mapping[str, tuple[int, ...]]) -> tuple[FourMDomain, ...]:
    """The modalities, those of the encoder first. A KeyError names a tensor that is missing."""
    found = []
    for name in dict.fromkeys([*inside, *out]):
        half = "encoder_embeddings" if name in inside else "decoder_embeddings"
        start = f"{half}.{name}."
        tables = {"proj.weight": "pixels", "emb_proj.weight": "features"} if half == "encoder_embeddings" else {}
        plain = next((shape for tensor, shape in tables.items() if start + tensor in shapes), None)
        kind = plain or ("grid" if name.startswith("tok_") else "sequence")
        size = shapes[f"{start}{next(tensor for tensor, shape in tables.items() if shape == plain)}"][1] if plain else None
        found.append(
            FourMDomain(
                name=name,
                shape=kind,  # type: ignore[arg-type]
                size=size or shapes[start + "token_emb.weight"][0],
                places=shapes[start + "pos_emb"][1],
                reads=name in inside,
                writes=name in out,
                learned=name.endswith("_global"),
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class FourMCells:
    """Cells of one half of the network, a row each.

    Args:
        tokens: What the cells hold; 0 where not valid.
        places: Position and modality of each; 0 where not valid.
        valid: False for padding.
    """

    tokens: Float[Tensor, "batch cells dim"]
    places: Float[Tensor, "batch cells dim"]
    valid: Bool[Tensor, "batch cells"]


class FourMEmbedding(nn.Module):
    """What one half of the network knows of a modality: its codes or patches, positions and name.

    Args:
        domain: The modality.
        dim: Width.
        writes: Whether it is the decoder's, which has a head too.
    """

    pos_emb: Tensor

    def __init__(self, domain: FourMDomain, dim: int, writes: bool) -> None:
        super().__init__()
        positions = torch.zeros(1, domain.places, dim)
        if domain.learned:
            self.pos_emb = nn.Parameter(positions)
        else:
            self.register_buffer("pos_emb", positions)
        self.mod_emb = nn.Parameter(torch.zeros(1, 1, dim))
        if domain.coded:
            self.token_emb = nn.Embedding(domain.size, dim, _weight=torch.zeros(domain.size, dim))
        elif domain.shape == "pixels":
            self.proj = nn.Linear(domain.size, dim, bias=False)
        else:
            self.emb_proj = nn.Linear(domain.size, dim)
        if writes:
            self.to_logits = nn.Linear(dim, domain.size, bias=False)

    def at(self, positions: Int[Tensor, " cells"]) -> Float[Tensor, "cells dim"]:
        """Position and modality of cells."""
        found: Tensor = self.pos_emb[0, positions] + self.mod_emb[0]
        return found


class FourM(nn.Module):
    """4M: an encoder of visible cells of any modalities, and a decoder of asked ones.

    Args:
        config: Size.

    Source: 4M, arXiv:2312.06647; 4M-21, arXiv:2406.09406.
    """

    def __init__(self, config: FourMConfig) -> None:
        super().__init__()
        self.config, block = config, config.block
        self.encoder_embeddings = nn.ModuleDict(
            {one.name: FourMEmbedding(one, block.dim, writes=False) for one in config.domains if one.reads}
        )
        self.decoder_embeddings = nn.ModuleDict(
            {one.name: FourMEmbedding(one, block.dim, writes=True) for one in config.domains if one.writes}
        )
        for name in set(self.encoder_embeddings) & set(self.decoder_embeddings):
            self.writer(name).mod_emb = self.reader(name).mod_emb
        self.encoder = nn.ModuleList([FourMEncoderBlock(block) for _ in range(config.encoder_depth)])
        self.decoder = nn.ModuleList([FourMDecoderBlock(block) for _ in range(config.decoder_depth)])
        self.encoder_norm, self.decoder_norm = FourMNorm(block.dim, block.norm_bias), FourMNorm(block.dim, block.norm_bias)
        self.decoder_proj_context = nn.Linear(block.dim, block.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, block.dim))

    def reader(self, name: str) -> FourMEmbedding:
        """The encoder's embedding of a modality."""
        found: FourMEmbedding = self.encoder_embeddings[name]  # type: ignore[assignment]
        return found

    def writer(self, name: str) -> FourMEmbedding:
        """The decoder's embedding of a modality."""
        found: FourMEmbedding = self.decoder_embeddings[name]  # type: ignore[assignment]
        return found

    def forward(self, seen: FourMCells, asked: FourMCells, visible: Bool[Tensor, "batch asked asked"]) -> Float[Tensor, "batch asked dim"]:
        """States of the asked cells, the input of the heads.

        Args:
            seen: Cells of the encoder.
            asked: Cells of the decoder.
            visible: Which of the decoder's cells each of them sees.
        """
        x, y = seen.tokens + seen.places, asked.tokens + asked.places
        keys = seen.valid[:, None, :]
        for block in self.encoder:
            x = block(x, keys.expand(-1, x.shape[1], -1))
        context = self.decoder_proj_context(self.encoder_norm(x)) + seen.places
        for block in self.decoder:
            y = block(y, context, visible, keys.expand(-1, y.shape[1], -1))
        found: Tensor = self.decoder_norm(y)
        return found

    def as_published(self) -> dict[str, Tensor]:
        """A copy of every tensor, shared ones twice, as the published files have them."""
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in self.state_dict().items()}
