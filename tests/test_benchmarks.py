"""The comparisons with peers run, and count what they say that they count."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from maskgen.evaluation.image.corpus import Row

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("side_by_side")


def test_sides_take_turns_and_the_table_and_the_json_tell_medians_and_ranges(
    side_by_side: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls: list[str] = []
    clock = iter([0.0, 1.0, 0.0, 4.0, 0.0, 6.0, 0.0, 2.0, 0.0, 3.0, 0.0, 9.0])
    monkeypatch.setattr(side_by_side.time, "perf_counter", lambda: next(clock))
    found = side_by_side.compare("waiting", lambda: calls.append("ours"), lambda: calls.append("theirs"), 3)
    assert calls == ["ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert (found.ours_s, found.theirs_s, found.ratios) == ([1.0, 2.0, 3.0], [4.0, 6.0, 9.0], [4.0, 3.0, 3.0])
    result = side_by_side.report("Waiting", {"rows": 1}, [found], 1e9)
    side_by_side.written([result], tmp_path / "found.json")
    assert "3.00 [3.00 4.00]" in capsys.readouterr().out
    row = json.loads((tmp_path / "found.json").read_text())[0]["comparisons"][0]
    assert (row["ratio"], row["ours"]["median_s"], row["ours"]["range_s"]) == (3.0, 2.0, [1.0, 3.0])


def test_operations_are_counted_whichever_library_multiplies(side_by_side: ModuleType) -> None:
    from maskgen.networks.packed_linear import product

    x, weight, query = torch.randn(2, 5, 8), torch.randn(3, 8), torch.randn(1, 2, 7, 4)
    with torch.no_grad():
        assert side_by_side.flops_of(lambda: product(x, weight)) == 2 * 2 * 5 * 8 * 3
        assert side_by_side.flops_of(lambda: torch.nn.functional.linear(x, weight)) == 2 * 2 * 5 * 8 * 3
        attend = torch.nn.functional.scaled_dot_product_attention
        assert side_by_side.flops_of(lambda: attend(query, query, query)) == 2 * (2 * 2 * 7 * 7 * 4)
    assert side_by_side.peak_flops(seconds_each=0.0) == 0.0
    assert side_by_side.peak_flops(seconds_each=0.01) > 1e8


def test_every_cheaper_way_draws_the_same_rows_with_the_same_seeds(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    cheaper = importlib.import_module("cheaper")
    monkeypatch.delitem(cheaper.WAYS, "int8")  # wants torchao
    monkeypatch.setattr(cheaper, "tqdm", iter)
    for name, changes in cheaper.WAYS.items():
        if "steps" in changes:
            monkeypatch.setitem(cheaper.WAYS, name, {**changes, "steps": changes["steps"][:2]})
    rows = [
        Row(key=f"k{number}", label="x", caption=caption, style="flat", tone=0, group="x")
        for number, caption in enumerate(["a red heart", "a cat", "a green leaf"])
    ]
    ways = cheaper.ways_of(str(tiny_bundle), str(tiny_bundle), torch.float32)
    assert "shortcut 2" not in ways, "the bundle has none"
    cheaper.draw(ways, rows, 2)
    own = ways["the bundle's own"]
    assert all((len(way.pictures), len(way.times_s)) == (3, 2) for way in ways.values())
    alone = own.pipeline.generate([own.pipeline.text_codes("a green leaf")], "image", [2], own.settings)
    assert alone.media[0].tobytes() == own.pictures[2].tobytes()
    assert ways["refresh 4"].passes < own.passes


def test_amused_runs_at_a_tiny_size_and_agrees_with_diffusers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], side_by_side: ModuleType
) -> None:
    pytest.importorskip("diffusers")
    amused = importlib.import_module("amused")
    monkeypatch.setattr(amused, "peak_flops", lambda *_: 1e12)
    result = amused.measured("tiny", 2, 1, "cpu", torch.float32, side=4)
    end_to_end, sampler = result["comparisons"]
    assert float(result["settings"]["logits differ by"]) < 1e-4
    assert 0 < end_to_end["ours"]["flops"] < end_to_end["theirs"]["flops"]
    assert sampler["ours"]["flops"] == sampler["theirs"]["flops"] == 0
    assert "end to end" in capsys.readouterr().out


def test_llada_writes_the_tokens_of_its_authors_loop(monkeypatch: pytest.MonkeyPatch, side_by_side: ModuleType) -> None:
    pytest.importorskip("transformers")
    llada = importlib.import_module("llada")
    monkeypatch.setattr(llada, "peak_flops", lambda *_: 1e12)
    result = llada.measured("tiny", 2, 1, "cpu", torch.float32, answer=64, steps=16)  # raises where a token differs
    assert float(result["settings"]["logits differ by"]) < 1e-5
    assert result["comparisons"][0]["ours"]["flops"] < result["comparisons"][0]["theirs"]["flops"]


@pytest.mark.parametrize(("script", "package"), [("soundstorm", "soundstorm_pytorch"), ("muse", "muse_maskgit_pytorch")])
def test_a_missing_peer_is_named_with_its_installation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], side_by_side: ModuleType, script: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "fairseq", ModuleType("fairseq"))
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(script).main()
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert package.replace("_", "-") in told
    assert "uv pip install" in told


@pytest.mark.slow
def test_the_gpu_script_and_the_lengths_run_on_a_cpu(tmp_path: Path) -> None:
    env = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable}
    done = subprocess.run(["bash", str(FOLDER / "gpu.sh"), "--dry"], env=env, capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found == json.loads(done.stdout)
    assert all(one["median_s"] > 0 and "error" not in one for one in [*found["training"], *found["decode"]])
    sizes = ["--dim", "64", "--layers", "1", "--cells", "64", "1156", "1600", "--json", str(tmp_path / "lengths.json")]
    subprocess.run([sys.executable, str(FOLDER / "lengths.py"), *sizes], env=env, check=True)
    masks = [one["mask_bytes"] for one in json.loads((tmp_path / "lengths.json").read_text())]
    assert max(masks) <= 2**20, "the mask of long rows does not grow"
