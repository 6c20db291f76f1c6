"""`maskgen evaluate speech`: scores of a text-to-speech model on held-out sentences, compared with its teacher and its codec."""

import hashlib
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from maskgen.evaluation.speech.asr import normalised, text_errors
from maskgen.evaluation.speech.judges import JUDGES, VERSION, SpeechPanel, SpeechVerdict, check_sound, seconds_of
from maskgen.evaluation.speech.report import write_speech_report
from maskgen.evaluation.speech.scores import BOOTSTRAP_SEED, RESAMPLES, over_seeds, scores
from maskgen.evaluation.speech.speaker_similarity import similarity
from maskgen.io.audio import Waveform

logger = logging.getLogger(__name__)

TEACHER = "teacher"
SEED_NAME = re.compile(r"(.+) seed \d+")


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechRow:
    """A held-out sentence.

    Args:
        key: Its key in the data set.
        text: The transcript.
        reference: The teacher's speech.
        speaker: The speaker wanted; a key of `voices`.
    """

    key: str
    text: str
    reference: Waveform
    speaker: str = "teacher"


@dataclass(frozen=True, kw_only=True, eq=False)
class RowSet:
    """Audio clips to be judged, one for each row.

    Args:
        waves: In the order of the rows.
        elapsed_s: Seconds that generating each clip took; None if not measured.
    """

    waves: Sequence[Waveform]
    elapsed_s: Sequence[float] | None = None


def evaluate_speech(
    rows: Sequence[SpeechRow],
    row_sets: Mapping[str, RowSet],
    voices: Mapping[str, Sequence[Waveform]],
    out: Path,
    *,
    judges: Sequence[str] = tuple(JUDGES),
    cache: Path | None = None,
    facts: Mapping[str, Any] | None = None,
    players: int = 12,
    reference_name: str = TEACHER,
) -> dict[str, Any]:
    """Score speech of held-out sentences; write `report.json` and `report.html`.

    The teacher's own speech is scored first, as row set "teacher": it is the upper bound.

    Args:
        rows: The sentences.
        row_sets: Name to audio clips: "codec" (the teacher through the codec and back), "generated"; several seeds of one model are
            "generated seed 0", "generated seed 1", ... and are also reported together.
        voices: Speaker to reference clips of the teacher, usually three. None may be the reference of a row, which would raise similarity.
        out: Folder of the report; created if missing.
        judges: Some of `judges.JUDGES`; without "whisper_base" no word error rate is reported.
        cache: Folder of findings: only new clips are judged, and a killed evaluation resumes where it stopped.
        facts: Further entries of the report, such as model, settings, data; must be JSON.
        players: Number of rows with audio players in the HTML report.
        reference_name: Name of the row set of the rows' references.

    Returns:
        The content of `report.json`.

    Raises:
        ImportError: If a package of the extra `speech-eval` or `audio` is not installed; checked before anything is judged.
        ValueError: If there is no row, a key occurs twice, a text holds no word, a row set has another number of clips, a speaker has no
            reference clip or one that is judged too, or a clip cannot be judged.
    """
    _check(rows, row_sets, voices if "speaker" in judges else None, reference_name)
    started = time.monotonic()
    panel = SpeechPanel(judges, cache)
    panel.load()
    for row in rows if any(name.startswith("whisper") for name in panel.judges) else ():
        if not normalised(row.text):
            raise ValueError(f"row {row.key}: the text {row.text!r} holds no word that could be spoken; leave the row out")
    logger.info("judging %d sentences in %d row sets by %s", len(rows), len(row_sets) + 1, ", ".join(panel.judges))
    targets = {name: _voices(clips, panel) for name, clips in voices.items()} if "speaker" in panel.judges else {}
    sets = {reference_name: RowSet(waves=[row.reference for row in rows]), **row_sets}
    judged = {name: _judged(name, rows, row_set, panel, targets) for name, row_set in sets.items()}
    report = _report(rows, judged, panel.judges, facts or {})
    report["judging_s"] = round(time.monotonic() - started, 1)
    write_speech_report(out, report, {name: row_set.waves for name, row_set in sets.items()}, _chosen(rows, players))
    logger.info("wrote %s and report.html after %.0f s", out / "report.json", report["judging_s"])
    return report


