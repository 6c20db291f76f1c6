"""`maskgen new`: what it writes passes its own test in an empty folder, and nothing is overwritten."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders.command_line import refused

import maskgen
from maskgen.cli.main import main
from maskgen.cli.new import FILES, write_skeleton

ROOT = Path(maskgen.__file__).parents[1]


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow if kind != "sampler" else ()) for kind in FILES])
def test_the_test_of_a_skeleton_passes_as_it_is_written(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["new", kind, "first_try", "--into", "mine"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "mine"]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout
    assert " passed" in found.stdout
    assert "skipped" not in found.stdout


@pytest.mark.parametrize("kind", FILES)
def test_a_skeleton_is_in_the_style_of_the_house(kind: str, tmp_path: Path) -> None:
    files = write_skeleton(kind, "surest_first", tmp_path)
    assert {path.name for path in files} == {path.name for path in tmp_path.iterdir()}
    text = "".join(path.read_text() for path in files)
    assert "SurestFirst" in text
    assert "NAME" not in text
    assert "CLASS" not in text.replace("CLASSES", "")
    python = [str(path) for path in files if path.suffix == ".py"]
    options = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    for command in (["check"], ["format", "--check"]):
        found = subprocess.run([sys.executable, "-m", "ruff", *command, *options, *python], capture_output=True, text=True, cwd=tmp_path)
        assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", ["1st", "two words", "a-b", "Upper", "class", "_hidden", "test_it", "größe", "", "../up", "a.b"])
def test_names_that_are_none_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no name for a module" in refused(capsys, "new", "sampler", name, "--into", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["json", "torch", "maskgen", "tokenizers"])
def test_names_that_would_hide_another_module_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the name of another module" in refused(capsys, "new", "sampler", name, "--into", tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("taken", ["first_try.py", "test_first_try.py"])
def test_nothing_is_overwritten(taken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / taken).write_text("mine")
    assert "exists already" in refused(capsys, "new", "tokenizer", "first_try", "--into", tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(taken, "mine")]


def test_unknown_kinds_and_files_in_place_of_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "sampler" in refused(capsys, "new", "pipeline", "mine")
    (tmp_path / "file").touch()
    assert "is no folder" in refused(capsys, "new", "sampler", "mine", "--into", tmp_path / "file")
    with pytest.raises(ValueError, match="no skeleton of a 'house'"):
        write_skeleton("house", "mine", tmp_path)
