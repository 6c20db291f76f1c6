"""What a pipeline's call returns. Reprs are short: an output may be printed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from maskgen.io.audio import Waveform
from maskgen.sampling.base import Trajectory
from maskgen.tokenizers.transcript import Transcript
from maskgen.tokens.batch import Codes


@dataclass(frozen=True, repr=False)
class GenerationOutput:
    """What `Pipeline.generate` made, one entry a row; also what a text-to-image call returns.

    Args:
        media: Decoded media of the target. From a text-to-image call with `output_type="np"` an array [batch, rows, columns, 3] in [0, 1],
            with "pt" a tensor [batch, 3, rows, columns].
        codes: Codes [level, *grid] of the target.
        seeds: Seed of each row; the same seed alone gives the same row.
        trajectories: What each step did, one entry a batch and level, in the order of decoding.
        model_calls: Calls of the model for each row: a guided step counts twice, a call that computes a part of the cells as its share.
        elapsed_s: Seconds in the model and the sampler, without loading and decoding to media.
        log_probabilities: Float [level, *grid] like `codes`: natural-log probability of each code at the step that fixed it, in the guided
            logits before temperature and cuts, by which samplers rank. 0 where the code was known.
    """

    media: Any
    codes: list[Codes]
    seeds: list[int]
    trajectories: list[Trajectory]
    model_calls: list[float]
    elapsed_s: float
    log_probabilities: list[Tensor]

    @property
    def confidence(self) -> list[Tensor]:
        """Probability of each code, shaped like `codes`: exp of `log_probabilities`, so 1 where the code was known."""
        return [one.exp() for one in self.log_probabilities]

    @property
    def model_calls_per_row(self) -> float:
        """Model calls of the average row."""
        return sum(self.model_calls) / max(len(self.model_calls), 1)

    @property
    def images(self) -> Any:
        """The media, under the name that diffusers gives them."""
        return self.media

    def __repr__(self) -> str:
        return f"GenerationOutput({media_summary(self.media)}, {_seeds(self.seeds)}, {_cost(self.model_calls_per_row, self.elapsed_s)})"


@dataclass(frozen=True, repr=False)
class TextOutput:
    """What a text pipeline wrote, one entry a prompt and output.

    Args:
        texts: The texts.
        seeds: Seed of each.
        generation: Codes and trajectories.
    """

    texts: list[str]
    seeds: list[int]
    generation: GenerationOutput

    @property
    def text(self) -> str:
        """The first text."""
        return self.texts[0]

    def __repr__(self) -> str:
        cost = _cost(self.generation.model_calls_per_row, self.generation.elapsed_s)
        return f"TextOutput({media_summary(self.texts)}, {_seeds(self.seeds)}, {cost})"


@dataclass(frozen=True, repr=False)
class AudioOutput:
    """What a text-to-audio call made, one entry a prompt and output.

    Args:
        audio: Waveforms at the codec's rate.
        seeds: Seed of each.
        generation: Codes and trajectories.
    """

    audio: list[Waveform]
    seeds: list[int]
    generation: GenerationOutput

    def __repr__(self) -> str:
        cost = _cost(self.generation.model_calls_per_row, self.generation.elapsed_s)
        return f"AudioOutput({media_summary(self.audio)}, {_seeds(self.seeds)}, {cost})"


@dataclass(frozen=True, repr=False)
class SpeechOutput:
    """What a voice said, one entry a prompt and take.

    Args:
        audio: Waveforms at the codec's rate.
        seeds: Seed of each; sentence k of a prompt has its take's seed + k.
        sentences: Of each prompt, what was spoken as one row each.
        phonemes: Of each prompt, the phonemes of each sentence.
        left_out: Characters and markup of the prompts that cannot be spoken.
        steps: Decode steps of each level.
        elapsed_s: Seconds in the model and the sampler.
        generation: Codes and trajectories of all rows: prompt after prompt, take after take, sentence after sentence.
    """

    audio: list[Waveform]
    seeds: list[int]
    sentences: list[list[str]]
    phonemes: list[list[str]]
    left_out: list[str]
    steps: list[int]
    elapsed_s: float
    generation: GenerationOutput

    @property
    def seconds(self) -> float:
        """Length of all waveforms together."""
        return float(sum(wave.seconds for wave in self.audio))

    @property
    def model_calls_per_row(self) -> float:
        """Model calls of the average sentence."""
        return self.generation.model_calls_per_row

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of speech."""
        return self.elapsed_s / self.seconds

    def __repr__(self) -> str:
        return f"SpeechOutput({media_summary(self.audio)}, {_seeds(self.seeds)}, {_cost(self.model_calls_per_row, self.elapsed_s)})"


