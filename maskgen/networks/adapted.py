"""A pretrained language model as the masked transformer: its vocabulary is the text modality; all other modalities are new."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.networks.backbone import BACKBONE_FAMILIES, Backbone, Trunk, read_backbone, read_vocabulary
from maskgen.networks.framing import framed, template_of
from maskgen.networks.places import TEXT, cell_before, places_in_row
from maskgen.networks.visibility import nearby, visible
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import MASK, PAD, TokenSpace

logger = logging.getLogger(__name__)
NUM_WAVES = 16
"""Number of wavelengths of the position features (time, row, column), 2 to 2**16 cells."""


@dataclass(frozen=True, kw_only=True)
class AdaptedConfig:
    """Configuration of an adapted transformer: plain data, including the whole configuration of its backbone.

    Args:
        backbone: Configuration in the format of the package transformers, without paths and without code.
        with_head: Whether to keep the layers before the backbone's output table, and its bias.
        tie_head: Whether the embedding table is the output table.
        shift: Read text cells from the hidden state of the cell before them, as a causal model learned to.
        grid_places: "row" gives each cell of the other modalities its own position, after that of the cell before it; "shared" gives
            all cells of a grid one position.
        before: Shared ids that the backbone's tokenizer puts before a text, such as [CLS]; the network adds them to its input.
        after: Shared ids that it puts after a text, such as [SEP].
    """

    backbone: Mapping[str, Any]
    with_head: bool = False
    tie_head: bool = True
    shift: bool = False
    grid_places: Literal["row", "shared"] = "row"
    before: Sequence[int] = ()
    after: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.grid_places not in ("row", "shared"):
            raise ValueError(f"grid_places is 'row' or 'shared', got {self.grid_places!r}")
        for name in ("before", "after"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def dim(self) -> int:
        """Width of the residual stream."""
        return int(self.backbone.get("hidden_size") or self.backbone["n_embd"])

    @property
    def blind_condition(self) -> bool:
        """Always False: every cell may attend to every other."""
        return False


class AdaptedTransformer(nn.Module):
    """A pretrained backbone of the package transformers with the interface of `maskgen.networks.transformer.MaskTransformer`.

    Cells enter as the sum of the embeddings of all their levels plus that of their modality; cells of other modalities than the first also
    get an embedding of (time, row, column). Both added parts start at zero, so on text the network equals the backbone. Attention is
    bidirectional unless it is called under `annealed`.

    Args:
        config: Configuration of the network.
        vocab_size: Number of ids of the token space; id 0 is padding and embeds to zero.
        num_modalities: Number of modalities in the space.
        trunk: The backbone's layers; None creates them with random weights.

    Source: DiffuLLaMA, arXiv:2410.17891 (causal models). Differs: cells see each other inside one document only, and the shift stays
    inside the document too.
    """

    def __init__(self, config: AdaptedConfig, vocab_size: int, num_modalities: int, trunk: Trunk | None = None) -> None:
        super().__init__()
        self.config, self.vocab_size, self.num_modalities = config, vocab_size, num_modalities
        if any(not 0 <= one < vocab_size for one in (*config.before, *config.after)):
            raise ValueError(f"before and after hold the ids {config.before} and {config.after}, wanted ids in [0, {vocab_size})")
        self.trunk = trunk or Trunk(config.backbone, config.with_head)
        self.embed = nn.Embedding(vocab_size, config.dim, padding_idx=PAD)
        self.embed_modality = nn.Embedding(num_modalities + 1, config.dim, padding_idx=0)
        self.embed_place = nn.Linear(6 * NUM_WAVES, config.dim, bias=False)
        self.head = self.embed if config.tie_head else nn.Embedding(vocab_size, config.dim)
        self.head_bias = nn.Parameter(torch.zeros(vocab_size)) if config.with_head else None
        nn.init.zeros_(self.embed_modality.weight)
        nn.init.zeros_(self.embed_place.weight)
        self._future: tuple[float, int] | None = None

    @contextmanager
    def annealed(self, share: float, seed: int = 0) -> Iterator[None]:
        """Context manager that opens only a share of the attention edges from a cell to later cells.

        Args:
            share: Share of the edges; 0 is the causal model, 1 full attention.
            seed: Seed of the choice of edges, which is the same for all rows of a batch.
        """
        self._future = (share, seed)
        try:
            yield
        finally:
            self._future = None

    def forward(
        self,
        batch: TokenBatch,
        context: Bool[Tensor, "batch length"] | None = None,
        window: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every cell, the input of `logits`; see `MaskTransformer.forward`.

        Raises:
            ValueError: If a row has more positions than the backbone's table, or `context` is given.
        """
        if context is not None:
            raise ValueError("an adapted transformer has no blind_condition; call it without context")
        whole, place = self._framed(batch)
        hidden = self._states(whole, window)
        if self.config.shift:
            hidden = torch.take_along_dim(hidden, cell_before(whole)[..., None], 1)
        out: Tensor = self.trunk.head(hidden if place is None else torch.take_along_dim(hidden, place[..., None], 1))
        return out

    def states(self, batch: TokenBatch, window: Int[Tensor, " batch"] | None = None) -> Float[Tensor, "batch length dim"]:
        """The backbone's last hidden state of every cell, before shift and head."""
        whole, place = self._framed(batch)
        hidden = self._states(whole, window)
        return hidden if place is None else torch.take_along_dim(hidden, place[..., None], 1)

    def _framed(self, batch: TokenBatch) -> tuple[TokenBatch, Int[Tensor, "batch length"] | None]:
        """The batch with the special tokens of the backbone's tokenizer, and where its cells stand in it; None where there are none."""
        if not self.config.before and not self.config.after:
            return batch, None
        return framed(batch, TEXT, self.config.before, self.config.after)

    def _states(self, batch: TokenBatch, window: Int[Tensor, " batch"] | None) -> Float[Tensor, "batch length dim"]:
        """Hidden states of a batch that has its special tokens."""
        place = self.embed_place(waves(batch.coords).to(self.embed.weight.dtype))
        x = self.embed(batch.ids).sum(dim=2) + self.embed_modality(batch.modality) + (batch.modality > TEXT)[..., None] * place
        near = None if window is None else nearby(batch.modality, batch.coords[..., 0], window)
        # Always pass an explicit mask: without one a causal backbone would use its own.
        seen, (rows, length) = visible(batch.valid, batch.document, near=near), batch.valid.shape
        if seen is None:
            seen = batch.valid.new_ones(rows, 1, length, length)
        if self._future is not None:
            seen = seen & open_edges(*self._future, length).to(seen.device)
        places = places_in_row(batch, self.config.grid_places)
        self._check(places)
        hidden: Tensor = self.trunk(x, places, seen)
        return hidden

    def _check(self, places: Int[Tensor, "batch length"]) -> None:
        """Raise ValueError if the position table is too short."""
        most = self.trunk.positions
        if most is not None and places.shape[1] > most and (found := int(places.max()) + 1) > most:
            raise ValueError(
                f"a row has {found} positions, the backbone's table has {most}; take shorter rows, or grid_places: shared, "
                "which gives a whole grid one position"
            )

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the ids `offset` to `offset + size - 1` at the given cells: affine in `hidden`, so guidance may mix hidden states."""
        bias = None if self.head_bias is None else self.head_bias[offset : offset + size]
        return functional.linear(hidden, self.head.weight[offset : offset + size], bias)


def adapt(
    source: str, space: TokenSpace, shift: bool | None = None, grid_places: Literal["row", "shared"] = "row", seed: int = 0
) -> AdaptedTransformer:
    """Adapt a pretrained backbone to a token space.

    Row v of the backbone is code v of the text. MASK is the backbone's own mask token, else the mean of its embeddings. Rows of other
    modalities are drawn so that a cell with all its levels has the mean and the standard deviation of a text token.

    Args:
        source: Folder written by `save_pretrained` of transformers, or a hub id.
        space: Token space whose first modality is the text in the backbone's own codes.
        shift: As in `AdaptedConfig`; None shifts causal families only.
        grid_places: As in `AdaptedConfig`.
        seed: Seed of the new rows.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If the backbone cannot be read, or has a smaller vocabulary than the text modality, or the first modality is not text.
    """
    first = space.modalities[0] if space.modalities else None
    if first is None or not first.is_text:
        raise ValueError(
            f"the first modality of the space is {'none' if first is None else f'{first.name} ({first.kind})'}, an adapted backbone needs "
            "text there; tokenize with text as the first modality"
        )
    found = read_backbone(source)
    if len(found.table) < first.codebook_size:
        raise ValueError(
            f"the backbone in {source} has {len(found.table)} words, the text has {first.codebook_size} codes; "
            f"tokenize the text with the backbone's own tokenizer: maskgen data tokenize --text {source}"
        )
    shift = BACKBONE_FAMILIES[found.config["model_type"]].causal if shift is None else shift
    vocabulary, offset = read_vocabulary(source), space.of(first.name)[0].offset
    template = ((), ()) if vocabulary is None else template_of(vocabulary.text)
    before, after = (tuple(offset + code for code in codes) for codes in template)
    config = AdaptedConfig(
        backbone=found.config,
        with_head=found.with_head,
        tie_head=found.out is None,
        shift=shift,
        grid_places=grid_places,
        before=before,
        after=after,
    )
    model = AdaptedTransformer(config, space.size, len(space.modalities), found.trunk)
    logger.info("%d special tokens stand before and %d behind every text, as in the tokenizer of %s", len(before), len(after), source)
    mask = None if vocabulary is None else vocabulary.row("mask_token")
    logger.info("MASK starts as %s of %s", "the mean of the words" if mask is None else f"word {mask}", source)
    with torch.no_grad():
        _grow(model, found, space, mask, torch.Generator().manual_seed(seed))
    return model.train()  # transformers loads models with dropout off


def _grow(model: AdaptedTransformer, found: Backbone, space: TokenSpace, mask: int | None, generator: torch.Generator) -> None:
    """Fill the tables: the backbone's rows for text, new rows elsewhere."""
    model.embed.weight.copy_(grown_table(found.table, space, mask, generator))
    if found.out is not None:
        model.head.weight.copy_(grown_table(found.out, space, mask, generator))
    if model.head_bias is not None and found.bias is not None:
        first = space.of(space.modalities[0].name)[0]
        model.head_bias[first.offset : first.offset + first.size] = found.bias[: first.size]


