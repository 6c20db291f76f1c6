"""The command line of training: own classes are allowed there alone, values that follow are written once, and a whole config is printed."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders.mixed_shards import write_both

from maskgen.cli.main import main
from maskgen.training.runtime.fit import run

OWN = """
from maskgen.training.modules.masked import MaskedTokenModule

class Mine(MaskedTokenModule):
    pass
"""
MASKED, DATA = "maskgen.training.modules.masked.MaskedTokenModule", "maskgen.data.loading.token_data.TokenData"


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """The command line sets up floating point for the whole process, and imports stay; later tests want it as it was."""
    precision, path = torch.get_float32_matmul_precision(), list(sys.path)
    yield
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision(precision)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]
    assert sys.path == path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with token shards of pictures and of speech, and a package of the user."""
    write_both(tmp_path / "tokens")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "modules.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(path: Path, model: str = MASKED, extra: dict[str, Any] | None = None, **init_args: Any) -> str:
    """A configuration with the shards and the steps written once, in the working folder."""
    parts = [{"folder": "tokens/pictures"}]
    written = {
        "model": {
            "class_path": model,
            "init_args": {"transformer": {"dim": 16, "num_layers": 1, "num_heads": 2}, "warmup_steps": 1, **init_args},
        },
        "data": {"class_path": DATA, "init_args": {"parts": parts, "batch_size": 2}},
        "trainer": {"accelerator": "cpu", "max_steps": 2, "max_epochs": -1, "logger": False, "enable_progress_bar": False},
        **(extra or {}),
    }
    written["trainer"]["limit_val_batches"] = 0
    (path / "config.yaml").write_text(yaml.safe_dump(written))
    return "config.yaml"


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The sentence on stderr of a call that must fail."""
    with pytest.raises(SystemExit) as stop:
        main(["fit", *args])
    said = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2
    assert said.startswith("maskgen: error: "), said
    return said


# Own classes


def test_a_package_in_the_working_directory_is_allowed_by_the_command_line_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(here, "my_package.modules.Mine")
    said = refused(capsys, "--config", file)
    assert "class_path my_package.modules.Mine is not allowed" in said
    assert "add --allow my_package to the command" in said
    assert "my_package.modules" not in sys.modules
    trained = run(["fit", "--config", file, "--allow", "my_package"])
    assert type(trained.model).__module__ == "my_package.modules"
    assert trained.trainer.global_step == 2
    assert "is not allowed" in refused(capsys, "--config", file), "what was allowed for one run is not for the next"


def test_several_packages_may_be_allowed_and_others_stay_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(here, "my_package.modules.Mine")
    assert run(["fit", "--allow=other_package", "--allow", "my_package", "--config", file]).trainer.global_step == 2
    assert "class_path subprocess.Popen is not allowed" in refused(
        capsys, "--config", config(here, "subprocess.Popen"), "--allow", "my_package"
    )


def test_a_configuration_cannot_allow_its_own_classes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(here, "my_package.modules.Mine", {"allow": ["my_package"]})
    refused(capsys, "--config", file)
    assert "my_package.modules" not in sys.modules


@pytest.mark.parametrize(("args", "wrong"), [(["--allow"], "got none"), (["--allow", "*"], "got '\\*'"), (["--allow=a b"], "got 'a b'")])
def test_allow_takes_the_name_of_a_package(here: Path, capsys: pytest.CaptureFixture[str], args: list[str], wrong: str) -> None:
    assert wrong.replace("\\", "") in refused(capsys, "--config", config(here), *args)


# Values that follow from others


def test_the_schedules_length_and_the_shards_are_written_once(here: Path) -> None:
    trained = run(["fit", "--config", config(here)])
    assert trained.model.max_steps == 2
    assert [one.name for one in trained.model.space.modalities] == ["text", "image"]
    assert run(["fit", "--config", "config.yaml", "--trainer.max_steps", "3"]).model.max_steps == 3


def test_a_mixtures_shards_are_all_folders_in_the_order_of_its_parts(here: Path) -> None:
    file = config(here, "maskgen.training.modules.any_to_any.AnyToAnyModule", tasks={"hear": {"asked": ["transcript"]}})
    given = yaml.safe_load(Path(file).read_text())
    given["data"]["init_args"]["parts"] = [{"folder": "tokens/speech"}, {"folder": "tokens/speech", "join": "tokens/pictures"}]
    Path(file).write_text(yaml.safe_dump(given))
    trained = run(["fit", "--config", file])
    assert [one.name for one in trained.model.space.modalities] == ["audio", "speaker", "transcript", "text", "image"]


def test_a_configuration_that_gives_both_equal_values_keeps_working(here: Path) -> None:
    trained = run(["fit", "--config", config(here, max_steps=2, shards=str(Path("tokens") / "pictures"))])
    assert trained.model.max_steps == 2


@pytest.mark.parametrize(
    ("init_args", "args", "wrong"),
    [
        ({"max_steps": 5}, [], "model.init_args.max_steps is 5, but trainer.max_steps makes it 2; leave model.init_args.max_steps out"),
        ({"max_steps": 10_000}, [], "model.init_args.max_steps is 10000, but trainer.max_steps makes it 2"),
        ({}, ["--model.init_args.max_steps=7"], "model.init_args.max_steps is 7, but trainer.max_steps makes it 2"),
        ({"shards": "tokens/speech"}, [], "model.init_args.shards is tokens/speech, but data makes it tokens/pictures"),
    ],
)
def test_two_different_values_are_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], init_args: dict[str, Any], args: list[str], wrong: str
) -> None:
    assert wrong in refused(capsys, "--config", config(here, **init_args), *args)


def test_a_printed_config_is_whole_and_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*args: str) -> dict[str, Any]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["fit", *args])
        assert stop.value.code == 0
        return dict(yaml.safe_load(capsys.readouterr().out))

    whole = printed("--print_config")
    assert whole["model"]["class_path"] == MASKED
    assert {"transformer", "target", "lr"} <= set(whole["model"]["init_args"])
    assert {"parts", "batch_size"} <= set(whole["data"]["init_args"])
    assert {"precision", "callbacks"} <= set(whole["trainer"])
    file = config(here)
    for args in (["--config", file, "--print_config"], ["--print_config", "--config", file]):
        (here / "printed.yaml").write_text(yaml.safe_dump(printed(*args)))
        assert run(["fit", "--config", "printed.yaml"]).trainer.global_step == 2


# Refusals


NOT_HERE = "lightning.pytorch.loggers.WandbLogger"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data.parts", "nothere"], "nothere/index.json does not exist, so nothere holds no finished shards; build it with maskgen data"),
        (["--model.start", "nothere"], "there is no model 'nothere': no such folder with a bundle.json"),
        (["--model.transformer.dim", "15"], "dim must be an even multiple of num_heads"),
        (["--model.transformer.dim", "x"], "transformer.dim: got x, wanted int; see maskgen fit --help"),
        (["--model.nope", "3"], f"there is no argument nope ({MASKED}); see maskgen fit --help"),
        (["--model.schedule", "Foo"], "Foo is "),
        (["--model.schedule", "maskgen.masking.schedule.Power", "--model.schedule.exponent", "0"], "exponent must be a positive number"),
        (["--trainer.max_steps", "abc"], "trainer.max_steps: got abc, wanted int"),
        (["--model.level_weights", "[1, 2, 3]"], "the target has 2 levels or groups of them, got 3 level_weights; give one each"),
        (["--model.level_weights", "[0, 0]"], "level_weights are numbers of at least 0, one of them above 0"),
        (["--model.drop_condition", "1.5"], "drop_condition is a probability, got 1.5"),
        (["--model.infill_share", ".nan"], "prompt_share and infill_share are shares of one batch"),
        (["--model", "my.Class"], "class_path my.Class is not allowed: a configuration may name classes of maskgen, torch.optim, torch.nn"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refused_configuration_is_one_short_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.setattr("maskgen.training.modules.masked.MaskedTokenModule.training_step", lambda *_: pytest.fail("the training began"))
    said = refused(capsys, "--config", config(here), *arguments)
    assert sentence in said
    assert len(said) < 320, said
    assert not re.search(r"Namespace|Union|NoneType|subtypes|Given value", said), said


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_logger_whose_package_is_missing_names_what_to_install(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(here)
    written = yaml.safe_load(Path(file).read_text())
    written["trainer"]["logger"] = {"class_path": NOT_HERE}
    Path(file).write_text(yaml.safe_dump(written))
    said = refused(capsys, "--config", file)
    assert re.fullmatch(f"maskgen: error: {NOT_HERE} needs wandb>=.*, which is not installed; install it: pip install 'wandb>=.*'", said)


# The screen


@pytest.mark.slow
def test_lightning_speaks_once_and_epochs_have_no_wrong_total(here: Path) -> None:
    file = config(here)
    written = yaml.safe_load(Path(file).read_text())
    written["trainer"]["enable_progress_bar"] = True
    Path(file).write_text(yaml.safe_dump(written))
    ran = subprocess.run([sys.executable, "-m", "maskgen", "fit", "--config", file], cwd=here, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = [line.removeprefix("INFO: ") for line in ran.stderr.splitlines() if line.strip()]
    assert sum("max_steps=2" in line for line in lines) == 1, ran.stderr
    assert len(lines) == len(set(lines)), ran.stderr
    assert "Tip:" not in ran.stderr
    assert "Epoch" in ran.stdout
    assert "/-2" not in ran.stdout
