"""The comparisons of text models and of training steps run at a tiny size, and say what was trained on what."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from maskgen.data.shards.format import json_bytes, npy_bytes, write_shard
from maskgen.data.shards.manifest import Index, write_index
from maskgen.tokens.space import Modality, TokenSpace

FOLDER = Path(__file__).parents[1] / "benchmarks"
SPACE = TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=20)])


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    chance = np.random.default_rng(0)
    texts = [chance.integers(0, 20, (1, 3 + row % 9)).astype(np.int16) for row in range(40)]
    rows = [(f"row-{row:02d}", {"json": json_bytes({}), "text.npy": npy_bytes(codes)}) for row, codes in enumerate(texts)]
    found = [write_shard(tmp_path / f"{split}-000000.tar", split, some) for split, some in (("train", rows), ("validation", rows[:6]))]
    write_index(tmp_path, Index(kind="tokens", shards=tuple(found), space=SPACE.to_dict(), fingerprints={"text": "a"}))
    return tmp_path


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module(name)


@pytest.mark.slow
def test_text_models_train_on_the_same_tokens_and_are_all_scored(
    shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    models = script("text_models", monkeypatch)
    out = shards / "found.json"
    words = f"text_models --shards {shards} --tokens 300 --batch 4 --dim 16 --layers 1 --heads 1 --masks 4 --pseudo 2 --samples 3"
    monkeypatch.setattr(sys, "argv", [*words.split(), "--sample-steps", "3", "--json", str(out)])
    models.main()
    found = json.loads(out.read_text())[0]
    assert [row["model"] for row in found["rows"]] == ["masked diffusion", "causal Llama", "BERT, 15 % masks", "hybrid noise"]
    assert len({row["tokens"] for row in found["rows"]}) == 1
    for row in found["rows"]:
        assert row["tokens"] >= 300
        assert 1.5 < row["score"]["nats_with_length"] < 6
        assert row["samples"]["unigram_entropy"] >= 0
    assert found["rows"][1]["score"]["kind"] == "exact"
    assert "causal Llama" in capsys.readouterr().out


@pytest.mark.slow
def test_training_steps_are_timed_in_turn_and_their_work_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setitem(sys.modules, "muse_maskgit_pytorch", None)
    steps = script("training_step", monkeypatch)
    monkeypatch.setattr(steps, "peak_flops", lambda *_: 1e12)
    options = {"size": "tiny", "device": "cpu", "compile": False, "sparse": False, "autocast": False, "warmup": 0, "rounds": 2}
    args = argparse.Namespace(**options)
    sides = steps.all_sides(args)
    assert "left out: muse-maskgit-pytorch" in capsys.readouterr().err
    before = [parameter.clone() for parameter in sides[0].net.parameters()]
    found = steps.measured(sides, 1, args)
    assert [row["side"] for row in found["rows"]] == ["maskgen", "maskgen, Muon", "ModernBERT"]
    assert all(row["flops"] > 1e6 and 0 < row["range_s"][0] <= row["median_s"] <= row["range_s"][1] for row in found["rows"])
    assert any(not torch.equal(old, new) for old, new in zip(before, sides[0].net.parameters(), strict=True))
