"""KV caches: model calls that compute some cells only and take the rest from an earlier call."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.decoding.acceleration.slots import Slots
from maskgen.networks.transformer import Block, MaskTransformer
from maskgen.networks.visibility import Sight, nearby, sight
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import MASK


class _Asked(NamedTuple):
    """What a model is called with; see `MaskTransformer.forward`."""

    batch: TokenBatch
    window: Tensor | None

    def changed(self, before: "_Asked") -> Bool[Tensor, "batch length"]:
        """Cells with other ids than before."""
        return (self.batch.ids != before.batch.ids).any(dim=2)

    def continues(self, before: "_Asked | None", target: int) -> bool:
        """Whether this is the earlier call with nothing changed but ids of the target."""
        if before is None or (self.window is None) != (before.window is None):
            return False
        if self.window is not None and before.window is not None and not torch.equal(self.window, before.window):
            return False
        return self.batch.same_cells(before.batch) and not bool((self.changed(before) & (self.batch.modality != target)).any())


class _Kept:
    """Keys and values of every block and the last hidden states of all cells, each as of the last pass that computed it.

    Args:
        model: The transformer.
        target: Number of the target modality; with `blind_condition` the cells of all others are context.
    """

    def __init__(self, model: MaskTransformer, target: int) -> None:
        self.model, self.target, self.blocks = model, target, [block for block in model.blocks if isinstance(block, Block)]
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.seen: Tensor | Sight | None = None
        self.hidden = torch.zeros(0)
        self.computed = self.plain = 0

    @property
    def work(self) -> float:
        """Cells computed over the cells that plain passes would have computed; 0 before the first."""
        return self.computed / max(self.plain, 1)

    def whole(self, asked: _Asked) -> Float[Tensor, "batch length dim"]:
        """A pass over all cells, operation for operation the model's own."""
        batch = asked.batch
        x, rotation = self.model.start(batch.ids, batch.modality, batch.coords, batch.features)
        context = batch.modality != self.target if self.model.config.blind_condition else None
        near = None if asked.window is None else nearby(batch.modality, batch.coords[..., 0], asked.window)
        self.seen, self.keys, self.values = sight(batch.valid, batch.document, context, near), [], []
        for block in self.blocks:
            query, key, value = block.attention.project(block.attention_norm(x), rotation)
            x = block.after(x, block.attention.mix(query, key, value, self.seen))
            self.keys.append(key)
            self.values.append(value.contiguous())  # a copy: `value` is a view that would keep query and key in memory
        self.hidden = self.model.norm(x)
        self.computed, self.plain = self.computed + batch.valid.numel(), self.plain + batch.valid.numel()
        return self.hidden

    def part(self, batch: TokenBatch, active: Bool[Tensor, "batch length"]) -> Float[Tensor, "batch length dim"]:
        """A pass over the active cells, which attend to every cell as it is kept."""
        slots = Slots.of(active)
        self.computed, self.plain = self.computed + slots.index.numel(), self.plain + active.numel()
        features = None if batch.features is None else slots.take(batch.features)
        x, rotation = self.model.start(slots.take(batch.ids), slots.take(batch.modality), slots.take(batch.coords), features)
        seen = self.seen.of(slots.index) if isinstance(self.seen, Sight) else self.seen
        seen = slots.take(seen, dim=2) if isinstance(seen, Tensor) else seen
        for block, keys, values in zip(self.blocks, self.keys, self.values, strict=True):
            query, key, value = block.attention.project(block.attention_norm(x), rotation)
            slots.put(key, keys, dim=2)
            slots.put(value, values, dim=2)
            x = block.after(x, block.attention.mix(query, keys, values, seen))
        self.hidden = self.hidden.clone()  # the caller may hold the one before
        slots.put(self.model.norm(x), self.hidden)
        return self.hidden


def undecoded(
    ids: Int[Tensor, "batch length level"], cells: Bool[Tensor, "batch length"], groups: Sequence[Sequence[int]] | None = None
) -> Bool[Tensor, "batch length"]:
    """Cells that are MASK at the level that their row is decoding: the coarsest level at which one of `cells` is MASK.

    Args:
        ids: Shared ids.
        cells: Cells of the target.
        groups: Levels that are decoded together; None decodes one level at a time.
    """
    masked = (ids == MASK) & cells[..., None]
    together = torch.eye(ids.shape[2], dtype=torch.bool, device=ids.device)
    for group in groups or ():
        for level in group:
            together[level, list(group)] = True
    coarsest = masked.any(dim=1).byte().argmax(dim=1)
    return (masked & together[coarsest][:, None]).any(dim=2)


