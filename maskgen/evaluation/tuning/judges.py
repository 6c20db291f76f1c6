"""Judges for the search of generation settings: retrieval for images, Whisper for speech."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from maskgen.evaluation.image.corpus import Corpus, Row
from maskgen.evaluation.image.features import image_features
from maskgen.evaluation.image.judges import load_panel
from maskgen.evaluation.image.pixels import to_rgb_bytes
from maskgen.evaluation.image.scores import right, score_summary
from maskgen.evaluation.speech.asr import text_errors
from maskgen.evaluation.speech.judges import SpeechPanel
from maskgen.evaluation.tuning.tasks import JudgePictures, Listen


def retrieval_judge(corpora: dict[str, Corpus], seeds: Sequence[int], cache: Path | None) -> JudgePictures:
    """A judge that gives the reciprocal rank of each image's own label, averaged over the judges of `maskgen evaluate image`.

    Args:
        corpora: `read_corpus(folder)`.
        seeds: One judge each.
        cache: Folder of trained judges.

    Raises:
        ImportError: If the extra `eval` is not installed.
    """
    panel = load_panel(corpora, seeds, cache)

    def judge(rows: Sequence[Row], pictures: Sequence[Image.Image]) -> list[float]:
        pixels = to_rgb_bytes(list(pictures))
        ranks = torch.stack([verdict.rank for verdict in panel.verdicts(rows, pixels, image_features(pixels))])
        return [float(one) for one in (1 / (ranks.double() + 1)).mean(dim=0)]

    return judge


def picture_scores(
    corpora: dict[str, Corpus], cache: Path | None, seeds: Sequence[int] = (0,)
) -> Callable[[Sequence[Row], Sequence[Image.Image]], dict[str, float]]:
    """A judge that gives recall at 1 and 5, tone, style and all of them at once for images and the rows that they should show.

    Args:
        corpora: `read_corpus(folder)`.
        cache: Folder of trained judges.
        seeds: One judge each; scores are their means.

    Raises:
        ImportError: If the extra `eval` is not installed.
    """
    panel = load_panel(corpora, seeds, cache)

    def look(rows: Sequence[Row], pictures: Sequence[Image.Image]) -> dict[str, float]:
        pixels = to_rgb_bytes(list(pictures))
        scores = score_summary([right(one, rows, panel.styles) for one in panel.verdicts(rows, pixels, image_features(pixels))], rows)
        return {name: value["mean"] for name, value in scores["all"].items() if value is not None}

    return look


def whisper_listener(cache: Path | None) -> Listen:
    """A judge that gives the word edits between a text and the transcript of Whisper base.

    Args:
        cache: Folder of findings.

    Raises:
        ImportError: If the extra `speech-eval` is not installed; checked now, not at the first sentence.
    """
    panel = SpeechPanel(["whisper_base"], cache)
    panel.load()
    return lambda text, wave: text_errors(text, panel(wave).transcripts["whisper_base"])
