"""A discrete scheduler of diffusers as a sampler: its `step` decides what a step keeps."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.sampling.base import Decision, DrawFn, Drawn, Sampler, State, StepFn
from maskgen.sampling.draw import scattered
from maskgen.tokens.batch import UNKNOWN

SCHEDULERS = ("AmusedScheduler", "BlockRefinementScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler")
"""Classes of diffusers that can be named; others are given as objects."""


@dataclass(frozen=True, kw_only=True)
class DiffusersSchedulerSampler(Sampler):
    """Runs a scheduler of diffusers in maskgen's decode loop.

    Every row has its own copy of the scheduler, which sees the row's target cells alone and draws from the row's own generator. So known
    cells stay, counts are those of the row's unknown cells, and a row is the same alone and in a batch. Logits are asked for at the cells
    whose result the scheduler can use; elsewhere it gets zeros. A scheduler whose `step` or `set_timesteps` lacks an option cannot use it:
    temperature, top_k and top_p other than their defaults are then refused. `schedule` is not read: give AmusedScheduler its
    `masking_schedule`. For blocks, give this sampler to `blocks` as its `inner`; without, a row is one block.

    - AmusedScheduler ranks by Gumbel noise (`choice_temperature`) and fills cells at fixed counts.
    - BlockRefinementScheduler keeps the surest cells, an even count a step, and all above its threshold; with an `editing_threshold` it may
      replace codes until the steps are over or nothing changes.
    - EntropyBoundScheduler keeps cells while their entropies sum to little.
    - DiscreteDDIMScheduler draws from the posterior of uniform noise; with `corrector_steps` c, each of its steps but the last is followed
      by c corrections, and `steps` counts both.

    Cost: at most `steps` model calls. May revoke: nothing; with `editing_threshold` or uniform noise it may replace every code.

    Args:
        scheduler: One of `SCHEDULERS`, or an object with `set_timesteps` and `step`, which is copied and never changed.
        scheduler_options: Arguments of the class that `scheduler` names.
        corruption: What stands at undecided cells: "mask", or "uniform", codes drawn at random, for a model that learned from them
            (`maskgen.masking.noise`). None is "mask", but "uniform" for DiscreteDDIMScheduler, which knows no mask.
        choice_temperature: `temperature` of AmusedScheduler.set_timesteps: a number, or first and last; None is its default.

    Raises:
        ImportError: If diffusers is missing.
        ValueError: If the scheduler cannot use an option, or leaves cells undecided after its last step.

    Source: diffusers 0.42. Differs: EntropyBoundScheduler keeps every drawn code at the last step, where diffusers leaves random codes at
    cells that it does not accept; with masks it is asked about undecided cells alone, so that accepted codes stay. AmusedScheduler fills a
    row with one undecided cell at once; there diffusers raises an IndexError.
    """

    scheduler: Any = "BlockRefinementScheduler"
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    corruption: Literal["mask", "uniform"] | None = None
    choice_temperature: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.scheduler, str) and self.scheduler not in SCHEDULERS:
            raise ValueError(f"scheduler must be one of {', '.join(SCHEDULERS)} or a scheduler object, got {self.scheduler!r}")
        if not isinstance(self.scheduler, str) and self.scheduler_options:
            raise ValueError("scheduler_options are for a scheduler given by name; give them to the scheduler object itself")
        if (self.min_p, self.typical_p) != (None, None):
            raise ValueError("schedulers of diffusers know no min_p and typical_p; leave them out or choose another sampler")
        if self.corruption not in (None, "mask", "uniform"):
            raise ValueError(f"corruption must be mask or uniform, got {self.corruption!r}")
        wrong = {"DiscreteDDIMScheduler": "mask", "AmusedScheduler": "uniform"}
        if self.corruption is not None and wrong.get(self._name) == self.corruption:
            raise ValueError(f"{self._name} does not work with {self.corruption} noise; leave corruption out")

    @property
    def _name(self) -> str:
        if isinstance(self.scheduler, str):
            return self.scheduler
        names = [kind.__name__ for kind in type(self.scheduler).__mro__]
        return next((name for name in names if name in SCHEDULERS), names[0])

    def option(self, name: str) -> Any:
        """An option of the scheduler; None where it has none."""
        return self.scheduler_options.get(name) if isinstance(self.scheduler, str) else getattr(self.scheduler.config, name, None)

    @property
    def uniform(self) -> bool:
        """Whether undecided cells hold random codes."""
        return self.corruption == "uniform" or (self.corruption is None and self._name == "DiscreteDDIMScheduler")

    @property
    def edits(self) -> bool:
        """Whether decided cells may be replaced where undecided ones are MASK."""
        return not self.uniform and ((self.option("editing_threshold") or 0) > 0 or getattr(self.scheduler, "revokes", False))

    @property
    def revokes(self) -> bool:  # type: ignore[override]
        """Whether a decode goes on when no cell is MASK."""
        return self.uniform or self.edits

    def start(self, state: State) -> StepFn:
        counts = state.total.tolist()
        rows = [_Row(self, state, count, generator) for count, generator in zip(counts, state.generators, strict=True)]
        unused = tuple(torch.Generator(device=one.device) for one in state.generators)  # for the loop's own draw, whose codes are not taken

        def step(now: State, draw_cells: DrawFn) -> Decision:
            if self.uniform and now.step == 0:
                codes = torch.cat([row.codes for row in rows]).to(now.codes.device)
                codes = scattered(now.target, codes, UNKNOWN)
                seen = replace(now, codes=codes, batch=now.filled(codes), generators=unused)
            else:
                seen = replace(now, generators=unused)
            live = torch.tensor([not row.finished for row in rows], device=now.target.device)
            asked = (now.target if self.revokes else now.unknown) & live[:, None]
            drawn = draw_cells(asked, seen)
            parts = torch.split(drawn.logits, asked.sum(dim=1).tolist())
            after = torch.cat(
                [
                    row.step(logits, seen.codes[number, cells], asked[number, cells], now)
                    for number, (row, logits, cells) in enumerate(zip(rows, parts, now.target, strict=True))
                ]
            )
            codes = scattered(now.target, after.to(now.codes.device), UNKNOWN)
            known = asked & (codes != UNKNOWN)
            logprobs = drawn.logits.float().log_softmax(dim=-1).gather(-1, codes[asked].clamp(min=0)[:, None])[:, 0]
            logprobs = scattered(asked, logprobs, 0.0).masked_fill(~known, 0).to(now.logprobs.dtype)
            accept = known & (codes != now.codes)
            return Decision(Drawn(asked, codes.where(asked, UNKNOWN), logprobs, drawn.logits), accept, now.target & (codes == UNKNOWN))

        return step

    def made(self, size: int) -> tuple[Any, int]:
        """A new copy of the scheduler, and its id of MASK.

        Args:
            size: Codes of the level.
        """
        found = self._built(size) if isinstance(self.scheduler, str) else copy.deepcopy(self.scheduler)
        mask = getattr(found.config, "mask_token_id", None)
        mask = size if mask is None else int(mask)
        if mask < size:
            raise ValueError(
                f"mask_token_id {mask} of the scheduler is a code of this level, which has {size}; give one of at least {size}"
            )
        return found, mask

    def _built(self, size: int) -> Any:
        """A scheduler of the named class."""
        try:
            import diffusers
        except ImportError as error:
            raise ImportError(f"{self.scheduler} needs diffusers: pip install maskgen[diffusers]") from error
        kind: Any = getattr(diffusers, self.scheduler, None)
        if kind is None:
            raise ImportError(f"diffusers {diffusers.__version__} has no {self.scheduler}; install a newer one: pip install -U diffusers")
        known = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
        if unknown := sorted(set(self.scheduler_options) - set(known)):
            raise ValueError(f"{self.scheduler} has no options {', '.join(unknown)}; it has {', '.join(known)}")
        options = {"mask_token_id": size, **self.scheduler_options} if "mask_token_id" in known else dict(self.scheduler_options)
        return kind(**options)

    def check(self, of_timesteps: Mapping[str, Any], of_step: Mapping[str, Any]) -> None:
        """Raises ValueError if an option is given that the scheduler's methods do not take."""
        heats = ("temperature", "sharpening", "soft_steps", "cooling")
        for option in (*heats, "top_k", "top_p"):
            taken = "temperature" if option in heats else option
            if taken not in of_step and getattr(self, option) != getattr(Sampler, option):
                raise ValueError(f"{self._name} takes no {option}; leave it out or choose another scheduler")
        if self.choice_temperature is not None and "temperature" not in of_timesteps:
            raise ValueError(f"{self._name} takes no choice_temperature; leave it out or choose another scheduler")


