"""Tasks that score generation settings: rows generated with paired seeds, and a quality for each."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maskgen.data.loading.samples import open_rows
from maskgen.data.shards.store import ShardStore
from maskgen.decoding.settings import GenerationSettings
from maskgen.evaluation.image.corpus import Row
from maskgen.evaluation.image.features import IMAGE_VERSION, TEXT_VERSION
from maskgen.evaluation.image.retrieval import VERSION as RETRIEVAL_VERSION
from maskgen.evaluation.speech.asr import TextErrors
from maskgen.evaluation.speech.judges import VERSION as SPEECH_VERSION
from maskgen.io.audio import Waveform
from maskgen.pipelines.outputs import GenerationOutput
from maskgen.tokens.batch import UNKNOWN, Codes

Generate = Callable[[Sequence[Mapping[str, Any]], Sequence[int], GenerationSettings], GenerationOutput]
"""Known media or codes of each row, one seed each, and the settings, to an output."""


@dataclass(frozen=True, kw_only=True)
class RowScore:
    """Score of one row under one setting.

    Args:
        key: Key of the row.
        quality: Larger is better.
        weight: Weight of the row in the mean.
        passes: Model calls, as measured.
        elapsed_s: Seconds in the model and the sampler; its share of the batch if rows were generated together.
    """

    key: str
    quality: float
    weight: float = 1.0
    passes: float
    elapsed_s: float


class TaskScorer(ABC):
    """Rows in a fixed order, and their scores under a setting. A row's seed depends only on its key, so settings are paired."""

    measure: str
    """Name of the quality measure."""
    judge: str
    """Version of everything that quality depends on besides rows and model."""

    @property
    @abstractmethod
    def keys(self) -> list[str]:
        """Key of each row; any prefix is a random sample of the rows."""

    @abstractmethod
    def score(self, settings: GenerationSettings, places: Sequence[int]) -> list[RowScore]:
        """Generate and judge the rows at these places, in this order."""


def row_seed(key: str, seed: int) -> int:
    """Seed of a row, in [0, 2**32)."""
    return int(hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()[:8], 16)


def held_out_rows(folder: Path, split: str, rows: int) -> list[tuple[str, dict[str, Any]]]:
    """Key and metadata of the rows of a split with the lowest key hashes, lowest first.

    Raises:
        ValueError: If the shards or the split are missing or damaged, or it is the training split.
    """
    if split == "train":
        raise ValueError("found split train, wanted a held-out one; settings chosen on training rows may not hold for new ones")
    store = ShardStore(str(folder))
    table = open_rows(store, store.index(), split)
    keys = [table.key(row) for row in range(len(table))]
    lowest = sorted(range(len(keys)), key=lambda row: hashlib.sha256(keys[row].encode()).hexdigest())[:rows]
    return [(keys[row], table.meta(row)) for row in lowest]


def passes_of(passes: int | float | Sequence[int | float], rows: int) -> list[float]:
    """Model calls of each row, from one number for all rows or a list.

    Raises:
        ValueError: If the list has another length.
    """
    counts = [float(one) for one in passes] if isinstance(passes, Sequence) else [float(passes)] * rows
    if len(counts) != rows:
        raise ValueError(f"found passes of {len(counts)} rows, wanted one number for each of {rows} rows")
    return counts


Draw = Callable[[Sequence[str], Sequence[int], GenerationSettings], GenerationOutput]
"""Captions, one seed each, and the settings, to an output whose `media` are images."""

JudgePictures = Callable[[Sequence[Row], Sequence[Image.Image]], list[float]]
"""Rows and one image each, to the quality of each image."""


