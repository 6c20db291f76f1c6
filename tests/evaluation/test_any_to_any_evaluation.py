"""`maskgen evaluate any`: what captions say, what was heard, and a report that no wordless caption ends."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskgen.cli.main import main
from maskgen.data.corpora.emoji_captions import captions
from maskgen.evaluation.any_to_any import (
    BLANK,
    DIRECTIONS,
    HeldOutSentence,
    evaluate_any_to_any,
    nearest_label,
)
from maskgen.evaluation.image.corpus import Corpus, Row
from maskgen.evaluation.image.emoji_captions import CaptionParts, caption_scores, parts_of
from maskgen.io.audio import Waveform
from maskgen.pipelines.any_to_any import AnyToAnyPipeline

LABELS = [
    "woman astronaut: dark skin tone",
    "man: medium skin tone, red hair",
    "kiss: woman, man, light skin tone, dark skin tone",
    "teapot",
]
needs_words = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("jiwer", "whisper_normalizer")),
    reason="words are compared with maskgen[speech-eval]",
)
WAVE = Waveform(samples=np.zeros((1, 160), np.float32), sample_rate_hz=16_000)


@pytest.mark.parametrize(
    ("label", "tone"), zip(LABELS, ["dark", "medium", "light and dark", None], strict=True)
)  # fmt: skip
def test_a_corpus_caption_is_taken_apart(label: str, tone: str | None) -> None:
    full, bare, *_ = captions(label, "flat", [], "key")
    found = parts_of(full)
    assert (found.tone, found.style) == (tone, "flat")
    assert tone is None or ("skin" not in found.subject and tone not in found.subject)
    assert parts_of(bare) == CaptionParts(found.subject, tone, None)


def test_scores_count_each_part() -> None:
    wanted = ["a man with red hair and dark skin, noto style", "a teapot, flat style"]
    said = ["a man with red hair and light skin, noto style", "a teapot, 3d style"]
    found = caption_scores(wanted, said)
    assert found == {"rows": 2, "exact": 0.0, "subject": 1.0, "tone": 0.0, "style": 0.5, "subject_and_tone": 0.5}


@needs_words
def test_the_nearest_label_shares_most_words_and_silence_has_none() -> None:
    assert nearest_label("a red heart I think", ["heart", "red heart", "red apple"]) == "red heart"
    assert nearest_label("...", ["heart"]) == ""


class Planted(AnyToAnyPipeline):
    """Says given captions of pictures, hears given words in sounds, and draws a picture that tells who asked."""

    def __init__(self, said: Sequence[str], heard: str) -> None:
        self.said, self.heard, self.asked = list(said), heard, list[tuple[Any, ...]]()

    def __call__(
        self, prompt: Any = None, *, target: Any, image: Any = None, audio: Any = None, source: Any = "words", seed: int = 0, **options: Any
    ) -> Any:
        targets = (target,) if isinstance(target, str) else tuple(target)
        self.asked.append((targets, prompt, image is not None, source == "audio"))
        caption = self.said[seed] if image is not None else self.heard if audio is not None else prompt
        if "audio" in targets and not any(letter.isalnum() for letter in caption):
            raise ValueError("there is nothing to speak")
        picture = Image.new("RGB", (8, 8), "black") if "image" in targets else None
        return SimpleNamespace(text=caption, images=[picture], audio=[WAVE] if "audio" in targets else [])

    def align(self, audio: Waveform, texts: Sequence[str]) -> Any:
        starts = {"transcript": SimpleNamespace(starts_s=(0.1, 0.2, 0.3, 0.4))}
        found = [SimpleNamespace(place=place, candidate=starts) for place in range(len(texts))]
        return sorted(found, key=lambda one: "cat" not in texts[one.place])


def report_of(
    model: Planted, tmp_path: Path, heard: str, only: Sequence[str] = DIRECTIONS
) -> tuple[dict[str, Any], list[list[Image.Image]]]:
    rows = [
        Row(key=f"k{n}", label=name, caption=f"a {name}, flat style", style="flat", tone=0, group="x")
        for n, name in enumerate(["cat", "dog"])
    ]
    seen: list[list[Image.Image]] = []

    def look(wanted: Sequence[Row], images: Sequence[Image.Image]) -> dict[str, float]:
        seen.append(list(images))
        return {"rows": float(len(wanted))}

    pictures = Corpus(rows, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    sentences = [HeldOutSentence("This is a cat.", WAVE, "cat", (0.1, 0.25, 0.3, 0.9))]
    proposers = {"another": lambda _: ["", "this is a dog", "this is a cat", "..."]}
    report = evaluate_any_to_any(model, pictures, sentences, {"listener": lambda _: heard}, look, tmp_path / "out", 0, only, proposers)
    assert json.loads((tmp_path / "out/directions.json").read_text()) == report
    return report, seen


@needs_words
def test_a_good_model_scores_full_marks(tmp_path: Path) -> None:
    model = Planted(["a cat, flat style", "a dog, flat style"], "this is a cat")
    report, seen = report_of(model, tmp_path, "a cat, flat style")
    assert report["image > text"]["scores"]["exact"] == 1.0
    assert report["speech > text"]["scores"]["model"]["wer"] == 0.0
    wers = [report["speech > text"]["scores"][name]["wer"] for name in ("another", "another, rescored", "another, its best")]
    assert wers == [1.0, 0.0, 0.0]
    assert report["speech > text"]["scores"]["told from all sentences"] == {"share": 1.0, "chance": 1.0}
    times = report["speech > text"]["scores"]["times of known words"]
    assert times == pytest.approx({"median_s": 0.025, "within_0.1_s": 0.75})
    assert report["image > speech"]["scores"]["label_heard"] == 0.5
    assert all(BLANK not in images for images in seen)
    assert (("image",), None, False, True) in model.asked


@needs_words
def test_only_the_directions_asked_for_are_scored(tmp_path: Path) -> None:
    model = Planted(["a cat, flat style", "a dog, flat style"], "this is a cat")
    report, _ = report_of(model, tmp_path, "a cat, flat style", ["speech > image"])
    assert set(report["speech > image"]["scores"]) == {
        "from_sound",
        "from_sound_and_style",
        "from_words",
        "from_words_and_style",
        "from_text",
    }
    assert (("image",), "flat style", False, True) in model.asked
    assert (("image",), "this is a cat, flat style", False, False) in model.asked
    assert not {"image > text", "speech > text", "image > speech", "text > image, speech"} & set(report)
    assert not any(asked == "audio" for targets, *_ in model.asked for asked in targets)
    with pytest.raises(ValueError, match="'speech > smell'"):
        report_of(model, tmp_path, "", ["speech > smell"])


@needs_words
def test_heard_words_too_long_for_a_caption_are_a_blank_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Short(Planted):
        def __call__(self, targets: Sequence[str], *, text: Any = None, **others: Any) -> Any:
            if text is not None and len(text) > 30:
                raise ValueError("too many text tokens")
            return super().__call__(targets, text=text, **others)

    report, seen = report_of(Short(["a cat", "a dog"], "this is a cat " * 3), tmp_path, "a cat", ["speech > image"])
    blank = [images == [BLANK] for images in seen]
    assert dict(zip(report["speech > image"]["scores"], blank, strict=True)) == {
        "from_sound": False,
        "from_sound_and_style": False,
        "from_words": True,
        "from_words_and_style": True,
        "from_text": False,
    }
    assert "too many text tokens" in caplog.text


@needs_words
@pytest.mark.parametrize("wordless", ["", "  ", "...", "\N{HORIZONTAL ELLIPSIS}"])
def test_captions_and_recordings_without_a_word_are_wrong_and_end_nothing(tmp_path: Path, wordless: str) -> None:
    report, seen = report_of(Planted([wordless, "a dog, flat style"], wordless), tmp_path, "")
    assert report["image > speech"]["scores"]["label_heard"] == 0.0
    assert report["image > text"]["scores"]["subject"] == 0.5
    assert report["speech > text"]["scores"]["model"]["wer"] == 1.0
    *_, from_words, from_words_and_style, _, agreement, _ = seen
    assert from_words == from_words_and_style == [BLANK]
    assert agreement == [BLANK, BLANK]


def test_shards_without_the_held_out_split_are_refused(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "any", "--model", str(tiny_bundle), "--raw", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
