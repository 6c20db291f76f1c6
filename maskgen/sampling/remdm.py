"""ReMDM's sampler: every cell draws by itself whether it is set, and a decoded cell may turn back to MASK."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.masking.schedule import Linear, MaskSchedule
from maskgen.sampling.base import Decision, DrawFn, Sampler, State, StepFn
from maskgen.sampling.draw import row_noise, uniform

Strategy = Literal["cap", "rescale", "conf", "loop"]


@dataclass(frozen=True, kw_only=True)
class ReMDMSampler(Sampler):
    """Ancestral sampling of masked diffusion in which a decoded cell is masked again with probability sigma.

    With a the share kept so far and b the share kept after the step, a masked cell is drawn with probability
    (b - (1 - sigma) a) / (1 - a), which keeps the expected share at b. sigma is at most sigma_max = min(1, (1 - b) / a), so the last step
    masks nothing and fills everything. At sigma = 0 (`eta` 0, but for "conf") this is the ancestral sampler of MDLM. Counts of a step are
    random; codes are drawn at the cells whose coin fell, and only there.

    Cost: at most `steps` model calls; a step in which no cell is drawn costs none. May revoke: every cell of the target, at any step but
    the last.

    Args:
        strategy: sigma of a decoded cell. "cap": min(eta, sigma_max). "rescale": eta sigma_max. "conf": sigma_max times the softmax over
            the row's decoded cells of -p, p the probability of the code when it was drawn. "loop": masked diffusion up to the share
            `alpha_on`, which then stays while cells are exchanged with sigma = min(eta, sigma_max), and masked diffusion to the end.
        eta: Strength of remasking, in [0, 1]; "conf" does not use it.
        t_on: Time, from 1 at the start to 0 at the end, at which a loop begins.
        t_off: Time at which it ends.
        alpha_on: Share of the target that is kept during it.

    Source: ReMDM, arXiv:2503.00307; linear schedule and eta as in its image runs, times of the loop as in its text runs. Differs: any mask
    schedule serves as the clock; a step that crosses `t_on` or `t_off` ends on the schedule of the next phase instead of overshooting the
    old one.
    """

    schedule: MaskSchedule = Linear()  # noqa: RUF009 (frozen)
    strategy: Strategy = "cap"
    eta: float = 0.02
    t_on: float = 0.55
    t_off: float = 0.05
    alpha_on: float = 0.9
    revokes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strategy not in get_args(Strategy):
            raise ValueError(f"strategy must be one of {', '.join(get_args(Strategy))}, got {self.strategy!r}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is a probability, got {self.eta}")
        if not 0 < self.t_off < self.t_on < 1:
            raise ValueError(f"a loop needs 0 < t_off < t_on < 1, got t_off={self.t_off} and t_on={self.t_on}")
        if not 0 < self.alpha_on < 1:
            raise ValueError(f"alpha_on must lie between 0 and 1, got {self.alpha_on}")

    def start(self, state: State) -> StepFn:
        return self._step

    def kept_share(self, time: float) -> float:
        """Expected share of the target that is not masked at a time: 0 at time 1, 1 at time 0."""
        if self.strategy != "loop":
            return 1 - self.schedule(1 - time)
        if time > self.t_on:
            return self.alpha_on * (1 - self.schedule((1 - time) / (1 - self.t_on)))
        if time > self.t_off:
            return self.alpha_on
        return self.alpha_on + (1 - self.alpha_on) * (1 - self.schedule(1 - time / self.t_off))

    def _step(self, state: State, draw_cells: DrawFn) -> Decision:
        time = 1 - state.step / state.steps
        kept, wanted = self.kept_share(time), self.kept_share(1 - (state.step + 1) / state.steps)
        remask = self._remask(state, time, min(1.0, (1 - wanted) / kept) if kept > 0 else 1.0)
        unmask = (wanted - (1 - remask) * kept) / (1 - kept)
        coin = row_noise(state.target, state.generators, uniform)
        turned = state.target & (coin < torch.where(state.unknown, unmask, remask))
        chosen = turned & state.unknown
        return Decision(draw_cells(chosen), chosen, turned & ~state.unknown)

    def _remask(self, state: State, time: float, most: float) -> Float[Tensor, "batch length"]:
        """sigma of every cell, at most `most`; what it says of masked cells enters the probability to be drawn."""
        one = torch.ones(state.target.shape, dtype=torch.float64, device=state.target.device)
        if self.strategy == "conf":
            decoded = state.target & ~state.unknown
            doubt = (-state.logprobs.double().exp()).masked_fill(~decoded, -torch.inf)
            return most * doubt.softmax(dim=1).nan_to_num(0.0)  # a row without decoded cells has no softmax
        if self.strategy == "rescale":
            return self.eta * most * one
        if self.strategy == "loop" and not self.t_off < time <= self.t_on:
            return 0 * one
        return min(self.eta, most) * one
