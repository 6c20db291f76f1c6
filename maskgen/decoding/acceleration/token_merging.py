"""Token merging: for the length of a block, similar cells of the target share one place."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from maskgen.decoding.acceleration.slots import Slots
from maskgen.networks.transformer import Block, MaskTransformer
from maskgen.networks.visibility import nearby, visible
from maskgen.tokens.batch import TokenBatch


@dataclass(frozen=True)
class MergePairs:
    """Which cells are merged into which.

    Args:
        merged: Cells that give up their place.
        into: The cell whose place each cell shares; a cell that is not merged names itself.
    """

    merged: Bool[Tensor, "batch length"]
    into: Int[Tensor, "batch length"]

    def averaged(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """At every place the mean of the cells that share it; at merged cells 0."""
        into = self.into[..., None].expand_as(x)
        return torch.zeros_like(x).scatter_reduce(1, into, x, "mean", include_self=False)

    def spread(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """What stands at the place of each cell."""
        return torch.take_along_dim(x, self.into[..., None], 1)


def matched(x: Float[Tensor, "batch length dim"], kinds: Int[Tensor, "batch length"], share: float) -> MergePairs:
    """Bipartite soft matching inside each row: every second open cell may join the most similar one of the others.

    Args:
        x: What is compared, by cosine.
        kinds: Cells join cells of the same kind only; 0 is never merged, all others are open.
        share: Cells merged away, as a share of the row's open cells, rounded down: those with the most similar partners.

    Source: ToMe, arXiv:2210.09461.
    """
    is_open = kinds > 0
    source = is_open & (is_open.cumsum(dim=1) % 2 == 0)
    allowed = source[:, :, None] & (is_open & ~source)[:, None, :] & (kinds[:, :, None] == kinds[:, None, :])
    unit = functional.normalize(x.float(), dim=-1)
    similarity, partner = (unit @ unit.transpose(1, 2)).masked_fill(~allowed, -torch.inf).max(dim=2)
    place = similarity.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    merged = (place < (is_open.sum(dim=1) * share).floor()[:, None]) & similarity.isfinite()
    return MergePairs(merged, torch.where(merged, partner, torch.arange(x.shape[1], device=x.device)))


class TokenMergingModel:
    """A model in which similar cells of the target share a place from the second block on. Approximate; measured in docs.

    Before each of these blocks the most similar cells are merged into their mean; what the block adds to a place is added to
    each cell that shares it, so cells stay apart. The first block sees every cell: before it all MASK cells are equal.
    Condition cells are never merged, nor cells of two documents or two modalities. Rows are independent.

    Args:
        model: The transformer.
        targets: Numbers of the modalities whose cells may be merged.
        share: Cells merged away in each block, as a share of those that may be, rounded down; at most 0.5. 0 changes nothing.

    Raises:
        ValueError: If `share` lies outside [0, 0.5], or the model was trained with `blind_condition`.

    Source: ToMe, arXiv:2210.09461; for diffusion arXiv:2303.17604. Differs: matching on the block's input, attention without
    the weight log(size), merging around the whole block.
    """

    def __init__(self, model: MaskTransformer, targets: Sequence[int], share: float = 0.25) -> None:
        if not 0 <= share <= 0.5:
            raise ValueError(f"share must lie in [0, 0.5] (every second cell can be merged), got {share}")
        if model.config.blind_condition:
            raise ValueError(
                "token merging cannot run a model with blind_condition; use maskgen.decoding.acceleration.kv_cache.PrefixCacheModel"
            )
        self.model, self.share, self.targets = model, share, tuple(targets)
        self.blocks = [block for block in model.blocks if isinstance(block, Block)]
        self.computed = self.plain = 0

    @property
    def work(self) -> float:
        """Cells computed so far, summed over blocks, as a share of those that the plain model would have computed."""
        return self.computed / max(self.plain, 1)

    @torch.no_grad()
    def __call__(self, batch: TokenBatch, window: Int[Tensor, " batch"] | None = None) -> Float[Tensor, "batch length dim"]:
        """Hidden states of all cells; see `MaskTransformer.forward`."""
        x, rotation = self.model.start(batch.ids, batch.modality, batch.coords, batch.features)
        near = None if window is None else nearby(batch.modality, batch.coords[..., 0], window)
        seen = visible(batch.valid, batch.document, near=near)
        mergeable = batch.valid & torch.isin(batch.modality, torch.tensor(self.targets, device=batch.modality.device))
        kinds = (batch.document * (self.model.num_modalities + 1) + batch.modality) * mergeable
        for number, block in enumerate(self.blocks):
            x = self._merged(block, x, rotation, seen, kinds) if number and self.share else self._plain(block, x, rotation, seen)
        hidden: Tensor = self.model.norm(x)
        return hidden

    def _plain(self, block: Block, x: Tensor, rotation: tuple[Tensor, Tensor], seen: Tensor | None) -> Tensor:
        """A block over all cells."""
        self.computed, self.plain = self.computed + x[..., 0].numel(), self.plain + x[..., 0].numel()
        out: Tensor = block(x, rotation, seen)
        return out

    def _merged(self, block: Block, x: Tensor, rotation: tuple[Tensor, Tensor], seen: Tensor | None, kinds: Tensor) -> Tensor:
        """A block over the places that are left; what it changes there goes to every cell of the place."""
        pairs = matched(x, kinds, self.share)
        slots = Slots.of(~pairs.merged)
        self.computed, self.plain = self.computed + slots.index.numel(), self.plain + kinds.numel()
        places = slots.take(pairs.averaged(x))
        cosine, sine = (slots.take(part, dim=2) for part in rotation)
        change = torch.zeros_like(x)
        slots.put(block(places, (cosine, sine), slots.visible(seen)) - places, change)
        return x + pairs.spread(change)

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """The model's head."""
        return self.model.logits(hidden, offset, size)
