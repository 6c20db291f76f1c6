"""Micro-conditions as cells of a model of one's own: few codes, learned, told in calls, refused by models without them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders.masked_training import TINY
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import maskgen
from maskgen.autoencoders.image import ImageAutoencoder, ImageAutoencoderConfig
from maskgen.autoencoders.quantizers import FiniteScalarQuantizer
from maskgen.cli.main import main
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.transformer import MaskTransformer
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.micro import FIELDS, MicroTokenizer
from maskgen.tokens.space import TokenSpace


@given(numbers=st.fixed_dictionaries({}, optional={name: st.floats(0, 2e4) for name in FIELDS}), bins=st.integers(2, 100))
def test_every_number_has_codes_of_its_own_and_comes_back_to_its_step(numbers: dict[str, float], bins: int) -> None:
    one = MicroTokenizer(bins=bins)
    codes = one.encode([numbers])[0]
    assert codes.shape == (1, 5)
    assert (codes[0] // (bins + 1)).tolist() == [0, 1, 2, 3, 4]
    assert int(codes.max()) < one.codebook_size
    back = one.decode([codes])[0]
    assert [back[name] is None for name in FIELDS] == [name not in numbers for name in FIELDS]
    if bins <= 64:  # beyond that, two decimals may round a middle into the next step
        assert torch.equal(one.encode([back])[0], codes)


def test_larger_numbers_have_no_smaller_codes_and_steps_are_eleven_percent() -> None:
    one = MicroTokenizer()
    for place, name in enumerate(FIELDS):
        codes = [int(one.encode([{name: value / 10}])[0][0, place]) for value in range(0, 100)]
        assert codes == sorted(codes)
    assert abs(one.decode(one.encode([{"original_width": 1024}]))[0]["original_width"] / 1024 - 1) < 0.06


@pytest.mark.parametrize("wrong", [{"original_width": "wide"}, {"crop_left": -1}, {"aesthetic_score": float("nan")}])
def test_what_is_no_number_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        MicroTokenizer().encode([wrong])


def test_files_and_bundles(tmp_path: Path) -> None:
    one = MicroTokenizer(bins=8, default_score=5.0)
    assert one.save(tmp_path / "bundle") == one.fingerprint == load_tokenizer(tmp_path / "bundle").fingerprint
    one.write({"original_width": 30}, tmp_path / "numbers.json")
    assert one.read(tmp_path / "numbers.json") == {name: 30 if name == "original_width" else None for name in FIELDS}
    (tmp_path / "list.json").write_text("[1]")
    for path in ("none.json", "list.json"):
        with pytest.raises(ValueError, match="JSON"):
            one.read(tmp_path / path)
    with pytest.raises(ValueError, match=r"none of original_width's"):
        one.decode([torch.full((1, 5), 20)])


def saved(folder: Path, micro: bool) -> Path:
    """A model with random weights that draws 4 x 4 cells of 4 pixels."""
    config = ImageAutoencoderConfig(patch=4, encoder_channels=(16,), decoder_channels=(16,), encoder_blocks=0, decoder_blocks=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = ImageTokenizer(ImageAutoencoder(config, FiniteScalarQuantizer((5, 4))), (16, 16))
        tokenizers: dict[str, Tokenizer] = {"image": image} | ({"micro": MicroTokenizer(default_score=5.0)} if micro else {})
        space = TokenSpace([one.modality(name) for name, one in tokenizers.items()])
        model = MaskTransformer(TINY, space.size, len(space.modalities))
        for weight in model.parameters():  # so that random weights tell inputs apart
            torch.nn.init.normal_(weight, std=0.3)
    settings = {"image": GenerationSettings(steps=(2,), guidance_scale=1.0)}
    TextToImagePipeline(model, space, tokenizers, settings, {"image": (4, 4)}).save_pretrained(folder)
    return folder


def test_calls_tell_micro_conditions_and_their_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = maskgen.Pipeline.from_pretrained(saved(tmp_path / "model", micro=True))
    seen: list[dict[str, Any]] = []
    generate = pipe.generate

    def watched(rows: Any, *rest: Any) -> Any:
        seen.extend(pipe.tokenizers["micro"].decode([row["micro"]])[0] for row in rows)
        return generate(rows, *rest)

    monkeypatch.setattr(pipe, "generate", watched)
    images = [pipe(seed=1, **told).images[0] for told in ({}, {"original_size": (2000, 1000), "crop": (300, 0), "aesthetic_score": 9.0})]
    assert abs(seen[0]["original_width"] - 16) < 1
    assert seen[0]["crop_left"] < 1
    assert abs(seen[0]["aesthetic_score"] - 5) < 0.2
    assert abs(seen[1]["original_width"] / 2000 - 1) < 0.06
    assert abs(seen[1]["crop_left"] / 300 - 1) < 0.1
    assert seen[1]["aesthetic_score"] > 8.8
    assert images[0].tobytes() != images[1].tobytes()  # the model sees them
    with pytest.raises(ValueError, match="pairs of pixels"):
        pipe(original_size=(20_000, 20))
    with pytest.raises(ValueError, match="no classes"):  # micro-conditions are no label
        pipe(label="5")


def test_the_command_line_tells_them_and_models_without_them_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--aesthetic-score", "9", "--original-size", "2000,1000", "--crop", "8,0"]
    out = tmp_path / "image.png"
    assert main(["generate", "image", "--model", str(saved(tmp_path / "with", True)), "--out", str(out), *options]) in (0, None)
    assert Image.open(out).size == (16, 16)
    plain = str(saved(tmp_path / "without", False))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(["generate", "image", "--model", plain, "--out", str(out), *options]))
    assert stopped.value.code == 2
    assert "not trained with micro-conditions" in capsys.readouterr().err
