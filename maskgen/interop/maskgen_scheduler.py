"""Our samplers as a scheduler of diffusers, for its pipelines of discrete tokens. Importing this module needs diffusers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.decoding.settings import needs_of
from maskgen.interop.scheduler_inputs import Generators, flat_cells, given_logits, row_generators, sampler_of
from maskgen.masking.counts import masked_after
from maskgen.sampling.base import Decision, Sampler, State, StepFn, applied, ranked
from maskgen.sampling.draw import row_noise, uniform
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, TokenSpace

try:
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from diffusers.utils.outputs import BaseOutput
except ImportError as error:
    raise ImportError("MaskgenScheduler needs diffusers: pip install maskgen[diffusers]") from error


@dataclass
class MaskgenSchedulerOutput(BaseOutput):
    """What a step did, under the names of AmusedSchedulerOutput and BlockRefinementSchedulerOutput.

    Args:
        prev_sample: Tokens after the step, in the shape of the sample.
        pred_original_sample: The same with the drawn code at every cell that was drawn, kept or not.
        transfer_index: Masked cells that the step decided.
        editing_transfer_index: Decided cells that it changed or masked again.
        sampled_tokens: Codes drawn; elsewhere the sample.
        sampled_probs: Probabilities of the codes drawn; 0 elsewhere.
        pred_logits: The model's output, as it came.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor
    transfer_index: Tensor
    editing_transfer_index: Tensor
    sampled_tokens: Tensor
    sampled_probs: Tensor
    pred_logits: Tensor


@dataclass
class _Decode:
    """A decode under way: its first timestep, the state after the last step, and what decides the next."""

    first: int
    sampler: Sampler
    decide: StepFn
    state: State


class MaskgenScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # both define config_name
    """Any sampler of maskgen behind the interface of diffusers' discrete schedulers.

    It takes the place of AmusedScheduler in AmusedPipeline, AmusedImg2ImgPipeline and AmusedInpaintPipeline, and of
    BlockRefinementScheduler in LLaDA2Pipeline: `MaskgenScheduler.from_config(pipe.scheduler.config, sampler="halton")`. Pipelines of
    uniform noise (DiffusionGemmaPipeline) have no mask and are refused. Samplers that ask the model about states of their own (`zigzag`)
    or need a second network (`critic`, `frequency`) cannot run, because a scheduler gets one model output a step.

    Timesteps run from 0 up. A decode begins at timestep 0, where the timestep is not the one after the last, and where other cells are
    masked; if that is timestep k of n, the sampler takes n - k steps over what is masked then. Only cells that were masked at the beginning
    ever change, so an edit keeps its known tokens and every row its own count; `starting_mask_ratio` is not read. The mask's own id is
    never drawn, also where the vocabulary holds it.

    A pipeline's `temperature`, `top_k`, `top_p` and `threshold` count where the sampler has such an option and `sampler_options` does
    not name it. AmusedPipeline's `temperature` is `choice_temperature`: a pair down to 0 is annealed on a line, one number as by
    AmusedScheduler. `editing_threshold`, `minimal_topk` and `block_length` are not read: samplers that revoke do so by their own rules.

    Args:
        sampler: Name of the sampler.
        sampler_options: Its options, temperature and cuts among them; plain data, as in `GenerationSettings`.
        mask_token_id: Token of masked cells. None takes the one that `step` is given.
        masking_schedule: Name of the mask schedule; None is the sampler's own.
        block_length: Length of a block in LLaDA2Pipeline.

    Raises:
        ValueError: If the sampler or one of its options is unknown, or the sampler cannot run here.
    """

    order = 1

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        sampler: str = "confidence",
        sampler_options: dict[str, Any] | None = None,
        mask_token_id: int | None = None,
        masking_schedule: str | None = None,
        block_length: int = 32,
    ) -> None:
        if needed := sorted(needs_of(sampler_of(sampler, sampler_options or {}, {}, masking_schedule, 1))):
            raise ValueError(f"the sampler {sampler} needs {' and '.join(needed)}, which a scheduler is not given; choose another sampler")
        self.set_timesteps(12)

    @property
    def _own(self) -> Any:
        """The configuration; its keys are attributes."""
        return self.config

    @property
    def revokes(self) -> bool:
        """Whether the sampler may change decided cells."""
        return self.sampler(1).revokes

    def sampler(self, steps: int, **call: Any) -> Sampler:
        """The sampler of a decode.

        Args:
            steps: Steps of the decode.
            call: What the pipeline's call says; options of the configuration come first.
        """
        options = self._own.sampler_options or {}
        return sampler_of(self._own.sampler, options, call, self._own.masking_schedule, steps)

    def set_timesteps(
        self,
        num_inference_steps: int,
        temperature: float | int | Sequence[float | int] | None = None,
        device: str | torch.device | None = None,
        block_length: int | None = None,
    ) -> None:
        """Timesteps 0 to num_inference_steps - 1; the next step begins a decode."""
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}")
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.arange(num_inference_steps, device=device)
        self._choice = temperature
        self._decode: _Decode | None = None

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        starting_mask_ratio: float | int | Tensor = 1.0,
        generator: Any = None,
        return_dict: bool = True,
        *,
        mask_token_id: int | None = None,
        temperature: float | int | None = None,
        top_p: float | int | None = None,
        top_k: int | None = None,
        sampling_method: str = "auto",
        threshold: float | int | None = None,
        editing_threshold: float | int | None = None,
        minimal_topk: int | None = None,
        prompt_mask: Tensor | None = None,
    ) -> MaskgenSchedulerOutput | tuple[Tensor, ...]:
        """One step of the sampler.

        Args:
            model_output: Logits [batch, length, codes], or [batch, codes, height, width] for a sample of pictures.
            timestep: One of `timesteps`.
            sample: Tokens [batch, length] or [batch, height, width].
            generator: One generator, or one a row. A single one serves a batch of one row itself; for more rows it draws their seeds.

        Raises:
            ValueError: If there is no mask token, shapes do not fit, or the sampler asks the model about another state.
        """
        mask = self._own.mask_token_id if mask_token_id is None else mask_token_id
        if mask is None:
            raise ValueError("MaskgenScheduler works on masked tokens; give it mask_token_id, or take a scheduler for uniform noise")
        shape, (logits, codes) = sample.shape, flat_cells(model_output, sample, int(mask))
        call = {"temperature": 0.0 if sampling_method == "greedy" else temperature, "top_k": top_k or None, "top_p": top_p}
        index = int(timestep)
        if not self._continues(index, codes):
            self._decode = self._begin(index, codes, logits.shape[-1], shape, generator, {**call, "threshold": threshold})
        if self._decode is None:
            nothing = torch.zeros(shape, dtype=torch.bool, device=sample.device)
            found = [sample, sample, nothing, nothing, sample, torch.zeros(shape, device=sample.device), model_output]
        else:
            found = [*(part.reshape(shape) for part in self._advanced(self._decode, codes, logits, int(mask))), model_output]
        return MaskgenSchedulerOutput(*found) if return_dict else tuple(found)

    def add_noise(self, sample: Tensor, timesteps: int | Tensor, generator: Any = None) -> Tensor:
        """Mask random cells of every row, as many as are masked after that timestep.

        AmusedScheduler masks each cell with that probability, so its counts differ from row to row.
        """
        if self._own.mask_token_id is None:
            raise ValueError("MaskgenScheduler works on masked tokens; give it mask_token_id")
        flat = sample.reshape(len(sample), -1)
        every = torch.ones_like(flat, dtype=torch.bool)
        scores = row_noise(every, row_generators(generator, len(flat)), uniform)
        count = masked_after(self.sampler(1).schedule, int(timesteps), self.num_inference_steps, every.sum(dim=1))
        return torch.where(ranked(scores) < count[:, None], self._own.mask_token_id, flat).reshape(sample.shape)

    def check_eos_finished(
        self,
        cur_x: Int[Tensor, "batch length"],
        sampled_tokens: Int[Tensor, "batch block"],
        final_transfer: Bool[Tensor, "batch block"],
        finished: Bool[Tensor, " batch"],
        eos_token_id: int,
        mask_token_id: int,
        prompt_length: int,
    ) -> Bool[Tensor, " batch"]:
        """Rows whose answer is complete up to its first end token; LLaDA2Pipeline asks after every step.

        BlockRefinementScheduler never finishes a row whose prompt holds the end token, or whose end was written before a token ahead of it.
        """
        answer = cur_x[:, prompt_length:]
        ends = answer == eos_token_id
        before = ends.long().cumsum(dim=1) == 0
        return finished | (ends.any(dim=1) & ~(before & (answer == mask_token_id)).any(dim=1))

    def check_block_should_continue(
        self,
        step_idx: int,
        masks_remaining: bool | Tensor,
        editing_enabled: bool,
        editing_transfer_index: Bool[Tensor, "batch block"],
        post_steps: int,
        max_post_steps: int,
        finished: Bool[Tensor, " batch"],
    ) -> bool:
        """Whether a block of LLaDA2Pipeline goes on: while it has masks, steps are left and an answer is open."""
        return bool(masks_remaining) and step_idx < self.num_inference_steps and not bool(finished.all())

    def _continues(self, index: int, codes: Int[Tensor, "batch length"]) -> bool:
        """Whether a step goes on with the decode under way."""
        decode = self._decode
        if decode is None or index != decode.first + decode.state.step or codes.shape != decode.state.codes.shape:
            return False
        return not bool(((codes == UNKNOWN) & ~decode.state.target).any())

    def _begin(
        self, index: int, codes: Int[Tensor, "batch length"], size: int, shape: Sequence[int], generator: Generators, call: dict[str, Any]
    ) -> _Decode | None:
        """A decode of all cells that are masked now; None where there are none."""
        if not 0 <= index < self.num_inference_steps:
            raise ValueError(f"timestep {index} lies outside of [0, {self.num_inference_steps}); take one of `timesteps`")
        if not bool((codes == UNKNOWN).any()):
            return None
        steps = self.num_inference_steps - index
        sampler = self.sampler(steps, choice_temperature=self._choice, **call)
        name = "text" if len(shape) == 2 else "image"
        space = TokenSpace([Modality(name=name, kind=name, num_levels=1, codebook_size=size)])  # type: ignore[arg-type]  # two kinds
        batch = pack([{name: row.reshape(1, *shape[1:]).cpu()} for row in codes], space).to(codes.device)
        blank = torch.zeros_like(codes, dtype=torch.bool)
        generators = tuple(row_generators(generator, len(codes)))
        logprobs = torch.zeros(codes.shape, device=codes.device)
        state = State(batch, space.segment(name, 0), generators, 0, steps, codes == UNKNOWN, codes, logprobs, blank)
        return _Decode(index, sampler, sampler.start(state), state)

    def _advanced(
        self, decode: _Decode, codes: Int[Tensor, "batch length"], logits: Float[Tensor, "batch length size"], mask: int
    ) -> tuple[Tensor, ...]:
        """Runs a step; returns the fields of MaskgenSchedulerOutput without the last, one cell after the other."""
        state = decode.state
        ids = torch.where(codes == UNKNOWN, MASK, codes + state.segment.offset)[..., None]
        state = replace(state, batch=state.batch.with_ids(ids), codes=codes)
        draw = partial(decode.sampler._draw, partial(given_logits, self._own.sampler, state.batch, logits), state)
        with torch.no_grad():
            decision: Decision = decode.decide(state, draw)
        decode.state = after = applied(state, decision)
        drawn, unknown = decision.drawn, state.codes == UNKNOWN
        was, now = (torch.where(part.codes == UNKNOWN, mask, part.codes) for part in (state, after))
        sampled = torch.where(drawn.cells & (drawn.codes != UNKNOWN), drawn.codes, was)
        probabilities = torch.where(drawn.cells, drawn.logprobs.exp(), 0.0)
        return now, torch.where(now == mask, sampled, now), after.changed & unknown, after.changed & ~unknown, sampled, probabilities
