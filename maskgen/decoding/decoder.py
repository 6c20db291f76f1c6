"""The decoder: runs a decode by its settings, from acceleration, guidance and logits processors to the sampler of each level."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from maskgen.decoding.acceleration.compiled import CompiledModel
from maskgen.decoding.acceleration.kv_cache import KVCacheModel, PrefixCacheModel
from maskgen.decoding.acceleration.local_attention import LocalAttentionModel
from maskgen.decoding.acceleration.shortcut import ShortcutModel
from maskgen.decoding.acceleration.token_merging import TokenMergingModel
from maskgen.decoding.level_groups import sample_group
from maskgen.decoding.logits import (
    ModelCallCounter,
    Transform,
    against,
    alone,
    guided_model,
    hide_condition,
    is_guided,
    model_logits,
    remask,
)
from maskgen.decoding.logits_processors import differential, noise_regularised, without_code
from maskgen.decoding.runner import ModelRunner, RunModel
from maskgen.decoding.settings import GenerationSettings
from maskgen.decoding.together import logits_by_group, logits_together, row_groups
from maskgen.masking.masks import level_groups
from maskgen.networks.attention_maps import low_attention
from maskgen.networks.auto import Network
from maskgen.networks.critic import Critic, critic_scores
from maskgen.networks.published import PublishedNetwork
from maskgen.networks.shortcut import ShortcutBlock
from maskgen.networks.towers import TowerTransformer
from maskgen.networks.transformer import MaskTransformer
from maskgen.sampling.base import Sampler, State, Trajectory
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.space import MASK, Segment, TokenSpace

StepCallback = Callable[[State], State | None]


@dataclass(frozen=True)
class Helpers:
    """What stands beside a generator: trained networks that some settings ask for, and what runs its calls.

    Args:
        critic: Judge of drawn codes, for the sampler `critic`.
        shortcut: Predictor of hidden states, for the setting `shortcut`.
        compiled: The model behind torch.compile, which takes its place where all cells are computed.
        runner: Runs the model's calls; None runs them in place.
    """

    critic: Critic | None = None
    shortcut: ShortcutBlock | None = None
    compiled: CompiledModel | None = None
    runner: ModelRunner | None = None


@dataclass(frozen=True)
class Decoded:
    """The result of a decode.

    Args:
        batch: The filled batch.
        trajectories: What each step did, one entry a level or group of levels.
        model_calls: Calls of the model for each row: a guided step counts twice, a call that computes a part of the cells as its share.
        logprobs: Log-probability of each code at the step that wrote it for good, in the logits that the sampler ranks by; 0 elsewhere.
    """

    batch: TokenBatch
    trajectories: list[Trajectory]
    model_calls: list[float]
    logprobs: Float[Tensor, "batch length level"]


class Decoder:
    """Fills the unknown cells of one modality, level after level, coarse to fine.

    A row's result depends on its own seed; with `batch_invariant` it is bit-identical to that of the row decoded alone (see
    `maskgen.decoding.together.row_groups`).

    Args:
        model: The transformer.
        space: Its token space.
        target: Modality that is decoded.
        settings: How.
        helpers: Trained networks that the settings need.
        batch_invariant: Whether rows keep the bits that they have alone, in float32 on a CPU; None where it costs nothing.

    Raises:
        ValueError: If the settings need a shortcut and there is none.
    """

    def __init__(
        self,
        model: Network,
        space: TokenSpace,
        target: str,
        settings: GenerationSettings,
        helpers: Helpers | None = None,
        batch_invariant: bool | None = None,
    ) -> None:
        self.model, self.settings, self.helpers, self.batch_invariant = model, settings, helpers or Helpers(), batch_invariant
        self.segments, self.index, self.end = space.of(target), space.index(target), space.modality(target).end
        self.others = tuple(space.index(one.name) for one in space.modalities if one.name != target)
        if settings.shortcut > 1 and self.helpers.shortcut is None:
            raise ValueError("the setting shortcut needs a trained one in the folder shortcut of the model; train it or set shortcut to 1")
        if not isinstance(model, MaskTransformer) and (settings.refresh > 1 or settings.merge or settings.shortcut > 1):
            raise ValueError("refresh, merge and shortcut need maskgen's own transformer without towers; leave them off")

    def __call__(
        self,
        batch: TokenBatch,
        generators: Sequence[torch.Generator],
        negative: TokenBatch | None = None,
        callback: StepCallback | None = None,
    ) -> Decoded:
        """Decode.

        Args:
            batch: Rows with MASK at the unknown cells.
            generators: One a row.
            negative: What guidance leads away from, a row each; None takes what the settings say.
            callback: Called after every step with the state of the decode.
        """
        device = self.model.embed.weight.device
        groups, exact = row_groups(batch, self.model, self.batch_invariant, plain=_cheaper(self) is None)
        runs = [_Group(self, batch, negative, generators, rows, exact) for rows in groups]
        holes, trajectories = self._before_given(batch), list[Trajectory]()
        logprobs = torch.zeros(batch.ids.shape, device=device)
        for group in level_groups(self.settings.groups, len(self.segments)):
            sampler, together = self.settings.at(group[0]), [self.segments[level] for level in group]
            functions = [run.logits(group, sampler.steps) for run in runs]
            guided, plain = (self._without_end(logits_by_group(each, groups), holes) for each in zip(*functions, strict=True))
            sampler = equipped(sampler, self._tools(plain))
            arguments = batch, together if len(group) > 1 else together[0], generators, callback
            batch, trajectory = (
                sample_group(sampler, guided, *arguments) if len(group) > 1 else sampler.sample(guided, *arguments)  # type: ignore[arg-type]
            )
            trajectories.append(trajectory)
            if len(trajectory.logprobs):
                logprobs[..., group] = rearrange(trajectory.logprobs[-1], "b (l k) -> b l k", k=len(group))
        calls = {row: count for run in runs for row, count in run.model_calls.items()}
        return Decoded(batch, trajectories, [calls[row] for row in range(len(batch))], logprobs)

    def _before_given(self, batch: TokenBatch) -> Bool[Tensor, "batch length"]:
        """Cells of the target before the last one of their row whose code is given: an end code drawn there would cut given text off."""
        ids, ours = batch.ids[..., 0], batch.cells(self.index)
        given = ours & (ids != MASK)
        if self.end is not None:
            given = given & (ids != self.segments[0].offset + self.end)
        return ours & (given.flip(1).cumsum(dim=1).flip(1) > 0)

    def _without_end(self, logits_fn: LogitsFn, holes: Bool[Tensor, "batch length"]) -> LogitsFn:
        """The logits without the end code in holes before given text."""
        return logits_fn if self.end is None or not bool(holes.any()) else without_code(logits_fn, holes, self.end)

    def null(self, batch: TokenBatch, negative: TokenBatch | None, rows: Sequence[int]) -> Transform:
        """What the unconditional pass over some rows sees."""
        if negative is not None:
            return against(negative.rows(torch.tensor(rows, device=negative.ids.device)).trimmed(), self.index)
        if self.settings.null == "masked":
            return remask(self._given(batch)[list(rows)])
        if self.settings.null == "alone":
            return alone(self._given(batch)[list(rows)])
        return hide_condition(self.others)

    def _given(self, batch: TokenBatch) -> Bool[Tensor, "batch length"]:
        """Cells with nothing to decode: the condition, and what is known of the target."""
        levels = [segment.level for segment in self.segments]
        unknown = (batch.ids[..., levels] == MASK).any(dim=2) & batch.cells(self.index)
        return batch.valid & ~unknown

    def _tools(self, plain: LogitsFn) -> Mapping[str, Callable[[], Any]]:
        """What samplers may need, each made on demand."""
        tools: dict[str, Callable[[], Any]] = {"inverse": lambda: plain, "grouping": lambda: low_attention(self._own())}
        critic = self.helpers.critic
        if critic is None or critic.target != self.segments[0].modality:
            return tools
        return {**tools, "critic": lambda: critic_scores(critic)}

    def _own(self) -> MaskTransformer | TowerTransformer:
        """The model, where it is maskgen's own; for samplers that read its attention."""
        if not isinstance(self.model, MaskTransformer | TowerTransformer):
            raise ValueError("this sampler groups cells by attention, which the model does not expose; choose another sampler")
        return self.model


