"""`maskgen compare samplers`: every sampler at several step budgets, on the same rows with the same seeds."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maskgen.decoding.settings import GenerationSettings
from maskgen.evaluation.tuning.tasks import TaskScorer
from maskgen.evaluation.tuning.trials import Journal, Report, Trial, run_trial
from maskgen.evaluation.tuning.tune import changed, describe
from maskgen.io.files import write_atomic
from maskgen.io.shipped import find_path
from maskgen.masking.masks import level_groups
from maskgen.sampling import by_name, names

logger = logging.getLogger(__name__)
NEEDS = {"critic": "a trained critic"}
"""What a sampler may need besides the generator: a part of its error message to a name."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One sampler at one budget.

    Args:
        sampler: Name of the sampler.
        budget: Steps of all levels together.
        trial: Its result; None if the combination is impossible.
        reason: Why it is impossible.
    """

    sampler: str
    budget: int
    trial: Trial | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        about = {"sampler": self.sampler, "budget": self.budget}
        return {**about, "reason": self.reason} if self.trial is None else {**about, **self.trial.to_dict()}


def read_defaults(path: Path, more: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Changes of the bundle's setting for each sampler by name, from a YAML file with the mappings `all` and `samplers`.

    Args:
        path: The file, or the relative name of a shipped one.
        more: Samplers that need optional packages; those that the file names are always among them.

    Raises:
        ValueError: If the file is missing or has another form, or names an unknown sampler.
    """
    path = find_path(path)
    if not path.is_file():
        raise ValueError(f"the samplers' defaults {path} do not exist; give --config, see configs/compare_samplers.yaml for one")
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    everyone, each = _sections(plain, path)
    asked = {*each, *more}
    for name in sorted(asked):
        by_name(name)
    return {name: {**everyone, **each.get(name, {})} for name in [*names(), *sorted(asked - set(names()))]}


