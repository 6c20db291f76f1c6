"""`maskgen evaluate zeroshot`: zero-shot classification of held-out images by likelihood, compared with chance."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from maskgen.data.corpora.emoji_captions import TONES
from maskgen.evaluation.image.corpus import Corpus, Row, read_corpus
from maskgen.evaluation.image.pixels import from_rgb_bytes
from maskgen.io.files import write_text

logger = logging.getLogger(__name__)

Totals = Callable[[Image.Image, Sequence[str]], list[float]]
"""Score of an image under each caption; larger is better."""


def rival_captions(row: Row, rows: Sequence[Row], count: int) -> list[str]:
    """The row's own caption and `count - 1` others of the same style, a fixed choice in a fixed random order.

    Args:
        row: The row to classify.
        rows: Rows that the others are drawn from; those with the same label or another style are left out.
        count: Total number of captions.

    Raises:
        ValueError: If there are too few.
    """
    others = {other.caption for other in rows if other.style == row.style and other.label != row.label} - {row.caption}
    if count < 2 or len(others) < count - 1:
        raise ValueError(
            f"found {len(others) + 1} captions in {row.style} style, wanted {count} candidates of at least 2; lower --candidates"
        )
    drawn = sorted(others, key=lambda caption: _hash(row, caption))[: count - 1]
    return sorted([row.caption, *drawn], key=lambda caption: _hash(row, caption))


def tone_captions(row: Row) -> list[str]:
    """The row's caption without a skin tone, and in each of the five.

    Raises:
        ValueError: If the caption does not name the row's tone.
    """
    said = next((f" {word} {TONES[row.tone]} skin" for word in ("with", "and") if f" {word} {TONES[row.tone]} skin" in row.caption), None)
    if row.tone == 0 or said is None:
        raise ValueError(f"the caption {row.caption!r} names no skin tone")
    word = said.split()[0]
    return [row.caption.replace(said, f" {word} {tone} skin" if tone else "") for tone in TONES]


def own_rank(totals: Sequence[float], own: int) -> int:
    """Rank of the own caption, from 0; captions with an equal score count as better."""
    return sum(total >= totals[own] for total in totals) - 1


def evaluate_zero_shot(
    raw: Path, out: Path, totals: Totals, split: str = "A", limit: int = 40, candidates: int = 10, facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Classify held-out images among captions of the same style, and the skin tone of those that have one among six.

    Args:
        raw: Folder of the raw shards.
        out: Folder of the report, `zeroshot.json`.
        totals: The model.
        split: Held-out split.
        limit: Number of images, those with the lowest key hashes.
        candidates: Captions per image.
        facts: Further entries of the report.

    Returns:
        Accuracies with their chance levels, and the result of each image.

    Raises:
        ValueError: If the shards or the split are missing, or there are too few captions.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1 picture, got {limit}")
    corpora = read_corpus(raw)
    if split not in corpora or split == "train":
        raise ValueError(f"found no held-out split {split!r}, there are {', '.join(sorted(set(corpora) - {'train'}))}")
    corpus, started_s = corpora[split].limited(limit), time.perf_counter()
    logger.info("classifying %d images of split %s among %d captions each; writes %s", len(corpus.rows), split, candidates, out)
    results = _named(corpus, corpora[split].rows, totals, candidates)
    toned = [one for one in results if "tone_rank" in one]
    report = {
        **(facts or {}),
        "split": split,
        "pictures": len(results),
        "candidates": candidates,
        "top_1": _share([one["rank"] < 1 for one in results]),
        "top_1_chance": 1 / candidates,
        "top_5": _share([one["rank"] < 5 for one in results]),
        "top_5_chance": min(5 / candidates, 1.0),
        "toned_pictures": len(toned),
        "tone": _share([one["tone_rank"] < 1 for one in toned]) if toned else None,
        "tone_chance": 1 / len(TONES),
        "elapsed_s": time.perf_counter() - started_s,
        "rows": results,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_text(json.dumps(report, indent=2), out / "zeroshot.json")
    return report


def _named(corpus: Corpus, rows: Sequence[Row], totals: Totals, candidates: int) -> list[dict[str, Any]]:
    """The result of each image."""
    results = []
    for row, picture in zip(corpus.rows, from_rgb_bytes(corpus.pixels), strict=True):
        captions = rival_captions(row, rows, candidates)
        scores = totals(picture, captions)
        one = {"key": row.key, "caption": row.caption, "rank": own_rank(scores, captions.index(row.caption))}
        one["named"] = captions[max(range(len(captions)), key=scores.__getitem__)]
        if row.tone:
            one["tone_rank"] = own_rank(totals(picture, tone_captions(row)), row.tone)
        results.append(one)
    return results


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right)


def _hash(row: Row, caption: str) -> str:
    return hashlib.sha256(f"{row.key}:{caption}".encode()).hexdigest()
