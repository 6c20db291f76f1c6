"""Scores of a row set, from the findings of the judges for each clip."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 2000
BOOTSTRAP_SEED = 0
ERROR_RATES = {
    "wer": ("whisper_base", "word_edits", "words"),
    "cer": ("whisper_base", "character_edits", "characters"),
    "wer_tiny_en": ("whisper_tiny_en", "word_edits", "words"),
}
MEANS = ("similarity", "ovrl", "sig", "bak", "p808", "speech_ratio")


def scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores of a row set.

    Args:
        rows: Results of `judge_row`; a key that is missing or None gives no score.

    Returns:
        `wer`, `cer`, `wer_tiny_en`: {"value", "low", "high", "edits", "of"}, all edits over all words, 95% interval;
        `exact`: {"value", "low", "high"}, share of sentences without an error in the transcript of Whisper base;
        `similarity`, `ovrl`, `sig`, `bak`, `p808`, `speech_ratio`: {"value", "low", "high"}, means with 95% intervals;
        `duration_error`, `duration_bias`: mean of |seconds - teacher's| and of the signed difference, as shares of the teacher's;
        `real_time_factor`: seconds of computation per second of audio, below 1 is faster than real time;
        `without_voice`: clips in which no voice was found, whose similarity counts as 0.
    """
    summary: dict[str, Any] = {}
    for name, (judge, edits, of) in ERROR_RATES.items():
        errors = [row["errors"].get(judge) for row in rows]
        summary[name] = None if None in errors else counted_error_rate([error[edits] for error in errors], [error[of] for error in errors])
    heard = [row["errors"].get("whisper_base") for row in rows]
    summary["exact"] = None if None in heard else mean_interval([float(error["word_edits"] == 0) for error in heard])
    for name in MEANS:
        values = [row.get(name) for row in rows]
        summary[name] = None if None in values else mean_interval([float(value) for value in values if value is not None])
    signed = np.array([row["seconds"] / row["teacher_seconds"] - 1 for row in rows])
    summary["duration_error"], summary["duration_bias"] = float(np.abs(signed).mean()), float(signed.mean())
    elapsed = [row["elapsed_s"] for row in rows if row.get("elapsed_s") is not None]
    timed = len(elapsed) == len(rows)
    summary["real_time_factor"] = float(sum(elapsed) / sum(row["seconds"] for row in rows)) if timed else None
    summary["without_voice"] = sum(row.get("voice_found") is False for row in rows)
    return summary


def mean_interval(values: Sequence[float]) -> dict[str, float]:
    """A mean with its 95% interval.

    Args:
        values: One per row, at least one.
    """
    array = np.array(values, np.float64)
    return _interval(float(array.mean()), array[_draws(len(array))].mean(axis=1))


def over_seeds(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, lowest and highest of each score over several seeds of one model.

    Args:
        seeds: `scores` of each seed.
    """
    result: dict[str, Any] = {}
    for name in seeds[0]:
        values = [one[name]["value"] if isinstance(one[name], Mapping) else one[name] for one in seeds]
        result[name] = None if None in values else {"value": float(np.mean(values)), "low": min(values), "high": max(values)}
    return result


def counted_error_rate(edits: Sequence[int], of: Sequence[int]) -> dict[str, float]:
    """All edits over all words, with a bootstrap interval over rows."""
    counted, totals = np.array(edits, np.float64), np.array(of, np.float64)
    draws = _draws(len(counted))
    interval = _interval(float(counted.sum() / totals.sum()), counted[draws].sum(axis=1) / totals[draws].sum(axis=1))
    return {**interval, "edits": sum(edits), "of": sum(of)}


def _draws(rows: int) -> Int[np.ndarray, "resamples rows"]:
    """Rows drawn with replacement, the same for every row set, so that intervals are comparable."""
    return np.random.default_rng(BOOTSTRAP_SEED).integers(0, rows, (RESAMPLES, rows))


def _interval(value: float, resampled: Float[np.ndarray, " resamples"]) -> dict[str, float]:
    """A value with the 2.5th and the 97.5th percentile of its bootstrap."""
    low, high = np.percentile(resampled, (2.5, 97.5))
    return {"value": value, "low": float(low), "high": float(high)}
