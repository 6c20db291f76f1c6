"""The report of a speech evaluation: one JSON and one self-contained HTML file."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskgen.evaluation.html import image, page, sound, table, text
from maskgen.evaluation.speech.mel import mel_picture
from maskgen.evaluation.speech.packages import package_module
from maskgen.io.audio import Waveform, sixteen_bits
from maskgen.io.files import write_atomic

TITLES = {
    "wer": "WER (Whisper base)",
    "wer_tiny_en": "WER (tiny.en)",
    "cer": "CER (base)",
    "exact": "exactly right",
    "similarity": "speaker similarity",
    "ovrl": "DNSMOS overall",
    "sig": "speech",
    "bak": "background",
    "p808": "P.808",
    "duration_error": "duration error",
    "duration_bias": "signed",
    "speech_ratio": "share of speech",
    "real_time_factor": "real-time factor",
}
SHARES = {"wer", "wer_tiny_en", "cer", "exact", "duration_error", "duration_bias", "speech_ratio"}
ROLES = {"teacher": "teacher (upper bound)", "codec": "codec: the reference, encoded and decoded (upper bound of the model)"}
NOTES = (
    "Word error rates: all edits over all words, both sides in Whisper's normal form, with 95% bootstrap intervals over sentences (of "
    "several seeds: lowest and highest). Compounds count: 'sea shells' heard as 'seashells' is two errors. Similarity: Resemblyzer cosine "
    "to the mean of the speaker's reference clips, 0 where no voice is found. DNSMOS, 1 to 5, was trained on telephone calls, not on "
    "synthesis. Duration error: difference to the teacher's length as a share of it. Real-time factor: seconds of work for a second of "
    "sound; below 1 is faster than it sounds. Pictures: mel spectrograms, 20 ms a column, on one scale of time."
)


def write_speech_report(out: Path, report: Mapping[str, Any], waves: Mapping[str, Sequence[Waveform]], playable: Sequence[int]) -> None:
    """Write `report.json` and `report.html` atomically.

    Args:
        out: Folder, created if missing.
        report: Result of `evaluate_speech`.
        waves: Row set to its audio clips, in the order of the rows.
        playable: Rows whose audio is embedded in the page.

    Raises:
        ImportError: If soundfile is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    write_atomic(out / "report.html", render_speech_report(report, waves, playable).encode())


def render_speech_report(report: Mapping[str, Any], waves: Mapping[str, Sequence[Waveform]], playable: Sequence[int]) -> str:
    """The page.

    Args:
        report: Result of `evaluate_speech`.
        waves: Row set to its audio clips.
        playable: Rows whose audio is embedded in the page.
    """
    facts = [f"{report['rows']} sentences, {report['words']} words, {report['teacher_seconds']:.0f} s of the reference."]
    facts += [f"{name}: {value}." for name, value in report["facts"].items()]
    rest = [place for place in range(report["rows"]) if place not in playable]
    parts = [
        f"<h1>maskgen: speech evaluation</h1><p>{text(' '.join(facts))}</p><p><small>{text(NOTES)}</small></p>",
        _scores_table(report),
        f"<p><small>Judges: {text(report['judges_version'])}.</small></p>",
        f"<h2>To listen to ({len(playable)} sentences, chosen by the hash of their keys)</h2>",
        _rows_table(report, waves, playable, players=True),
    ]
    if rest:
        parts.append(f"<h2>All others ({len(rest)} sentences)</h2>{_rows_table(report, waves, rest, players=False)}")
    return page("maskgen: speech evaluation", "".join(parts))


def _scores_table(report: Mapping[str, Any]) -> str:
    """One line per row set, and one for all seeds of a model."""
    scores = {ROLES.get(name, name): row_set["scores"] for name, row_set in report["row_sets"].items()}
    scores |= {f"{name}, over seeds": values for name, values in report["over_seeds"].items()}
    shown = [name for name in TITLES if any(values[name] is not None for values in scores.values())]
    lines = [[text(name), *(_number(measure, values[measure]) for measure in shown)] for name, values in scores.items()]
    return table(["row set", *(TITLES[name] for name in shown)], lines)


def _number(measure: str, value: float | Mapping[str, float] | None) -> str:
    """A score with its interval, or a dash if it does not apply."""
    if value is None:
        return "-"
    style = ".1%" if measure in SHARES else ".3f"
    if not isinstance(value, Mapping):
        return f"{value:{style}}"
    return f"{value['value']:{style}} <small>{value['low']:{style}} to {value['high']:{style}}</small>"


def _rows_table(report: Mapping[str, Any], waves: Mapping[str, Sequence[Waveform]], places: Sequence[int], *, players: bool) -> str:
    """Image, player and transcript of each audio clip."""
    lines = []
    for place in places:
        cells = []
        for name, row_set in report["row_sets"].items():
            picture = mel_picture(waves[name][place])
            player = f"{sound(flac(waves[name][place]))}<br>" if players else ""
            cells.append(f"{image(picture, max(picture.size))}<br>{player}{_heard(row_set['rows'][place])}")
        lines.append([text(next(iter(report["row_sets"].values()))["rows"][place]["text"]), *cells])
    return table(["sentence", *report["row_sets"]], lines)


def _heard(row: Mapping[str, Any]) -> str:
    """Transcript of the best judge, green if it is right, and the other scores of the clip."""
    judge = next(iter(row["transcripts"]), None)
    heard = ""
    if judge is not None:
        right = row["errors"][judge]["word_edits"] == 0
        heard = f'<span class="{"right" if right else "wrong"}">{text(row["transcripts"][judge]) or "(nothing)"}</span><br>'
    parts = [f"{row['seconds']:.2f} s"]
    parts += [f"{title} {row[name]:.2f}" for name, title in (("similarity", "voice"), ("ovrl", "DNSMOS")) if row.get(name) is not None]
    return f"{heard}<small>{', '.join(parts)}</small>"


def flac(wave: Waveform) -> bytes:
    """An audio clip as a FLAC file of 16 bits.

    Raises:
        ImportError: If soundfile is not installed.
    """
    content = io.BytesIO()
    package_module("soundfile").write(content, sixteen_bits(wave).T, wave.sample_rate_hz, format="FLAC", subtype="PCM_16")
    return content.getvalue()
