"""Every configuration that ships parses, and says how it is run."""

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from maskgen.decoding.settings import read_settings
from maskgen.training.runtime.fit import class_paths

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("configs/*.yaml"), *ROOT.glob("configs/scale/*.yaml"), *ROOT.glob("tokenizers/*/*.yaml")])
TRAININGS = [path for path in FILES if "model" in yaml.safe_load(path.read_text())]


def parsed(path: Path) -> Any:
    """The configuration as LightningCLI sees it, without building or training anything."""
    from maskgen.training.runtime.lightning_cli import SurvivingCLI

    class Parsing(SurvivingCLI):
        """Stops after parsing."""

        def before_instantiate_classes(self) -> None:
            raise StopIteration(self.config)

    with class_paths(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's about its own use of jsonargparse, and about pytest's arguments
        with pytest.raises(StopIteration) as stop:
            Parsing(args=["fit", "--config", str(path)], parser_kwargs={"parser_mode": "yaml"})
    return stop.value.args[0]["fit"]


def test_there_are_trainings_to_check() -> None:
    assert len(TRAININGS) >= 2


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_training_parses(path: Path) -> None:
    config = parsed(path)
    model = config.model.init_args
    twice = max(0, model.max_steps - model.adversarial_from) if model.get("discriminator") is not None else 0
    assert config.trainer.max_steps == model.max_steps + twice, "the learning rate must end with the run; two networks step twice"
    assert config.seed_everything is not None


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/generation_*.yaml")), ids=lambda path: path.name)
def test_generation_settings_are_known_and_in_range(path: Path) -> None:
    assert set(read_settings(path)) <= {"image", "text", "audio", "transcript"}


@pytest.mark.parametrize("part", ["model", "data", "trainer"])
def test_a_key_too_many_is_noticed(part: str, tmp_path: Path) -> None:
    config = yaml.safe_load(TRAININGS[0].read_text())
    (config[part] if part == "trainer" else config[part]["init_args"])["surplus_key"] = 1
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit):
        parsed(tmp_path / "config.yaml")
    assert "surplus_key" in said.getvalue()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_header_says_how_to_run_it_and_names_this_very_file(path: Path) -> None:
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    command = header.partition("Run:")[2] or header.partition("Used by:")[2]
    assert "maskgen" in command
    assert str(path.relative_to(ROOT)) in command