class _Group:
    """Rows that are handed to the model together; where their bits must be those that they have alone, each has a run of its own too."""

    def __init__(
        self,
        decoder: Decoder,
        batch: TokenBatch,
        negative: TokenBatch | None,
        generators: Sequence[torch.Generator],
        rows: Sequence[int],
        exact: bool,
    ) -> None:
        def run(some: Sequence[int]) -> "_Run":
            return _Run(decoder, decoder.null(batch, negative, some), [generators[row] for row in some], by_row=exact)

        self.decoder, self.rows, self.together = decoder, rows, run(rows)
        self.alone = [run([row]) for row in rows] if exact and len(rows) > 1 else []
        self.negative_length = 0 if negative is None else negative.ids.shape[1]

    def logits(self, group: Sequence[int], steps: int) -> tuple[LogitsFn, LogitsFn]:
        """Guided logits of the levels that are decoded now with all logits processors, and plain ones."""
        guided, plain = self.together.logits(group, steps)
        if not self.alone:
            return guided, plain
        each = [run.logits(group, steps) for run in self.alone]
        schedule, window = self.decoder.settings.guidance(group[0]), self.decoder.settings.window_at(group[0])

        def shape(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> tuple[Any, ...]:
            return is_guided(schedule, batch, cells, segment, progress), self.negative_length, window

        guided = logits_together(self.decoder.model, guided, [one for one, _ in each], self.together.counter, shape)
        plain = logits_together(self.decoder.model, plain, [one for _, one in each], self.together.counter, lambda *_: ("plain", window))
        return guided, plain

    @property
    def model_calls(self) -> dict[int, float]:
        """Calls of the model so far for each row."""
        shared = self.together.model_calls / len(self.rows)
        own = [run.model_calls for run in self.alone] or [0.0] * len(self.rows)
        return {row: shared + calls for row, calls in zip(self.rows, own, strict=True)}


class _Run:
    """Some rows on their way through the model, and what is remembered of them between steps."""

    def __init__(self, decoder: Decoder, null: Transform, generators: Sequence[torch.Generator], by_row: bool) -> None:
        self.by_row = by_row
        self.settings, self.null, self.generators = decoder.settings, null, generators
        self.model, self.helpers, self.counter = decoder.model, decoder.helpers, ModelCallCounter()
        self.reused = _cheaper(decoder)

    def logits(self, group: Sequence[int], steps: int) -> tuple[LogitsFn, LogitsFn]:
        """Guided logits of the levels that are decoded now with all logits processors, and plain ones."""
        settings, window = self.settings, self.settings.window_at(group[0])
        prefix = self.reused if isinstance(self.reused, PrefixCacheModel) else None
        whole = self._by_runner((prefix or self.model) if window else self.reused or self.helpers.compiled or self.model)
        model = LocalAttentionModel(whole, window) if window else whole
        if isinstance(self.reused, KVCacheModel):
            self.reused.begin(group)
        states = isinstance(self.model, PublishedNetwork) and self.model.config.rescales_states
        arguments = model, self.null, settings.guidance(group[0]), settings.guidance_rescale, self.counter, self.by_row, states
        logits_fn: LogitsFn = guided_model(*arguments)
        if settings.noise_regularization:
            logits_fn = noise_regularised(logits_fn, self.generators, steps=steps, scale=settings.noise_regularization)
        if settings.differential:
            logits_fn = differential(logits_fn, settings.differential)
        return logits_fn, model_logits(model, self.counter, self.by_row)

    def _by_runner(self, model: Any) -> Any:
        """The model, with its calls by the runner where there is one."""
        return model if self.helpers.runner is None else RunModel(model, self.helpers.runner, plain=model is self.model)

    @property
    def model_calls(self) -> float:
        """Calls of the model so far, summed over the rows."""
        if isinstance(self.reused, ShortcutModel):
            return self.reused.model_calls
        return self.counter.rows * (1.0 if self.reused is None else self.reused.work)


def _cheaper(decoder: Decoder) -> PrefixCacheModel | KVCacheModel | TokenMergingModel | ShortcutModel | None:
    """The model as the speed settings want it, or None for the model itself."""
    settings, model = decoder.settings, decoder.model
    if not isinstance(model, MaskTransformer):
        return None
    if settings.refresh > 1:
        return KVCacheModel(model, decoder.index, settings.refresh, settings.groups)
    if settings.merge:
        return TokenMergingModel(model, [decoder.index], settings.merge)
    if settings.shortcut > 1:
        assert decoder.helpers.shortcut is not None, "checked when the decoder was made"
        return ShortcutModel(model, decoder.helpers.shortcut, settings.shortcut)
    return PrefixCacheModel(model, decoder.index) if model.config.blind_condition else None


def equipped(sampler: Sampler, tools: Mapping[str, Callable[[], Any]]) -> Sampler:
    """The sampler, and any sampler inside it, with the tools that it needs or takes and does not have."""
    found = {name: tools[name]() for name in (*sampler.needs, *sampler.takes) if name in tools and getattr(sampler, name) is None}
    inner = getattr(sampler, "inner", None)
    if isinstance(inner, Sampler):
        found["inner"] = equipped(inner, tools)
    return dataclasses.replace(sampler, **found) if found else sampler
