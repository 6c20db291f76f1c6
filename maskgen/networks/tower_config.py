"""Configuration of a mixture of transformers: the modalities of each tower and the bridges between towers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from maskgen.networks.bridges import Bridge
from maskgen.networks.transformer import TransformerConfig
from maskgen.tokens.space import TokenSpace


@dataclass(frozen=True, kw_only=True)
class Tower:
    """Configuration of one tower: a transformer for some modalities.

    Args:
        modalities: Modalities whose cells the tower computes.
        transformer: Configuration of its transformer.

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
    """Configuration of a mixture of transformers.

    Args:
        towers: Towers by name. All need equal layers and heads; widths and rotary positions may differ.
        bridges: Bridge of each reading tower, by the tower's name. Without bridges, all cells of a row attend to all others with their own
            keys. With bridges, a tower sees only those cells of others that cross its bridge, translated into its own stream.

    Raises:
        ValueError: If there is no tower, a name is invalid, two towers share a modality, their attention is incompatible, one has
            blind_condition, or a bridge does not lead from one other tower to a tower.
    """

    towers: Mapping[str, Tower]
    bridges: Mapping[str, Bridge] = field(default_factory=dict)

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
        if any(tower.transformer.compress > 1 for tower in self.towers.values()):
            raise ValueError("the layers of towers run cell by cell; leave compress at 1 in towers")
        if any(tower.transformer.blind_condition for tower in self.towers.values()):
            raise ValueError("a condition that does not look at its target needs one set of weights; leave blind_condition off in towers")
        for reader, bridge in self.bridges.items():
            owners = {key for key, tower in self.towers.items() if set(bridge.modalities) & set(tower.modalities)}
            if reader not in self.towers or len(owners) != 1 or reader in owners or set(bridge.modalities) - set(names):
                raise ValueError(
                    f"a bridge leads to a tower from modalities of one other tower, got {', '.join(bridge.modalities)} to {reader!r}; "
                    f"the towers are {', '.join(f'{key} ({chr(44).join(one.modalities)})' for key, one in self.towers.items())}"
                )

    def source_of(self, reader: str) -> str:
        """Name of the tower whose cells cross the bridge to `reader`."""
        return next(key for key, tower in self.towers.items() if self.bridges[reader].modalities[0] in tower.modalities)

    @property
    def dim(self) -> int:
        """Width of the hidden states, which is that of the widest tower."""
        return max(tower.transformer.dim for tower in self.towers.values())

    @property
    def blind_condition(self) -> bool:
        """Always False; see `maskgen.networks.transformer.TransformerConfig`."""
        return False


def tower_spaces(config: TowersConfig, space: TokenSpace) -> dict[str, TokenSpace]:
    """Token space of each tower, with its modalities in the order of the whole space."""
    return {
        name: TokenSpace([one for one in space.modalities if one.name in tower.modalities], space.specials)
        for name, tower in config.towers.items()
    }