def _report(
    rows: Sequence[SpeechRow], judged: Mapping[str, list[dict[str, Any]]], judges: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The report without its run time."""
    report: dict[str, Any] = {
        "format": 1,
        "rows": len(rows),
        "words": sum(len(row.text.split()) for row in rows),
        "teacher_seconds": round(sum(seconds_of(row.reference) for row in rows), 2),
        "facts": dict(facts),
        "judges": list(judges),
        "judges_version": VERSION,
        "bootstrap": {"resamples": RESAMPLES, "seed": BOOTSTRAP_SEED},
        "row_sets": {name: {"scores": scores(entries), "rows": entries} for name, entries in judged.items()},
    }
    report["over_seeds"] = _over_seeds(report["row_sets"])
    return report


def judge_row(row: SpeechRow, verdict: SpeechVerdict, targets: Sequence[Float[Tensor, " dim"]], elapsed_s: float | None) -> dict[str, Any]:
    """The report's entry for one audio clip.

    Args:
        row: Its sentence.
        verdict: Findings of the judges.
        targets: Embeddings of the row's speaker; without any, similarity is left out.
        elapsed_s: Seconds that generating it took.
    """
    entry: dict[str, Any] = {
        "key": row.key,
        "text": row.text,
        "seconds": verdict.seconds,
        "teacher_seconds": seconds_of(row.reference),
        "elapsed_s": elapsed_s,
        "transcripts": verdict.transcripts,
        "errors": {judge: asdict(text_errors(row.text, heard)) for judge, heard in verdict.transcripts.items()},
        "speech_ratio": verdict.speech_ratio,
    }
    if verdict.opinion is not None:
        entry |= asdict(verdict.opinion)
    if targets:
        entry |= {"similarity": similarity(verdict.voice, list(targets)), "voice_found": verdict.voice is not None}
    return entry


def _judged(
    name: str, rows: Sequence[SpeechRow], row_set: RowSet, panel: SpeechPanel, targets: Mapping[str, list[Float[Tensor, " dim"]]]
) -> list[dict[str, Any]]:
    """The report's entries for the clips of a row set."""
    entries = []
    for place, (row, wave) in enumerate(zip(rows, row_set.waves, strict=True)):
        elapsed_s = None if row_set.elapsed_s is None else row_set.elapsed_s[place]
        entries.append(judge_row(row, panel(wave), targets.get(row.speaker, ()), elapsed_s))
        if place % 50 == 49:
            logger.info("%s: judged %d of %d", name, place + 1, len(rows))
    return entries


def _voices(clips: Sequence[Waveform], panel: SpeechPanel) -> list[Float[Tensor, " dim"]]:
    """Speaker embeddings of the clips in which a voice is found."""
    embeddings = [voice for voice in (panel(clip).voice for clip in clips) if voice is not None]
    if not embeddings:
        raise ValueError(f"no voice is found in {len(clips)} reference clips of a speaker; give clips in which the speaker can be heard")
    return embeddings


def _check(
    rows: Sequence[SpeechRow], row_sets: Mapping[str, RowSet], voices: Mapping[str, Sequence[Waveform]] | None, reference_name: str
) -> None:
    """Refuse wrong inputs before the long work starts."""
    if not rows or len({row.key for row in rows}) < len(rows):
        raise ValueError(f"found {len(rows)} rows with {len({row.key for row in rows})} keys, wanted at least one row and a key for each")
    if reference_name in row_sets:
        raise ValueError(f"row set {reference_name!r} is made of the rows' references; give the others only")
    speakers = {row.speaker for row in rows}
    if voices is not None and (missing := sorted(speaker for speaker in speakers if not voices.get(speaker))):
        raise ValueError(f"found no clip of the speaker(s) {missing} in voices, wanted about three of each")
    references = {row.reference.samples.tobytes() for row in rows}
    if any(clip.samples.tobytes() in references for clips in (voices or {}).values() for clip in clips):
        raise ValueError("a clip of voices is the reference of a row, which flatters similarity; take clips of other sentences")
    for name, row_set in row_sets.items():
        counts = {len(row_set.waves), len(rows) if row_set.elapsed_s is None else len(row_set.elapsed_s)}
        if counts != {len(rows)}:
            raise ValueError(f"row set {name!r} has {sorted(counts)} sounds or times, wanted one for each of {len(rows)} rows")
    for wave in [*(row.reference for row in rows), *(wave for row_set in row_sets.values() for wave in row_set.waves)]:
        check_sound(wave)


def _over_seeds(row_sets: Mapping[str, Any]) -> dict[str, Any]:
    """Scores over the seeds of each model."""
    names: dict[str, list[str]] = {}
    for name in row_sets:
        if match := SEED_NAME.fullmatch(name):
            names.setdefault(match[1], []).append(name)
    return {model: over_seeds([row_sets[name]["scores"] for name in seeds]) for model, seeds in names.items()}


def _chosen(rows: Sequence[SpeechRow], count: int) -> list[int]:
    """Rows with audio players, a fixed choice by the hash of their keys."""
    order = sorted(range(len(rows)), key=lambda place: hashlib.sha256(rows[place].key.encode()).hexdigest())
    return sorted(order[:count])