class KVCacheModel:
    """A model that keeps keys, values and hidden states of decoded cells from its last full call. Approximate; measured in docs.

    A full pass runs at the first call, every `refresh` calls, and when anything but the target's ids changes. In between, those cells
    of the target are computed that are MASK or have changed since the full pass; they attend to all cells, to the settled ones as
    kept. Hidden states of settled cells stay those of the full pass, so a sampler that scores known cells gets old scores.
    One object serves one decode (one a group of rows): it remembers what it saw.

    Args:
        model: The transformer.
        target: Number of the modality that is decoded.
        refresh: Calls from one full pass to the next; 1 makes every pass full, which changes nothing.
        groups: Levels of the target that are decoded together, as in the settings; None decodes one level at a time.

    Raises:
        ValueError: If `refresh` is below 1.

    Source: ReCAP, arXiv:2505.19089.
    """

    def __init__(self, model: MaskTransformer, target: int, refresh: int, groups: Sequence[Sequence[int]] | None = None) -> None:
        if refresh < 1:
            raise ValueError(f"refresh must be at least 1 (every pass is full), got {refresh}")
        self.model, self.target, self.refresh, self.groups = model, target, refresh, groups
        self._kept = _Kept(model, target)
        self.levels: Sequence[int] | None = None
        """Levels that are being decoded; None tells them from the masks, which works unless known cells of the target are masked too."""
        self._full: _Asked | None = None
        self._age = 0

    @property
    def work(self) -> float:
        """Cells computed so far, as a share of those that the plain model would have computed."""
        return self._kept.work

    def begin(self, levels: Sequence[int]) -> None:
        """From now on these levels are decoded; the next pass is full, so that no row's states depend on how long others took before."""
        self.levels, self._full, self._age = levels, None, 0

    @torch.no_grad()
    def __call__(self, batch: TokenBatch, window: Int[Tensor, " batch"] | None = None) -> Float[Tensor, "batch length dim"]:
        """Hidden states of all cells, those of settled cells as of the last full pass; see `MaskTransformer.forward`."""
        asked, self._age = _Asked(batch, window), self._age + 1
        if self._full is None or self._age >= self.refresh or not asked.continues(self._full, self.target):
            self._full, self._age = asked, 0
            return self._kept.whole(asked)
        return self._kept.part(batch, self._blank(batch.ids, batch.modality == self.target) | asked.changed(self._full))

    def _blank(self, ids: Int[Tensor, "batch length level"], cells: Bool[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Cells that the decode has still to write at the levels it is at."""
        return undecoded(ids, cells, self.groups) if self.levels is None else (ids[..., list(self.levels)] == MASK).any(dim=2) & cells

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """The model's head."""
        return self.model.logits(hidden, offset, size)


class PrefixCacheModel:
    """A model with `blind_condition` whose condition is computed once: it does not look at the target, so the cache is exact.

    The condition of a decode is every cell of another modality than the target. The first call computes all cells; later ones
    the target's alone, until anything but the target's ids changes. One object serves one decode (one a group of rows).

    Args:
        model: The transformer, trained with `TransformerConfig.blind_condition`.
        target: Number of the modality that is decoded.

    Raises:
        ValueError: If the model was trained with a condition that looks at the target.
    """

    def __init__(self, model: MaskTransformer, target: int) -> None:
        if not model.config.blind_condition:
            raise ValueError(
                "the model's condition looks at its target (blind_condition=False), so its keys change with every step; "
                "train with blind_condition: true, or use KVCacheModel, which is approximate"
            )
        self.model, self.target = model, target
        self._kept = _Kept(model, target)
        self._before: _Asked | None = None

    @property
    def work(self) -> float:
        """Cells computed so far, as a share of those that the model without cache would have computed."""
        return self._kept.work

    @torch.no_grad()
    def __call__(self, batch: TokenBatch, window: Int[Tensor, " batch"] | None = None) -> Float[Tensor, "batch length dim"]:
        """Hidden states of all cells; see `MaskTransformer.forward`."""
        asked, before = _Asked(batch, window), self._before
        self._before = asked
        return self._kept.part(batch, batch.modality == self.target) if asked.continues(before, self.target) else self._kept.whole(asked)

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """The model's head."""
        return self.model.logits(hidden, offset, size)
