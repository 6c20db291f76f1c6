"""The whole evaluation on a planted corpus: coloured squares in two drawing styles, with features that need no package."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskgen.data.shards.format import json_bytes, png_bytes, write_shard
from maskgen.data.shards.manifest import Index, write_index
from maskgen.evaluation.image import baselines, judges, probe, retrieval
from maskgen.evaluation.image import evaluate as image
from maskgen.evaluation.image.corpus import Corpus, read_corpus
from maskgen.evaluation.image.evaluate import evaluate_image_model
from maskgen.evaluation.image.frechet import principal
from maskgen.evaluation.image.judges import ImageVerdict
from maskgen.evaluation.image.scores import right, score_summary

SKIN = [(247, 222, 206), (243, 210, 162), (213, 171, 136), (175, 126, 87), (124, 83, 62)]
HELD_OUT = {(subject, subject % 5 + 1) for subject in range(6)}


def _picture(subject: int, tone: int, style: str) -> np.ndarray:
    pixels = np.full((64, 64, 3), 255, dtype=np.uint8)
    pixels[4 + 9 * subject : 12 + 9 * subject, 4:60] = SKIN[tone - 1]
    if style == "striped":
        pixels[:, ::2] = pixels[:, ::2] // 2
    return pixels


def _members(subject: int, tone: int, style: str) -> tuple[str, dict[str, bytes]]:
    label = f"subject {subject}: tone {tone}"
    info = {"label": label, "captions": [f"{label}, {style} style"], "style": style, "tone": tone, "group": "people-body"}
    return f"{style}-{subject}-{tone}", {"png": png_bytes(_picture(subject, tone, style)), "json": json_bytes(info)}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    cells = [(subject, tone, style) for style in ("plain", "striped") for subject in range(6) for tone in range(1, 6)]
    held_out = [_members(*cell) for cell in cells if cell[:2] in HELD_OUT]
    train = [_members(*cell) for cell in cells if cell[:2] not in HELD_OUT]
    shards = [write_shard(folder / f"{split}-000000.tar", split, rows) for split, rows in (("train", train), ("A", held_out))]
    write_index(folder, Index(kind="raw", shards=tuple(shards)))
    return folder


def _picture_features(pixels: torch.Tensor, cache: Path | None = None) -> torch.Tensor:
    """Features that see the rows of a picture."""
    small = torch.nn.functional.adaptive_avg_pool2d(pixels.float(), (64, 2)).flatten(1)
    return torch.nn.functional.pad(small, (0, 1280 - small.shape[1]))


def _text_features(texts: list[str], cache: Path | None = None) -> torch.Tensor:
    """Embeddings that know the words of a text."""

    def word(text: str) -> torch.Tensor:
        return torch.randn(384, generator=torch.Generator().manual_seed(int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)))

    parts = [text.replace("subject ", "subject").replace("tone ", "tone").split() for text in texts]
    return torch.nn.functional.normalize(torch.stack([torch.stack([word(part) for part in found]).sum(0) for found in parts]), dim=-1)


@pytest.fixture(scope="module", autouse=True)
def _planted() -> Iterator[pytest.MonkeyPatch]:
    """Features that need no package, and a basis that needs no large matrix."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (image, judges):
            patch.setattr(module, "image_features", _picture_features)
        for module in (baselines, judges):
            patch.setattr(module, "text_features", _text_features)
        patch.setattr(image, "principal", lambda features: principal(features[:, :16]))
        patch.setattr(image.Basis, "__call__", lambda basis, features: (features[:, :16].double() - basis.mean) @ basis.components)
        for module in (retrieval, probe):
            patch.setattr(module, "BATCH_SIZE", 8)
        yield patch


