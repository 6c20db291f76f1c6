"""`maskgen evaluate any`: every direction of an any-to-any model on held-out captions, images and speech."""

import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from maskgen.evaluation.image.corpus import Corpus, Row
from maskgen.evaluation.image.emoji_captions import caption_scores
from maskgen.evaluation.image.pixels import from_rgb_bytes
from maskgen.evaluation.speech.asr import normalised, text_errors
from maskgen.io.audio import Waveform
from maskgen.io.files import write_atomic
from maskgen.pipelines.any_to_any import AnyToAnyPipeline

logger = logging.getLogger(__name__)
BLANK = Image.new("RGB", (64, 64), "white")
"""Scored in place of an image when no word of a clip was transcribed."""
DIRECTIONS = ("image > text", "speech > text", "image > speech", "speech > image", "text > image, speech")
Hear = Callable[[Waveform], str]
Propose = Callable[[Waveform], Sequence[str]]
Look = Callable[[Sequence[Row], Sequence[Image.Image]], Mapping[str, float]]


@dataclass(frozen=True)
class HeldOutSentence:
    """A held-out sentence of the speech corpus.

    Args:
        text: Its transcript.
        wave: The teacher's speech.
        label: Label of the image that it describes.
        starts_s: Start of each word in seconds; None if unknown.
    """

    text: str
    wave: Waveform
    label: str
    starts_s: tuple[float, ...] | None = None


def error_rate(wanted: Sequence[str], heard: Sequence[str]) -> dict[str, float]:
    """Word and character error rates over all sentences together."""
    errors = [text_errors(left, right) for left, right in zip(wanted, heard, strict=True)]
    return {
        "wer": sum(one.word_edits for one in errors) / sum(one.words for one in errors),
        "cer": sum(one.character_edits for one in errors) / sum(one.characters for one in errors),
        "exact": sum(one.word_edits == 0 for one in errors) / len(errors),
    }


def nearest_label(heard: str, labels: Sequence[str]) -> str:
    """The label that shares most words with a transcript (Jaccard index); of equal labels the shorter one, "" if there is no word."""
    words = set(normalised(heard).split())
    if not words:
        return ""

    def score(label: str) -> tuple[float, int]:
        own = set(normalised(label).split())
        return (len(own & words) / max(len(own | words), 1), -len(own))

    return max(labels, key=score)


def evaluate_any_to_any(
    model: AnyToAnyPipeline,
    corpus: Corpus,
    sentences: Sequence[HeldOutSentence],
    listeners: Mapping[str, Hear],
    look: Look,
    out: Path,
    seed: int = 0,
    only: Sequence[str] = DIRECTIONS,
    proposers: Mapping[str, Propose] | None = None,
) -> dict[str, Any]:
    """Score an any-to-any model in every direction; write `directions.json`.

    Args:
        model: The model.
        corpus: Held-out images.
        sentences: Held-out sentences about labels of the corpus.
        listeners: Name to speech recogniser, to compare the model's transcripts with; the first one also judges generated speech.
        look: Scores images against the rows that they should show.
        out: Folder of the report.
        seed: First seed.
        only: Some of `DIRECTIONS`.
        proposers: Name to a recogniser that gives several candidate transcripts, best first; the model rescores them.

    Raises:
        ValueError: If there are no images, no sentences, no listener or no such direction.
    """
    if not corpus.rows or not sentences or not listeners or not only or set(only) - set(DIRECTIONS):
        raise ValueError(
            f"got {len(corpus.rows)} pictures, {len(sentences)} sentences, {len(listeners)} listeners and the directions "
            f"{', '.join(map(repr, only)) or 'none'}, wanted some of each; directions are {', '.join(map(repr, DIRECTIONS))}"
        )
    started_s = time.perf_counter()
    hear = next(iter(listeners.values()))
    report: dict[str, Any] = {"format": 1, "seed": seed}
    if {"image > text", "image > speech"} & set(only):
        report["image > text"], captions = _captions(model, corpus, seed)
    if "speech > text" in only:
        report["speech > text"] = _transcripts(model, sentences, listeners, proposers or {}, seed)
    if "image > speech" in only:
        report["image > speech"] = _described(model, corpus, captions, hear, seed)
    if "speech > image" in only:
        report["speech > image"] = _drawn(model, corpus.rows, sentences, look, seed)
    if "text > image, speech" in only:
        report["text > image, speech"] = _joint(model, corpus.rows, hear, look, seed)
    report["elapsed_s"] = round(time.perf_counter() - started_s, 1)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "directions.json", f"{json.dumps(report, indent=2, ensure_ascii=False)}\n".encode())
    return report


