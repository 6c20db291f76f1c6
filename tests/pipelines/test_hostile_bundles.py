"""A model from outside can neither read nor write a file outside of its folder, whatever names its records give."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.bundles import speakers
from builders.hostile import HOSTILE_NAMES, HOSTILE_PLACES

from maskgen.io.bundle import CONFIG_FILE, file_sha256, fingerprint_of, load_bundle, read_bundle_record, rewrite_config, save_bundle
from maskgen.networks.lora import Adapter, LoraSettings, load_adapter, save_adapter
from maskgen.networks.pretrained import PIPELINE_KIND
from maskgen.pipelines.base import Pipeline
from maskgen.training.merging import tokenizer_folders
from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with one tokenizer in its folder; read only."""
    return speakers(tmp_path_factory.mktemp("hostile") / "model")


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    """A copy to change, three folders deep."""
    return Path(shutil.copytree(original, tmp_path / "a" / "b" / "model"))


def sealed(folder: Path, config: dict[str, Any] | None = None, files: dict[str, str] | None = None) -> None:
    """Give a bundle other records with a right fingerprint."""
    record = read_bundle_record(folder)
    config, files = config or record["config"], files or record["files"]
    plain = {**record, "config": config, "files": files, "fingerprint": fingerprint_of(record["kind"], config, files)}
    (folder / CONFIG_FILE).write_text(json.dumps(plain))


@pytest.mark.parametrize("name", [name for name in HOSTILE_NAMES if isinstance(name, str)], ids=repr)
def test_a_bundle_names_files_of_its_own_folder_alone(model: Path, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "a" / "b" / "canary.tar"
    canary.write_text("secret")
    sealed(model, files={**read_bundle_record(model)["files"], name: file_sha256(canary)})
    for read in (lambda: load_bundle(model, PIPELINE_KIND), lambda: read_bundle_record(model), lambda: Pipeline.from_pretrained(model)):
        with pytest.raises(ValueError, match=r"bundle\.json names the file .*, wanted a plain file name"):
            read()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="wanted a plain file name"):
        save_bundle(tmp_path / "a" / "new", "x", {}, {}, {name: b"canary"})
    assert sorted(tmp_path.rglob("*")) == before


NO_PLACE = r"names the folder .*, wanted a relative path"
NO_TEXT = r"config\.tokenizers\.speaker is .*, wanted a text"


@pytest.mark.parametrize("place", HOSTILE_PLACES, ids=lambda place: repr(place)[:30])
def test_a_model_names_its_tokenizers_and_specialists_by_relative_paths(model: Path, place: Any) -> None:
    (model / "specialists.json").write_text(json.dumps({"image": place}))
    with pytest.raises(ValueError, match=r"specialists\.json names the folder .*, wanted a relative path"):
        Pipeline.from_pretrained(model)
    (model / "specialists.json").unlink()
    config = read_bundle_record(model)["config"]
    sealed(model, config={**config, "tokenizers": {"speaker": place}})
    nul, no_string = isinstance(place, str) and "\0" in place, not isinstance(place, str)
    with pytest.raises(ValueError, match=NO_TEXT if nul or no_string else NO_PLACE):
        Pipeline.from_pretrained(model)
    with pytest.raises(ValueError, match=NO_TEXT if nul else NO_PLACE):
        tokenizer_folders({"speaker": model})


def test_a_sibling_of_the_model_may_be_its_tokenizer(model: Path, tmp_path: Path) -> None:
    shutil.move(model / "tokenizers", tmp_path / "tokenizers")
    config = read_bundle_record(model)["config"]
    rewrite_config(model, PIPELINE_KIND, {**config, "tokenizers": {"speaker": "../../../tokenizers/speaker"}})
    assert Pipeline.from_pretrained(model).tokenizers["speaker"].fingerprint == config["fingerprints"]["speaker"]


@pytest.mark.parametrize("name", ["../../canary", "/canary", "a/b", "..", "a\n", "a\\b"])
def test_a_modality_cannot_lead_a_save_out_of_its_folder(tmp_path: Path, name: str) -> None:
    folder = speakers(tmp_path / "a" / "b" / "model")
    pipeline = Pipeline.from_pretrained(folder)
    hostile = json.loads(json.dumps(read_bundle_record(folder)["config"]).replace('"speaker"', json.dumps(name)))
    sealed(folder, config=hostile)
    with pytest.raises(ValueError, match="wanted a plain file name"):
        Pipeline.from_pretrained(folder)
    pipeline.tokenizers[name] = pipeline.tokenizers.pop("speaker")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="wanted a plain file name"):
        pipeline.save_pretrained(tmp_path / "a" / "copy")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("", r"names the base '', wanted the name or folder of a model"),
        ("a\nb", r"names the base .*, wanted the name or folder of a model"),
        ("\u202ea", r"names the base .*, wanted the name or folder of a model"),
        ("a\0b", r"config\.base is .*, wanted a text"),
    ],
)
def test_an_adapter_names_a_base(tmp_path: Path, base: str, sentence: str) -> None:
    save_adapter(tmp_path, Adapter(LoraSettings(rank=1), base, "0" * 64, {}, {"lora_A": torch.zeros(1)}))
    with pytest.raises(ValueError, match=sentence):
        load_adapter(tmp_path)


@pytest.mark.parametrize("name", ["checkpoints/../../.bashrc", "checkpoints/../../other.ckpt", "memory://x.ckpt", "checkpoints/.bashrc"])
def test_a_state_that_is_resumed_removes_nothing_but_checkpoints_of_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "runs" / "one"
    (folder / "checkpoints").mkdir(parents=True)
    canaries = [tmp_path / "runs" / ".bashrc", tmp_path / "runs" / "other.ckpt", folder / "checkpoints" / ".bashrc"]
    for canary in canaries:
        canary.write_text("mine")
    path = name if "://" in name else f"{folder}/{name}"
    with pytest.raises(ValueError, match=r"wanted a local \.ckpt file"):
        AtomicCheckpointIO().remove_checkpoint(path)
    assert all(canary.read_text() == "mine" for canary in canaries)
