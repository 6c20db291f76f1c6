"""The class-conditional transformer of Halton-MaskGIT as a network over our token space, under its published names."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.interop.halton_config import IMAGE, LABEL, HaltonConfig, halton_space
from maskgen.networks.published import PublishedNetwork
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import MASK

EPSILON = 1e-5


class HaltonTransformer(PublishedNetwork):
    """The transformer as a network of maskgen: a batch becomes hidden states of its image cells, 0 at all others.

    The class is the one cell of the modality `label`. A row in which that cell is absent, hidden or masked gets the null condition, the
    class that stood for a dropped label in training. Hidden image cells are seen by no other cell. The mask id is a row of the
    embedding, but never a code: it cannot be drawn.

    Args:
        config: Its size.

    Source: arXiv:2503.17076; layout of valeoai/Halton-MaskGIT. Differs: there the mask id has a logit and can be drawn, and is replaced
    by the last code of the codebook at the end.
    """

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.config: HaltonConfig = config
        self.space = halton_space(config)
        self.cls_emb, self.tok_emb, self.pos_emb = (
            _embedding(rows, config.dim) for rows in (config.num_classes + 1, config.codebook_size + 1, config.side**2)
        )
        if config.num_registers:
            self.reg_tokens = _embedding(config.num_registers, config.dim)
        self.transformer = _Encoder(config)
        self.last_norm = _AdaptiveNorm(config.dim)
        self.head = _Head(self.tok_emb)

    @property
    def embed(self) -> nn.Embedding:
        """The embedding of the image's codes."""
        return self.tok_emb

    def forward(
        self, batch: TokenBatch, context: Tensor | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every image cell; see the class.

        Args:
            batch: Rows with one whole image each, and at most one label.
            context: Must be None: the network takes no embeddings from elsewhere.
            window: Must be None: the network has no local attention.

        Raises:
            ValueError: If a row has not exactly the cells of one image, or another argument is given.
        """
        if context is not None or window is not None:
            raise ValueError("a Halton-MaskGIT network takes neither context nor a window; leave them out")
        cells = self._image_cells(batch)
        ids, coords = batch.ids[..., 0][cells], batch.coords[cells]
        codes = torch.where(ids == MASK, self.config.codebook_size, ids - self.space.of(IMAGE)[0].offset)
        states = self.tok_emb(codes) + self.pos_emb(coords[:, 1] * self.config.side + coords[:, 2])
        seen = rearrange(batch.valid[cells], "(b l) -> b l", b=len(batch))
        found = self._run(rearrange(states, "(b l) d -> b l d", b=len(batch)), self.cls_emb(self._classes(batch)), seen)
        hidden = found.new_zeros(*batch.modality.shape, self.config.dim)
        hidden[cells] = rearrange(found * seen[..., None], "b l d -> (b l) d")
        return hidden

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the image's codes; the mask id has none.

        Raises:
            ValueError: If other codes are asked for.
        """
        image = self.space.of(IMAGE)[0]
        if (offset, size) != (image.offset, image.size):
            raise ValueError(f"a Halton-MaskGIT network predicts image codes alone, was asked for ids {offset} to {offset + size - 1}")
        found: Tensor = self.head(hidden, size)
        return found

    def _image_cells(self, batch: TokenBatch) -> Bool[Tensor, "batch length"]:
        """Cells of the image, hidden ones too."""
        side, cells = self.config.side, batch.modality == self.space.index(IMAGE)
        counts, grids = cells.sum(dim=1), batch.extent[cells][:, 1:]
        if not bool((counts == side * side).all()) or not bool((grids == side).all()):
            sizes = sorted({f"{rows} x {columns}" for rows, columns in grids.tolist()})
            raise ValueError(
                f"this Halton-MaskGIT network draws one image of {side} x {side} cells a row, got {' and '.join(sizes) or 'none'} in "
                f"rows of {sorted(set(counts.tolist()))} cells; leave width and height out, or load the model of the other size"
            )
        return cells

    def _classes(self, batch: TokenBatch) -> Int[Tensor, " batch"]:
        """Class of each row; the number of classes itself where there is none."""
        label, ids = self.space.of(LABEL)[0], batch.ids[..., 0]
        cells = batch.cells(label.index) & (ids != MASK)
        if bool((cells.sum(dim=1) > 1).any()):
            raise ValueError("a row of a Halton-MaskGIT network has one label, got several; give each image a row of its own")
        chosen = torch.where(cells, ids - label.offset + 1, 0).sum(dim=1)
        return torch.where(chosen > 0, chosen - 1, self.config.num_classes)

    def _run(
        self, cells: Float[Tensor, "batch cells dim"], condition: Float[Tensor, "batch dim"], seen: Bool[Tensor, "batch cells"]
    ) -> Float[Tensor, "batch cells dim"]:
        """The blocks and the last norm, with the registers behind the image."""
        count, registers = cells.shape[1], self.config.num_registers
        if registers:
            cells = torch.cat([cells, self.reg_tokens.weight.expand(len(cells), -1, -1)], dim=1)
        mask = None if bool(seen.all()) else functional.pad(seen, (0, registers), value=True)[:, None, None, :]
        found: Tensor = self.last_norm(self.transformer(cells, condition, mask)[:, :count], condition)
        return found


def _embedding(rows: int, dim: int) -> nn.Embedding:
    """A table of standard deviation 0.02; uniform, because a normal draw on the meta device imports a thousand modules."""
    return nn.Embedding(rows, dim, _weight=torch.empty(rows, dim).uniform_(-0.035, 0.035))


def _unit(cells: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
    """Each vector over its root mean square, computed in float32."""
    wide = cells.float()
    return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + EPSILON)).type_as(cells)


