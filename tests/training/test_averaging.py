"""The mean of models' weights, and what has no mean."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.bundles import decoded_as, speakers
from builders.command_line import refused

from maskgen.cli.main import main
from maskgen.networks.durations import DurationConfig, DurationPredictor
from maskgen.pipelines.base import Pipeline
from maskgen.training.merging import average_models


@pytest.fixture
def taught(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny model with other weights, settings and grids."""
    other = Pipeline.from_pretrained(tiny_bundle)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for weight in other.model.parameters():
            weight += torch.randn_like(weight) * 0.1
    other.settings["text"], other.grids["text"] = other.settings["image"].changed(steps=(2,)), (5,)
    other.settings["image"] = other.settings["image"].changed(steps=(1,))
    other.save_pretrained(tmp_path / "taught", half=False)
    return tmp_path / "taught"


def test_weights_are_the_mean_and_settings_those_of_the_first(
    tiny_bundle: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", "average", f"{tiny_bundle}=1", f"{taught}=3", "--out", str(tmp_path / "mean")])
    assert "wrote" in capsys.readouterr().out
    made, first, second = (Pipeline.from_pretrained(one) for one in (tmp_path / "mean", tiny_bundle, taught))
    for name, tensor in made.model.state_dict().items():
        wanted = 0.25 * first.model.state_dict()[name] + 0.75 * second.model.state_dict()[name]
        torch.testing.assert_close(tensor, wanted, atol=1e-3, rtol=1e-3)
    assert made.settings == {**second.settings, **first.settings}
    assert made.grids == {**second.grids, **first.grids}
    assert made.settings["text"].steps == (2,)
    assert not (tmp_path / "mean/tokenizers").exists()
    assert made("a red heart").images[0].size == (32, 32)


@pytest.mark.parametrize("share", [3.0, 1e308])
def test_a_model_s_mean_with_its_copy_is_the_model(taught: Path, tmp_path: Path, share: float) -> None:
    shutil.copytree(taught, tmp_path / "copy")
    made = average_models({taught: share, tmp_path / "copy": share})
    wanted = Pipeline.from_pretrained(taught).model.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in made.model.state_dict().items())


def test_what_stands_beside_the_first_model_comes_along_and_nothing_is_lost(
    tiny_bundle: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DurationPredictor(DurationConfig(dim=16, num_layers=1)).save(taught / "durations")
    (taught / "specialists.json").write_text("{}")
    asked = ("export", "average", f"{taught}=1", f"{tiny_bundle}=1", "--out", tmp_path / "mean")
    main([str(part) for part in asked])
    assert (tmp_path / "mean/durations/weights.safetensors").read_bytes() == (taught / "durations/weights.safetensors").read_bytes()
    assert (tmp_path / "mean/specialists.json").is_file()
    capsys.readouterr()
    assert "holds a model already; give another --out" in refused(capsys, *asked)
    assert "holds a model already" in refused(capsys, *asked[:-1], taught)


@pytest.mark.parametrize(
    "changes", [{"shortcut": 2}, {"sampler": "critic"}, {"sampler": "blocks", "sampler_options": {"inner": "critic"}}], ids=str
)
def test_settings_that_need_a_network_of_one_model_are_refused(
    tiny_bundle: Path, taught: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    judged = decoded_as(tiny_bundle, tmp_path / "judged", **changes)
    with pytest.raises(ValueError, match="decoded with a critic or a shortcut, which knows that model alone"):
        average_models({taught: 1.0, judged: 1.0})


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        (["{tiny}=1"], "an average needs at least two models, got 1"),
        (["{tiny}=1", "{tiny}=2"], "each model is named once"),
        (["{tiny}=1", "{tiny}/../{name}=2"], "each model is named once"),
        (["{tiny}=1", "{taught}=0"], "shares are positive numbers, got"),
        (["{tiny}=1", "{taught}=-1"], "shares are positive numbers, got"),
        (["{tiny}=1", "{taught}=inf"], "shares are positive numbers, got"),
        (["{tiny}", "{taught}=1"], "is no MODEL=SHARE, for example emoji-64=0.5"),
        (["=1", "{taught}=1"], "is no MODEL=SHARE, for example emoji-64=0.5"),
        (["{tiny}=1", "{voice}=1"], "has another network and token space and tokenizers"),
        (["{tiny}=1", "none-such=1"], "there is no model 'none-such'"),
    ],
)
def test_what_has_no_mean_is_refused(
    tiny_bundle: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], models: list[str], sentence: str
) -> None:
    places = {"tiny": tiny_bundle, "name": tiny_bundle.name, "taught": taught, "voice": speakers(tmp_path / "voice")}
    asked = [one.format(**places) for one in models]
    assert sentence in refused(capsys, "export", "average", *asked, "--out", tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
