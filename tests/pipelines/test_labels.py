"""Class-conditional models: a label by name or number, no label, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders.command_line import refused
from builders.networks import randomised
from PIL import Image

from maskgen.cli.main import main
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.processors.labels import label_codes
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokens.space import TokenSpace

CLASSES = AttributeTokenizer("label", ["cat", "dog", "0", "owl"])


def model_of(tokenizers: dict[str, Tokenizer], guidance_scale: float = 2.0) -> TextToImagePipeline:
    space = TokenSpace([one.modality(name) for name, one in tokenizers.items()])
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = MaskTransformer(TransformerConfig(dim=16, num_layers=1, num_heads=1), space.size, len(tokenizers))
        randomised(model, 0.4)
    settings = {"image": GenerationSettings(steps=(2, 1), guidance_scale=guidance_scale)}
    return TextToImagePipeline(model, space, tokenizers, settings, {"image": (4, 4)})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_image: ImageTokenizer) -> Path:
    folder = tmp_path_factory.mktemp("classes") / "bundle"
    model_of({"label": CLASSES, "image": tiny_image}).save_pretrained(folder)
    return folder


def test_a_label_by_name_or_number_is_the_condition_and_none_is_no_condition(bundle: Path) -> None:
    pipe = Pipeline.from_pretrained(bundle)
    assert isinstance(pipe, TextToImagePipeline)

    def wanted(code: int | None) -> Any:
        known = {} if code is None else {"label": torch.tensor([[code]])}
        return pipe.generate([known], "image", [5]).codes[0]

    assert len({str(wanted(code)) for code in (None, 0, 1)}) == 3, "the planted model must tell its classes apart"
    for label, code in (("cat", 0), ("dog", 1), (1, 1), ("3", 3), ("0", 2), ({"label": "owl"}, 3), (None, None)):
        assert torch.equal(pipe(label=label, seed=5).codes[0], wanted(code)), label
    two = pipe(label=["dog", 3], seed=[5, 5])
    assert torch.equal(two.codes[0], wanted(1))
    assert torch.equal(two.codes[1], wanted(3))
    assert torch.equal(pipe(unconditional=True, seed=5).codes[0], wanted(None))
    assert pipe(label="cat", image=Image.new("RGB", (32, 32)), strength=0.5).images[0].size == (32, 32)


def test_labels_stand_beside_captions_and_several_attributes_are_named(tiny_text: TextTokenizer, tiny_image: ImageTokenizer) -> None:
    tokenizers = {"text": tiny_text, "label": CLASSES, "style": AttributeTokenizer("style", ["flat", "3d"]), "image": tiny_image}
    pipe = model_of(tokenizers)
    both = pipe.generate([{**pipe.text_codes("a heart"), "label": torch.tensor([[1]]), "style": torch.tensor([[1]])}], "image", [0])
    assert torch.equal(pipe("a heart", label={"label": "dog", "style": "3d"}).codes[0], both.codes[0])
    assert pipe(label={"style": "flat"}).codes[0].shape == (2, 4, 4)
    assert torch.equal(pipe(unconditional=True).codes[0], pipe.generate([{}], "image", [0]).codes[0])
    with pytest.raises(ValueError, match="has the attributes label, style; say which"):
        pipe("a heart", label="dog")
    with pytest.raises(ValueError, match="one is given"):
        pipe("a heart", unconditional=True)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("cta", "there is no label 'cta'; there are cat, ..., or give a number from 0 to 3"),
        (4, "must lie in 0 to 3, got 4"),
        ("-1", "there is no label '-1'"),
        ({"breed": "cat"}, "no attribute breed; it has label"),
        (["cat", "dog", "owl"], "3 entries for 2 prompts"),
        ([], "0 entries for 2 prompts"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(label: Any, said: str, tiny_text: TextTokenizer, tiny_image: ImageTokenizer) -> None:
    pipe = model_of({"text": tiny_text, "label": CLASSES, "image": tiny_image})
    with pytest.raises(ValueError, match=said.replace("...", r"\.\.\.")):
        pipe(["a heart", "a star"], label=label)
    with pytest.raises(TypeError, match="name or the number"):
        label_codes({"label": CLASSES}, True)


def test_without_guidance_a_warning_says_what_an_unconditional_image_takes(
    tiny_image: ImageTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    model_of({"label": CLASSES, "image": tiny_image}, guidance_scale=1.0)()
    assert "drop_condition" in caplog.text
    caplog.clear()
    model_of({"image": tiny_image}, guidance_scale=1.0)()
    assert not caplog.text


def test_the_command_line_takes_labels(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for number, options in enumerate((["--label", "dog"], ["--label", "1"], [], ["--unconditional"])):
        main(["generate", "image", "--model", str(bundle), "--out", f"{number}.png", "--seed", "5", *options])
    named, numbered, nothing, unconditional = (Path(f"{number}.png").read_bytes() for number in range(4))
    assert named == numbered
    assert nothing == unconditional != named
    main(["generate", "image", "--model", str(bundle), "--label", "cat", "--label", "owl", "--out", "two.png"])
    assert Path("two.png").is_file()
    assert "there is no label 'cow'" in refused(capsys, "generate", "image", "--model", bundle, "--label", "cow")
    assert "draws without a text" in refused(capsys, "generate", "image", "a cat", "--model", bundle)
    main(["score", "dog", "cat", "--image", "0.png", "--model", str(bundle), "--samples", "2"])
    assert "dog" in capsys.readouterr().out
