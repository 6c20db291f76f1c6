"""The trained evaluators: one judge a seed, trained on real training pictures only, frozen and cached."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from maskgen.evaluation import retrieval, style, tone
from maskgen.evaluation.cache import cached, digest
from maskgen.evaluation.corpus import Corpus, Row
from maskgen.evaluation.features import IMAGE_VERSION, TEXT_VERSION, image_features, text_features


@dataclass(frozen=True)
class Judge:
    """The evaluators of one seed."""

    seed: int
    heads: retrieval.RetrievalHeads
    tone: nn.Linear
    style: style.StyleNet


@dataclass(frozen=True)
class Verdict:
    """What one judge says of every picture of a row set."""

    rank: Int[Tensor, " batch"]
    label: Int[Tensor, " batch"]
    tone: Int[Tensor, " batch"]
    style: Int[Tensor, " batch"]


@dataclass(frozen=True)
class Panel:
    """All judges, with what they share.

    Args:
        judges: One a seed.
        labels: The gallery: every label of the corpus, held-out ones included.
        gallery: Embeddings of the labels.
        styles: Styles in the order of the style network's outputs.
        split_key: Digest of the training rows, their pictures and the evaluators' versions.
    """

    judges: list[Judge]
    labels: list[str]
    gallery: Float[Tensor, "gallery dim"]
    styles: list[str]
    split_key: str

    def verdicts(
        self, rows: Sequence[Row], pixels: UInt8[Tensor, "batch channels rows columns"], features: Float[Tensor, "batch dim"]
    ) -> list[Verdict]:
        """What each judge says of these pictures, each beside its row."""
        place = {label: index for index, label in enumerate(self.labels)}
        target = torch.tensor([place[row.label] for row in rows])
        histograms = tone.colour_histogram(pixels)
        found = []
        for judge in self.judges:
            rank, label = retrieval.retrieval_ranks(judge.heads, features, self.gallery, target)
            tones = tone.predicted_tone(judge.tone, histograms)
            found.append(Verdict(rank, label, tones, style.predicted_style(judge.style, pixels)))
        return found


def split_key(training: Corpus) -> str:
    """Digest of everything that a judge depends on, its seed apart: 16 hex digits."""
    versions = (IMAGE_VERSION, TEXT_VERSION, retrieval.VERSION, tone.VERSION, style.VERSION)
    facts = (f"{row.key}|{row.label}|{row.style}|{row.tone}" for row in training.rows)
    return digest(*versions, *facts, training.pixels)[:16]


def load_panel(corpora: dict[str, Corpus], seeds: Sequence[int], cache: Path | None = None) -> Panel:
    """Train the judges on the split "train", or read them from the cache.

    Args:
        corpora: Every split; only labels are taken from the held-out ones.
        seeds: One judge each.
        cache: Folder of trained judges and features; None trains anew.
    """
    training = corpora["train"]
    key = split_key(training)
    labels = sorted({row.label for corpus in corpora.values() for row in corpus.rows})
    styles = sorted({row.style for row in training.rows})
    judges = [_judge(training, styles, seed, key, cache) for seed in seeds]
    return Panel(judges, labels, text_features(labels, cache), styles, key)


def _judge(training: Corpus, styles: list[str], seed: int, key: str, cache: Path | None) -> Judge:
    """One judge, trained or from the cache."""
    heads = retrieval.RetrievalHeads()
    heads.load_state_dict(cached(cache, f"retrieval-{key}-{seed}", lambda: dict(_heads(training, seed, cache).state_dict())))
    layer = nn.Linear(512, tone.TONES)
    layer.load_state_dict(cached(cache, f"tone-{key}-{seed}", lambda: dict(_tone(training, seed).state_dict())))
    network = style.StyleNet(len(styles))
    network.load_state_dict(cached(cache, f"style-{key}-{seed}", lambda: dict(_style(training, styles, seed).state_dict())))
    return Judge(seed, heads.eval(), layer.eval(), network.eval())


def _heads(training: Corpus, seed: int, cache: Path | None) -> retrieval.RetrievalHeads:
    """Retrieval heads of a seed: training labels only, the gallery is not looked at."""
    labels = sorted({row.label for row in training.rows})
    place = {label: index for index, label in enumerate(labels)}
    target = torch.tensor([place[row.label] for row in training.rows])
    return retrieval.train_retrieval(image_features(training.pixels, cache), text_features(labels, cache), target, seed)


def _tone(training: Corpus, seed: int) -> nn.Linear:
    """Tone layer of a seed, on toned rows."""
    toned = training.pick([place for place, row in enumerate(training.rows) if row.tone])
    return tone.train_tone(tone.colour_histogram(toned.pixels), torch.tensor([row.tone for row in toned.rows]), seed)


def _style(training: Corpus, styles: list[str], seed: int) -> style.StyleNet:
    """Style network of a seed."""
    target = torch.tensor([styles.index(row.style) for row in training.rows])
    return style.train_style(training.pixels, target, len(styles), seed)
