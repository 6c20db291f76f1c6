"""Mixture of transformers: each modality has its own weights, and all cells of a row share attention."""

from collections.abc import Callable, Mapping, Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.networks.attention import attend
from maskgen.networks.bridges import UNSEEN, Bridge, Crossing, Translation
from maskgen.networks.recompute import Recompute, recomputed
from maskgen.networks.tower_config import TowersConfig, tower_spaces
from maskgen.networks.transformer import Block, MaskTransformer
from maskgen.networks.visibility import Sight, nearby, sight, visible
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import TokenSpace


class TowerTransformer(nn.Module):
    """Masked transformer whose weights depend on the modality of a cell; only attention joins the modalities.

    Each tower is a `MaskTransformer` over its own modalities. For a row whose visible cells belong to one tower, the output equals that of
    the tower alone. So separately trained models can be combined without loss, and training one does not change the weights of the other.
    Invisible cells cost only their place in the attention.

    With bridges, a tower sees only those cells of others that cross its bridge. Each block translates them into the tower's own stream and
    computes the tower's keys and values of them, without positions. Cells that cross an untrained bridge are invisible.

    Args:
        config: Configuration of the towers.
        space: Token space; its modalities are those of the towers.

    Raises:
        ValueError: If a modality has no tower or a tower has a modality that the space lacks.

    Source: Mixture-of-Transformers, arXiv:2411.04996. Differs: each tower also has its own norms of embeddings and outputs, and its own
    embeddings of PAD and MASK; bridges are our addition (gated attention between frozen models: Flamingo, arXiv:2204.14198).
    """

    def __init__(self, config: TowersConfig, space: TokenSpace) -> None:
        super().__init__()
        self.config, self.names = config, tuple(config.towers)
        named = {name for tower in config.towers.values() for name in tower.modalities}
        if odd := sorted(named ^ {one.name for one in space.modalities}):
            raise ValueError(f"towers and token space have different modalities: {', '.join(odd)} in only one of them; give each a tower")
        spaces = tower_spaces(config, space)
        self.towers = nn.ModuleDict(
            {
                name: MaskTransformer(tower.transformer, spaces[name].size, len(spaces[name].modalities))
                for name, tower in config.towers.items()
            }
        )
        self.bridges = nn.ModuleDict({reader: self._bridge(reader, bridge) for reader, bridge in config.bridges.items()})
        owner = torch.full((len(space.modalities) + 1,), -1)
        local, number = torch.zeros(space.size, dtype=torch.long), torch.zeros(len(space.modalities) + 1, dtype=torch.long)
        local[: 2 + len(space.specials)] = torch.arange(2 + len(space.specials))
        self._places: dict[int, tuple[str, int]] = {}
        for index, name in enumerate(self.names):
            for modality in spaces[name].modalities:
                ours, theirs = space.of(modality.name), spaces[name].of(modality.name)
                owner[ours[0].index], number[ours[0].index] = index, theirs[0].index
                for here, there in zip(ours, theirs, strict=True):
                    local[here.offset : here.offset + here.size] = torch.arange(there.offset, there.offset + there.size)
                    self._places[here.offset] = name, there.offset
        for key, table in (("owner", owner), ("local", local), ("number", number)):
            self.register_buffer(key, table, persistent=False)
        self.owner: Tensor
        self.local: Tensor
        self.number: Tensor
        self._crosses = {
            reader: [index for index, one in enumerate(space.modalities, 1) if one.name in bridge.modalities]
            for reader, bridge in config.bridges.items()
        }
        """Numbers of the modalities whose cells cross to each tower."""
        self._enter, self._leave, self._every_tower = _enter, _leave, False
        self.is_compiled = False
        self.recompute: Recompute = "none"
        """What a training computes twice to save memory."""

    @property
    def embed(self) -> nn.Embedding:
        """Embedding of the first tower, which shows the network's device and precision."""
        return self.tower(self.names[0]).embed

    @property
    def num_layers(self) -> int:
        """Number of blocks of each tower."""
        return len(self.tower(self.names[0]).blocks)

    def run_every_tower(self) -> None:
        """Run towers without a cell too, as ranks that share weights must: all of them gather the same ones at the same time."""
        self._every_tower = True

    def compile_blocks(self) -> None:
        """Compile the towers' blocks with torch.compile, for any number of cells; the joint attention is not compiled."""
        self._enter, self._leave = torch.compile(_enter, dynamic=True), torch.compile(_leave, dynamic=True)
        self.is_compiled = True

    def forward(
        self,
        batch: TokenBatch,
        context: None = None,
        window: Int[Tensor, " batch"] | None = None,
        layers: int | None = None,
        watch: Callable[[Tensor, Tensor, Tensor | None], None] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden states of all cells, padded with zeros for narrower towers; zeros at invalid cells.

        Args:
            batch: Rows of cells.
            context: Must be None.
            window: See `MaskTransformer.forward`.
            layers: Number of blocks to run, without the last norm; None runs all blocks and the norm.
            watch: Called at each block with the queries, the keys (both [batch heads length head_dim]) and the attention mask, without
                the cells that cross a bridge.
        """
        cells, shape = self._cells(batch), batch.valid.shape
        if not cells:
            return self.embed.weight.new_zeros(*shape, self.config.dim)
        near = None if window is None else nearby(batch.modality, batch.coords[..., 0], window)
        seen = sight(batch.valid, batch.document, None, near)
        if self.bridges and len(cells) > 1:
            seen = _apart(seen, self.owner[batch.modality])
        crossings = self._crossings(cells, batch)
        starts = {name: self._start(name, here, batch) for name, here in cells.items()}
        streams = {name: x for name, (x, _) in starts.items()}
        slots = _slots(list(cells.values()), batch.valid.numel())

        def step(number: int, streams: dict[str, Tensor]) -> dict[str, Tensor]:
            """One block of all towers."""
            blocks = {name: _block(self.tower(name), number) for name in cells}
            parts = [self._enter(block, streams[name], starts[name][1]) for name, block in blocks.items()]
            query, key, value = (_laid_out(part, slots, shape) for part in zip(*parts, strict=True))
            if watch is not None:
                watch(query, key, seen.dense if isinstance(seen, Sight) else seen)
            mixed = attend(query, *self._with_crossings(crossings, number, streams, (key, value, seen))).flatten(0, 1)
            return {name: self._leave(block, streams[name], mixed[cells[name]][None]) for name, block in blocks.items()}

        for number in range(self.num_layers if layers is None else layers):
            streams = recomputed(self.recompute, step, number, streams)
        if layers is None:
            streams = {name: self.tower(name).norm(x) for name, x in streams.items()}
        widened = torch.cat([functional.pad(x[0], (0, self.config.dim - x.shape[-1])) for x in streams.values()])
        return functional.pad(widened, (0, 0, 0, 1))[slots].view(*shape, -1)

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the codes of one level, from the tower that owns them: linear in `hidden`, without bias.

        Raises:
            ValueError: If no level of a modality begins at `offset`.
        """
        if offset not in self._places:
            raise ValueError(f"no level of a modality begins at id {offset}; levels begin at {', '.join(map(str, self._places))}")
        name, there = self._places[offset]
        tower = self.tower(name)
        return tower.logits(hidden[:, : tower.config.dim], there, size)

    def tower(self, name: str) -> MaskTransformer:
        """Transformer of the tower with this name."""
        found = self.towers[name]
        assert isinstance(found, MaskTransformer)
        return found

    def streams(self, name: str, batch: TokenBatch) -> list[Float[Tensor, "batch length dim"]]:
        """Input of each block of one tower that sees only its own cells; undefined at other cells."""
        own = batch.valid & (self.owner[batch.modality] == self.names.index(name))
        ids, modality = self.local[batch.ids] * own[..., None], self.number[batch.modality] * own
        x, rotation = self.tower(name).start(ids, modality, batch.coords)
        seen, found = visible(own, batch.document), []
        for number in range(self.num_layers):
            found.append(x)
            x = _block(self.tower(name), number)(x, rotation, seen)
        return found

    def keys_and_values(self, name: str, number: int, x: Float[Tensor, "1 cells dim"]) -> tuple[Tensor, Tensor]:
        """Keys and values [1 heads cells head_dim] of a tower's block for cells in its stream, without positions."""
        block = _block(self.tower(name), number)
        angles = torch.zeros(1, 1, x.shape[1], self.tower(name).config.head_dim // 2, device=x.device)
        _, key, value = self._enter(block, x, (angles.cos(), angles.sin()))
        return key, value

    def crossing_to(self, modality: str) -> tuple[str, ...]:
        """Modalities of another tower that cells of this modality see through a bridge."""
        readers = [name for name, tower in self.config.towers.items() if modality in tower.modalities and name in self.config.bridges]
        return tuple(name for reader in readers for name in self.config.bridges[reader].modalities)

    def translation(self, reader: str, number: int) -> Translation:
        """Translation of the bridge to a tower at one block."""
        bridge = self.bridges[reader]
        assert isinstance(bridge, nn.ModuleList)
        found = bridge[number]
        assert isinstance(found, Translation)
        return found

    def _bridge(self, reader: str, bridge: Bridge) -> nn.ModuleList:
        """Untrained translations to a tower, one per block."""
        source, own = self.tower(self.config.source_of(reader)).config, self.tower(reader).config
        return nn.ModuleList(Translation(source.dim, bridge.hidden_dim, own.dim) for _ in range(own.num_layers))

    def _crossings(self, cells: Mapping[str, Tensor], batch: TokenBatch) -> list[Crossing]:
        """Cells of a batch that cross each bridge."""
        found = []
        for reader, numbers in self._crosses.items():
            source = self.config.source_of(reader)
            if reader in cells and source in cells:
                crosses = batch.valid & torch.isin(batch.modality, torch.tensor(numbers, device=batch.modality.device))
                reads = batch.valid & (self.owner[batch.modality] == self.names.index(reader))
                found.append(Crossing.of(reader, source, crosses, reads, batch.document, cells[source]))
        return [one for one in found if one is not None]

    def _with_crossings(
        self,
        crossings: Sequence[Crossing],
        number: int,
        streams: Mapping[str, Tensor],
        own: tuple[Tensor, Tensor, Tensor | Sight | None],
    ) -> tuple[Tensor, Tensor, Tensor | Sight | None]:
        """Keys, values and added attention scores of a block, with those of cells that cross a bridge appended."""
        if not crossings:
            return own
        key, value, seen = own
        length, seen = key.shape[2], seen.dense if isinstance(seen, Sight) else seen
        whole = torch.ones(length, length, dtype=torch.bool, device=key.device) if seen is None else seen
        added = [torch.where(whole, 0.0, UNSEEN).expand(len(key), 1, length, length)]
        keys, values = [key], [value]
        for one in crossings:
            translated, presence = self.translation(one.reader, number)(streams[one.source][:, one.which])
            theirs, what = self.keys_and_values(one.reader, number, translated)
            keys.append(one.laid_out(theirs))
            values.append(one.laid_out(what))
            added.append(one.scores(presence))
        return torch.cat(keys, dim=2), torch.cat(values, dim=2), torch.cat(added, dim=-1).to(key.dtype)

    def _cells(self, batch: TokenBatch) -> dict[str, Int[Tensor, " _"]]:
        """Row-major indices of the visible cells of each tower that has any, or of every tower."""
        owner = torch.where(batch.valid, self.owner[batch.modality], -1).flatten()
        found = {name: (owner == index).nonzero()[:, 0] for index, name in enumerate(self.names)}
        return {name: cells for name, cells in found.items() if len(cells) or self._every_tower}

    def _start(self, name: str, cells: Int[Tensor, " _"], batch: TokenBatch) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Input of a tower's first block: its cells as one row [1 cells dim], and their rotary angles."""
        ids, modality = self.local[batch.ids.flatten(0, 1)[cells]], self.number[batch.modality.flatten()[cells]]
        return self.tower(name).start(ids[None], modality[None], batch.coords.flatten(0, 1)[cells][None])


def bridged(network: TowerTransformer, space: TokenSpace, reader: str, bridge: Bridge) -> TowerTransformer:
    """Copy of a network with one more bridge: its trained one if the network already has it, else untrained; without gradients.

    Raises:
        ValueError: If the bridge does not fit the towers.
    """
    config = TowersConfig(towers=network.config.towers, bridges={**network.config.bridges, reader: bridge})
    new = TowerTransformer(config, space)
    replaced = "" if network.config.bridges.get(reader) == bridge else f"bridges.{reader}."
    old = {name: tensor for name, tensor in network.state_dict().items() if not replaced or not name.startswith(replaced)}
    missing, unexpected = new.load_state_dict(old, strict=False)
    assert not unexpected, unexpected
    assert all(name.startswith(f"bridges.{reader}.") for name in missing), missing
    return new.eval().requires_grad_(False)


def _enter(block: Block, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a tower's cells."""
    return block.enter(x, rotation)


def _leave(block: Block, x: Tensor, mixed: Tensor) -> Tensor:
    """Residual stream of a tower's cells after a block, from the output of their heads."""
    return block.leave(x, mixed)


def _block(tower: MaskTransformer, number: int) -> Block:
    """One block of a tower."""
    block = tower.blocks[number]
    assert isinstance(block, Block)
    return block


def _apart(
    seen: Bool[Tensor, "batch 1 length length"] | Sight | None, owner: Int[Tensor, "batch length"]
) -> Bool[Tensor, "batch 1 length length"] | Sight:
    """Attention mask restricted to cells of the same tower."""
    if isinstance(seen, Sight):
        return seen.apart(owner)
    same = (owner[:, :, None] == owner[:, None, :])[:, None]
    return same if seen is None else seen & same


def _slots(cells: Sequence[Int[Tensor, " _"]], size: int) -> Int[Tensor, " size"]:
    """Index of every cell of a batch in the concatenated cells of all towers; one past the end for cells without a tower."""
    order = torch.cat(list(cells))
    slots = order.new_full((size,), len(order))
    slots[order] = torch.arange(len(order), device=order.device)
    return slots


def _laid_out(
    parts: Sequence[Float[Tensor, "1 heads _ head_dim"]], slots: Int[Tensor, " size"], shape: Sequence[int]
) -> Float[Tensor, "batch heads length head_dim"]:
    """Queries, keys or values of all towers, arranged as in the batch, with zeros at invalid cells."""
    joined = functional.pad(torch.cat(list(parts), dim=2), (0, 0, 0, 1))[0]
    return rearrange(joined[:, slots], "h (b l) d -> b h l d", b=shape[0])
