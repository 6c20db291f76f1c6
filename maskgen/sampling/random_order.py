"""The sampler of masked diffusion: cells in a uniformly random order for each row."""

from dataclasses import dataclass

from maskgen.sampling.base import Sampler, State, StepFn, in_order
from maskgen.sampling.draw import row_noise, uniform


@dataclass(frozen=True, kw_only=True)
class RandomOrderSampler(Sampler):
    """Reveals cells in a random order that is drawn once a row, and writes each cell once.

    Source: MDLM's ancestral sampler, arXiv:2406.07524. Differs: the count of a step is the schedule's, not binomial.
    """

    def start(self, state: State) -> StepFn:
        return in_order(row_noise(state.target, state.generators, uniform), self.schedule)
