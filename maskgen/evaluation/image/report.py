"""The report of an image evaluation: one JSON and one self-contained HTML file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from maskgen.evaluation.html import image, page, table, text
from maskgen.evaluation.image.scores import MEASURES
from maskgen.io.files import write_atomic, write_text

TITLES = {
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "tone": "tone",
    "style": "style",
    "all_right": "R@5 + tone + style",
}
ROLES = {
    "real": "real image (upper bound)",
    "reconstruction": "VQ reconstruction (upper bound of the tokenizer)",
    "generated": "generated",
    "copy": "copy: image of the nearest training caption",
    "shuffled": "shuffled captions (lower bound)",
}
NOTES = (
    "Retrieval ranks the image's own label among all labels of the corpus. Its features hardly see tone, so the copy baseline "
    "passes R@5; the column with tone and style tells them apart. FD-EffLite0 is a Frechet distance of EfficientNet-Lite0 features "
    "(128 components) to the same split's real images: it is not FID, and shuffled captions leave it at 0. Nearer than real: share of "
    "images that lie closer to a training image than the real held-out picture does; near copies lie closer than 99 in 100 real "
    "ones."
)


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """One line of images.

    Args:
        caption: The prompt.
        images: Column title to image.
        right: Measure to right or wrong; None if it does not apply.
        taken_for: Prediction of the first judge.
        nearest: Caption and distance of the nearest training image.
    """

    caption: str
    images: Mapping[str, Image.Image]
    right: Mapping[str, bool | None]
    taken_for: str
    nearest: str


def write_image_report(out: Path, report: Mapping[str, Any], shown: Mapping[str, Sequence[ReportRow]]) -> None:
    """Write `report.json` and `report.html`.

    Args:
        out: Folder, created if missing.
        report: Result of `evaluate_image_model`.
        shown: Split name to its lines of images.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_text(json.dumps(report, indent=2), out / "report.json")
    write_atomic(out / "report.html", render_image_report(report, shown).encode())


def render_image_report(report: Mapping[str, Any], shown: Mapping[str, Sequence[ReportRow]]) -> str:
    """The page."""
    about = report["evaluators"]
    facts = (
        f"Evaluators: seeds {about['seeds']}, split key {about['split_key']}, trained on {about['training_rows']} real images; "
        f"gallery of {about['gallery_labels']} labels. Limit: {report['limit'] or 'none'}."
    )
    parts = [_split_html(name, part, shown.get(name, ())) for name, part in report["splits"].items()]
    body = f"<h1>maskgen: image evaluation</h1><p>{text(facts)}</p><p><small>{text(NOTES)}</small></p>{''.join(parts)}"
    return page("maskgen: image evaluation", body)


def _split_html(name: str, part: Mapping[str, Any], shown: Sequence[ReportRow]) -> str:
    """Tables and images of one split."""
    halves = _number(part["fd_efflite0_between_real_halves"])
    parts = [f"<h2>Split {text(name)}: {part['rows']} rows</h2>", _scores_table(part["row_sets"]), _distance_table(part["row_sets"])]
    parts.append(f"<p><small>FD-EffLite0 between two halves of the real images: {halves}.</small></p>")
    for grouping in ("by_style", "by_tone", "by_kind"):
        parts.append(f"<h3>{text(grouping.replace('_', ' '))}</h3>{_group_table(part['row_sets'], grouping)}")
    return "".join(parts) + f"<h3>Images ({len(shown)} rows)</h3>{_images_table(shown)}"


def _scores_table(row_sets: Mapping[str, Any]) -> str:
    """Scores of every row set, mean and range over the judges."""
    lines = [[text(ROLES.get(name, name)), *_cells(row_set["scores"]["all"])] for name, row_set in row_sets.items()]
    return table(["row set", *TITLES.values()], lines)


def _group_table(row_sets: Mapping[str, Any], grouping: str) -> str:
    """Scores by group, one line per group and row set."""
    groups = sorted({group for row_set in row_sets.values() for group in row_set["scores"][grouping]})
    lines = []
    for group in groups:
        for name, row_set in row_sets.items():
            scores = row_set["scores"][grouping][group]
            lines.append([text(f"{group}: {name}"), str(scores["recall_at_1"]["rows"]), *_cells(scores)])
    return table(["group: row set", "rows", *TITLES.values()], lines)


def _distance_table(row_sets: Mapping[str, Any]) -> str:
    """FD-EffLite0 and nearest-training-image distances."""
    titles = ["row set", "FD-EffLite0"]
    for kind in ("pixel", "feature"):
        titles += [f"nearest {kind}: median", "nearer than real", "near copies"]
    lines = []
    for name, row_set in row_sets.items():
        line = [text(name), _number(row_set["fd_efflite0"])]
        for scores in row_set["nearest_training_image"].values():
            line += [f"{scores['median']:.3f}", f"{scores['share_nearer_than_real']:.2f}", f"{scores['share_near_copy']:.2f}"]
        lines.append(line)
    return table(titles, lines)


def _cells(scores: Mapping[str, Any]) -> list[str]:
    """Mean and range of each measure."""
    values = [scores[measure] for measure in MEASURES]
    return ["-" if one is None else f"{one['mean']:.3f} <small>{one['low']:.3f} to {one['high']:.3f}</small>" for one in values]


def _images_table(shown: Sequence[ReportRow]) -> str:
    """Every line of images with its verdict."""
    if not shown:
        return "<p>none</p>"
    titles = list(shown[0].images)
    lines = []
    for row in shown:
        marks = [
            f'<span class="{"right" if mark else "wrong"}">{TITLES[name]}</span>' for name, mark in row.right.items() if mark is not None
        ]
        verdict = f"{' '.join(marks)}<br><small>taken for: {text(row.taken_for)}<br>nearest: {text(row.nearest)}</small>"
        lines.append([text(row.caption), *(image(row.images[title]) for title in titles), verdict])
    return table(["caption", *titles, "verdict (first judge)"], lines, last="text")


def _number(value: float | None) -> str:
    """A distance, or a dash if there were too few rows."""
    return "-" if value is None else f"{value:.2f}"
