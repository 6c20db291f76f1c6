"""The page on a folder of shards: right counts, escaped text, media shown, foreign tokenizers refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from maskgen.data.build.tokenize import tokenize
from maskgen.data.shards.format import json_bytes, write_shard
from maskgen.data.shards.manifest import Index, read_index, write_index
from maskgen.evaluation.html import waveform
from maskgen.evaluation.inspect import inspect_shards
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer

SAMPLE = Path(__file__).parents[2] / "data" / "emoji" / "sample"


def test_raw_shards_are_counted_and_shown(tmp_path: Path) -> None:
    report = inspect_shards(SAMPLE, tmp_path, shown=3)
    counts = read_index(SAMPLE).counts
    assert {split: found["samples_counted"] for split, found in report["splits"].items()} == counts
    assert report == json.loads((tmp_path / "inspect.json").read_text())
    train = report["splits"]["train"]
    assert train["fields"] == {"png": counts["train"]}
    assert sum(train["attributes"]["style"].values()) == counts["train"]
    page = (tmp_path / "inspect.html").read_text()
    assert page.count("data:image/png") == sum(min(3, count) for count in counts.values())


def test_a_limit_counts_fewer_the_same_ones_always(tmp_path: Path) -> None:
    first, second = (inspect_shards(SAMPLE, tmp_path / name, limit=5) for name in ("a", "b"))
    assert {**first, "folder": ""} == {**second, "folder": ""}
    assert first["splits"]["train"]["samples_counted"] == 5


def test_token_shards_show_usage_and_refuse_another_tokenizer(tmp_path: Path, tiny_text: TextTokenizer, tiny_image: ImageTokenizer) -> None:
    tokenizers: dict[str, Tokenizer] = {"text": tiny_text, "image": tiny_image}
    tokenize(SAMPLE, tmp_path / "tokens", tokenizers, report=lambda _: None)
    report = inspect_shards(tmp_path / "tokens", tmp_path / "page", {"image": tiny_image}, shown=2)
    usage = report["splits"]["train"]["code_usage"]
    assert set(usage) == {"text level 0", "image level 0", "image level 1"}
    assert all(0 < found["used"] <= 1 and found["perplexity"] >= 1 for found in usage.values())
    assert report["splits"]["train"]["lengths"]["image cells"]["median"] == 64
    assert "data:image/png" in (tmp_path / "page" / "inspect.html").read_text()


def test_text_of_the_data_is_no_markup(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    entry = write_shard(tmp_path / "train-000000.tar", "train", [("a", {"json": json_bytes({"captions": [bad], "label": bad})})])
    write_index(tmp_path, Index(kind="raw", shards=(entry,)))
    inspect_shards(tmp_path, tmp_path / "page")
    page = (tmp_path / "page" / "inspect.html").read_text()
    assert bad not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("samples", [1, 7, 5000])
def test_a_waveform_spans_the_wave(samples: int) -> None:
    wave = np.sin(np.linspace(0, 60, samples)).astype(np.float32)
    drawn = waveform(wave, wide=50)
    assert drawn.count("M") == min(50, samples)