@pytest.fixture(scope="module")
def evaluated(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished evaluation of the perfect model: its folder and its report."""
    out = tmp_path_factory.mktemp("out")
    return out, _evaluated(raw, out)


def _truth(captions: list[str], seeds: list[int]) -> list[Image.Image]:
    """A model that draws exactly what is asked."""
    parts = [caption.replace(":", "").replace(",", "").split() for caption in captions]
    return [Image.fromarray(_picture(int(part[1]), int(part[3]), part[4])) for part in parts]


def _evaluated(raw: Path, out: Path, **options: Any) -> dict[str, Any]:
    return evaluate_image_model(raw, out, generate=_truth, reconstruct=list, seeds=(0, 1), cache=out / "cache", **options)


def test_a_perfect_model_scores_as_the_real_pictures_and_the_floor_lies_below(evaluated: tuple[Path, dict[str, Any]]) -> None:
    out, report = evaluated
    sets = report["splits"]["A"]["row_sets"]
    assert list(sets) == ["real", "reconstruction", "generated", "copy", "shuffled"]
    assert sets["generated"] == sets["real"] == sets["reconstruction"]
    assert sets["real"]["scores"]["all"]["tone"]["mean"] == 1.0
    assert sets["copy"]["scores"]["all"]["all_right"]["mean"] < 0.2
    assert sets["copy"]["nearest_training_image"]["pixel"]["share_near_copy"] == 1.0
    assert sets["shuffled"]["scores"]["all"]["all_right"]["mean"] < 0.3
    assert sets["real"]["nearest_training_image"]["pixel"]["share_nearer_than_real"] == 0.0
    assert json.loads((out / "report.json").read_text()) == report


def test_the_page_shows_every_row_with_its_pictures_and_nothing_beside_it(raw: Path, evaluated: tuple[Path, dict[str, Any]]) -> None:
    page = (evaluated[0] / "report.html").read_text()
    corpus = read_corpus(raw)["A"]
    assert all(row.caption in page for row in corpus.rows)
    assert page.count("data:image/png;base64,") == 4 * len(corpus.rows)
    assert "http" not in page
    assert "FD-EffLite0" in page


def test_a_second_evaluation_reads_the_judges_and_says_the_same(
    raw: Path, evaluated: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, first = evaluated
    for module, name in ((judges.retrieval, "train_retrieval"), (judges.emoji_tone, "train_tone"), (judges.emoji_style, "train_style")):
        monkeypatch.setattr(module, name, lambda *arguments: pytest.fail("a judge was trained twice"))
    assert _evaluated(raw, out)["splits"] == first["splits"]


def test_a_limit_takes_the_same_rows_in_the_same_order(raw: Path) -> None:
    corpus = read_corpus(raw)["A"]
    few, more = corpus.limited(3), corpus.limited(7)
    keys = [row.key for row in more.rows]
    assert len(few.rows) == 3
    assert [key for key in keys if key in {row.key for row in few.rows}] == [row.key for row in few.rows]
    assert Corpus(corpus.rows[::-1], corpus.pixels.flip(0)).limited(7).rows[::-1] == more.rows


def test_shuffling_leaves_no_picture_with_its_row_and_loses_none(raw: Path) -> None:
    corpus = read_corpus(raw)["A"]
    moved = baselines.shuffled(corpus)
    assert not (moved.pixels == corpus.pixels).flatten(1).all(dim=1).any()
    assert torch.equal(moved.pixels.flatten(1).sum(1).sort().values, corpus.pixels.flatten(1).sum(1).sort().values)


@pytest.mark.parametrize("splits", [("E",), ("train",), ()])
def test_a_split_that_is_not_held_out_is_refused(raw: Path, tmp_path: Path, splits: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"wanted some of \['A'\]"):
        evaluate_image_model(raw, tmp_path / "out", splits=splits)
    assert not (tmp_path / "out").exists()


def test_a_model_that_drops_a_picture_is_refused(raw: Path, evaluated: tuple[Path, dict[str, Any]]) -> None:
    cache, broken = evaluated[0] / "cache", lambda captions, seeds: _truth(captions, seeds)[1:]
    with pytest.raises(ValueError, match="found 11 pictures of 'generated', wanted one for each of 12"):
        evaluate_image_model(raw, evaluated[0] / "broken", generate=broken, seeds=(0,), cache=cache)


def test_scores_count_each_measure_over_the_rows_where_it_applies(raw: Path) -> None:
    rows = [row for row in read_corpus(raw)["A"].rows if row.style == "plain"][:4]
    tones = torch.tensor([row.tone for row in rows])
    verdict = ImageVerdict(torch.tensor([0, 3, 5, 0]), torch.zeros(4, dtype=torch.long), tones.clone(), torch.tensor([0, 0, 0, 1]))
    verdict.tone[1] += 1
    table = score_summary([right(verdict, rows, ["plain", "striped"])], rows)
    means = {name: score["mean"] for name, score in table["all"].items()}
    assert means == {"recall_at_1": 0.5, "recall_at_5": 0.75, "tone": 0.75, "style": 0.75, "all_right": 0.25}
    assert table["by_tone"][str(int(tones[0]))]["all_right"]["rows"] == 1
