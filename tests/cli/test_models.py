"""`maskgen models`, the records behind it, and the table in the docs that is written from them."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from builders.command_line import refused

from maskgen.cli.main import main
from maskgen.cli.models import COLUMNS
from maskgen.interop import families as families_module
from maskgen.interop import fetching
from maskgen.interop.catalogue import commercial_use, model_records, published_record, records_of
from maskgen.interop.families import families
from maskgen.interop.fetching import told
from maskgen.io import memory
from maskgen.io.shipped import shipped

ROOT = Path(__file__).parents[2]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(["models", *arguments])
    return capsys.readouterr().out


def test_the_list_names_every_model_with_its_facts(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    lines = text.splitlines()
    assert all(column in lines[0] for column in COLUMNS)
    for name in ("emoji-64", "heart-16k", "any-64", *(name for family in families() for name in family.hub_ids)):
        assert any(line.startswith(f"  {name} ") for line in lines), name
    [line] = [line for line in lines if "amused/amused-512 " in line]
    assert " ".join(line.split()).endswith("878 3.5 GB 2.0 GB 3.5 GB Apache-2.0 openrail++ with limits")
    assert json.loads(printed(capsys, "--json"))[0]["name"] == "any-64"


def test_one_model_in_depth_stands_beside_the_memory_of_this_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "machine_memory_bytes", lambda: 8_000_000_000)
    text = printed(capsys, "GSAI-ML/LLaDA-8B-Instruct")
    assert "32.1 GB in float32, 16.0 GB in bfloat16, and activations; more than this machine's 8.0 GB" in " ".join(text.split())
    assert "maskgen generate text" in text
    assert "this machine has 8.0 GB" in printed(capsys, "emoji-64")
    every = printed(capsys, "Halton-MaskGIT")
    assert every.count("commercial use") == 6
    assert "--variant 256_tiny" in every


def test_a_folder_is_known_by_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(shipped("models") / "emoji-64", tmp_path / "mine")
    [mine], [theirs] = records_of(str(tmp_path / "mine")), records_of("emoji-64")
    assert replace(mine, name="emoji-64", source="emoji-64", weights_licence="Apache-2.0", commercial="yes") == theirs
    (tmp_path / "mine" / "bundle.json").write_text('{"kind": "image_tokenizer"}')
    assert "holds a image_tokenizer, wanted a model that generates" in refused(capsys, "models", tmp_path / "mine")
    assert "nothing is known of a model 'nope'" in refused(capsys, "models", "nope")


def test_memory_counts_tokenizers_in_float32() -> None:
    family = next(one for one in families() if one.name == "aMUSEd")
    found = published_record(family, "amused/amused-256")
    assert found.million == pytest.approx(873.4)
    assert found.float32_gb == pytest.approx(4 * 0.8729, abs=0.01)
    assert found.bfloat16_gb == pytest.approx(2 * (0.8729 - 0.1462) + 4 * 0.1462, abs=0.01)


def test_every_record_is_of_a_model_that_its_family_names() -> None:
    for family in families():
        for record in (family.tokenizer_millions, family.download_gb):
            assert set(record) <= set(family.hub_ids) | set(family.variants), family.name
        assert all(family.tokenizer_millions.get(name, 0.0) < million for name, million in family.hub_ids.items())
        assert not family.variants or max(family.variants.values()) == pytest.approx(max(family.hub_ids.values()), rel=0.01)


def test_commercial_use_follows_from_the_licence() -> None:
    found = {one.name: one.commercial for one in model_records()}
    assert (found["emoji-64"], found["amused/amused-256"], found["MeissonFlow/Meissonic"]) == ("yes", "with limits", "yes")
    assert found["Alpha-VLLM/Lumina-DiMOO"] == "see the model's card"
    assert commercial_use(replace(families()[0], weights_licence="CC-BY-NC-4.0", non_commercial=True)) == "no"


def test_the_sentence_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = replace(next(one for one in families() if one.name == "LLaDA"), weights_licence="CC-BY-NC-4.0", non_commercial=True)
    for module in (fetching, families_module):
        monkeypatch.setattr(module, "families", lambda: (closed,))
    monkeypatch.setattr(fetching, "machine_memory_bytes", lambda: 8_000_000_000)
    assert told("GSAI-ML/LLaDA-8B-Base") == (
        "LLaDA, weights licensed CC-BY-NC-4.0, no commercial use; on a CPU in float32 they take 32.1 GB of memory, "
        "this machine has 8.0 GB, too little (bfloat16 takes 16.0 GB)"
    )
    monkeypatch.setattr(fetching, "machine_memory_bytes", lambda: None)
    assert told("GSAI-ML/LLaDA-8B-Base").endswith("they take 32.1 GB of memory")
    assert told("owner/name") == ""


def test_memory_is_what_a_container_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP_LIMITS", ())
    whole = memory.machine_memory_bytes()
    assert whole is not None
    assert whole > 2**28
    for text, wanted in (("max", whole), ("1000", 1000), (str(2**62), whole)):
        (tmp_path / "memory.max").write_text(f"{text}\n")
        monkeypatch.setattr(memory, "CGROUP_LIMITS", (tmp_path / "memory.max", tmp_path / "missing"))
        assert memory.machine_memory_bytes() == wanted


def test_the_table_of_the_docs_is_the_one_of_the_records() -> None:
    """Otherwise: uv run python docs/make_models.py."""
    spec = importlib.util.spec_from_file_location("make_models", ROOT / "docs" / "make_models.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.page() == tool.PAGE.read_text(encoding="utf-8")