def _modulated(
    cells: Float[Tensor, "batch cells dim"], shift: Float[Tensor, "batch dim"], scale: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch cells dim"]:
    return cells * (1 + scale[:, None]) + shift[:, None]


class _Head(nn.Module):
    """The head, whose weight is the embedding of the codes."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.weight, self.bias = table.weight, nn.Parameter(torch.zeros(table.num_embeddings))

    def forward(self, hidden: Float[Tensor, "cells dim"], size: int) -> Float[Tensor, "cells size"]:
        return functional.linear(hidden, self.weight[:size], self.bias[:size])


class _Norm(nn.Module):
    """RMS norm with a weight, and with a bias in the last one of the network."""

    def __init__(self, dim: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, cells: Float[Tensor, "batch cells dim"]) -> Float[Tensor, "batch cells dim"]:
        found = self.weight * _unit(cells)
        return found if self.bias is None else found + self.bias


class _AdaptiveNorm(nn.Module):
    """The last norm, shifted and scaled by the condition."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_final = _Norm(dim, bias=True)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, cells: Float[Tensor, "batch cells dim"], condition: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch cells dim"]:
        return _modulated(self.norm_final(cells), *self.mlp(condition).chunk(2, dim=-1))


class _Attention(nn.Module):
    """Attention whose queries and keys are normalised over all heads together."""

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        width = config.num_heads * (config.dim // config.num_heads)
        self.wq, self.wk, self.wv = (nn.Linear(config.dim, width, bias=False) for _ in range(3))
        self.wo = nn.Linear(width, config.dim, bias=False)

    def forward(self, cells: Float[Tensor, "batch cells dim"], mask: Tensor | None) -> Float[Tensor, "batch cells dim"]:
        parts = _unit(self.wq(cells)), _unit(self.wk(cells)), self.wv(cells)
        query, key, value = (rearrange(part, "b l (h d) -> b h l d", h=self.num_heads) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.wo(rearrange(mixed, "b h l d -> b l (h d)"))
        return out


class _FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, dim: int, feed_dim: int) -> None:
        super().__init__()
        self.w1, self.w3 = (nn.Linear(dim, feed_dim, bias=False) for _ in range(2))
        self.w2 = nn.Linear(feed_dim, dim, bias=False)

    def forward(self, cells: Float[Tensor, "batch cells dim"]) -> Float[Tensor, "batch cells dim"]:
        out: Tensor = self.w2(functional.silu(self.w1(cells)) * self.w3(cells))
        return out


class _Block(nn.Module):
    """Attention and feed-forward network, each shifted, scaled and gated by the condition."""

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, 6 * config.dim))
        self.ln1, self.ln2 = _Norm(config.dim), _Norm(config.dim)
        self.attn, self.ff = _Attention(config), _FeedForward(config.dim, config.feed_dim)

    def forward(
        self, cells: Float[Tensor, "batch cells dim"], condition: Float[Tensor, "batch dim"], mask: Tensor | None
    ) -> Float[Tensor, "batch cells dim"]:
        shift, scale, gate, feed_shift, feed_scale, feed_gate = self.mlp(condition).chunk(6, dim=-1)
        cells = cells + gate[:, None] * self.attn(_modulated(self.ln1(cells), shift, scale), mask)
        out: Tensor = cells + feed_gate[:, None] * self.ff(_modulated(self.ln2(cells), feed_shift, feed_scale))
        return out


class _Encoder(nn.Module):
    """The blocks, under the name `layers`."""

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.num_layers))

    def forward(
        self, cells: Float[Tensor, "batch cells dim"], condition: Float[Tensor, "batch dim"], mask: Tensor | None
    ) -> Float[Tensor, "batch cells dim"]:
        for block in self.layers:
            cells = block(cells, condition, mask)
        return cells
