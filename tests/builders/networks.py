"""Random weights and codes for small networks."""

import torch
from torch import Tensor

from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import TokenSpace


def randomised(model: torch.nn.Module, std: float) -> None:
    """Draw every weight of two or more axes from the global generator: guesses then depend on what the network sees."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)


def random_codes(space: TokenSpace, name: str, *grid: int, seed: int = 0) -> Tensor:
    """Codes [level, *grid] of a modality, the same for a seed."""
    one = space.modality(name)
    return torch.randint(0, one.codebook_size, (one.num_levels, *grid), generator=torch.Generator().manual_seed(seed))


def run(model: torch.nn.Module, batch: TokenBatch) -> Tensor:
    """What a network gives of a batch."""
    outputs: Tensor = model(batch)
    return outputs
