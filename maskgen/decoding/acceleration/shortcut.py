"""Shortcut: a small block replaces most calls of the transformer during a decode."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.networks.packed_linear import num_weights
from maskgen.networks.shortcut import ShortcutBlock
from maskgen.networks.transformer import MaskTransformer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import MASK, PAD


def predicted(
    model: MaskTransformer,
    block: ShortcutBlock,
    hidden: Float[Tensor, "batch length dim"],
    before: Int[Tensor, "batch length level"],
    batch: TokenBatch,
) -> Float[Tensor, "batch length dim"]:
    """Hidden states of a batch, predicted by the block alone from those that the model gave when its ids were `before`.

    Args:
        model: Gives the embeddings.
        block: The shortcut.
        hidden: Hidden states for `before`.
        before: Ids of the last pass.
        batch: The rows now; nothing but their ids has changed.
    """
    tokens = (model.embed(batch.ids) - model.embed(before)).sum(dim=2)
    codes = (batch.ids != PAD) & batch.valid[..., None]
    ratio = ((batch.ids == MASK) & codes).sum(dim=(1, 2)) / codes.sum(dim=(1, 2)).clamp(min=1)
    states: Tensor = block(hidden, tokens, (before != batch.ids).any(dim=2), batch, ratio)
    return states


class ShortcutModel:
    """A TokenModel for one decode: a full pass, then `full_every - 1` passes of the block, and so on; each row for itself.

    A row of which anything but MASK has changed (another prompt, a code taken back or rewritten) gets a full pass, for the block has
    learned only how new codes move the hidden states. A row without change keeps its hidden states and costs nothing.

    Args:
        model: Transformer; its weights are those that the block was trained on.
        block: The shortcut.
        full_every: 1 is the transformer alone.

    Attributes:
        model_calls: Work so far, in rows through the transformer: a guided step counts both its views, a row through the block its share of
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
        self.model_calls = 0.0
        self._hidden = torch.zeros(0)
        self._age = torch.zeros(0)
        """Passes of the block since a row's last full one."""
        self._last: TokenBatch | None = None

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """The transformer's own head."""
        return self.model.logits(hidden, offset, size)

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch length dim"]:
        """Hidden states of every cell, exact or predicted."""
        full, brief = self._kinds(batch)
        hidden = self._blank(batch.ids) if bool(full.all()) else self._hidden.clone()
        if bool(full.any()):
            hidden[full] = self.model(batch.rows(full))
        if self._last is not None and bool(brief.any()):
            hidden[brief] = predicted(self.model, self.block, self._hidden[brief], self._last.ids[brief], batch.rows(brief))
        self.model_calls += int(full.sum()) + self.share * int(brief.sum())
        self._last, self._hidden = batch, hidden
        return hidden

    def _kinds(self, batch: TokenBatch) -> tuple[Bool[Tensor, " batch"], Bool[Tensor, " batch"]]:
        """Rows that get a full pass, and rows that get one of the block; the ages are brought up to date."""
        last = self._last
        if last is None or last.ids.shape != batch.ids.shape:
            self._age = torch.zeros(len(batch), dtype=torch.long, device=batch.ids.device)
            return torch.ones_like(self._age, dtype=torch.bool), torch.zeros_like(self._age, dtype=torch.bool)
        changed = last.ids != batch.ids
        strange = (changed & (last.ids != MASK)).flatten(1).any(dim=1)
        ours, theirs = batch.tensors(), last.tensors()
        for name in ours.keys() - {"ids"}:
            strange = strange | (ours[name] != theirs[name]).flatten(1).any(dim=1)
        moved = changed.flatten(1).any(dim=1)
        full = strange | (moved & (self._age + 1 >= self.full_every))
        brief = moved & ~full
        self._age = torch.where(full, 0, self._age + brief)
        return full, brief

    def _blank(self, ids: Tensor) -> Tensor:
        """Room for the hidden states of a batch."""
        return self.model.embed.weight.new_zeros(*ids.shape[:2], self.model.config.dim)
