"""The wheel: what is inside, how large it is, and that it works outside of the clone without extras."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import maskgen
from maskgen.cli.main import main
from maskgen.io.shipped import GROUPS, MODEL_PACKAGES

ROOT = Path(maskgen.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LARGEST_WHEEL = 100 * 10**6
EXTRAS = (
    "soxr",
    "resvg_py",
    "pyarrow",
    "datasets",
    "diffusers",
    "transformers",
    "torchvision",
    "torchaudio",
    "encodec",
    "peft",
)


def build(project: Path, out: Path) -> Path:
    """The wheel of a project, built without a network by the backend that is installed."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv")
    found = subprocess.run([uv, "build", "--wheel", str(project), "--out-dir", str(out)], capture_output=True, text=True, timeout=300)
    if "Failed to fetch" in found.stderr or "No solution found" in found.stderr:
        pytest.skip("the build backend cannot be fetched")
    assert found.returncode == 0, found.stderr
    [wheel] = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed: unpacked into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def tracked(folder: str) -> set[str]:
    """Files of a folder that git knows."""
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def outside(site: Path, cwd: Path, *command: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs a command of Python with the installed wheel in a folder that is not the clone, as if some packages were missing."""
    (cwd / "hidden").mkdir(exist_ok=True)
    hide = "".join(f"sys.modules[{name!r}] = None\n" for name in without)
    (cwd / "hidden" / "sitecustomize.py").write_text(f"import sys\n{hide}")
    places = [str(cwd / "hidden"), str(site), sysconfig.get_path("purelib")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_the_wheel_is_small_enough_for_an_index(wheel: Path) -> None:
    assert wheel.stat().st_size < LARGEST_WHEEL


def test_the_wheel_holds_what_ships_and_nothing_that_was_built(wheel: Path) -> None:
    inside = {name.removeprefix("maskgen/shipped/") for name in zipfile.ZipFile(wheel).namelist() if name.startswith("maskgen/shipped/")}
    left = {name for group in GROUPS for name in tracked(group)} - inside
    own = {name for name in left if name.split("/")[1] in MODEL_PACKAGES}
    assert own == {name for model in MODEL_PACKAGES for name in tracked(f"models/{model}")}
    # Records for committing, pictures for the tests, and a corpus without recipe: nothing that a command reads.
    assert {"/".join(name.split("/")[:3]) for name in left - own} == {
        "data/emoji/manifest.jsonl.gz",
        "data/emoji/sample",
        "data/emoji/splits.json",
        "data/blueprint/README.md",
    }
    assert inside <= {name for group in GROUPS for name in tracked(group)}


def test_models_of_their_own_have_wheels_of_their_own(tmp_path: Path) -> None:
    for model, package in MODEL_PACKAGES.items():
        made = build(ROOT / "packages" / package, tmp_path / model)
        assert made.stat().st_size < LARGEST_WHEEL
        names = zipfile.ZipFile(made).namelist()
        module = package.replace("-", "_")
        assert {f"{module}/{name.removeprefix(f'models/{model}/')}" for name in tracked(f"models/{model}")} <= set(names)
        assert all(name.startswith((f"{module}/", f"{module}-")) for name in names)
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert f"{model} = {module}" in zipfile.ZipFile(made).read(entry).decode()


def test_the_wheel_is_imported_from_outside(site: Path, tmp_path: Path) -> None:
    found = outside(site, tmp_path, "-c", "import maskgen; print(maskgen.__file__)")
    assert found.stdout.strip() == str(site / "maskgen" / "__init__.py"), found.stderr


@pytest.mark.slow
def test_pictures_and_speech_need_no_extra(site: Path, tmp_path: Path) -> None:
    picture = outside(
        site, tmp_path, "-m", "maskgen", "generate", "image", "a red heart", "--out", "heart.png", "--seed", "0", without=EXTRAS
    )
    assert (picture.returncode, (tmp_path / "heart.png").is_file()) == (0, True), picture.stderr
    speech = outside(site, tmp_path, "-m", "maskgen", "generate", "speech", "Good morning.", "--out", "morning.wav", without=EXTRAS)
    assert (speech.returncode, (tmp_path / "morning.wav").read_bytes()[:4]) == (0, b"RIFF"), speech.stderr


def test_a_model_that_is_not_installed_names_the_pip_command(site: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    found = outside(site, tmp_path, "-m", "maskgen", "generate", "text", "--image", "black.png")
    assert found.returncode == 2
    assert found.stderr.strip().endswith("the model 'any-64' is not installed; install it with: pip install maskgen-any-64")


@pytest.mark.slow
def test_a_model_beside_the_wheel_is_found_with_its_tokenizers(site: Path, tmp_path: Path) -> None:
    for model, package in MODEL_PACKAGES.items():
        packed = tmp_path / "beside"
        zipfile.ZipFile(build(ROOT / "packages" / package, tmp_path / model)).extractall(packed)
        code = f"import sys; sys.path.insert(0, {str(packed)!r}); import maskgen; print(maskgen.Pipeline.from_pretrained({model!r}))"
        found = outside(site, tmp_path, "-c", code)
        assert found.returncode == 0, found.stderr


def test_a_shipped_configuration_is_handed_to_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr("maskgen.training.runtime.fit.run", given.append)
    monkeypatch.chdir(tmp_path)
    name = "configs/text_to_image_emoji64.yaml"
    main(["fit", "--config", name, "--trainer.max_steps", "2"])
    main(["fit", f"--config={name}", "--config", "mine.yaml"])
    shipped = str(ROOT / name)
    assert given == [["fit", "--config", shipped, "--trainer.max_steps", "2"], ["fit", f"--config={shipped}", "--config", "mine.yaml"]]


@pytest.mark.slow
def test_a_shipped_configuration_is_found_from_outside(site: Path, tmp_path: Path) -> None:
    found = outside(site, tmp_path, "-m", "maskgen", "fit", "--config", "configs/text_to_image_emoji64.yaml", "--print_config")
    assert found.returncode == 0, found.stderr
    assert "MaskedTokenModule" in found.stdout
    missing = outside(site, tmp_path, "-m", "maskgen", "fit", "--config", "configs/text_to_image_emoji64.yaml", "--trainer.devices", "1")
    assert missing.returncode == 2
    assert "data/emoji/build/tokens" in missing.stderr


@pytest.mark.slow
def test_a_shipped_recipe_is_copied_and_built(site: Path, tmp_path: Path) -> None:
    found = outside(site, tmp_path, "-m", "maskgen", "data", "build", "data/wordnet/recipe.yaml", "--out", "data/wordnet/build/tokens")
    assert found.returncode == 2
    assert (tmp_path / "data" / "wordnet" / "recipe.yaml").is_file()
    assert "data/wordnet/build/usr/share/wordnet/data.noun" in found.stderr
    (tmp_path / "data" / "wordnet" / "recipe.yaml").write_text(
        "name: mine\nsources: [{kind: lines, path: words.txt}]\ntokenizers: {text: ../../tokenizers/text-bpe/bundle}\n"
    )
    (tmp_path / "data" / "wordnet" / "words.txt").write_text("a red heart\na blue sea\n")
    built = outside(site, tmp_path, "-m", "maskgen", "data", "build", "data/wordnet/recipe.yaml", "--workers", "1")
    assert built.returncode == 0, built.stderr
    assert json.loads((tmp_path / "data" / "wordnet" / "build" / "index.json").read_text())["kind"] == "tokens"


@pytest.mark.parametrize("command", [["maskgen", "--version"], ["python", "-m", "maskgen", "--version"]], ids=" ".join)
def test_the_version_is_told_without_torch(command: list[str], tmp_path: Path) -> None:
    code = "import sys, runpy; sys.modules['torch'] = None; sys.argv[1:] = ['--version']; runpy.run_module('maskgen', run_name='__main__')"
    if command[0] == "maskgen":
        code = "import sys; sys.modules['torch'] = None; from maskgen.cli.main import main; main(['--version'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert (found.returncode, found.stdout) == (0, f"maskgen {maskgen.__version__}\n"), found.stderr


def test_the_version_is_written_once_a_distribution() -> None:
    projects = [PROJECT, *(tomllib.loads(path.read_text()) for path in sorted(ROOT.glob("packages/*/pyproject.toml")))]
    assert {project["project"]["version"] for project in projects} == {maskgen.__version__}


def test_all_extras_are_in_all_and_none_names_an_unknown_one() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    named = {name for line in extras["all"] for name in re.fullmatch(r"maskgen\[(.*)\]", line).group(1).split(",")}  # type: ignore[union-attr]
    judges = {"teachers", "eval", "speech-eval", "ray"}  # pinned stand-ins for models, and a cluster: asked for by name
    assert named | judges | {"all"} == set(extras)
    groups = [line for lines in (*extras.values(), PROJECT["dependency-groups"]["dev"]) for line in lines if line.startswith("maskgen[")]
    assert {name for line in groups for name in line[8:-1].split(",")} <= set(extras)
