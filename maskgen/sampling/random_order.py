"""A uniformly random order for each row, as in masked diffusion."""

from dataclasses import dataclass

import torch

from maskgen.draw import row_noise
from maskgen.sampling.base import Sampler, State, StepFn, in_order


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=generator, device=generator.device)


@dataclass(frozen=True, kw_only=True)
class RandomOrderSampler(Sampler):
    """Reveals cells in a random order that is drawn once a row, and writes each cell once.

    Source: MDLM's ancestral sampler, arXiv:2406.07524. Differs: the count of a step is the schedule's, not binomial.
    """

    def start(self, state: State) -> StepFn:
        return in_order(row_noise(state.target, state.generators, _uniform), self.schedule)
