"""Trials of generation settings and the file that remembers them, so that none is run twice."""

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from maskgen.decoding.settings import GenerationSettings
from maskgen.evaluation.tuning.search import Point, mean_quality, quality_interval
from maskgen.evaluation.tuning.tasks import RowScore, TaskScorer

logger = logging.getLogger(__name__)
Report = Callable[[int, int, str], None]
"""Trials done, trials in all, and what comes next."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A setting with what its rows scored.

    Args:
        changes: What differs from the bundle's own setting; empty is that setting.
        settings: The whole setting.
        rows: Scores, in the task's order.
    """

    changes: Mapping[str, Any]
    settings: GenerationSettings
    rows: Sequence[RowScore]

    @property
    def row_quality(self) -> Float[np.ndarray, " rows"]:
        """Quality of each row."""
        return np.array([row.quality for row in self.rows], np.float64)

    @property
    def weight(self) -> Float[np.ndarray, " rows"]:
        """Weight of each row."""
        return np.array([row.weight for row in self.rows], np.float64)

    @property
    def point(self) -> Point:
        """Mean passes of a row, and quality."""
        return float(np.mean([row.passes for row in self.rows])), mean_quality(self.row_quality, self.weight)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: changes, rows, quality with its 95% interval, passes and seconds of a row."""
        passes, quality = self.point
        low, high = quality_interval(self.row_quality, self.weight)
        elapsed_s = float(np.mean([row.elapsed_s for row in self.rows]))
        counts = {"rows": len(self.rows), "passes": passes, "elapsed_s_a_row": elapsed_s}
        return {"changes": dict(self.changes), "quality": quality, "low": low, "high": high, **counts}


class Journal:
    """A file with one line a trial, appended and synced; a line that a kill tore is dropped at the next start.

    A line holds the facts, the changes, the whole setting and the scores of the rows that were run. A setting that was run on few rows and
    later on more has several lines, which together hold each row once.

    Args:
        path: The file; its folder is made when missing.
        facts: What the scores depend on besides the setting: model, task, rows, seed. Plain data for JSON.

    Raises:
        ValueError: If the file holds trials of other facts, or is damaged.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self.facts = path, json.loads(json.dumps(dict(facts)))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, dict[str, RowScore]] = {}
        for line in self._lines():
            self._remember(line["settings"], [RowScore(**row) for row in line["scores"]])

    def rows(self, settings: GenerationSettings) -> Mapping[str, RowScore]:
        """Scores of the rows that were run under this setting, by key."""
        return self._known.get(_identity(settings.to_dict()), {})

    def add(self, changes: Mapping[str, Any], settings: GenerationSettings, scores: Sequence[RowScore]) -> None:
        """Remember the scores of further rows."""
        plain = settings.to_dict()
        about = {"facts": self.facts, "changes": dict(changes), "settings": plain}
        line = json.dumps({**about, "scores": [dataclasses.asdict(row) for row in scores]}) + "\n"
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(line)
            handle.flush()
            os.fsync(handle.fileno())
        self._remember(plain, scores)

    def _remember(self, settings: Mapping[str, Any], scores: Sequence[RowScore]) -> None:
        self._known.setdefault(_identity(settings), {}).update({row.key: row for row in scores})

    def _lines(self) -> list[dict[str, Any]]:
        """Every whole line of the file, checked; a torn one is cut off."""
        content = self.path.read_bytes() if self.path.exists() else b""
        whole, newline, torn = content.rpartition(b"\n")
        if torn:
            logger.warning("%s ends within a line, which is dropped; its trial will be run again", self.path)
            os.truncate(self.path, len(whole) + len(newline))
        return [self._checked(number, line) for number, line in enumerate(whole.split(b"\n"), 1) if line]

    def _checked(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry: dict[str, Any] = json.loads(line)
            facts = entry["facts"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"line {number} of {self.path} is no trial of maskgen; remove the file or give another --out") from error
        if other := sorted(name for name in {*facts, *self.facts} if facts.get(name) != self.facts.get(name)):
            differences = ", ".join(f"{name} {facts.get(name)} instead of {self.facts.get(name)}" for name in other)
            raise ValueError(f"{self.path} holds trials with {differences}; give another --out, or remove the file")
        return entry


def run_trial(task: TaskScorer, journal: Journal, changes: Mapping[str, Any], settings: GenerationSettings, count: int) -> Trial:
    """Score a setting on the first rows of a task; rows that the journal knows are not run again.

    Args:
        task: The rows and their judge.
        journal: What is known.
        changes: What the setting changes, to be told.
        settings: The setting.
        count: Rows.
    """
    keys, known = task.keys[:count], journal.rows(settings)
    missing = [place for place, key in enumerate(keys) if key not in known]
    if missing:
        journal.add(changes, settings, task.score(settings, missing))
    scores = journal.rows(settings)
    return Trial(changes=changes, settings=settings, rows=[scores[key] for key in keys])


def _identity(settings: Mapping[str, Any]) -> str:
    """Equal for equal settings, whatever the order of their fields."""
    return json.dumps(settings, sort_keys=True)
