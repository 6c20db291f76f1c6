"""The trained evaluators: one judge per seed, trained on real training images only, frozen and cached."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from maskgen.evaluation.cache import cached, digest
from maskgen.evaluation.image import emoji_style, emoji_tone, retrieval
from maskgen.evaluation.image.corpus import Corpus, Row
from maskgen.evaluation.image.features import IMAGE_VERSION, IMAGE_WIDTH, TEXT_VERSION, image_features, text_features
from maskgen.evaluation.image.probe import Probe


@dataclass(frozen=True)
class Judge:
    """The evaluators of one seed."""

    seed: int
    heads: retrieval.RetrievalHeads
    tone: Probe
    style: Probe


@dataclass(frozen=True)
class ImageVerdict:
    """Predictions of one judge for every image of a row set."""

    rank: Int[Tensor, " batch"]
    label: Int[Tensor, " batch"]
    tone: Int[Tensor, " batch"]
    style: Int[Tensor, " batch"]


@dataclass(frozen=True)
class Panel:
    """All judges, with what they share.

    Args:
        judges: One per seed.
        labels: The gallery: every label of the corpus, held-out ones included.
        gallery: Embeddings of the labels.
        styles: Styles in the order of the style network's outputs.
        split_key: Digest of the training rows and their images.
    """

    judges: list[Judge]
    labels: list[str]
    gallery: Float[Tensor, "gallery dim"]
    styles: list[str]
    split_key: str

    def verdicts(
        self, rows: Sequence[Row], pixels: UInt8[Tensor, "batch channels rows columns"], features: Float[Tensor, "batch dim"]
    ) -> list[ImageVerdict]:
        """Predictions of each judge for these images, in the order of their rows."""
        place = {label: index for index, label in enumerate(self.labels)}
        target = torch.tensor([place[row.label] for row in rows])
        histograms = emoji_tone.colour_histogram(pixels)
        verdicts = []
        for judge in self.judges:
            rank, label = retrieval.retrieval_ranks(judge.heads, features, self.gallery, target)
            tones = emoji_tone.predicted_tone(judge.tone, histograms)
            verdicts.append(ImageVerdict(rank, label, tones, judge.style.predict(emoji_style.style_inputs(features, histograms))))
        return verdicts


def split_key(training: Corpus) -> str:
    """Digest of the training rows and their images: 16 hex digits."""
    facts = (f"{row.key}|{row.label}|{row.style}|{row.tone}" for row in training.rows)
    return digest(*facts, training.pixels)[:16]


def load_panel(corpora: dict[str, Corpus], seeds: Sequence[int], cache: Path | None = None) -> Panel:
    """Train the judges on the split "train", or load them from the cache.

    Args:
        corpora: Every split; the held-out ones contribute labels only.
        seeds: One judge each.
        cache: Folder of trained judges and features; None trains them again.
    """
    training = corpora["train"]
    key = split_key(training)
    labels = sorted({row.label for corpus in corpora.values() for row in corpus.rows})
    styles = sorted({row.style for row in training.rows})
    judges = [_judge(training, styles, seed, key, cache) for seed in seeds]
    return Panel(judges, labels, text_features(labels, cache), styles, key)


def _judge(training: Corpus, styles: list[str], seed: int, key: str, cache: Path | None) -> Judge:
    """One judge, trained or from the cache; the name of each part encodes its rows, features and version."""

    def part(kind: str, version: str, make: Callable[[], nn.Module]) -> dict[str, Tensor]:
        name = f"{kind}-{digest(key, IMAGE_VERSION, TEXT_VERSION, version)[:16]}-{seed}"
        return cached(cache, name, lambda: dict(make().state_dict()))

    heads = retrieval.RetrievalHeads()
    heads.load_state_dict(part("retrieval", retrieval.VERSION, lambda: _heads(training, seed, cache)))
    tones, strokes = Probe(emoji_tone.BINS, emoji_tone.TONES), Probe(IMAGE_WIDTH + emoji_tone.BINS, len(styles))
    tones.load_state_dict(part("tone", emoji_tone.VERSION, lambda: _tone(training, seed)))
    strokes.load_state_dict(part("style", emoji_style.VERSION, lambda: _style(training, styles, seed, cache)))
    return Judge(seed, heads.eval(), tones.eval(), strokes.eval())


def _heads(training: Corpus, seed: int, cache: Path | None) -> retrieval.RetrievalHeads:
    """Retrieval heads of a seed, trained on training labels only; the gallery is not used."""
    labels = sorted({row.label for row in training.rows})
    place = {label: index for index, label in enumerate(labels)}
    target = torch.tensor([place[row.label] for row in training.rows])
    return retrieval.train_retrieval(image_features(training.pixels, cache), text_features(labels, cache), target, seed)


def _tone(training: Corpus, seed: int) -> Probe:
    """Tone probe of a seed, on toned rows."""
    toned = training.pick([place for place, row in enumerate(training.rows) if row.tone])
    return emoji_tone.train_tone(emoji_tone.colour_histogram(toned.pixels), torch.tensor([row.tone for row in toned.rows]), seed)


def _style(training: Corpus, styles: list[str], seed: int, cache: Path | None) -> Probe:
    """Style probe of a seed."""
    target = torch.tensor([styles.index(row.style) for row in training.rows])
    inputs = emoji_style.style_inputs(image_features(training.pixels, cache), emoji_tone.colour_histogram(training.pixels))
    return emoji_style.train_style(inputs, target, len(styles), seed)