def _sections(plain: Any, path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The two mappings of a file of defaults.

    Raises:
        ValueError: If it has another form.
    """
    whole = plain if isinstance(plain, dict) and set(plain) <= {"all", "samplers"} else {"all": None}
    everyone, each = whole.get("all", {}), whole.get("samplers", {})
    if not isinstance(everyone, dict) or not isinstance(each, dict) or not all(isinstance(one, dict) for one in each.values()):
        raise ValueError(f"{path} must hold `all`, changes of settings, and `samplers`, each name to its own changes, and nothing else")
    return everyone, each


def shared_steps(own: Sequence[int], budget: int) -> list[int]:
    """Divide a step budget over groups of levels: one step each, the rest in proportion to the bundle's own steps beyond one each.

    At the bundle's own budget the result is its own steps.

    Args:
        own: The bundle's steps of each group.
        budget: Total steps.

    Raises:
        ValueError: If the budget has less than one step per group.
    """
    if budget < len(own):
        raise ValueError(f"a budget of {budget} steps is too small, this model decodes {len(own)} levels with at least one step each")
    beyond = [steps - 1 for steps in own] if sum(own) > len(own) else [1] * len(own)
    rest = budget - len(own)
    shares = [rest * part / sum(beyond) for part in beyond]
    left = rest - sum(int(share) for share in shares)
    order = sorted(range(len(own)), key=lambda place: (int(shares[place]) - shares[place], place))
    return [1 + int(share) + (place in order[:left]) for place, share in enumerate(shares)]


def at_budget(own: GenerationSettings, name: str, changes: Mapping[str, Any], budget: int, num_levels: int) -> GenerationSettings:
    """The bundle's setting with another sampler, that sampler's changes and a budget of steps.

    Raises:
        ValueError: If the sampler does not take these changes, or the budget is too small.
    """
    groups = level_groups(own.groups, num_levels)
    steps = shared_steps([own.at(group[0]).steps for group in groups], budget)
    per_level = [count for count, group in zip(steps, groups, strict=True) for _ in group]
    return changed(own, {"sampler_options": {}, **changes, "sampler": name, "steps": per_level})


def compare(
    task: TaskScorer,
    journal: Journal,
    own: GenerationSettings,
    defaults: Mapping[str, Mapping[str, Any]],
    budgets: Sequence[int],
    num_levels: int,
    report: Report | None = None,
) -> list[Cell]:
    """Score every sampler at every budget; impossible combinations are listed with the reason.

    Args:
        task: Rows and judge; all its rows are used.
        journal: Record of earlier trials.
        own: The bundle's setting, which all others are derived from.
        defaults: Sampler to its changes, in the order of the table.
        budgets: Steps of all levels together.
        num_levels: Levels of the target.
        report: Called before every cell.

    Raises:
        ValueError: If there is no row, or no combination is possible; the message gives the reason of the first.
    """
    if not task.keys:
        raise ValueError("found no row to score, wanted at least one; give another split or more --rows")
    cells: list[Cell] = []
    for name, changes in defaults.items():
        for budget in budgets:
            if report is not None:
                report(len(cells), len(defaults) * len(budgets), f"{name}, {budget} steps")
            cells.append(_cell(task, journal, own, name, changes, budget, num_levels))
    if cells and all(cell.trial is None for cell in cells):
        raise ValueError(f"{cells[0].sampler} at {cells[0].budget} steps: {cells[0].reason}")
    return cells


def _cell(
    task: TaskScorer, journal: Journal, own: GenerationSettings, name: str, changes: Mapping[str, Any], budget: int, num_levels: int
) -> Cell:
    """One cell; a sampler raises ValueError for what it lacks, on construction or at its first step."""
    try:
        settings = at_budget(own, name, changes, budget, num_levels)
        trial = run_trial(task, journal, {**changes, "sampler": name, "steps": list(settings.steps)}, settings, len(task.keys))
    except ValueError as error:
        return Cell(sampler=name, budget=budget, reason=_reason(name, error))
    return Cell(sampler=name, budget=budget, trial=trial)


def _reason(name: str, error: ValueError) -> str:
    """Why a combination is impossible: what the sampler needs, or its error in one line."""
    needed = [NEEDS[need] for need in by_name(name).needs if NEEDS.get(need, "\n") in str(error)]
    return f"needs {' and '.join(needed)}" if needed else " ".join(str(error).split())


def markdown(cells: Sequence[Cell], facts: Mapping[str, Any], measure: str, rows: int) -> str:
    """The table: one line per sampler, one column per budget; each cell holds quality, measured model calls and seconds per row."""
    budgets = list(dict.fromkeys(cell.budget for cell in cells))
    lines = [
        f"Samplers on {facts['target']}, {rows} rows of split {facts['split']}. A cell: {measure} / measured model calls per row / "
        "seconds per row; a column: steps of all levels together. Guided steps are two model calls.",
        "",
        f"| sampler | {' | '.join(f'{budget} steps' for budget in budgets)} |",
        f"| --- |{' ---: |' * len(budgets)}",
    ]
    notes: dict[str, str] = {}
    for name in dict.fromkeys(cell.sampler for cell in cells):
        shown = [_shown(cell, notes) for cell in cells if cell.sampler == name]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    settings = {cell.sampler: cell.trial.changes for cell in cells if cell.trial is not None}
    lines += ["", *(f"- {note}" for note in notes.values()), *_changes(settings)]
    return "\n".join(lines).rstrip() + "\n"


def _changes(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The options of each sampler, without its name and steps."""
    own = {name: {key: value for key, value in options.items() if key not in ("sampler", "steps")} for name, options in settings.items()}
    return [f"- {name}: {describe(options)}" for name, options in own.items()]


def _shown(cell: Cell, notes: dict[str, str]) -> str:
    """A cell of the table; a reason other than a need of the sampler becomes a note below the table."""
    if cell.trial is not None:
        passes, quality = cell.trial.point
        return f"{quality:.3f} / {passes:.3g} / {cell.trial.to_dict()['elapsed_s_a_row']:.3f}"
    assert cell.reason is not None, "a cell without trial has a reason"
    if by_name(cell.sampler).needs:
        return cell.reason
    notes[f"{cell.sampler} {cell.budget}"] = f"{cell.sampler} at {cell.budget} steps: {cell.reason}"
    return "not possible"


def write_comparison(out: Path, cells: Sequence[Cell], facts: Mapping[str, Any], measure: str, rows: int) -> str:
    """Write `compare.json` and `compare.md` and return the table."""
    out.mkdir(parents=True, exist_ok=True)
    report = {"format": 1, "facts": dict(facts), "measure": measure, "rows": rows, "cells": [cell.to_dict() for cell in cells]}
    table = markdown(cells, facts, measure, rows)
    write_atomic(out / "compare.json", (json.dumps(report, indent=2) + "\n").encode())
    write_atomic(out / "compare.md", table.encode())
    return table
