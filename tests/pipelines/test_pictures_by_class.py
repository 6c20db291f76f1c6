"""Class-conditional and unconditional models from folders of pictures: build, the shipped configurations, export and calls."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from builders.command_line import refused
from builders.masked_training import TINY, module, trainer
from PIL import Image

from maskgen.cli.main import main
from maskgen.data.build.labels import label_tokenizer
from maskgen.data.build.recipe import Recipe
from maskgen.data.loading.token_data import TokenData
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.tokenizers.image import ImageTokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, tiny_image: ImageTokenizer) -> Path:
    """Pictures in the folders of their classes, the tokenizers, and shards with and without classes."""
    root = tmp_path_factory.mktemp("classes")
    for colour, name in (("red", "cat"), ("blue", "dog")):
        (root / "pictures" / "train" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32), colour).save(root / "pictures" / "train" / name / f"{number}.png")
    tiny_image.save(root / "image")
    source = {"kind": "folder", "path": "pictures", "labels": "label"}
    recipe = {"name": "classes", "sources": [source], "image": {"size": 32}, "tokenizers": {"label": "labels", "image": "image"}}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (root / "alone.yaml").write_text(yaml.safe_dump({**recipe, "tokenizers": {"image": "image"}}))
    main(["data", "labels", str(root / "recipe.yaml"), "--out", str(root / "labels")])
    for name in ("recipe", "alone"):
        main(["data", "build", str(root / f"{name}.yaml"), "--out", str(root / name), "--workers", "1"])
    return root


def exported(pictures: Path, shards: str, out: Path) -> TextToImagePipeline:
    """A model after two steps with the model options of the shipped configuration, exported and loaded."""
    config = yaml.safe_load((ROOT / "configs" / f"{'class_to' if shards == 'recipe' else 'unconditional'}_image.yaml").read_text())
    given = config["model"]["init_args"]
    data = TokenData(str(pictures / shards), batch_size=4, validation_splits=config["data"]["init_args"]["validation_splits"])
    run = trainer(2, out, limit_val_batches=1)
    run.fit(module(str(pictures / shards), TINY, drop_condition=given["drop_condition"]), data)
    run.save_checkpoint(out / "last.ckpt")
    (out / "settings.yaml").write_text(json.dumps({"image": {"steps": [2, 1], "guidance_scale": 3.0}}))
    names = ["image", "label"] if shards == "recipe" else ["image"]
    tokenizers = [f"--tokenizer={name}={pictures / ('labels' if name == 'label' else name)}" for name in names]
    main(["export", "model", str(out / "last.ckpt"), "--out", str(out / "model"), "--generation", str(out / "settings.yaml"), *tokenizers])
    made = Pipeline.from_pretrained(out / "model")
    assert isinstance(made, TextToImagePipeline)
    return made


def test_a_class_is_the_name_of_the_folder_and_draws_by_name(pictures: Path, tmp_path: Path) -> None:
    data = TokenData(str(pictures / "recipe"), batch_size=2, validation_splits=["train"])
    data.setup("fit")
    assert sorted(int(data.train[0][row, -1]["label"]) for row in range(4)) == [0, 0, 1, 1]
    pipe = exported(pictures, "recipe", tmp_path)
    cat, again, dog = (pipe(label=label, seed=1).codes[0] for label in ("cat", 0, "dog"))
    assert torch.equal(cat, again)
    assert cat.shape == dog.shape
    assert pipe(label="cat").model_calls == [6.0]
    assert pipe(label="cat", guidance_scale=1.0).model_calls == [3.0]
    main(["generate", "image", "--label", "dog", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "dog.png")])
    assert Image.open(tmp_path / "dog.png").size == (32, 32)


def test_a_model_without_any_condition_draws_without_guidance_and_refuses_one(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pipe = exported(pictures, "alone", tmp_path)
    caplog.clear()
    assert pipe(num_outputs=2).model_calls == [3.0, 3.0], "guidance of the settings would compute a second view for nothing"
    assert "without a condition" not in caplog.text
    for call, said in (
        ({"prompt": "a cat"}, "draws without a text"),
        ({"label": "cat"}, "has no classes"),
        ({"guidance_scale": 2.0}, "without a condition to guide by"),
    ):
        with pytest.raises(ValueError, match=said):
            pipe(**call)
    main(["generate", "image", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "any.png")])
    assert "draws without a text" in refused(capsys, "generate", "image", "a cat", "--model", tmp_path / "model")


def test_pictures_outside_of_a_class_are_refused(pictures: Path, tmp_path: Path) -> None:
    source = {"kind": "folder", "path": "loose", "labels": "label"}
    (tmp_path / "loose" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "loose" / "cat" / "1.png")
    assert label_tokenizer(Recipe(name="x", sources=(source,), root=tmp_path)).values == ("cat",)
    with pytest.raises(ValueError, match="have 0 values of 'label'"):
        label_tokenizer(Recipe(name="x", sources=({**source, "labels": "kind"},), root=tmp_path))
    Image.new("RGB", (8, 8)).save(tmp_path / "loose" / "1.png")
    with pytest.raises(ValueError, match="put every picture into the folder of its class"):
        label_tokenizer(Recipe(name="x", sources=(source,), root=tmp_path))
