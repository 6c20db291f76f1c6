"""What a bridge between two towers learns: pairs of cells, the states that enter each block, and the closed solution of its linear part."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional

from maskgen.networks.bridges import Bridge
from maskgen.networks.towers import TowerTransformer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import MASK, TokenSpace
from maskgen.tokens.unpadding import Unpadded, unpad
from maskgen.training.modules.base import mixed_seed
from maskgen.training.modules.pairs import CellPairs, pairs_of

RIDGE = 3.0
"""Added to the diagonal of the closed solution's normal equations, whose rows have a mean square of 1."""


@dataclass(frozen=True)
class BridgeSolution:
    """Errors of a bridge against its partners' keys and values, and the ridge regression that its training starts from.

    Args:
        network: Towers with the bridge.
        space: Their token space.
        reader: Tower that attends over the bridge.
        source: Tower whose cells cross.
        bridge: What crosses, and its width.
        partner: Modality of the reader whose cells the crossing ones stand for.
        beside: Modalities of the source that are seen whole with the cells that cross.
        known_share: Share of rows whose crossing cells are all known in `solve`; of the others a random share is masked.
        seed: The masks of `solve` are drawn from it and the number of the batch.
    """

    network: TowerTransformer
    space: TokenSpace
    reader: str
    source: str
    bridge: Bridge
    partner: str
    beside: tuple[str, ...]
    known_share: float
    seed: int

    def errors(self, batch: TokenBatch, known_share: float, generator: torch.Generator) -> dict[str, list[Tensor]] | None:
        """Block by block: squared error of keys and of values as shares of their variance, and cross-entropy of presence.

        Args:
            batch: Clean rows in the model's token space.
            known_share: Share of rows whose crossing cells are all known.
            generator: CPU generator that decides the masks.

        Returns:
            None where the cells that have a partner hold fewer than two different codes: errors are shares of a variance.
        """
        pairs = self.pairs(batch)
        if len(set(batch.ids[pairs.row, pairs.partner, 0].tolist())) < 2:
            return None
        theirs, wanted, place = self._both(batch, pairs, known_share, generator)
        crossing = self.cells(batch, self.bridge.modalities)
        has_partner = torch.zeros_like(crossing)
        has_partner[pairs.row, pairs.crossing] = True
        by_kind: dict[str, list[Tensor]] = {"keys": [], "values": [], "presence": []}
        for number, (stream, partner) in enumerate(zip(theirs, wanted, strict=True)):
            cells, presence = self.network.translation(self.reader, number)(stream.flatten(0, 1)[place[crossing]][None])
            paired = cells[:, has_partner[crossing]]
            with torch.no_grad():
                aims = self.network.keys_and_values(self.reader, number, partner[None])
            for name, one, aim in zip(("keys", "values"), self.network.keys_and_values(self.reader, number, paired), aims, strict=True):
                spread = aim.float().var(dim=2, correction=0).mean()
                by_kind[name].append((one.float() - aim.float()).square().mean() / spread)
            by_kind["presence"].append(functional.binary_cross_entropy_with_logits(presence[0].float(), has_partner[crossing].float()))
        return by_kind

    @torch.no_grad()
    def solve(self, batches: Sequence[TokenBatch]) -> None:
        """Set the linear part to the ridge regression of partners on crossing cells, and the presence bias to the share of pairs.

        Raises:
            ValueError: If not one cell of the batches has a partner.
        """
        network = self.network
        source, own = (network.tower(name).config.dim for name in (self.source, self.reader))
        squares = [torch.zeros(source, source, dtype=torch.float64) for _ in range(network.num_layers)]
        products = [torch.zeros(source, own, dtype=torch.float64) for _ in range(network.num_layers)]
        count, paired = 0, 0
        for number, batch in enumerate(batches):
            pairs = self.pairs(batch)
            theirs, wanted, place = self._both(
                batch, pairs, self.known_share, torch.Generator().manual_seed(mixed_seed(self.seed, number, 5))
            )
            count, paired = count + int(self.cells(batch, self.bridge.modalities).sum()), paired + len(pairs.row)
            for block, (stream, partner) in enumerate(zip(theirs, wanted, strict=True)):
                cells = stream.flatten(0, 1)[place[pairs.row, pairs.crossing]]
                x = self.network.translation(self.reader, block).norm(cells.float()).double().cpu()
                squares[block] += x.T @ x
                products[block] += x.T @ partner.double().cpu()
        if not paired:
            crossing = " and ".join(self.bridge.modalities)
            raise ValueError(
                f"no cell of {crossing} has the code of a cell of {self.partner} beside it in {len(batches)} batches; "
                "take data in which both say the same"
            )
        share = min(max(paired / count, 1e-3), 1 - 1e-3)
        for block, (square, product) in enumerate(zip(squares, products, strict=True)):
            translation = network.translation(self.reader, block)
            solved = torch.linalg.solve(square + RIDGE * torch.eye(source, dtype=torch.float64), product)
            translation.linear.weight.copy_(solved.T)
            translation.presence.bias.fill_(torch.logit(torch.tensor(share)).item())

    def pairs(self, batch: TokenBatch) -> CellPairs:
        """Cells that cross and their partners."""
        return pairs_of(batch, self.space, self.bridge.modalities, self.partner)

    @torch.no_grad()
    def _both(
        self, batch: TokenBatch, pairs: CellPairs, known_share: float, generator: torch.Generator
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """What enters each block: of the source's cells in rows, of the partners [pairs dim]; and where the source's cells are."""
        seen = self.cells(batch, [*self.bridge.modalities, *self.beside])
        theirs = self._masked(batch, known_share, generator).hide(~seen)
        source = compact(theirs)
        kept, written = partners_in_time(batch, pairs)
        partners = compact(written.hide(~kept))
        partner_streams = self._streams(self.reader, partners.batch)
        place = partners.place[pairs.row, pairs.partner]
        return self._streams(self.source, source.batch), [stream.flatten(0, 1)[place] for stream in partner_streams], source.place

    def _streams(self, name: str, batch: TokenBatch) -> list[Tensor]:
        return self.network.streams(name, batch)

    def _masked(self, batch: TokenBatch, known_share: float, generator: torch.Generator) -> TokenBatch:
        """The batch with a random share of the crossing cells masked in some rows."""
        luck = torch.rand(len(batch), 2, generator=generator).to(batch.ids.device)
        share = torch.where(luck[:, :1] < known_share, 0.0, luck[:, 1:])
        chosen = torch.rand(batch.valid.shape, generator=generator).to(batch.ids.device) < share
        ids = batch.ids.clone()
        ids[..., 0] = torch.where(chosen & self.cells(batch, self.bridge.modalities), MASK, ids[..., 0])
        return batch.with_ids(ids)

    def cells(self, batch: TokenBatch, names: Sequence[str]) -> Bool[Tensor, "batch length"]:
        """Visible cells of some modalities."""
        return torch.stack([batch.cells(self.space.index(name)) for name in names]).any(dim=0)


def partners_in_time(batch: TokenBatch, pairs: CellPairs) -> tuple[Bool[Tensor, "batch length"], TokenBatch]:
    """Cells that are a partner, and the batch in which they stand next to each other in time."""
    kept = torch.zeros_like(batch.valid)
    kept[pairs.row, pairs.partner] = True
    coords = batch.coords.clone()
    coords[..., 0] = torch.where(kept, kept.cumsum(dim=1) - 1, coords[..., 0])
    return kept, dataclasses.replace(batch, coords=coords)


def compact(batch: TokenBatch) -> Unpadded:
    """The batch without its hidden cells, each row alone where rows are about equally long."""
    return unpad(batch, max(1, int(batch.valid.sum(dim=1).max())))
