"""`maskgen evaluate speech`: the scores of a text-to-speech model on held-out sentences, beside its teacher and its codec."""

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
        key: Its name in the data set.
        text: What is to be said.
        reference: The teacher saying it.
        speaker: Whose voice it should be; a key of `voices`.
    """

    key: str
    text: str
    reference: Waveform
    speaker: str = "teacher"


@dataclass(frozen=True, kw_only=True, eq=False)
class RowSet:
    """Sounds to be judged, one for each row.

    Args:
        waves: In the order of the rows.
        elapsed_s: Seconds that making each took; None where that is of no interest.
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
) -> dict[str, Any]:
    """Judge sounds of held-out sentences; write `report.json` and `report.html`.

    The teacher's own sounds are judged first, as row set "teacher": what they score is the ceiling.

    Args:
        rows: The sentences.
        row_sets: Name to sounds: "codec" (the teacher through the codec and back), "generated"; several seeds of one model are
            "generated seed 0", "generated seed 1", ... and are also reported together.
        voices: Speaker to clips of the teacher, three are usual; none may be the reference of a row, or similarity flatters.
        out: Folder of the report; made when missing.
        judges: Some of `speech_judges.JUDGES`; without "whisper_base" there is no word error rate to report.
        cache: Folder of findings; with it only new sounds are judged, and a killed evaluation goes on where it stopped.
        facts: What else the report should say: model, settings, data; must be JSON.
        players: Rows that can be listened to in the HTML report.

    Returns:
        What `report.json` holds.

    Raises:
        ImportError: If a package of the extra `speech-eval` or `audio` is not installed; found before anything is judged.
        ValueError: If there is no row, two have one key, a text holds no word, a row set has another number of sounds, a speaker
            has no clip or one that is judged too, or a sound cannot be judged.
    """
    _check(rows, row_sets, voices)
    started = time.monotonic()
    panel = SpeechPanel(judges, cache)
    panel.load()
    for row in rows if any(name.startswith("whisper") for name in panel.judges) else ():
        if not normalised(row.text):
            raise ValueError(f"row {row.key}: the text {row.text!r} holds no word that could be said; leave the row out")
    logger.info("judging %d sentences in %d row sets by %s", len(rows), len(row_sets) + 1, ", ".join(panel.judges))
    targets = {name: _voices(clips, panel) for name, clips in voices.items()} if "speaker" in panel.judges else {}
    sets = {TEACHER: RowSet(waves=[row.reference for row in rows]), **row_sets}
    judged = {name: _judged(name, rows, row_set, panel, targets) for name, row_set in sets.items()}
    report: dict[str, Any] = {
        "format": 1,
        "rows": len(rows),
        "words": sum(len(row.text.split()) for row in rows),
        "teacher_seconds": round(sum(seconds_of(row.reference) for row in rows), 2),
        "facts": dict(facts or {}),
        "judges": list(panel.judges),
        "judges_version": VERSION,
        "bootstrap": {"resamples": RESAMPLES, "seed": BOOTSTRAP_SEED},
        "row_sets": {name: {"scores": scores(found), "rows": found} for name, found in judged.items()},
    }
    report["over_seeds"] = _over_seeds(report["row_sets"])
    report["judging_s"] = round(time.monotonic() - started, 1)
    write_speech_report(out, report, {name: row_set.waves for name, row_set in sets.items()}, _chosen(rows, players))
    logger.info("wrote %s and report.html after %.0f s", out / "report.json", report["judging_s"])
    return report


def judge_row(row: SpeechRow, verdict: SpeechVerdict, targets: Sequence[Float[Tensor, " dim"]], elapsed_s: float | None) -> dict[str, Any]:
    """What is reported of one sound.

    Args:
        row: Its sentence.
        verdict: What the judges found.
        targets: Voices of the row's speaker; none leaves similarity out.
        elapsed_s: Seconds that making it took.
    """
    found: dict[str, Any] = {
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
        found |= asdict(verdict.opinion)
    if targets:
        found |= {"similarity": similarity(verdict.voice, list(targets)), "voice_found": verdict.voice is not None}
    return found


def _judged(
    name: str, rows: Sequence[SpeechRow], row_set: RowSet, panel: SpeechPanel, targets: Mapping[str, list[Float[Tensor, " dim"]]]
) -> list[dict[str, Any]]:
    """What is reported of each sound of a row set."""
    found = []
    for place, (row, wave) in enumerate(zip(rows, row_set.waves, strict=True)):
        elapsed_s = None if row_set.elapsed_s is None else row_set.elapsed_s[place]
        found.append(judge_row(row, panel(wave), targets.get(row.speaker, ()), elapsed_s))
        if place % 50 == 49:
            logger.info("%s: judged %d of %d", name, place + 1, len(rows))
    return found


def _voices(clips: Sequence[Waveform], panel: SpeechPanel) -> list[Float[Tensor, " dim"]]:
    """The voice of each clip of a speaker in which one is found."""
    found = [voice for voice in (panel(clip).voice for clip in clips) if voice is not None]
    if not found:
        raise ValueError(f"no voice is found in {len(clips)} reference clips of a speaker; give clips in which the speaker can be heard")
    return found


def _check(rows: Sequence[SpeechRow], row_sets: Mapping[str, RowSet], voices: Mapping[str, Sequence[Waveform]]) -> None:
    """Refuse what would be found after an hour, or never."""
    if not rows or len({row.key for row in rows}) < len(rows):
        raise ValueError(f"found {len(rows)} rows with {len({row.key for row in rows})} keys, wanted at least one row and a key for each")
    if TEACHER in row_sets:
        raise ValueError(f"row set {TEACHER!r} is made of the rows' references; give the others only")
    speakers = {row.speaker for row in rows}
    if missing := sorted(speaker for speaker in speakers if not voices.get(speaker)):
        raise ValueError(f"found no clip of the speaker(s) {missing} in voices, wanted about three of each")
    references = {row.reference.samples.tobytes() for row in rows}
    if any(clip.samples.tobytes() in references for clips in voices.values() for clip in clips):
        raise ValueError("a clip of voices is the reference of a row, which flatters similarity; take clips of other sentences")
    for name, row_set in row_sets.items():
        counts = {len(row_set.waves), len(rows) if row_set.elapsed_s is None else len(row_set.elapsed_s)}
        if counts != {len(rows)}:
            raise ValueError(f"row set {name!r} has {sorted(counts)} sounds or times, wanted one for each of {len(rows)} rows")
    for wave in [*(row.reference for row in rows), *(wave for row_set in row_sets.values() for wave in row_set.waves)]:
        check_sound(wave)


def _over_seeds(row_sets: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of the models of which several seeds were judged."""
    names: dict[str, list[str]] = {}
    for name in row_sets:
        if match := SEED_NAME.fullmatch(name):
            names.setdefault(match[1], []).append(name)
    return {model: over_seeds([row_sets[name]["scores"] for name in seeds]) for model, seeds in names.items()}


def _chosen(rows: Sequence[SpeechRow], count: int) -> list[int]:
    """Rows to listen to, by the hash of their keys: not the best, and the same ones every time."""
    order = sorted(range(len(rows)), key=lambda place: hashlib.sha256(rows[place].key.encode()).hexdigest())
    return sorted(order[:count])
