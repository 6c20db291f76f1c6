"""A mixture of transformers: each modality has weights of its own, and all cells of a row share their attention."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.model import Block, MaskTransformer, TransformerConfig, attend, nearby, visible
from maskgen.space import TokenSpace


@dataclass(frozen=True, kw_only=True)
class Tower:
    """The weights of some modalities.

    Args:
        modalities: Whose cells these weights compute.
        transformer: Their sizes.

    Raises:
        ValueError: If it has no modality.
    """

    modalities: Sequence[str]
    transformer: TransformerConfig = field(default_factory=TransformerConfig)

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ValueError("a tower computes the cells of at least one modality; name some, or leave the tower out")


@dataclass(frozen=True, kw_only=True)
class TowersConfig:
    """Sizes of a mixture of transformers.

    Args:
        towers: Name to tower. Their layers and heads agree; widths and rotary positions need not.

    Raises:
        ValueError: If there is no tower, a name is none, two share a modality, their attention does not fit together, or one has
            blind_condition.
    """

    towers: Mapping[str, Tower]

    def __post_init__(self) -> None:
        names = [name for tower in self.towers.values() for name in tower.modalities]
        shapes = {
            key: (tower.transformer.num_layers, tower.transformer.num_heads, tower.transformer.head_dim)
            for key, tower in self.towers.items()
        }
        if wrong := [key for key in self.towers if not key.isidentifier() or hasattr(nn.ModuleDict, key) or key == "training"]:
            raise ValueError(f"a tower cannot be named {', '.join(wrong)}; take plain words such as pictures and speech")
        if not names or len(set(names)) != len(names):
            raise ValueError(f"each modality has exactly one tower, got {', '.join(names) or 'no tower'}")
        if len(set(shapes.values())) != 1:
            found = ", ".join(f"{key} {layers}, {heads}, {width}" for key, (layers, heads, width) in shapes.items())
            raise ValueError(f"towers share their attention, so layers, heads and head width agree; got {found}; see head_width")
        if any(tower.transformer.blind_condition for tower in self.towers.values()):
            raise ValueError("a condition that does not look at its target needs one set of weights; leave blind_condition off in towers")

    @property
    def dim(self) -> int:
        """Width of the hidden states: that of the widest tower."""
        return max(tower.transformer.dim for tower in self.towers.values())

    @property
    def blind_condition(self) -> bool:
        """Never; see `maskgen.model.TransformerConfig`."""
        return False


class TowerTransformer(nn.Module):
    """Masked transformer whose weights depend on the modality of a cell; only attention joins the modalities.

    Each tower is a `maskgen.model.MaskTransformer` over its own modalities. A row whose visible cells belong to one tower gets from this
    network exactly what the tower alone gives, so models that were trained apart start together without losing anything, and what one
    learns does not move the weights of the other. Invisible cells cost nothing but their place in the attention.

    Args:
        config: The towers.
        space: Token space; every modality of it has a tower, and no tower has another.

    Raises:
        ValueError: If a modality has no tower or a tower has a modality that the space lacks.

    Source: Mixture-of-Transformers, arXiv:2411.04996. Differs: norms of embeddings and outputs are the towers' own too, and so are the
    embeddings of PAD and MASK.
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
        self._enter, self._leave = _enter, _leave

    @property
    def embed(self) -> nn.Embedding:
        """The first tower's embedding; says where and in which precision the network is."""
        return self.tower(self.names[0]).embed

    @property
    def num_layers(self) -> int:
        """Blocks of each tower."""
        return len(self.tower(self.names[0]).blocks)

    def compile_blocks(self) -> None:
        """Put what the towers do to their cells behind torch.compile, for any number of cells; what joins them stays as it is."""
        self._enter, self._leave = torch.compile(_enter, dynamic=True), torch.compile(_leave, dynamic=True)

    def forward(
        self,
        ids: Int[Tensor, "batch length level"],
        modality: Int[Tensor, "batch length"],
        coords: Int[Tensor, "batch length 3"],
        valid: Bool[Tensor, "batch length"],
        document: Int[Tensor, "batch length"],
        context: None = None,
        window: Int[Tensor, " batch"] | None = None,
        layers: int | None = None,
        watch: Callable[[Tensor, Tensor, Tensor | None], None] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden states of all cells, those of narrower towers followed by zeros; zeros at invalid cells.

        Args:
            ids: See `MaskTransformer.forward`, as of the following five.
            modality: See there.
            coords: See there.
            valid: See there.
            document: See there.
            context: None.
            window: See there.
            layers: Blocks that are run, without the last norm; None runs all, with it.
            watch: Is told the queries, the keys (both [batch heads length head_dim]) and who sees whom, block by block.
        """
        cells = self._cells(modality, valid)
        if not cells:
            return self.embed.weight.new_zeros(*valid.shape, self.config.dim)
        seen = visible(valid, document, None, None if window is None else nearby(modality, coords[..., 0], window))
        starts = {name: self._start(name, here, ids, modality, coords) for name, here in cells.items()}
        streams = {name: x for name, (x, _) in starts.items()}
        slots = _slots(list(cells.values()), valid.numel())
        for number in range(self.num_layers if layers is None else layers):
            blocks = {name: _block(self.tower(name), number) for name in cells}
            parts = [self._enter(block, streams[name], starts[name][1]) for name, block in blocks.items()]
            query, key, value = (_laid_out(part, slots, valid.shape) for part in zip(*parts, strict=True))
            if watch is not None:
                watch(query, key, seen)
            mixed = attend(query, key, value, seen).flatten(0, 1)
            streams = {name: self._leave(block, streams[name], mixed[cells[name]][None]) for name, block in blocks.items()}
        if layers is None:
            streams = {name: self.tower(name).norm(x) for name, x in streams.items()}
        widened = torch.cat([functional.pad(x[0], (0, self.config.dim - x.shape[-1])) for x in streams.values()])
        return functional.pad(widened, (0, 0, 0, 1))[slots].view(*valid.shape, -1)

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Scores of the codes of one level, by the tower that owns them: linear in `hidden`, without bias.

        Raises:
            ValueError: If no level of a modality begins at `offset`.
        """
        if offset not in self._places:
            raise ValueError(f"no level of a modality begins at id {offset}; levels begin at {', '.join(map(str, self._places))}")
        name, there = self._places[offset]
        tower = self.tower(name)
        return tower.logits(hidden[:, : tower.config.dim], there, size)

    def tower(self, name: str) -> MaskTransformer:
        """The tower of that name."""
        found = self.towers[name]
        assert isinstance(found, MaskTransformer)
        return found

    def _cells(self, modality: Int[Tensor, "batch length"], valid: Bool[Tensor, "batch length"]) -> dict[str, Int[Tensor, " _"]]:
        """Numbers, row-major, of the visible cells of each tower that has any."""
        owner = torch.where(valid, self.owner[modality], -1).flatten()
        found = {name: (owner == index).nonzero()[:, 0] for index, name in enumerate(self.names)}
        return {name: cells for name, cells in found.items() if len(cells)}

    def _start(self, name: str, cells: Tensor, ids: Tensor, modality: Tensor, coords: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What enters the first block of a tower: its cells as one row [1 cells dim], and their rotary angles."""
        own = self.local[ids.flatten(0, 1)[cells]], self.number[modality.flatten()[cells]], coords.flatten(0, 1)[cells]
        return self.tower(name).start(own[0][None], own[1][None], own[2][None])


def tower_spaces(config: TowersConfig, space: TokenSpace) -> dict[str, TokenSpace]:
    """The token space of each tower alone: its modalities in the order in which they stand in the whole."""
    return {
        name: TokenSpace([one for one in space.modalities if one.name in tower.modalities], space.specials)
        for name, tower in config.towers.items()
    }


def _enter(block: Block, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a tower's cells."""
    return block.attention.project(block.attention_norm(x), rotation)


def _leave(block: Block, x: Tensor, mixed: Tensor) -> Tensor:
    """The stream of a tower's cells after a block, from what their heads collected."""
    return block.after(x, block.attention.out(mixed))


def _block(tower: MaskTransformer, number: int) -> Block:
    """One block of a tower."""
    block = tower.blocks[number]
    assert isinstance(block, Block)
    return block


def _slots(cells: Sequence[Int[Tensor, " _"]], size: int) -> Int[Tensor, " size"]:
    """Of every cell of a batch its place among the towers' cells, laid behind each other; behind them all where it has no tower."""
    order = torch.cat(list(cells))
    slots = order.new_full((size,), len(order))
    slots[order] = torch.arange(len(order), device=order.device)
    return slots


def _laid_out(
    parts: Sequence[Float[Tensor, "1 heads _ head_dim"]], slots: Int[Tensor, " size"], shape: Sequence[int]
) -> Float[Tensor, "batch heads length head_dim"]:
    """Queries, keys or values of all towers at their places in the batch, zeros at invisible cells."""
    joined = functional.pad(torch.cat(list(parts), dim=2), (0, 0, 0, 1))[0]
    return rearrange(joined[:, slots], "h (b l) d -> b h l d", b=shape[0])
