"""Transcripts as word times, segments and subtitles."""

from typing import Any

from maskgen.tokenizers.transcript import Transcript

LONGEST_SEGMENT = 12
"""Words of the longest segment: about two lines of subtitles."""
LONGEST_PAUSE_S = 1.0
"""A word that begins so long after the one before opens a segment."""


def words_of(transcript: Transcript) -> list[dict[str, Any]]:
    """Words with start and end in seconds; a word ends where the next begins."""
    ends = (*transcript.starts_s[1:], transcript.seconds)
    return [
        {"word": word, "start": round(start_s, 3), "end": round(end_s, 3)}
        for word, start_s, end_s in zip(transcript.words, transcript.starts_s, ends, strict=True)
    ]


def segments_of(transcript: Transcript) -> list[dict[str, Any]]:
    """Stretches of words, in the form of OpenAI's API without what this model does not know."""
    groups: list[list[dict[str, Any]]] = []
    for word in words_of(transcript):
        late = not groups or len(groups[-1]) == LONGEST_SEGMENT or word["start"] - groups[-1][-1]["start"] > LONGEST_PAUSE_S
        groups += [[word]] if late else []
        if not late:
            groups[-1].append(word)
    return [
        {"id": place, "start": group[0]["start"], "end": group[-1]["end"], "text": " ".join(word["word"] for word in group)}
        for place, group in enumerate(groups)
    ]


def srt(transcript: Transcript) -> str:
    """SubRip subtitles."""
    return "".join(f"{one['id'] + 1}\n{_clock(one, ',')}\n{one['text']}\n\n" for one in segments_of(transcript))


def vtt(transcript: Transcript) -> str:
    """WebVTT subtitles. Characters that would be markup are escaped."""
    marks = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
    texts = [(one, "".join(marks.get(letter, letter) for letter in one["text"])) for one in segments_of(transcript)]
    return "WEBVTT\n\n" + "".join(f"{_clock(one, '.')}\n{text}\n\n" for one, text in texts)


def _clock(segment: dict[str, Any], point: str) -> str:
    """First and last moment of a segment."""
    return " --> ".join(_moment(segment[name], point) for name in ("start", "end"))


def _moment(seconds: float, point: str) -> str:
    """00:00:01,500."""
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
