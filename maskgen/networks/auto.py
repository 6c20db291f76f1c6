"""Build, save and load the networks of training and of model bundles."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from maskgen.io.schema import Items, Plain, Record, Schema, Table, Text, Whole, record_of
from maskgen.networks.adapted import AdaptedConfig, AdaptedTransformer
from maskgen.networks.bridges import Bridge
from maskgen.networks.published import PublishedNetwork
from maskgen.networks.tower_config import Tower, TowersConfig
from maskgen.networks.towers import TowerTransformer
from maskgen.networks.transformer import TRANSFORMER_SCHEMA, MaskTransformer, TransformerConfig
from maskgen.tokens.space import TokenSpace

Network = MaskTransformer | AdaptedTransformer | TowerTransformer | PublishedNetwork
"""Any network that generates: those that training produces and a model bundle holds, and published ones."""


class NetworkSchema(Schema):
    """Schema of a network's configuration as plain data: a transformer, an adapted backbone or towers."""

    def check(self, value: Any, where: str) -> None:
        """See `Schema.check`."""
        Table(Plain()).check(value, where)
        towers = Table(Record({"modalities": Items(Text(), least=1), "transformer": TRANSFORMER_SCHEMA}))
        bridges = Table(record_of(Bridge))
        if "backbone" in value:
            record_of(AdaptedConfig, backbone=Table(Plain()), before=Items(Whole(0), most=16), after=Items(Whole(0), most=16)).check(
                value, where
            )
        elif "towers" in value:
            Record({"towers": towers}, {"bridges": bridges}).check(value, where)
        else:
            TRANSFORMER_SCHEMA.check(value, where)


def new_network(config: TransformerConfig | TowersConfig, space: TokenSpace) -> MaskTransformer | TowerTransformer:
    """Create an untrained network over a token space."""
    if isinstance(config, TowersConfig):
        _require_codes(space, "towers")
        return TowerTransformer(config, space)
    return MaskTransformer(config, space.size, len(space.modalities), space.feature_width)


def _require_codes(space: TokenSpace, network: str) -> None:
    """Refuse features of a frozen encoder for a network that would not see them.

    Raises:
        ValueError: If the space has some.
    """
    if space.feature_width:
        raise ValueError(
            f"features of a frozen encoder need a transformer of one trunk, not {network}; drop them, or train a MaskTransformer"
        )


def network_of(config: Mapping[str, Any], space: TokenSpace) -> Network:
    """Create an untrained network from its configuration as plain data, `dataclasses.asdict(network.config)`."""
    if "backbone" in config:
        _require_codes(space, "an adapted backbone")
        return AdaptedTransformer(AdaptedConfig(**config), space.size, len(space.modalities))
    if "towers" in config:
        parts = {
            name: Tower(modalities=tower["modalities"], transformer=TransformerConfig(**tower["transformer"]))
            for name, tower in config["towers"].items()
        }
        bridges = {name: Bridge(**bridge) for name, bridge in config.get("bridges", {}).items()}
        return new_network(TowersConfig(towers=parts, bridges=bridges), space)
    return new_network(TransformerConfig(**config), space)


def own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """State dict of a network with each tied weight once, under its first name."""
    second = _second_names(network)
    return {name: tensor for name, tensor in network.state_dict().items() if name not in second}


def load_own(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load the result of `own_tensors` into a network.

    Raises:
        RuntimeError: If the names or shapes do not match the network.
    """
    network.load_state_dict({**tensors, **{second: tensors[first] for second, first in _second_names(network).items() if first in tensors}})


def _second_names(network: nn.Module) -> dict[str, str]:
    """Map the further names of tied weights to their first names."""
    first: dict[int, str] = {}
    named = list(network.named_parameters(remove_duplicate=False))
    for name, weight in named:
        first.setdefault(id(weight), name)
    return {name: first[id(weight)] for name, weight in named if first[id(weight)] != name}
