"""Frozen text encoders: the same features as transformers gives, bundles that hold or name them, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.encoders import tiny_encoder

from maskgen.tokenizers import text_encoder
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.text_encoder import EncoderSettings, TextEncoder

SHORT = EncoderSettings(longest=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "bert")


@pytest.mark.parametrize(("family", "model"), [("bert", "BertModel"), ("t5", "T5EncoderModel"), ("clip", "CLIPTextModel")])
@pytest.mark.parametrize("layer", [-1, -2])
def test_features_are_those_of_transformers_alone_and_among_others(tmp_path: Path, family: str, model: str, layer: int) -> None:
    import transformers

    settings = EncoderSettings(longest=8, layer=layer)
    encoder = TextEncoder.from_transformers(tiny_encoder(tmp_path / "encoder", family), settings=settings)
    network: Any = getattr(transformers, model).from_pretrained(tmp_path / "encoder")
    answer = network.eval()(input_ids=torch.tensor([[1, 3, 4, 8, 2]]), output_hidden_states=True)
    wanted = answer.last_hidden_state if layer == -1 else answer.hidden_states[layer]
    found = encoder.encode(["a red heart"])[0]
    assert torch.equal(found, wanted[0].T.half())
    assert torch.equal(encoder.encode(["a blue square style", "a red heart"])[1], found)
    encoder.save(tmp_path / "bundle")
    again = load_tokenizer(tmp_path / "bundle")
    assert again.fingerprint == encoder.fingerprint
    assert torch.equal(again.encode(["a red heart"])[0], found)


def test_the_fingerprint_changes_with_weights_and_settings_alone(folder: Path, tmp_path: Path) -> None:
    def print_of(place: Path, **settings: Any) -> str:
        return TextEncoder.from_transformers(place, settings=EncoderSettings(**{"longest": 8, **settings})).fingerprint

    other = tiny_encoder(tmp_path / "other", seed=1)
    same = print_of(folder)
    assert same == print_of(folder)
    assert len({same, print_of(other), print_of(folder, layer=0), print_of(folder, longest=9), print_of(folder, dtype="bfloat16")}) == 5


def test_a_long_text_is_cut_before_its_last_special_token(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = TextEncoder.from_transformers(folder, settings=EncoderSettings(longest=4))
    long, short = encoder.encode(["a red heart flat style", "a red"])
    assert torch.equal(long, short)
    assert "cut to 4" in caplog.text


def test_an_encoder_of_the_hub_is_named_by_commit_and_another_one_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, asked = tmp_path / "snapshots", []

    def fetched(source: Path | str, revision: str | None = None) -> Path:
        asked.append((str(source), revision))
        return cache / "0a1b"

    shutil.copytree(folder, cache / "0a1b")
    monkeypatch.setattr(text_encoder, "local_folder", fetched)
    encoder = TextEncoder.from_transformers("owner/encoder", "main", SHORT)
    encoder.save(tmp_path / "named")
    assert [path.name for path in (tmp_path / "named").iterdir()] == ["bundle.json"]
    inside = TextEncoder.from_transformers("owner/encoder", settings=SHORT, inside=True)
    assert load_tokenizer(tmp_path / "named").fingerprint == encoder.fingerprint == inside.fingerprint
    assert asked[-1] == ("owner/encoder", "0a1b")
    shutil.rmtree(cache / "0a1b")
    tiny_encoder(cache / "0a1b", seed=1)
    with pytest.raises(ValueError, match="restore revision 0a1b"):
        load_tokenizer(tmp_path / "named")
    shutil.rmtree(cache / "0a1b")
    with pytest.raises(ValueError, match=r"the text encoder owner/encoder .* cannot be loaded: .* has no config.json"):
        load_tokenizer(tmp_path / "named")


def test_folders_that_hold_no_text_encoder_are_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    def changed(name: str, **entries: Any) -> Path:
        place = tmp_path / name
        shutil.copytree(folder, place)
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**config, **entries}))
        return place

    for place, said in (
        (changed("unknown", model_type="nothing"), "makes no network|no model of type|nothing"),
        (changed("wide", hidden_size=16), "don't match their configuration|no text encoder that can be read"),
        (changed("image", model_type="vit"), "reads no text|don't match|no text encoder"),
    ):
        with pytest.raises(ValueError, match=said):
            TextEncoder.from_transformers(place, settings=SHORT)
    with pytest.raises(ValueError, match="16 positions, longest is 77"):
        TextEncoder.from_transformers(folder)
    with pytest.raises(ValueError, match=r"layers 0 .* to 2"):
        TextEncoder.from_transformers(folder, settings=EncoderSettings(longest=8, layer=3))
    (changed("wordless") / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        TextEncoder.from_transformers(tmp_path / "wordless", settings=SHORT)