def grown_table(
    table: Float[Tensor, "vocabulary dim"], space: TokenSpace, mask: int | None, generator: torch.Generator
) -> Float[Tensor, "size dim"]:
    """Extend a table of the first modality to the whole token space.

    Args:
        table: Table whose row v is code v of the first modality.
        space: The token space.
        mask: Row to copy for MASK; None takes the mean.
        generator: Random generator of the new rows.
    """
    mean, spread = table.mean(dim=0), table.std(dim=0)
    grown = mean + spread * torch.randn(space.size, table.shape[1], generator=generator)
    for one in space.modalities[1:]:
        for segment in space.of(one.name):  # the embeddings of a cell's levels are summed
            rows = slice(segment.offset, segment.offset + segment.size)
            grown[rows] = (grown[rows] - mean) / one.num_levels**0.5 + mean / one.num_levels
    first = space.of(space.modalities[0].name)[0]
    grown[first.offset : first.offset + first.size] = table[: first.size]
    grown[PAD], grown[MASK] = 0.0, mean if mask is None else table[mask]
    return grown


def open_share(step: int, anneal_steps: int) -> float:
    """Share of the edges to later cells that are open at a training step: 1 from step `anneal_steps - 1` on.

    With `anneal_steps` 0 it is always 1.

    Source: DiffuLLaMA, arXiv:2410.17891.
    """
    return 1.0 if anneal_steps <= 0 else min(1.0, (step + 1) / anneal_steps)


def open_edges(share: float, seed: int, length: int) -> Bool[Tensor, "length length"]:
    """Causal attention with each edge to a later cell opened with probability `share`: none at 0, all at 1."""
    drawn = torch.rand(length, length, generator=torch.Generator().manual_seed(seed))
    return (drawn < share) | torch.ones(length, length, dtype=torch.bool).tril()


def waves(coords: Int[Tensor, "batch length 3"]) -> Float[Tensor, "batch length features"]:
    """Sines and cosines of (time, row, column) with wavelengths from 2 to 2**16 cells."""
    frequencies = torch.pi * 2.0 ** -torch.arange(NUM_WAVES, device=coords.device)
    angles = rearrange(coords[..., None].float() * frequencies, "b l axes waves -> b l (axes waves)")
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
