"""Bundles: what was saved comes back, and any damage is found."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from maskgen.io.bundle import BUNDLE_FORMAT, CONFIG_FILE, WEIGHTS_FILE, fingerprint_of, load_bundle, read_bundle_record, save_bundle
from maskgen.io.checkpoint import weights
from maskgen.io.files import write_atomic

CONFIG = {"sizes": [1, 2.5], "name": "ünit", "nested": {"flag": True, "none": None}}
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, -2])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "bundle", "demo", CONFIG, TENSORS, {"words.txt": b"one two"})
    return tmp_path / "bundle"


def test_what_was_saved_comes_back(folder: Path) -> None:
    bundle = load_bundle(folder, "demo")
    assert bundle.config == CONFIG
    assert all(torch.equal(bundle.tensors[name], tensor) and bundle.tensors[name].dtype == tensor.dtype for name, tensor in TENSORS.items())
    assert bundle.fingerprint == save_bundle(folder, "demo", CONFIG, TENSORS, {"words.txt": b"one two"})
    assert load_file(folder / WEIGHTS_FILE).keys() == TENSORS.keys()


def test_the_fingerprint_tells_every_difference(tmp_path: Path) -> None:
    contents = [("x", {"n": 1}, 1.0), ("y", {"n": 1}, 1.0), ("x", {"n": 2}, 1.0), ("x", {"n": 1}, 2.0)]
    found = [
        save_bundle(tmp_path / str(number), kind, config, {"a": torch.tensor([value])})
        for number, (kind, config, value) in enumerate(contents)
    ]
    assert len(set(found)) == 4


def test_a_bundle_without_tensors_has_no_weights_file(tmp_path: Path) -> None:
    save_bundle(tmp_path, "demo", {}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG_FILE]
    assert load_bundle(tmp_path, "demo").tensors == {}


def test_saving_leaves_no_temporary_file_and_keeps_a_card(folder: Path) -> None:
    (folder / "README.md").write_text("card")
    save_bundle(folder, "demo", {}, TENSORS)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", CONFIG_FILE, WEIGHTS_FILE, "words.txt"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "file", b"old")

    def full(handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flip") / "bundle"
    save_bundle(folder, "demo", CONFIG, TENSORS, {"words.txt": b"one two"})
    return folder


@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), name=st.sampled_from([CONFIG_FILE, WEIGHTS_FILE, "words.txt"]))
@settings(max_examples=150, deadline=None)
def test_one_changed_byte_anywhere_is_found_unless_it_is_space_between_json(original: Path, place: float, flip: int, name: str) -> None:
    path = original / name
    clean = path.read_bytes()
    position = int(place * len(clean))
    try:
        path.write_bytes(clean[:position] + bytes([clean[position] ^ flip]) + clean[position + 1 :])
        try:
            bundle = load_bundle(original, "demo")
        except ValueError:
            return
        assert name == CONFIG_FILE
        assert json.loads(path.read_bytes()) == json.loads(clean)
        assert clean[position : position + 1].isspace(), f"byte {position} of {name} was changed and nobody noticed"
        assert bundle.config == CONFIG
    finally:
        path.write_bytes(clean)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE, "words.txt"])
def test_every_byte_counts_at_the_end_too(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match="damaged"):
        load_bundle(folder, "demo")


def test_missing_parts_other_kinds_and_newer_formats_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind 'demo', wanted 'other'"):
        load_bundle(folder, "other")
    with pytest.raises(ValueError, match="no bundle in"):
        load_bundle(tmp_path / "nothing", "demo")
    shutil.copytree(folder, tmp_path / "newer")
    record = json.loads((folder / CONFIG_FILE).read_text())
    (tmp_path / "newer" / CONFIG_FILE).write_text(json.dumps({**record, "format": BUNDLE_FORMAT + 1}))
    with pytest.raises(ValueError, match=f"format {BUNDLE_FORMAT + 1}, this maskgen reads format {BUNDLE_FORMAT}; update"):
        load_bundle(tmp_path / "newer", "demo")
    (folder / "words.txt").unlink()
    with pytest.raises(ValueError, match=r"words\.txt is missing"):
        load_bundle(folder, "demo")


@pytest.mark.parametrize("content", ["", "[]", "3", '"text"', "{}", '{"format": 1}', "\x00", "[" * 200_000])
def test_a_config_that_is_no_record_is_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(content)
    with pytest.raises(ValueError, match="damaged"):
        read_bundle_record(tmp_path)


@pytest.mark.parametrize("folder", sorted(Path(__file__).parents[2].glob("*/*/bundle/bundle.json")), ids=lambda path: path.parts[-3])
def test_bundles_of_the_repository_are_whole(folder: Path) -> None:
    record = read_bundle_record(folder.parent)
    assert load_bundle(folder.parent, record["kind"]).fingerprint == fingerprint_of(record["kind"], record["config"], record["files"])


def test_weights_are_the_average_once_there_is_one() -> None:
    averaged = {"model.a": torch.tensor(1.0), "b": torch.tensor(0.0)}
    checkpoint = {"state_dict": averaged, "current_model_state": {"model.a": torch.tensor(2.0)}}
    assert weights({"state_dict": checkpoint["state_dict"]}, "model.") == {"a": torch.tensor(1.0)}
    assert weights({**checkpoint, "averaging_state": {"n_averaged": torch.tensor(5)}}, "model.") == {"a": torch.tensor(1.0)}
    assert weights({**checkpoint, "averaging_state": {"n_averaged": torch.tensor(0)}}, "model.") == {"a": torch.tensor(2.0)}