@dataclass(repr=False)
class AnyToAnyOutput:
    """What an any-to-any call made, one entry an output; a list is empty where its medium was neither asked for nor needed on the way.

    Args:
        texts: Captions or transcripts; the prompt itself where it was given alone.
        transcripts: Words and their times, where audio was given.
        images: Images.
        speech: Speech, one output of one take each.
        seeds: Seed of each output.
        steps: The decodes of the first output, in order, such as "image > text".
        generations: Codes, trajectories and model calls of every decode of every output.
        judging_calls: Model calls that chose among candidates.
    """

    texts: list[str] = field(default_factory=list)
    transcripts: list[Transcript] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)
    speech: list[SpeechOutput] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    generations: list[GenerationOutput] = field(default_factory=list)
    judging_calls: int = 0

    @property
    def text(self) -> str | None:
        """The first text."""
        return self.texts[0] if self.texts else None

    @property
    def transcript(self) -> Transcript | None:
        """The first transcript."""
        return self.transcripts[0] if self.transcripts else None

    @property
    def audio(self) -> list[Waveform]:
        """The waveforms of the speech."""
        return [wave for one in self.speech for wave in one.audio]

    @property
    def model_calls(self) -> float:
        """Model calls of all decodes and of what chose among candidates."""
        return sum(sum(output.model_calls) for output in self.generations) + self.judging_calls

    @property
    def elapsed_s(self) -> float:
        """Seconds in the model and the sampler."""
        return sum(output.elapsed_s for output in self.generations)

    def __repr__(self) -> str:
        made = ", ".join(media_summary(one) for one in (self.texts, self.images, self.audio) if one)
        cost = f"{self.model_calls:g} model calls, {self.elapsed_s:.2f} s"
        return f"AnyToAnyOutput({made or 'nothing'}, {_seeds(self.seeds)}, {' then '.join(self.steps)}, {cost})"


def as_type(images: Sequence[Image.Image], output_type: str) -> Any:
    """Images as a list ("pil"), an array [batch, rows, columns, 3] ("np") or a tensor [batch, 3, rows, columns] ("pt") in [0, 1]."""
    if output_type == "pil":
        return list(images)
    array: Float[np.ndarray, "batch rows columns channels"] = np.stack([np.asarray(image, dtype=np.float32) / 255 for image in images])
    if output_type == "np":
        return array
    import torch

    return torch.from_numpy(array).permute(0, 3, 1, 2)


def media_summary(media: Any) -> str:
    """Media in a few words: "4 images of 64 x 64"."""
    if not isinstance(media, list):
        return f"images of shape {tuple(media.shape)}"
    kinds = Counter(_kind(one) for one in media)
    return ", ".join(f"{count} {_plural(kind, count)}" for kind, count in kinds.items()) or "nothing"


def _kind(one: Any) -> str:
    if isinstance(one, Image.Image):
        return f"image of {one.width} x {one.height}"
    if isinstance(one, Waveform):
        return f"waveform of {one.seconds:.2f} s"
    if isinstance(one, str):
        return "text"
    return type(one).__name__


def _plural(kind: str, count: int) -> str:
    noun, space, rest = kind.partition(" ")
    return f"{noun}{'s' * (count != 1)}{space}{rest}"


def _seeds(seeds: Sequence[int]) -> str:
    shown = ", ".join(str(seed) for seed in seeds[:3])
    return f"seeds [{shown}{', ...' if len(seeds) > 3 else ''}]"


def _cost(calls: float, elapsed_s: float) -> str:
    return f"{calls:g} model calls a row, {elapsed_s:.2f} s"
