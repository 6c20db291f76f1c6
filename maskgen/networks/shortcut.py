"""Shortcut block: predicts a masked transformer's next hidden states from the last ones and the newly sampled codes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.io.bundle import load_bundle, save_bundle
from maskgen.io.fitting import fitted
from maskgen.io.schema import Record, Text, Whole, record_of
from maskgen.tokens.batch import TokenBatch

SHORTCUT_KIND = "shortcut"
NUM_FREQUENCIES = 8


@dataclass(frozen=True, kw_only=True)
class ShortcutConfig:
    """Configuration of the shortcut block.

    Args:
        dim: Width of the transformer's hidden states.
        inner_dim: Width inside the block.
        num_heads: Attention heads; must divide inner_dim.
        modulate: Condition the block on the masked share of the row.
    """

    dim: int
    inner_dim: int = 128
    num_heads: int = 4
    modulate: bool = True

    def __post_init__(self) -> None:
        if self.inner_dim % self.num_heads:
            raise ValueError(f"inner_dim must be a multiple of num_heads, got inner_dim={self.inner_dim}, num_heads={self.num_heads}")


SHORTCUT_SCHEMA = record_of(ShortcutConfig, num_heads=Whole(1, 1024))


class _Attention(nn.Module):
    """Attention between cells; a cell that sees no other attends to a zero value and gets zeros."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self, x: Float[Tensor, "batch length dim"], others: Float[Tensor, "batch length dim"], seen: Bool[Tensor, "batch length length"]
    ) -> Float[Tensor, "batch length dim"]:
        query = rearrange(self.query(x), "b l (h d) -> b h l d", h=self.num_heads)
        key, value = rearrange(self.key_value(others), "b l (two h d) -> two b h l d", two=2, h=self.num_heads)
        key, value = (functional.pad(part, (0, 0, 1, 0)) for part in (key, value))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=functional.pad(seen, (1, 0), value=True)[:, None])
        out: Tensor = self.out(rearrange(mixed, "b h l d -> b l (h d)"))
        return out


class ShortcutBlock(nn.Module):
    """Predict the change of the hidden states after a decoding step.

    The block has one cross-attention from all cells to the newly sampled codes, one self-attention and one feed-forward. Untrained it
    predicts no change and returns the last hidden states.

    Args:
        config: Configuration of the block.

    Source: MIGM-Shortcut, arXiv:2602.23996. Differs: codes enter as the change of the transformer's own embedding, the whole block runs
    in the bottleneck, and the mask ratio scales and shifts its input once.
    """

    def __init__(self, config: ShortcutConfig) -> None:
        super().__init__()
        self.config, dim = config, config.inner_dim
        self.into, self.into_tokens = nn.Linear(config.dim, dim), nn.Linear(config.dim, dim)
        self.place = nn.Linear(6 * NUM_FREQUENCIES, dim)
        self.ratio = nn.Linear(1, 2 * dim) if config.modulate else None
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(4))
        self.cross, self.within = _Attention(dim, config.num_heads), _Attention(dim, config.num_heads)
        self.feed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.out = nn.Linear(dim, config.dim)
        for linear in (self.out, *([self.ratio] if self.ratio is not None else [])):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        hidden: Float[Tensor, "batch length dim"],
        tokens: Float[Tensor, "batch length dim"],
        changed: Bool[Tensor, "batch length"],
        batch: TokenBatch,
        mask_ratio: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden states after the change; undefined at invalid cells.

        Args:
            hidden: Hidden states before the change.
            tokens: Change of each cell's summed embedding.
            changed: Cells with a newly sampled code.
            batch: The cells; their ids are not read.
            mask_ratio: Share of each row's codes that is masked now.
        """
        same = batch.document[:, :, None] == batch.document[:, None, :]
        place = self.place(_waves(batch.coords).to(hidden.dtype))
        x, drawn = self.into(hidden) + place, self.into_tokens(tokens) + place
        if self.ratio is not None:
            scale, shift = self.ratio(mask_ratio[:, None].to(hidden.dtype))[:, None].chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        before_cross, before_within, before_feed, before_out = self.norms
        x = x + self.cross(before_cross(x), drawn, same & (changed & batch.valid)[:, None])
        x = x + self.within(normed := before_within(x), normed, same & batch.valid[:, None])
        x = x + self.feed(before_feed(x))
        predicted: Tensor = hidden + self.out(before_out(x))
        return predicted

    def save(self, folder: Path | str, generator: str) -> str:
        """Write a bundle in half precision and return its fingerprint.

        Args:
            folder: Created if missing.
            generator: sha256 of the weights whose hidden states the block predicts, `maskgen.networks.pretrained.Pretrained.weights`.
        """
        config = {"block": asdict(self.config), "generator": generator}
        return save_bundle(folder, SHORTCUT_KIND, config, {name: tensor.half() for name, tensor in self.state_dict().items()})

    @classmethod
    def from_bundle(cls, folder: Path | str, generator: str) -> "ShortcutBlock":
        """Load a block that `save` wrote.

        Raises:
            ValueError: If the bundle is missing or damaged, holds something else, or was trained on the hidden states of other weights.
        """
        bundle = load_bundle(folder, SHORTCUT_KIND, Record({"block": SHORTCUT_SCHEMA, "generator": Text()}))
        if bundle.config["generator"] != generator:
            raise ValueError(
                f"the shortcut {folder} was trained on a model with weights {bundle.config['generator'][:12]}…, this one has "
                f"{generator[:12]}…; train it on this model: maskgen fit --config configs/shortcut_emoji64.yaml"
            )
        return cls.of(bundle.config["block"], {name: tensor.float() for name, tensor in bundle.tensors.items()}, str(folder))

    @classmethod
    def of(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str = "a shortcut") -> "ShortcutBlock":
        """Create a block in evaluation mode from its configuration and weights.

        Args:
            config: Fields of `ShortcutConfig`.
            tensors: Its weights.
            source: Origin of both, for error messages.

        Raises:
            ValueError: If the configuration is invalid or does not match the weights.
        """
        SHORTCUT_SCHEMA.check(config, f"{source}: block")
        block = fitted(lambda: cls(ShortcutConfig(**config)), tensors, source)
        block.load_state_dict(dict(tensors))
        return block.eval().requires_grad_(False)


def _waves(coords: Int[Tensor, "batch length 3"]) -> Float[Tensor, "batch length waves"]:
    """Sines and cosines of the three coordinates, with periods from 6 to about 6,000 cells."""
    frequencies = 1000.0 ** (-torch.arange(NUM_FREQUENCIES, device=coords.device) / (NUM_FREQUENCIES - 1))
    angles = rearrange(coords[..., None] * frequencies, "b l three wave -> b l (three wave)")
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
