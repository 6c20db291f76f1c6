"""`maskgen evaluate probe`: linear classifiers on a model's features, compared with pixels and an untrained model."""

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from maskgen.evaluation.image.corpus import Corpus, Row, read_corpus
from maskgen.evaluation.image.pixels import from_rgb_bytes
from maskgen.evaluation.image.retrieval import Standardise
from maskgen.io.files import write_text

logger = logging.getLogger(__name__)

Features = Callable[[Sequence[Image.Image]], Float[Tensor, "batch dim"]]
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Weight penalties to choose from, on rows left out of training."""
FEWEST_ROWS = 10
ITERATIONS = 100
SMALLEST_SPREAD = 1e-3
THUMBNAIL = 16
"""Side in pixels of the input of the probe on raw pixels."""
_TONE = re.compile(r"[:,] [a-z-]+ skin tone")


def subject(row: Row) -> str:
    """The label without its skin tone."""
    return _TONE.sub("", row.label)


ATTRIBUTES: dict[str, Callable[[Row], str | None]] = {
    "subject": subject,
    "group": lambda row: row.group,
    "tone": lambda row: str(row.tone) if row.tone else None,
    "style": lambda row: row.style,
}
"""Name to the class that a probe predicts for a row; None leaves the row out."""


class LinearProbe(nn.Module):
    """Logistic regression on standardised features.

    Args:
        width: Width of the features.
        num_classes: Number of classes.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.standardise = Standardise(width, SMALLEST_SPREAD)
        self.linear = nn.Linear(width, num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Logits of the classes."""
        logits: Tensor = self.linear(self.standardise(features))
        return logits


def fit_probe(features: Float[Tensor, "batch dim"], target: Int[Tensor, " batch"], num_classes: int, penalty: float) -> LinearProbe:
    """Minimise cross-entropy plus `penalty` times half the squared weights by L-BFGS; convex and started at zero, so deterministic.

    Args:
        features: Of training rows.
        target: Their classes, from 0.
        num_classes: Classes in all.
        penalty: Of the weights, not of the biases.
    """
    probe = LinearProbe(features.shape[1], num_classes)
    probe.standardise.fit(features)
    optimizer = torch.optim.LBFGS(probe.linear.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe")
    inputs = probe.standardise(features)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(probe.linear(inputs), target) + penalty / 2 * probe.linear.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return probe.eval()


@torch.no_grad()
def accuracy(probe: LinearProbe, features: Float[Tensor, "batch dim"], target: Int[Tensor, " batch"]) -> float:
    """Share of rows whose most likely class is right; target -1 stands for a class that is not in training and is never right."""
    return float((probe(features).argmax(dim=1) == target).double().mean())


def choose_penalty(features: Float[Tensor, "batch dim"], target: Int[Tensor, " batch"], num_classes: int) -> float:
    """The penalty with the best accuracy on every fifth row, which is left out of the fit; of equal ones the larger."""
    left_out = torch.arange(len(target)) % 5 == 4
    tried = [
        accuracy(fit_probe(features[~left_out], target[~left_out], num_classes, penalty), features[left_out], target[left_out])
        for penalty in PENALTIES
    ]
    return max(zip(tried, PENALTIES, strict=True))[1]


def read_attributes(
    features: Mapping[str, tuple[Float[Tensor, "rows dim"], Float[Tensor, "held_out dim"]]], rows: Sequence[Row], held_out: Sequence[Row]
) -> dict[str, Any]:
    """Accuracy of each attribute from each kind of features on held-out rows, compared with the most common training class.

    Args:
        features: Name to features of the training rows and of the held-out rows.
        rows: Training rows.
        held_out: Held-out rows. An attribute with only one class among them is left out, and so are training rows of classes that are
            not among them.
    """
    attributes: dict[str, Any] = {}
    for name, read in ATTRIBUTES.items():
        known, asked = ([read(row) for row in some] for some in (rows, held_out))
        shown = {value for value in asked if value is not None}
        classes = sorted(shown & set(known))
        if len(shown) < 2 or len(classes) < 2:
            continue
        places = {value: place for place, value in enumerate(classes)}
        ours, theirs = ([row for row, value in enumerate(some) if value in shown] for some in (known, asked))
        target = torch.tensor([places[str(known[row])] for row in ours])
        truth = torch.tensor([places.get(str(asked[row]), -1) for row in theirs])
        part: dict[str, Any] = {"classes": len(classes), "rows": len(ours), "held_out": len(theirs)}
        part["commonest"] = float((truth == target.mode().values).double().mean())
        for kind, (training, testing) in features.items():
            penalty = choose_penalty(training[ours], target, len(classes))
            probe = fit_probe(training[ours], target, len(classes), penalty)
            part[kind] = {"accuracy": accuracy(probe, testing[theirs], truth), "penalty": penalty}
        attributes[name] = part
    return attributes


def pixel_features(pixels: UInt8[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch dim"]:
    """Images averaged down to THUMBNAIL pixels per side, in [0, 1]: the features of the probe on raw pixels."""
    return nn.functional.adaptive_avg_pool2d(pixels.float() / 255, THUMBNAIL).flatten(1)


def evaluate_probe(
    raw: Path,
    out: Path,
    features: Mapping[str, Features],
    split: str = "A",
    rows: int = 2000,
    limit: int | None = 500,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train linear probes on training rows and score them on held-out ones, with a probe on raw pixels for comparison.

    Args:
        raw: Folder of the raw shards.
        out: Folder of the report, `probe.json`.
        features: Name to features of images.
        split: Held-out split.
        rows: Number of training rows, those with the lowest key hashes.
        limit: Number of held-out rows, chosen likewise; None takes all.
        facts: Further entries of the report.

    Returns:
        Accuracies by attribute and kind of features.

    Raises:
        ValueError: If the shards or the split are missing, or there are too few rows.
    """
    if rows < FEWEST_ROWS or (limit is not None and limit < 1):
        raise ValueError(f"a probe needs at least {FEWEST_ROWS} training rows and a held-out one, got rows {rows} and limit {limit}")
    corpora = read_corpus(raw)
    if split not in corpora or split == "train":
        raise ValueError(f"found no held-out split {split!r}, there are {', '.join(sorted(set(corpora) - {'train'}))}")
    training, testing, started_s = corpora["train"].limited(rows), corpora[split].limited(limit), time.perf_counter()
    logger.info("linear probes: %d training rows, %d rows of split %s; writes %s", len(training.rows), len(testing.rows), split, out)
    pairs = {name: (_of(kind, training), _of(kind, testing)) for name, kind in features.items()}
    pairs["pixels"] = (pixel_features(training.pixels), pixel_features(testing.pixels))
    report = {**(facts or {}), "split": split, "attributes": read_attributes(pairs, training.rows, testing.rows)}
    report["elapsed_s"] = time.perf_counter() - started_s
    out.mkdir(parents=True, exist_ok=True)
    write_text(json.dumps(report, indent=2), out / "probe.json")
    return report


def _of(features: Features, corpus: Corpus) -> Float[Tensor, "batch dim"]:
    """Features of a corpus's images."""
    return features(from_rgb_bytes(corpus.pixels))
