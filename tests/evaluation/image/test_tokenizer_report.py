"""The tokenizer report on tokenizers whose losses are known."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maskgen.data.shards.format import json_bytes, png_bytes, write_shard
from maskgen.data.shards.manifest import Index, write_index
from maskgen.evaluation.image.tokenizer import code_usage, comparison, evaluate_tokenizer, round_trip, tokenizer_scores
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.space import Kind


class Grey(Tokenizer):
    """Two levels of an 8 x 8 grid: the grey of a patch in steps of 16, and the rest; re-encoding moves `slip` codes of the first level."""

    kind: ClassVar[Kind] = "image"
    num_levels = 2
    codebook_size = 16
    fingerprint = "grey"

    def __init__(self, slip: int = 0) -> None:
        self.slip = slip
        self.calls = 0

    def read(self, path: Path | str) -> Any:
        return Image.open(path)

    def write(self, media: Any, path: Path | str) -> None:
        media.save(path)

    def encode(self, media: Sequence[Any]) -> list[Tensor]:
        self.calls += 1
        grids = [torch.from_numpy(np.asarray(picture)[::8, ::8, 0].astype(np.int64)) for picture in media]
        codes = [torch.stack([grid // 16, grid % 16]) for grid in grids]
        if self.calls % 2 == 0:
            for one in codes:
                one[0].view(-1)[: self.slip] = (one[0].view(-1)[: self.slip] + 1) % 16
        return codes

    def decode(self, codes: Sequence[Tensor]) -> list[Any]:
        grids = [(one[0] * 16 + one[1]).to(torch.uint8).repeat_interleave(8, 0).repeat_interleave(8, 1) for one in codes]
        return [Image.fromarray(grid.numpy()).convert("RGB") for grid in grids]

    def save(self, folder: Path | str) -> str:
        return self.fingerprint


def _pictures(count: int) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(0)
    return Grey().decode([torch.randint(0, 16, (2, 8, 8), generator=generator) for _ in range(count)])


def test_a_perfect_tokenizer_loses_nothing_and_every_code_survives() -> None:
    tokenizer, pictures = Grey(), _pictures(5)
    scores = tokenizer_scores(tokenizer, pictures, round_trip(tokenizer, pictures, batch_size=2))
    assert scores["l1"] == 0.0
    assert scores["psnr_db"] == pytest.approx(100.0)
    assert scores["ssim"] == pytest.approx(1.0, abs=1e-4)
    assert scores["grid"] == [8, 8]
    assert [level["survival"] for level in scores["levels"]] == [1.0, 1.0]


def test_a_tokenizer_that_slips_reports_the_share_that_slipped_on_its_level() -> None:
    tokenizer, pictures = Grey(slip=16), _pictures(3)
    scores = tokenizer_scores(tokenizer, pictures, round_trip(tokenizer, pictures))
    assert [level["survival"] for level in scores["levels"]] == [0.75, 1.0]


def test_errors_are_those_of_a_known_shift() -> None:
    tokenizer, pictures = Grey(), _pictures(3)
    trip = round_trip(tokenizer, pictures)
    darker = [Image.fromarray(np.asarray(picture) // 2) for picture in pictures]
    wanted = (
        np.mean([np.abs(np.asarray(one).astype(float) - np.asarray(two)).mean() for one, two in zip(pictures, darker, strict=True)]) / 255
    )
    assert tokenizer_scores(tokenizer, darker, trip)["l1"] == pytest.approx(wanted, rel=1e-4)


def test_usage_of_known_counts() -> None:
    even = code_usage(torch.tensor([[0, 1], [2, 3]]), codebook_size=8)
    assert even == {"used": 0.5, "perplexity": pytest.approx(4.0)}
    assert code_usage(torch.zeros(3, 4, dtype=torch.long), codebook_size=8) == {"used": 0.125, "perplexity": pytest.approx(1.0)}


def test_sheet_holds_every_original_beside_its_reconstruction() -> None:
    reds, blues = [Image.new("RGB", (16, 16), "red")] * 10, [Image.new("RGB", (8, 8), "blue")] * 10
    sheet = np.asarray(comparison(reds, blues))
    assert (sheet == [255, 0, 0]).all(axis=2).sum() == (sheet == [0, 0, 255]).all(axis=2).sum() == 10 * 64


def test_report_and_sheet_are_written(tmp_path: Path) -> None:
    info = {"label": "x", "captions": ["x"], "style": "plain", "tone": 0, "group": "symbols"}
    rows = [(f"k{place}", {"png": png_bytes(np.asarray(one)), "json": json_bytes(info)}) for place, one in enumerate(_pictures(4))]
    shards = tuple(write_shard(tmp_path / f"{split}-000000.tar", split, rows) for split in ("train", "A"))
    write_index(tmp_path, Index(kind="raw", shards=shards))
    report = evaluate_tokenizer(Grey(), tmp_path, tmp_path / "out", limit=3)
    assert report["pictures"] == 3
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text()) == report
    assert Image.open(tmp_path / "out" / "tokenizer.png").size[0] > 3 * 128


def test_another_kind_of_tokenizer_is_refused() -> None:
    class Words(Grey):
        kind: ClassVar[Kind] = "text"

    with pytest.raises(ValueError, match="found a tokenizer of text, wanted one of images"):
        round_trip(Words(), _pictures(1))
