"""`maskgen tune`: searches generation settings in two rounds and puts the chosen one into a bundle."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskgen.decoding.settings import GenerationSettings
from maskgen.evaluation.tuning.search import affordable, choose, front, survivors
from maskgen.evaluation.tuning.tasks import TaskScorer
from maskgen.evaluation.tuning.trials import Journal, Report, Trial, run_trial
from maskgen.io.bundle import load_bundle, read_bundle_record, rewrite_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A setting to try, and what it changes of the bundle's own."""

    changes: Mapping[str, Any]
    settings: GenerationSettings


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a search found.

    Args:
        first: Trials of the first round, on few rows; the first one is the bundle's own setting.
        second: Trials of the second round, on all rows; the first one likewise.
        front: Places in `second` that no other trial beats, cheapest first.
        chosen: Place in `second`.
    """

    first: Sequence[Trial]
    second: Sequence[Trial]
    front: Sequence[int]
    chosen: int


def candidates(own: GenerationSettings, combinations: Sequence[Mapping[str, Any]]) -> list[Candidate]:
    """The bundle's own setting, and each combination laid over it; what cannot be decoded with is left out and told.

    A combination with another sampler starts without sampler options, for the bundle's own are another order's.

    Args:
        own: The bundle's setting.
        combinations: Name of a setting to its value.

    Raises:
        ValueError: If no combination can be decoded with; says why the first cannot.
    """
    distinct, reasons = [Candidate(changes={}, settings=own)], []
    for changes in combinations:
        try:
            settings = changed(own, changes)
        except (ValueError, TypeError) as error:
            reasons.append(f"{describe(changes)}: {error}")
            continue
        if all(settings != one.settings for one in distinct):
            distinct.append(Candidate(changes=changes, settings=settings))
    if reasons and len(reasons) == len(combinations):
        raise ValueError(reasons[0])
    for reason in reasons:
        logger.warning("left out %s", reason)
    return distinct


def changed(own: GenerationSettings, changes: Mapping[str, Any]) -> GenerationSettings:
    """The settings with changes; another sampler starts without the old one's options.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """
    other = changes.get("sampler", own.sampler) != own.sampler
    return own.changed(**{**({"sampler_options": {}} if other else {}), **changes})


def describe(changes: Mapping[str, Any]) -> str:
    """Changes in one line."""
    return " ".join(f"{name}={value}".replace(" ", "") for name, value in changes.items()) or "the bundle's own setting"


def tune(
    task: TaskScorer, journal: Journal, settings: Sequence[Candidate], passes_at_most: float | None = None, report: Report | None = None
) -> Tuned:
    """Search the candidates: all on a quarter of the rows, then the half nearest to the front on all rows.

    Args:
        task: Rows and judge; all its rows are used.
        journal: What was run before.
        settings: From `candidates`; the first one is the bundle's own and reaches the second round in any case.
        passes_at_most: Settings that take more passes can reach neither the second round nor be chosen.
        report: Told before every trial.

    Raises:
        ValueError: If there is no row, or every candidate takes too many passes.
    """
    if not task.keys:
        raise ValueError("found no row to score, wanted at least one; give another split or more --rows")
    tried = _round(task, journal, settings, max(1, len(task.keys) // 4), "a quarter of the rows", report)
    first = [trial for _, trial in tried]
    kept = _second_round(first, passes_at_most)
    second = [trial for _, trial in _round(task, journal, [tried[place][0] for place in kept], len(task.keys), "all rows", report)]
    points, rows = [trial.point for trial in second], np.stack([trial.row_quality for trial in second])
    # An order whose passes are chance was cheap enough on a quarter of the rows and may be a little dearer on all.
    limit = None if passes_at_most is None else max(passes_at_most, min(passes for passes, _ in points[1:] or points))
    chosen = choose(points, rows, second[0].weight, limit)
    return Tuned(first=first, second=second, front=front(points), chosen=chosen)


def _round(
    task: TaskScorer, journal: Journal, settings: Sequence[Candidate], rows: int, what: str, report: Report | None
) -> list[tuple[Candidate, Trial]]:
    """Every candidate on so many rows; one that cannot begin is left out and told, unless it is the first, the bundle's own.

    Raises:
        ValueError: If the bundle's own setting cannot be decoded with.
    """
    trials = []
    for number, one in enumerate(settings):
        if report is not None:
            report(number, len(settings), f"{what}: {describe(one.changes)}")
        try:
            trials.append((one, run_trial(task, journal, one.changes, one.settings, rows)))
        except ValueError as error:
            if not number:
                raise
            logger.warning("left out %s: %s", describe(one.changes), error)
    return trials


def _second_round(first: Sequence[Trial], passes_at_most: float | None) -> list[int]:
    """Places that go on: the bundle's own, and the survivors among those that are cheap enough.

    Raises:
        ValueError: If none is.
    """
    points = [trial.point for trial in first]
    cheap = affordable(points, passes_at_most)
    return sorted({0, *(cheap[place] for place in survivors([points[place] for place in cheap]))})


def rewrite_generation(folder: Path | str, target: str, settings: GenerationSettings) -> str:
    """Make these the settings by which a bundle decodes one target; weights and tokenizers stay as they are.

    Args:
        folder: Folder of a model.
        target: A modality that the model generates.
        settings: How it is decoded from now on.

    Returns:
        The bundle's new fingerprint.

    Raises:
        ValueError: If the folder is no whole bundle of a model, or the model does not generate the target.
    """
    bundle = load_bundle(folder, str(read_bundle_record(folder)["kind"]))
    generation = bundle.config.get("generation", {})
    if target not in generation:
        raise ValueError(f"{folder} generates {', '.join(sorted(generation)) or 'nothing'}, not {target}; give another target or model")
    return rewrite_config(folder, bundle.kind, {**bundle.config, "generation": {**generation, target: settings.to_dict()}})
