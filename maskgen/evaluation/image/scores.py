"""Scores from verdicts: mean and range over the judges, in total and by style, tone and kind."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskgen.evaluation.image.corpus import Row
from maskgen.evaluation.image.judges import ImageVerdict

Right = dict[str, Float[Tensor, " batch"]]
MEASURES = ("recall_at_1", "recall_at_5", "tone", "style", "all_right")
GROUPINGS: Mapping[str, Callable[[Row], str]] = {
    "style": lambda row: row.style,
    "tone": lambda row: str(row.tone),
    "kind": lambda row: row.kind,
}


def right(verdict: ImageVerdict, rows: Sequence[Row], styles: Sequence[str]) -> Right:
    """For each measure 1 if an image is right, 0 if it is wrong, NaN if the measure does not apply (tone of a row without one).

    `all_right` requires recall at 5, style and, if there is one, tone at once. The retrieval features hardly see tone, so an image of
    the right subject in the wrong tone passes recall at 5; only this measure detects it.
    """
    tones = torch.tensor([row.tone for row in rows])
    tone_right = verdict.tone == tones
    style_right = verdict.style == torch.tensor([styles.index(row.style) if row.style in styles else -1 for row in rows])
    in_top_5 = verdict.rank < 5
    return {
        "recall_at_1": (verdict.rank < 1).double(),
        "recall_at_5": in_top_5.double(),
        "tone": tone_right.double().masked_fill(tones == 0, torch.nan),
        "style": style_right.double(),
        "all_right": (in_top_5 & style_right & (tone_right | (tones == 0))).double(),
    }


def score_summary(judged: Sequence[Right], rows: Sequence[Row]) -> dict[str, Any]:
    """All scores of a row set.

    Args:
        judged: `right` of each judge.
        rows: The rows.

    Returns:
        `{"all": {measure: {"mean", "low", "high", "rows"}}, "by_style": {style: {...}}, "by_tone": ..., "by_kind": ...}`. Means, lows and
        highs are over the judges; a measure that applies to no row is None.
    """
    everything = torch.ones(len(rows), dtype=torch.bool)
    table: dict[str, Any] = {"all": _measures(judged, everything)}
    for grouping, name_of in GROUPINGS.items():
        names = [name_of(row) for row in rows]
        table[f"by_{grouping}"] = {name: _measures(judged, torch.tensor([other == name for other in names])) for name in sorted(set(names))}
    return table


def _measures(judged: Sequence[Right], chosen: Bool[Tensor, " batch"]) -> dict[str, dict[str, float] | None]:
    """Each measure over the chosen rows."""
    return {measure: _over_judges([one[measure][chosen] for one in judged]) for measure in MEASURES}


def _over_judges(marks: Sequence[Float[Tensor, " batch"]]) -> dict[str, float] | None:
    """Mean, lowest and highest of the judges' scores, and how many rows count."""
    rows = int((~marks[0].isnan()).sum())
    if not rows:
        return None
    scores = [float(mark.nanmean()) for mark in marks]
    return {"mean": sum(scores) / len(scores), "low": min(scores), "high": max(scores), "rows": rows}
