"""What ships is found by its name in the repository, from any folder; recipes are copied before they are built."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import maskgen
from maskgen.io import shipped as module
from maskgen.io.bundle import find_model, load_bundle, read_bundle_record, save_bundle
from maskgen.io.shipped import GROUPS, find_path, installed_models, model_folder, model_names, shipped, shipped_path, working_copy


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_groups_are_folders() -> None:
    assert all(shipped(group).is_dir() for group in GROUPS)


@pytest.mark.parametrize(
    "name",
    [
        "configs/text_to_image_emoji64.yaml",
        "data/emoji/recipe.yaml",
        "tokenizers/text-bpe/train.yaml",
        "tokenizers/text-bpe/bundle",
        "models/emoji-64",
        "models",
    ],
)
def test_a_relative_name_is_found_from_any_folder(name: str) -> None:
    assert shipped_path(name) == find_path(name) == shipped(name.split("/")[0]).parent / name
    assert shipped_path(f"somewhere/else/../../{name}") == find_path(name)


@pytest.mark.parametrize("name", ["configs/nothing.yaml", "maskgen/version.py", "configs/../maskgen/version.py", "", ".", "..", "/configs"])
def test_nothing_else_is_found(name: str) -> None:
    assert shipped_path(name) is None
    assert find_path(name) == Path(name)


def test_a_file_of_ones_own_comes_first() -> None:
    own = Path("configs/text_to_image_emoji64.yaml")
    own.parent.mkdir()
    own.touch()
    assert find_path(own) == own


def test_bundles_are_read_by_their_shipped_name() -> None:
    name = "tokenizers/text-bpe/bundle"
    assert load_bundle(name, "text_tokenizer").folder == shipped("tokenizers") / "text-bpe" / "bundle"
    assert read_bundle_record(name)["kind"] == "text_tokenizer"


def test_a_recipe_is_copied_with_the_files_beside_it_and_nothing_is_overwritten() -> None:
    kept = Path("data/speech/texts.yaml")
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    assert working_copy("data/speech/recipe.yaml") == Path("data/speech/recipe.yaml")
    source = shipped("data") / "speech"
    assert {path.name for path in kept.parent.iterdir()} == {path.name for path in source.iterdir() if path.is_file()}
    assert Path("data/speech/recipe.yaml").read_bytes() == (source / "recipe.yaml").read_bytes()
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("name", ["mine.yaml", "data/mine/recipe.yaml", "data/speech", "../data/speech/recipe.yaml"])
def test_what_does_not_ship_is_not_copied(name: str) -> None:
    assert working_copy(name) == Path(name)
    assert not Path("data").exists()


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution with the model "far-8", whose package must not be imported."""
    folder = tmp_path / "site" / "model_of_a_test"
    save_bundle(folder, "demo", {}, {})
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(folder.parent))
    entry = EntryPoint(name="far-8", value=folder.name, group=module.ENTRY_POINTS)
    missing = EntryPoint(name="gone", value="model_that_is_gone", group=module.ENTRY_POINTS)
    monkeypatch.setattr(module, "entry_points", lambda group: [entry, missing] if group == module.ENTRY_POINTS else [])
    return folder


def test_a_model_of_an_installed_distribution_is_found_without_importing_it(distribution: Path) -> None:
    assert installed_models() == {"far-8": distribution}
    assert find_model("far-8") == model_folder("far-8") == distribution
    assert "far-8" in model_names()
    assert distribution.name not in sys.modules


def test_a_model_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "shipped", lambda group: tmp_path)
    with pytest.raises(ImportError, match=r"the model 'any-64' is not installed; install it with: pip install maskgen-any-64$") as caught:
        find_model("any-64")
    assert caught.value.name == "maskgen_any_64"


def test_an_unknown_model_names_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"no model 'nothing'.*any-64, emoji-64, heart-16k"):
        find_model("nothing")
    with pytest.raises(ValueError, match="no model"):
        find_model("../models/emoji-64")


def test_every_model_that_is_a_distribution_of_its_own_has_a_project() -> None:
    root = Path(maskgen.__file__).parents[1]
    for name, package in module.MODEL_PACKAGES.items():
        assert (root / "models" / name / "bundle.json").is_file()
        assert f'name = "{package}"' in (root / "packages" / package / "pyproject.toml").read_text()
