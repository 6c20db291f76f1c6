"""Decoding with a shortcut: most passes of the transformer are replaced by a small block."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.networks.packed_linear import num_weights
from maskgen.networks.shortcut import ShortcutBlock
from maskgen.networks.transformer import MaskTransformer
from maskgen.tokens.space import MASK, PAD

Fields = tuple[Tensor, Tensor, Tensor, Tensor]
"""Modality, coords, valid and document of a batch."""


def predicted(
    model: MaskTransformer,
    block: ShortcutBlock,
    hidden: Float[Tensor, "batch length dim"],
    before: Int[Tensor, "batch length level"],
    after: Int[Tensor, "batch length level"],
    fields: Fields,
) -> Float[Tensor, "batch length dim"]:
    """Hidden states for the ids `after`, by the block alone, from those for the ids `before`.

    Args:
        model: Gives the embeddings.
        block: The shortcut.
        hidden: Hidden states for `before`.
        before: Ids of the last pass.
        after: Ids now.
        fields: Modality, coords, valid and document, the same for both.
    """
    _, coords, valid, document = fields
    tokens = (model.embed(after) - model.embed(before)).sum(dim=2)
    codes = (after != PAD) & valid[..., None]
    ratio = ((after == MASK) & codes).sum(dim=(1, 2)) / codes.sum(dim=(1, 2)).clamp(min=1)
    found: Tensor = block(hidden, tokens, (before != after).any(dim=2), coords, valid, document, ratio)
    return found


class ShortcutModel:
    """A TokenModel for one decode: a full pass, then `full_every - 1` passes of the block, and so on; each row for itself.

    A row of which anything but MASK has changed (another prompt, a code taken back or rewritten) gets a full pass, for the block has
    learned only how new codes move the hidden states. A row without change keeps its hidden states and costs nothing.

    Args:
        model: Transformer; its weights are those that the block was trained on.
        block: The shortcut.
        full_every: 1 is the transformer alone.

    Attributes:
        passes: Work so far, in rows through the transformer: a guided step counts both its views, a row through the block its share of
            the weights.

    Raises:
        ValueError: If full_every is not positive, or the block is made for another width.

    Source: MIGM-Shortcut, arXiv:2602.23996. Differs: full passes come at an even distance.
    """

    def __init__(self, model: MaskTransformer, block: ShortcutBlock, full_every: int = 2) -> None:
        if full_every < 1:
            raise ValueError(f"full_every must be at least 1 (every pass is a full one), got {full_every}")
        if block.config.dim != model.config.dim:
            raise ValueError(f"the shortcut is made for hidden states of width {block.config.dim}, the model has {model.config.dim}")
        self.model, self.block, self.full_every = model, block, full_every
        self.share = num_weights(block) / num_weights(model.blocks)
        self.passes = 0.0
        self._ids, self._hidden = torch.zeros(0), torch.zeros(0)
        self._age = torch.zeros(0)
        """Passes of the block since a row's last full one."""
        self._fields: Fields | None = None

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """The transformer's own head."""
        return self.model.logits(hidden, offset, size)

    def __call__(
        self,
        ids: Int[Tensor, "batch length level"],
        modality: Int[Tensor, "batch length"],
        coords: Int[Tensor, "batch length 3"],
        valid: Bool[Tensor, "batch length"],
        document: Int[Tensor, "batch length"],
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden states of every cell, exact or predicted."""
        fields = modality, coords, valid, document
        full, brief = self._kinds(ids, fields)
        hidden = self._blank(ids) if bool(full.all()) else self._hidden.clone()
        if bool(full.any()):
            hidden[full] = self.model(ids[full], *(field[full] for field in fields))
        if bool(brief.any()):
            there: Fields = modality[brief], coords[brief], valid[brief], document[brief]
            hidden[brief] = predicted(self.model, self.block, self._hidden[brief], self._ids[brief], ids[brief], there)
        self.passes += int(full.sum()) + self.share * int(brief.sum())
        self._ids, self._fields, self._hidden = ids, fields, hidden
        return hidden

    def _kinds(self, ids: Tensor, fields: Fields) -> tuple[Bool[Tensor, " batch"], Bool[Tensor, " batch"]]:
        """Rows that get a full pass, and rows that get one of the block; the ages are brought up to date."""
        if self._fields is None or self._ids.shape != ids.shape:
            self._age = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
            return torch.ones_like(self._age, dtype=torch.bool), torch.zeros_like(self._age, dtype=torch.bool)
        changed = self._ids != ids
        strange = (changed & (self._ids != MASK)).flatten(1).any(dim=1)
        for field, old in zip(fields, self._fields, strict=True):
            strange = strange | (field != old).flatten(1).any(dim=1)
        moved = changed.flatten(1).any(dim=1)
        full = strange | (moved & (self._age + 1 >= self.full_every))
        brief = moved & ~full
        self._age = torch.where(full, 0, self._age + brief)
        return full, brief

    def _blank(self, ids: Tensor) -> Tensor:
        """Room for the hidden states of a batch."""
        return self.model.embed.weight.new_zeros(*ids.shape[:2], self.model.config.dim)