def _captions(model: AnyToAnyPipeline, corpus: Corpus, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Captions of held-out images."""
    images = from_rgb_bytes(corpus.pixels)
    said = [model(target="text", image=image, seed=seed + place).text or "" for place, image in enumerate(images)]
    wanted = [row.caption for row in corpus.rows]
    rows = [{"key": row.key, "caption": row.caption, "said": text} for row, text in zip(corpus.rows, said, strict=True)]
    return {"scores": caption_scores(wanted, said), "rows": rows}, said


def _transcripts(
    model: AnyToAnyPipeline,
    sentences: Sequence[HeldOutSentence],
    listeners: Mapping[str, Hear],
    proposers: Mapping[str, Propose],
    seed: int,
) -> dict[str, Any]:
    """Transcripts of held-out speech compared with other recognisers; their candidates rescored; each sentence identified among all."""
    wanted = [one.text for one in sentences]
    heard = {"model": [model(target="text", audio=one.wave, seed=seed + place).text or "" for place, one in enumerate(sentences)]}
    heard |= {name: [hear(one.wave) for one in sentences] for name, hear in listeners.items()}
    for name, propose in proposers.items():
        candidates = [list(propose(one.wave)) or [""] for one in sentences]
        heard[name] = [texts[0] for texts in candidates]
        heard[f"{name}, rescored"] = [_rescored(model, one.wave, texts) for one, texts in zip(sentences, candidates, strict=True)]
        heard[f"{name}, its best"] = [
            min(texts, key=lambda text: text_errors(one.text, text).word_edits) for one, texts in zip(sentences, candidates, strict=True)
        ]
    identified = [wanted[model.align(one.wave, wanted)[0].place] == one.text for one in sentences]
    scores: dict[str, Any] = {name: error_rate(wanted, transcripts) for name, transcripts in heard.items()}
    scores["told from all sentences"] = {"share": sum(identified) / len(identified), "chance": 1 / len(set(wanted))}
    scores["times of known words"] = _times(model, sentences)
    rows = [{"text": text, **{name: transcripts[place] for name, transcripts in heard.items()}} for place, text in enumerate(wanted)]
    return {"scores": scores, "rows": rows}


def _times(model: AnyToAnyPipeline, sentences: Sequence[HeldOutSentence]) -> dict[str, float]:
    """Error of the word starts found by forced alignment of the true text; empty where the true starts are unknown."""
    errors: list[float] = []
    for one in sentences:
        if one.starts_s is not None:
            starts_s = model.align(one.wave, [one.text])[0].candidate["transcript"].starts_s
            errors += [abs(ours - true) for ours, true in zip(starts_s, one.starts_s, strict=True)]
    if not errors:
        return {}
    return {
        "median_s": statistics.median(errors),
        "within_0.1_s": sum(error <= 0.1 for error in errors) / len(errors),
    }


def _rescored(model: AnyToAnyPipeline, sound: Waveform, texts: Sequence[str]) -> str:
    """The candidate that is most likely under the model; the recogniser's first if none holds a word."""
    worded = [text for text in texts if normalised(text)]
    return worded[model.align(sound, worded)[0].place] if worded else texts[0]


def _described(model: AnyToAnyPipeline, corpus: Corpus, captions: Sequence[str], hear: Hear, seed: int) -> dict[str, Any]:
    """Images described aloud: does the speech say the generated caption, and does it name the label?"""
    heard = []
    for place, image in enumerate(from_rgb_bytes(corpus.pixels)):
        if normalised(captions[place]):
            heard.append(hear(model(target="audio", image=image, seed=seed + place).audio[0]))
        else:
            heard.append("")  # a model can't describe an image aloud without a caption
    labels = sorted({row.label for row in corpus.rows})
    right = [nearest_label(text, labels) == row.label for text, row in zip(heard, corpus.rows, strict=True)]
    scores = {
        "of_its_caption": error_rate([text if normalised(text) else "nothing" for text in captions], heard),
        "label_heard": sum(right) / len(right),
    }
    return {"scores": scores, "labels": len(labels), "rows": [{"caption": a, "heard": b} for a, b in zip(captions, heard, strict=True)]}


def _drawn(model: AnyToAnyPipeline, rows: Sequence[Row], sentences: Sequence[HeldOutSentence], look: Look, seed: int) -> dict[str, Any]:
    """Images of held-out speech: from audio, from its transcript, both also with the style as text, and from the caption."""
    of_label = {row.label: row for row in rows}
    chosen = [one for one in sentences if one.label in of_label]
    if not chosen:
        return {"scores": {}, "rows": 0}
    wanted = [of_label[one.label] for one in chosen]
    ways: dict[str, list[Any]] = {
        name: [] for name in ("from_sound", "from_sound_and_style", "from_words", "from_words_and_style", "from_text")
    }
    for place, (one, row) in enumerate(zip(chosen, wanted, strict=True), seed):
        style, words = f"{row.style} style", model(target="text", audio=one.wave, seed=place).text or ""
        ways["from_sound"].append(model(target="image", audio=one.wave, source="audio", seed=place).images[0])
        ways["from_sound_and_style"].append(model(style, target="image", audio=one.wave, source="audio", seed=place).images[0])
        for name, text in (("from_words", words), ("from_words_and_style", f"{words}, {style}")):
            ways[name].append(_picture_of(model, text, place) if normalised(words) else BLANK)
        ways["from_text"].append(model(row.caption, target="image", seed=place).images[0])
    return {"scores": {name: dict(look(wanted, images)) for name, images in ways.items()}, "rows": len(chosen)}


def _picture_of(model: AnyToAnyPipeline, heard: str, seed: int) -> Any:
    """The image of a transcript; a blank one if it is too long for a caption."""
    try:
        return model(heard, target="image", seed=seed).images[0]
    except ValueError as error:
        logger.warning("%r counts as a blank image: %s", heard, error)
        return BLANK


def _joint(model: AnyToAnyPipeline, rows: Sequence[Row], hear: Hear, look: Look, seed: int) -> dict[str, Any]:
    """Image and speech generated together from a caption: is each right, and do they agree?"""
    images, heard = [], []
    for place, row in enumerate(rows):
        made = model(row.caption, target=["image", "audio"], seed=seed + place)
        images.append(made.images[0])
        heard.append(hear(made.audio[0]))
    labels = sorted({row.label for row in rows})
    by_label, meant = {row.label: row for row in rows}, [nearest_label(text, labels) for text in heard]
    agreed = look(
        [by_label.get(label, row) for label, row in zip(meant, rows, strict=True)],
        [image if label else BLANK for label, image in zip(meant, images, strict=True)],
    )
    return {
        "scores": {"image": dict(look(rows, images)), "speech": error_rate([row.caption for row in rows], heard), "agreement": dict(agreed)}
    }