class ImageTask(TaskScorer):
    """Images of held-out captions; quality is the mean reciprocal rank of the image's own label.

    The rank is that of the retrieval heads of `maskgen evaluate image` among all labels of the corpus, tones included: 1 if the own
    label is first, 1/2 if it is second. Reciprocal ranks are averaged over the judges' seeds, then over rows.

    Args:
        rows: Rows, in the order in which they are used.
        draw: The model.
        judge_pictures: From `retrieval_judge`.
        seed: With its key, the seed of each row.
    """

    measure = "mean reciprocal rank of the own label"
    judge = f"{RETRIEVAL_VERSION}; {IMAGE_VERSION}; {TEXT_VERSION}"

    def __init__(self, rows: Sequence[Row], draw: Draw, judge_pictures: JudgePictures, seed: int = 0) -> None:
        self.rows, self.draw, self.judge_pictures, self.seed = list(rows), draw, judge_pictures, seed

    @property
    def keys(self) -> list[str]:
        """Key of each row."""
        return [row.key for row in self.rows]

    def score(self, settings: GenerationSettings, places: Sequence[int]) -> list[RowScore]:
        """See the class."""
        rows = [self.rows[place] for place in places]
        output = self.draw([row.caption for row in rows], [row_seed(row.key, self.seed) for row in rows], settings)
        return _scores([row.key for row in rows], self.judge_pictures(rows, output.media), [1.0] * len(rows), output)


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence to be spoken.

    Args:
        key: Its key in the data set.
        text: Text to speak.
        speaker: Speaker wanted.
    """

    key: str
    text: str
    speaker: str


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechTake:
    """A generated sentence: its audio, its model calls (the mean if it was generated as several rows), seconds in model and sampler."""

    wave: Waveform
    passes: float
    elapsed_s: float


Speak = Callable[[Sentence, int, GenerationSettings], SpeechTake]
Listen = Callable[[str, Waveform], TextErrors]


class SpeechTask(TaskScorer):
    """Speech of held-out sentences; quality is 1 - the word error rate of Whisper base over all words.

    A row's quality is 1 - word edits / words and its weight is its number of words, so the weighted mean is 1 - the word error rate of
    `maskgen evaluate speech`. The quality of a row may be below 0.

    Args:
        rows: Sentences, in the order in which they are used.
        speak: The voice.
        listen: From `whisper_listener`.
        seed: With its key, the seed of each row.
    """

    measure = "1 - word error rate"
    judge = SPEECH_VERSION

    def __init__(self, rows: Sequence[Sentence], speak: Speak, listen: Listen, seed: int = 0) -> None:
        self.rows, self.speak, self.listen, self.seed = list(rows), speak, listen, seed

    @property
    def keys(self) -> list[str]:
        """Key of each row."""
        return [row.key for row in self.rows]

    def score(self, settings: GenerationSettings, places: Sequence[int]) -> list[RowScore]:
        """See the class."""
        return [self._score(self.rows[place], settings) for place in places]

    def _score(self, row: Sentence, settings: GenerationSettings) -> RowScore:
        spoken = self.speak(row, row_seed(row.key, self.seed), settings)
        errors = self.listen(row.text, spoken.wave)
        quality = 1 - errors.word_edits / errors.words
        return RowScore(key=row.key, quality=quality, weight=float(errors.words), passes=spoken.passes, elapsed_s=spoken.elapsed_s)


class TextTask(TaskScorer):
    """Texts with half of their cells unknown; quality is the share of unknown cells whose code is restored exactly.

    The unknown cells are drawn by the row's key, n // 2 of n and at least one; their number is the weight of the row. A text has many
    good completions, so 1 is out of reach and only differences between settings matter.

    Args:
        texts: Key and codes of each text, in the order in which they are used.
        generate: The model.
        seed: With a row's key, its seed and its unknown cells.
    """

    measure = "share of unknown text cells restored"
    judge = "exact codes, half of the cells, 1"

    def __init__(self, texts: Sequence[tuple[str, Codes]], generate: Generate, seed: int = 0) -> None:
        self.texts, self.generate, self.seed = list(texts), generate, seed

    @property
    def keys(self) -> list[str]:
        """Key of each row."""
        return [key for key, _ in self.texts]

    def score(self, settings: GenerationSettings, places: Sequence[int]) -> list[RowScore]:
        """See the class."""
        rows = [self.texts[place] for place in places]
        seeds = [row_seed(key, self.seed) for key, _ in rows]
        known = [half_unknown(codes, seed) for (_, codes), seed in zip(rows, seeds, strict=True)]
        output = self.generate([{"text": codes} for codes in known], seeds, settings)
        asked = [codes == UNKNOWN for codes in known]
        kept = [
            float((made[cells] == codes[cells]).double().mean()) for made, (_, codes), cells in zip(output.codes, rows, asked, strict=True)
        ]
        return _scores([key for key, _ in rows], kept, [float(cells.sum()) for cells in asked], output)


def half_unknown(codes: Codes, seed: int) -> Codes:
    """The text with n // 2 of its n cells (at least one) unknown at all levels, chosen by the seed."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(codes.shape[1], generator=generator)[: max(1, codes.shape[1] // 2)]
    blanked = codes.clone()
    blanked[:, cells] = UNKNOWN
    return blanked


def _scores(keys: Sequence[str], quality: Sequence[float], weights: Sequence[float], output: GenerationOutput) -> list[RowScore]:
    """Scores of rows that were generated together."""
    assert np.isfinite(quality).all(), f"quality must be finite, got {list(quality)}"
    passes, each_s = passes_of(output.model_calls, len(keys)), output.elapsed_s / len(keys)
    rows = zip(keys, quality, weights, passes, strict=True)
    return [RowScore(key=key, quality=one, weight=weight, passes=count, elapsed_s=each_s) for key, one, weight, count in rows]
