"""`maskgen evaluate image`: scores of a text-to-image model on held-out splits, between an upper and a lower bound."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from maskgen.evaluation.image.baselines import copy_index, shuffled
from maskgen.evaluation.image.corpus import Corpus, Row, read_corpus
from maskgen.evaluation.image.features import image_features
from maskgen.evaluation.image.frechet import Basis, frechet_distance, principal
from maskgen.evaluation.image.judges import ImageVerdict, Panel, load_panel
from maskgen.evaluation.image.nearest import Nearest, nearest_features, nearest_pixels, nearest_scores, thumbnails
from maskgen.evaluation.image.pixels import from_rgb_bytes, to_rgb_bytes
from maskgen.evaluation.image.report import ReportRow, write_image_report
from maskgen.evaluation.image.scores import right, score_summary

logger = logging.getLogger(__name__)

Generate = Callable[[list[str], list[int]], list[Image.Image]]
Reconstruct = Callable[[list[Image.Image]], list[Image.Image]]
NEAR_COPY_QUANTILE = 0.01
BATCH_SIZE = 64


@dataclass(frozen=True)
class Judged:
    """A row set with its features, verdicts and nearest training images."""

    pixels: UInt8[Tensor, "batch channels rows columns"]
    features: Float[Tensor, "batch dim"]
    verdicts: list[ImageVerdict]
    pixel: Nearest
    feature: Nearest


@dataclass(frozen=True)
class References:
    """What every row set is compared with: the training images, their features, the judges.

    Args:
        training: Training rows.
        features: EfficientNet-Lite0 features of the training images.
        thumbnails: The training images at the size of the nearest-neighbour search.
        basis: Directions of FD-EffLite0.
        panel: The judges.
        cache: Folder for features; None disables caching.
    """

    training: Corpus
    features: Float[Tensor, "batch dim"]
    thumbnails: Float[Tensor, "batch small"]
    basis: Basis
    panel: Panel
    cache: Path | None = None


def load_references(corpora: dict[str, Corpus], seeds: Sequence[int] = (0, 1, 2), cache: Path | None = None) -> References:
    """Load the judges and the features of the training images; train or compute them if they are not cached.

    Args:
        corpora: `read_corpus(folder)`.
        seeds: Evaluator seeds.
        cache: Folder for both, so that a second evaluation needs no training.
    """
    panel = load_panel(corpora, seeds, cache)
    training = corpora["train"]
    features = image_features(training.pixels, cache)
    return References(training, features, thumbnails(training.pixels), principal(features), panel, cache)


def evaluate_images(
    candidates: Mapping[str, UInt8[Tensor, "batch channels rows columns"]], real: Corpus, references: References
) -> tuple[dict[str, Any], dict[str, Judged]]:
    """Score row sets of one split: the real images, the candidates, the copy baseline and shuffled captions.

    Args:
        candidates: Name ("reconstruction", "generated") to one image for each row of `real`.
        real: The held-out rows with their real images.
        references: From `load_references`.

    Returns:
        The split's part of the report, and name to each judged row set.

    Raises:
        ValueError: If a candidate has another number of images than the split.
    """
    for name, pixels in candidates.items():
        if len(pixels) != len(real.rows):
            raise ValueError(f"found {len(pixels)} pictures of {name!r}, wanted one for each of {len(real.rows)} rows")
    copies = references.training.pick(copy_index(real.rows, references.training.rows, references.cache).tolist())
    sets = {"real": real.pixels, **candidates, "copy": copies.pixels, "shuffled": shuffled(real).pixels}
    judged = {name: _judged(real.rows, pixels, references) for name, pixels in sets.items()}
    halves = sorted(range(len(real.rows)), key=lambda place: real.rows[place].hash)
    projected = references.basis(judged["real"].features)
    report = {
        "rows": len(real.rows),
        "fd_efflite0_between_real_halves": _distance(projected[halves[::2]], projected[halves[1::2]]),
        "row_sets": {name: _row_set(judgement, judged["real"], real.rows, references) for name, judgement in judged.items()},
    }
    return report, judged


def evaluate_image_model(
    raw: Path,
    out: Path,
    *,
    generate: Generate | None = None,
    reconstruct: Reconstruct | None = None,
    splits: Sequence[str] = ("A",),
    seeds: Sequence[int] = (0, 1, 2),
    limit: int | None = None,
    cache: Path | None = None,
    shown_rows: int = 240,
) -> dict[str, Any]:
    """Judge a text-to-image model on held-out rows; write `report.json` and `report.html`.

    Args:
        raw: Folder of raw shards, held-out splits and training split alike.
        out: Folder of the report; made when missing.
        generate: Maps captions and one seed each to images; None leaves the row set out.
        reconstruct: Encodes and decodes images with the image tokenizer; None leaves the row set out.
        splits: Held-out splits: "A" tone x subject, "B" gender x role, "C" family x subject, "D" new concepts.
        seeds: Evaluator seeds, one set of judges each.
        limit: Rows per split, chosen by the hash of their keys; None judges all.
        cache: Folder of trained judges and features (the command line's default is ~/.cache/maskgen/evaluators).
        shown_rows: Rows shown in the HTML report, per split.

    Returns:
        The content of `report.json`.

    Raises:
        ImportError: If the extra `eval` is not installed.
        ValueError: If the shards are missing or damaged, a split is unknown, or a callable gives another number of images.
    """
    started = time.monotonic()
    corpora = read_corpus(raw)
    _check(corpora, splits)
    references = load_references(corpora, seeds, cache)
    report: dict[str, Any] = {"format": 1, "evaluators": _about(references, seeds), "limit": limit, "splits": {}}
    shown: dict[str, list[ReportRow]] = {}
    drawing_s = 0.0
    for split in splits:
        real = corpora[split].limited(limit)
        logger.info("split %s: %d rows", split, len(real.rows))
        before = time.monotonic()
        candidates = _candidates(real, generate, reconstruct)
        drawing_s += time.monotonic() - before
        report["splits"][split], judged = evaluate_images(candidates, real, references)
        shown[split] = _shown(real.limited(shown_rows), real, judged, references)
    report["drawing_s"] = round(drawing_s, 1)
    report["judging_s"] = round(time.monotonic() - started - drawing_s, 1)
    write_image_report(out, report, shown)
    logger.info(
        "wrote %s and report.html after %.0f s of generation and %.0f s of judging", out / "report.json", drawing_s, report["judging_s"]
    )
    return report


def _check(corpora: Mapping[str, Corpus], splits: Sequence[str]) -> None:
    """Refuse unknown splits and the training split."""
    held_out = sorted(corpora.keys() - {"train"})
    unknown = [split for split in splits if split not in held_out]
    if unknown or not splits:
        raise ValueError(f"found split(s) {unknown or 'none'}, wanted some of {held_out}; models are judged on held-out rows only")


def _candidates(
    real: Corpus, generate: Generate | None, reconstruct: Reconstruct | None
) -> dict[str, UInt8[Tensor, "batch channels rows columns"]]:
    """Images of the tokenizer and of the model for each row."""
    candidates = {}
    if reconstruct is not None:
        originals = from_rgb_bytes(real.pixels)
        parts = [reconstruct(originals[start : start + BATCH_SIZE]) for start in range(0, len(originals), BATCH_SIZE)]
        candidates["reconstruction"] = to_rgb_bytes([picture for part in parts for picture in part])
    if generate is not None:
        parts = []
        for start in range(0, len(real.rows), BATCH_SIZE):
            rows = real.rows[start : start + BATCH_SIZE]
            parts.append(generate([row.caption for row in rows], [int(row.hash[:8], 16) for row in rows]))
            logger.info("generated %d of %d", start + len(rows), len(real.rows))
        candidates["generated"] = to_rgb_bytes([picture for part in parts for picture in part])
    return candidates


def _judged(rows: list[Row], pixels: UInt8[Tensor, "batch channels rows columns"], references: References) -> Judged:
    """Features, verdicts and nearest training images of a row set."""
    features = image_features(pixels, references.cache)
    verdicts = references.panel.verdicts(rows, pixels, features)
    pixel = nearest_pixels(thumbnails(pixels), references.thumbnails)
    return Judged(pixels, features, verdicts, pixel, nearest_features(features, references.features))


def _row_set(judged: Judged, real: Judged, rows: list[Row], references: References) -> dict[str, Any]:
    """The report's numbers of one row set."""
    marks = [right(verdict, rows, references.panel.styles) for verdict in judged.verdicts]
    nearest = {
        "pixel": _nearest_scores(judged.pixel, real.pixel),
        "feature": _nearest_scores(judged.feature, real.feature),
    }
    distance = _distance(references.basis(judged.features), references.basis(real.features))
    return {"scores": score_summary(marks, rows), "fd_efflite0": distance, "nearest_training_image": nearest}


def _nearest_scores(nearest: Nearest, real: Nearest) -> dict[str, float]:
    """Distances compared with those of the real images; a near copy is closer than 99 in 100 real images."""
    return nearest_scores(nearest.distance, real.distance, float(real.distance.quantile(NEAR_COPY_QUANTILE)))


def _distance(left: Float[Tensor, "batch dim"], right_hand: Float[Tensor, "other dim"]) -> float | None:
    """FD-EffLite0, or None if there are too few rows for its covariance."""
    return None if min(len(left), len(right_hand)) <= left.shape[1] else frechet_distance(left, right_hand)


def _about(references: References, seeds: Sequence[int]) -> dict[str, Any]:
    """Facts about the evaluators."""
    panel = references.panel
    facts = {"training_rows": len(references.training.rows), "gallery_labels": len(panel.labels), "styles": panel.styles}
    return {"seeds": list(seeds), "split_key": panel.split_key, **facts}


def _shown(chosen: Corpus, real: Corpus, judged: Mapping[str, Judged], references: References) -> list[ReportRow]:
    """The report's image rows: real, reconstruction, generated, nearest training image, and what the first judge says."""
    places = {row.key: place for place, row in enumerate(real.rows)}
    judge_of = judged.get("generated", judged["real"])
    report_rows = []
    for row in chosen.rows:
        place = places[row.key]
        near = int(judge_of.pixel.index[place])
        pixels = {name: judged[name].pixels[place] for name in ("real", "reconstruction", "generated") if name in judged}
        pixels["nearest training"] = references.training.pixels[near]
        verdict = judge_of.verdicts[0]
        marks = right(verdict, real.rows, references.panel.styles)
        report_rows.append(
            ReportRow(
                caption=row.caption,
                images={name: from_rgb_bytes(part[None])[0] for name, part in pixels.items()},
                right={name: None if mark[place].isnan() else bool(mark[place]) for name, mark in marks.items()},
                taken_for=_taken_for(verdict, place, references.panel),
                nearest=f"{references.training.rows[near].caption} ({float(judge_of.pixel.distance[place]):.3f})",
            )
        )
    return report_rows


def _taken_for(verdict: ImageVerdict, place: int, panel: Panel) -> str:
    """Label, tone and style that a judge predicts for an image."""
    return f"{panel.labels[int(verdict.label[place])]}, tone {int(verdict.tone[place])}, {panel.styles[int(verdict.style[place])]}"
