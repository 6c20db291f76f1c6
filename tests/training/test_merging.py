"""Models that were trained apart become towers of one network, and each still does what it did."""

from pathlib import Path

import pytest
import torch
from builders.bundles import decoded_as, speakers

from maskgen.cli.main import main
from maskgen.networks.towers import TowerTransformer
from maskgen.networks.transformer import TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.training.merging import merge_as_towers


def test_speed_settings_that_towers_cannot_follow_are_left_off(tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fast = decoded_as(tiny_bundle, tmp_path / "fast", refresh=2)
    joined = merge_as_towers({"pictures": fast, "speech": speakers(tmp_path / "voice")})
    assert joined.settings["image"].refresh == 1
    assert "refresh left off" in caplog.text
    assert joined("a red heart").images[0].size == (32, 32)


def test_each_tower_does_what_its_model_did(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voice = speakers(tmp_path / "voice")
    main(["export", "towers", f"pictures={tiny_bundle}", f"speech={voice}", "--out", str(tmp_path / "both")])
    assert "wrote" in capsys.readouterr().out
    joined, alone = Pipeline.from_pretrained(tmp_path / "both"), Pipeline.from_pretrained(tiny_bundle)
    assert isinstance(joined.model, TowerTransformer)
    assert [one.name for one in joined.space.modalities] == ["text", "image", "speaker"]
    assert not (tmp_path / "both/tokenizers").exists()
    for seed in (0, 1):
        ours, theirs = (one.generate([{"text": "a red heart"}], "image", [seed]).codes[0] for one in (joined, alone))
        assert ours.equal(theirs)
    assert joined.settings["image"] == alone.settings["image"]
    assert joined.settings["speaker"].steps == (1,)
    wanted = Pipeline.from_pretrained(voice).model.state_dict()
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in joined.model.tower("speech").state_dict().items())


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["a={tiny}", "a={voice}"], "a name of its own, got a, a"),
        (["a={tiny}", "b={tiny}"], "each modality has exactly one tower"),
        (["a={tiny}", "b={deep}"], "layers, heads and head width agree; got a 2, 2, 16, b 3, 2, 16"),
        (["a={tiny}", "b=missing"], "missing"),
        (["a={both}", "b={voice}"], "has towers itself"),
        (["v1.0={tiny}", "b={voice}"], "a tower cannot be named v1.0"),
        (["train={tiny}", "b={voice}"], "a tower cannot be named train"),
        (["a={judged}", "b={voice}"], "critic, which needs a critic that towers do not have"),
    ],
)
def test_what_cannot_be_joined_is_refused(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], models: list[str], message: str
) -> None:
    places = {
        "tiny": tiny_bundle,
        "voice": speakers(tmp_path / "voice"),
        "judged": decoded_as(tiny_bundle, tmp_path / "judged", sampler="critic"),
        "deep": speakers(tmp_path / "deep", TransformerConfig(dim=24, num_layers=3, num_heads=2, head_width=16, tie_head=True)),
    }
    merge_as_towers({"x": tiny_bundle, "y": speakers(tmp_path / "other", name="other")}).save_pretrained(tmp_path / "both")
    with pytest.raises(SystemExit) as stop:
        main(["export", "towers", *(one.format(**places, both=tmp_path / "both") for one in models), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("\n") == 1
    assert message in said
