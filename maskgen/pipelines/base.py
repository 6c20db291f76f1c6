"""The pipeline: known media in, media out. Loading, saving, moving and the core of every generation."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from maskgen.decoding.decoder import Decoder, StepCallback
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.packed_linear import num_weights
from maskgen.pipelines.judging import Judging
from maskgen.pipelines.options import check_common
from maskgen.pipelines.outputs import GenerationOutput
from maskgen.pipelines.progress import TENSOR_INPUTS, CallbackAdapter, StepBar
from maskgen.pipelines.storing import Storing, names_of
from maskgen.processors.media import as_media
from maskgen.sampling.base import State, Trajectory
from maskgen.tokenizers.base import medium_of
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.packing import given_cells, pack, unpack, until_end

logger = logging.getLogger(__name__)


class Pipeline(Judging, Storing):
    """A model with its tokenizers and everything else that it generates with.

    `Pipeline.from_pretrained(name)` finds out what the model is for and returns a subclass that can be called. A model that fits none of
    them is a plain Pipeline: it has `generate`, `score`, `classify` and `embed`.

    Args:
        model: The masked transformer.
        space: Its token space.
        tokenizers: Tokenizer of each modality.
        settings: How each target modality is decoded unless a call says otherwise.
        grids: Default code grid of each target modality.
        helpers: Trained networks that some settings ask for.
        durations: How long each phoneme lasts, for a model that speaks.
        specialists: Target modality to a pipeline that generates it in this one's place.

    Raises:
        ValueError: If the model lacks a modality that the class needs.
    """

    def set_progress_bar_config(self, disable: bool | None = None) -> None:
        """Show the progress bar of calls never (True), always (False), or in a terminal alone (None, as at the start)."""
        self._bar = disable
        for one in self.specialists.values():
            one.set_progress_bar_config(disable)

    def settings_of(self, target: str) -> GenerationSettings:
        """How a modality is decoded unless a call says otherwise.

        Raises:
            ValueError: If the model has no such modality.
        """
        self.space.of(target)
        return self.settings.get(target) or GenerationSettings()

    def generate(
        self,
        known: Sequence[Mapping[str, Any]],
        target: str,
        seeds: Sequence[int],
        settings: GenerationSettings | None = None,
        negative: Sequence[Mapping[str, Any]] | None = None,
        callback: StepCallback | None = None,
        batch_size: int = 32,
        batch_invariant: bool | None = None,
    ) -> GenerationOutput:
        """Fill what is unknown of one modality, given everything else: the core under every call.

        Args:
            known: One entry a row: modality to media or Codes. Codes of the target may hold UNKNOWN (-1) cells; without an entry
                for the target all of its default grid is unknown.
            target: Modality to generate.
            seeds: One a row, in [0, 2**63).
            settings: How to decode; the bundle's own if None.
            negative: Per row what guidance leads away from; None leads away from no condition at all.
            callback: Called after every step with the `State` of the decode; a state that it returns takes its place.
            batch_size: Rows decoded at once, at most.
            batch_invariant: See `CallOptions`.

        Returns:
            Media, codes and trajectories.

        Raises:
            ValueError: If a modality is unknown or an argument is out of range.
        """
        self._check_rows(known, target, seeds, negative, batch_size)
        settings = settings or self.settings_of(target)
        rows = [self._with_target(self.encoded(row), target) for row in known]
        others = None if negative is None else [self._with_target(self.encoded(row), target) for row in negative]
        codes: list[Codes] = []
        trajectories: list[Trajectory] = []
        calls: list[float] = []
        logprobs: list[Tensor] = []
        decode = Decoder(self.model, self.space, target, settings, self.helpers, batch_invariant)
        started_s = time.perf_counter()
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
            batch = pack(rows[part], self.space).to(self.device)
            against_batch = None if others is None else pack(others[part], self.space).to(self.device)
            made = decode(batch, generators, against_batch, callback)
            codes += [sample[target] for sample in unpack(made.batch.to("cpu"), self.space)]
            cells = made.batch.cells(self.space.index(target))
            logprobs += [row[chosen].T.cpu() for row, chosen in zip(made.logprobs, cells, strict=True)]
            trajectories += made.trajectories
            calls += made.model_calls
        elapsed_s = time.perf_counter() - started_s
        end = self.space.modality(target).end
        whole = [until_end(made, end, given_cells(row[target], end)) for made, row in zip(codes, rows, strict=True)]
        pairs = zip(whole, rows, strict=True)
        media = [medium_of(self.tokenizers[target], made, row) for made, row in pairs]  # one at a time: a batch rounds differently
        likely = [row[: len(one)].reshape(one.shape) for row, one in zip(logprobs, codes, strict=True)]
        return GenerationOutput(media, codes, list(seeds), trajectories, calls, elapsed_s, likely)

    def encoded(self, row: Mapping[str, Any]) -> dict[str, Codes]:
        """Codes of a row's media; what is a tensor already stays. Images and audio are taken in any form that calls take."""
        codes = {}
        for name, media in row.items():
            self.space.of(name)
            codes[name] = (
                media if isinstance(media, Tensor) else self.tokenizers[name].encode([as_media(media, self.tokenizers[name].kind)])[0]
            )
        return codes

    @contextmanager
    def _watched(self, options: Mapping[str, Any]) -> Any:
        """The callback of a call's decodes: progress bar and `callback_on_step_end`.

        Raises:
            TypeError: If an option has another type.
            ValueError: If an option is out of range.
        """
        check_common(options)
        callback = options.get("callback_on_step_end")
        inputs = options.get("callback_on_step_end_tensor_inputs", TENSOR_INPUTS[:1])
        own: Callable[[State], State | None] | None = None if callback is None else CallbackAdapter(self, callback, inputs)
        with StepBar(self._bar) as bar:

            def both(state: State) -> State | None:
                bar(state)
                return None if own is None else own(state)

            yield both

    def _check_rows(self, known: Any, target: Any, seeds: Sequence[int], negative: Any, batch_size: int) -> None:
        """Refuse rows, seeds and negatives that don't go together."""
        for seed in seeds:
            if not 0 <= seed < 2**63:
                raise ValueError(f"a seed must lie in [0, 2**63), got {seed}")
        if not isinstance(target, str):
            raise TypeError(f"target must be the name of a modality, got {target!r}")
        self.space.target(target)
        if not isinstance(known, Sequence) or isinstance(known, str) or not all(isinstance(row, Mapping) for row in known):
            raise TypeError(f"known must be a list with one mapping of modality to media or codes a row, got {known!r:.80}")
        if len(seeds) != len(known) or (negative is not None and len(negative) != len(known)):
            raise ValueError(f"{len(known)} rows need as many seeds and negatives, got {len(seeds)} and {len(negative or known)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    def _with_target(self, row: dict[str, Codes], target: str) -> dict[str, Codes]:
        """The row with a blank target where it has none."""
        if target in row:
            if not row[target].numel():
                raise ValueError(f"{target} has no cells to fill, its codes have shape {tuple(row[target].shape)}; give at least one")
            return row
        if target not in self.grids:
            raise ValueError(f"the model has no default grid for {target!r}; give codes of the wanted shape with -1 in every cell")
        return {**row, target: torch.full((len(self.space.of(target)), *self.grids[target]), UNKNOWN)}

    def __repr__(self) -> str:
        name = f"{self.name_or_path!r}, " if self.name_or_path else ""
        others = f", specialists for {', '.join(self.specialists)}" if self.specialists else ""
        place = f"{num_weights(self.model) / 1e6:.1f} M parameters, {str(self.dtype).removeprefix('torch.')} on {self.device}"
        return f"{type(self).__name__}({name}{', '.join(names_of(self.space))}, {place}{others})"
