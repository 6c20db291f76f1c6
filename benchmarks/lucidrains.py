"""What the comparisons with lucidrains' packages share: our model of a matched size, and quiet imports."""

import sys
from types import ModuleType

from torch import nn

from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.space import TokenSpace


def parameters(model: nn.Module) -> int:
    """Numbers that training would change."""
    return sum(parameter.numel() for parameter in model.parameters())


def matched(space: TokenSpace, dim: int, wanted: int) -> MaskTransformer:
    """Our transformer of that width with as many layers as bring it nearest to the wanted number of parameters."""

    def made(layers: int) -> MaskTransformer:
        config = TransformerConfig(dim=dim, num_layers=layers, num_heads=dim // 64)
        return MaskTransformer(config, space.size, len(space.modalities))

    one, two = parameters(made(1)), parameters(made(2))
    return made(max(1, round((wanted - one) / (two - one)) + 1)).eval().requires_grad_(False)


def without(package: str) -> None:
    """An empty module in the place of a package that a peer imports and the comparison does not run."""
    sys.modules.setdefault(package, ModuleType(package))