class _Row:
    """A row's own copy of the scheduler."""

    def __init__(self, options: DiffusersSchedulerSampler, state: State, count: int, generator: torch.Generator) -> None:
        self.options, self.generator, self.steps, self.finished = options, generator, state.steps, count == 0
        self.codes = torch.full((count,), UNKNOWN, device=generator.device)
        self.sweeps = int(options.option("corrector_steps") or 0) if options.uniform else 0
        self.predictors = (state.steps + self.sweeps) // (1 + self.sweeps)
        if options._name == "AmusedScheduler" and count == 1:  # its ranking leaves a cell masked, which needs a second one
            self.predictors = 1
        if self.finished:
            return
        size = state.segment.size
        self.scheduler, self.mask = options.made(size)
        known, self.takes = (inspect.signature(one).parameters for one in (self.scheduler.set_timesteps, self.scheduler.step))
        options.check(known, self.takes)
        temperature = options.choice_temperature
        listed = temperature if temperature is None or isinstance(temperature, int | float) else list(temperature)
        given = {"block_length": count, "temperature": listed, "device": generator.device}
        given = {name: value for name, value in given.items() if name in known and value is not None}
        self.scheduler.set_timesteps(self.predictors, **given)
        if options.uniform:
            self.codes = torch.randint(0, size, (count,), generator=generator, device=generator.device)

    def step(
        self, logits: Float[Tensor, "asked size"], codes: Int[Tensor, " count"], asked: Bool[Tensor, " count"], state: State
    ) -> Int[Tensor, " count"]:
        """Codes of the row's target after a step; UNKNOWN where masked.

        Args:
            logits: Of the cells asked about.
            codes: Codes now.
            asked: Which of them were asked about.
            state: The decode.
        """
        logits, codes, asked = (one.to(self.generator.device) for one in (logits.float(), codes, asked))
        number, sweep = divmod(state.step, 1 + self.sweeps)
        if not len(logits):
            return codes
        self.temperature = self.options.temperature_at(state)
        whole = logits.new_zeros(len(codes), logits.shape[-1]).masked_scatter(asked[:, None], logits)
        if sweep:
            found: Tensor = self.scheduler.step_correct(whole[None], number, codes[None], generator=self.generator).prev_sample[0]
            return found
        self.finished = last = number + 1 == self.predictors
        if self.options._name == "EntropyBoundScheduler":
            return self._bounded(logits, codes, asked, number, last)
        hidden = codes if self.options.uniform else torch.where(codes == UNKNOWN, self.mask, codes)
        after: Tensor = self._stepped(whole, hidden, number).prev_sample[0]
        after = after if self.options.uniform else torch.where(after == self.mask, UNKNOWN, after)
        masked = int((after == UNKNOWN).sum())
        if last and masked:
            raise ValueError(f"{self.options._name} left {masked} cells masked after its last step; choose another scheduler")
        self.finished = last or (bool(self.options.option("editing_threshold")) and not masked and torch.equal(after, codes))
        return after

    def _bounded(
        self, logits: Float[Tensor, "asked size"], codes: Int[Tensor, " count"], asked: Bool[Tensor, " count"], number: int, last: bool
    ) -> Int[Tensor, " count"]:
        """A step of EntropyBoundScheduler, which tells what it accepts; the last one takes all that was drawn."""
        output = self._stepped(logits, codes[asked], number)
        drawn, kept = output.sampled_tokens[0], output.accepted_index[0] | last
        otherwise = output.prev_sample[0] if self.options.uniform else torch.full_like(drawn, UNKNOWN)
        return codes.masked_scatter(asked, torch.where(kept, drawn, otherwise))

    def _stepped(self, logits: Float[Tensor, "count size"], sample: Int[Tensor, " count"], number: int) -> Any:
        """Output of the scheduler's `step`."""
        upwards = self.options._name == "BlockRefinementScheduler"  # counts up, though its timesteps run down
        options: dict[str, Any] = {"temperature": self.temperature, "top_k": self.options.top_k, "top_p": self.options.top_p}
        options |= {"mask_token_id": None if self.options.uniform else self.mask, "generator": self.generator}
        taken = {name: value for name, value in options.items() if name in self.takes}
        return self.scheduler.step(logits[None], number if upwards else self.scheduler.timesteps[number], sample[None], **taken)
