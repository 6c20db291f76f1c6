"""Features of a frozen text encoder from the recipe to the picture: build, training, export, calls, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.command_line import refused
from builders.encoders import tiny_encoder
from builders.masked_training import TINY, module, trainer
from PIL import Image

from maskgen.cli.main import main
from maskgen.data.build.verify import verify
from maskgen.data.loading.grouping import Packed
from maskgen.data.loading.mixture import Part
from maskgen.data.loading.token_data import TokenData
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokenizers.text_encoder import TextEncoder
from maskgen.tokens.packing import unpack

CAPTIONS = {
    "red": ["a red heart", "a red heart flat style"],
    "blue": ["a blue square", "a blue circle 3d style", "a star"],
    "green": ["a star"],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tiny_text: TextTokenizer, tiny_image: ImageTokenizer) -> Path:
    """Pictures of one colour with captions, their recipe, tokenizers and encoders, and the shards."""
    root = tmp_path_factory.mktemp("features")
    (root / "media").mkdir()
    for colour, captions in CAPTIONS.items():
        Image.new("RGB", (32, 32), colour).save(root / "media" / f"{colour}.png")
        (root / "media" / f"{colour}.txt").write_text("\n".join(captions))
    tiny_text.save(root / "text")
    tiny_image.save(root / "image")
    for name, seed in (("encoder", 0), ("other", 1)):
        main(["export", "text-encoder", str(tiny_encoder(root / f"bert-{name}", seed=seed)), "--longest", "8", "--out", str(root / name)])
    recipe = {
        "name": "colours",
        "sources": [{"kind": "folder", "path": "media"}],
        "image": {"size": 32},
        "tokenizers": {"features": "encoder", "text": "text", "image": "image"},
    }
    (root / "recipe.yaml").write_text(json.dumps(recipe))
    (root / "alone.yaml").write_text(json.dumps({**recipe, "tokenizers": {"features": "encoder", "image": "image"}}))
    (root / "other.yaml").write_text(json.dumps({**recipe, "tokenizers": {"features": "other", "image": "image"}}))
    for name in ("recipe", "alone", "other"):
        main(["data", "build", str(root / f"{name}.yaml"), "--out", str(root / f"shards-{name}"), "--workers", "1"])
    return root


def trained(corpus: Path, shards: str, out: Path, **options: Any) -> TextToImagePipeline:
    """A model after two steps, exported and loaded."""
    data = TokenData(str(corpus / shards), batch_size=2, grouping=Packed(64), validation_splits=["train"])
    run = trainer(2, out, limit_val_batches=1)
    run.fit(module(str(corpus / shards), options.pop("transformer", TINY), **options), data)
    run.save_checkpoint(out / "last.ckpt")
    names = {"features": "encoder", "image": "image", **({"text": "text"} if shards == "shards-recipe" else {})}
    given = [f"--tokenizer={name}={corpus / place}" for name, place in names.items()]
    settings = out / "settings.yaml"
    settings.write_text("image: {steps: [2, 1], guidance_scale: 2.0}\n")
    main(["export", "model", str(out / "last.ckpt"), "--out", str(out / "model"), "--generation", str(settings), *given])
    made = Pipeline.from_pretrained(out / "model")
    assert isinstance(made, TextToImagePipeline)
    return made


def test_shards_hold_the_features_of_the_caption_that_is_drawn(corpus: Path, tiny_text: TextTokenizer) -> None:
    assert verify(corpus / "shards-recipe", full=True).damages == ()
    encoder = TextEncoder.from_bundle(corpus / "encoder")
    pairs = {str(tiny_text.encode([text])[0].tolist()): encoder.encode([text])[0] for texts in CAPTIONS.values() for text in texts}
    data = TokenData(str(corpus / "shards-recipe"), batch_size=2, validation_splits=["train"])
    data.setup("fit")
    seen = set()
    for row in range(3):
        for number in (-1, *range(20)):
            sample = data.train[0][row, number]
            assert torch.equal(sample["features"], pairs[str(sample["text"].tolist())])
            seen.add(str(sample["text"].tolist()))
    batch = next(iter(data.train_dataloader()))
    assert all(torch.equal(one["features"], pairs[str(one["text"].tolist())]) for one in unpack(batch, data.space))
    assert len(seen) == len(pairs), "every caption must come, each with its own features"


def test_a_mixture_of_encoders_is_refused(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="have features from other tokenizers"):
        TokenData([Part(folder=str(corpus / f"shards-{name}")) for name in ("alone", "other")]).setup("fit")
    assert "fingerprints.features was" in refused(
        capsys, "data", "build", corpus / "other.yaml", "--out", corpus / "shards-alone", "--workers", "1"
    )


@pytest.mark.parametrize("shards", ["shards-recipe", "shards-alone"])
def test_a_trained_model_draws_from_features_beside_text_and_alone(
    corpus: Path, shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = trained(corpus, shards, tmp_path, transformer=replace(TINY, blind_condition=True), drop_parts={"features": 0.5})
    encoder = TextEncoder.from_bundle(corpus / "encoder")
    known = pipe.text_codes("a red heart")
    assert torch.equal(known["features"], encoder.encode(["a red heart"])[0])
    assert ("text" in known) == (shards == "shards-recipe")
    plain = pipe("a red heart", seed=3)
    assert torch.equal(plain.codes[0], pipe.generate([known], "image", [3]).codes[0])
    texts = {name: "a red heart" for name in known}
    assert torch.equal(plain.codes[0], pipe.generate([texts], "image", [3]).codes[0])
    both = pipe(["a red heart", "a star"], seed=[3, 4], batch_invariant=True)
    assert torch.equal(both.codes[0], plain.codes[0])
    against = pipe("a red heart", negative_prompt="a star", seed=3)
    assert torch.equal(against.codes[0], pipe.generate([known], "image", [3], negative=[pipe.text_codes("a star")]).codes[0])
    assert pipe(unconditional=True).codes[0].shape == (2, 4, 4)
    with pytest.raises(ValueError, match=r"tokens of the encoder features, at most 8 are taken|text tokens, at most"):
        pipe("a red heart flat style " * 12)
    with pytest.raises(ValueError, match="a condition alone"):
        pipe.generate([{}], "features", [0])
    main(["generate", "image", "a blue square", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "made.png"), "--seed", "3"])
    assert Image.open(tmp_path / "made.png").size == (32, 32)
    capsys.readouterr()
    whole = tmp_path / "whole"
    pipe.save_pretrained(whole)
    assert torch.equal(Pipeline.from_pretrained(whole)("a red heart", seed=3).codes[0], plain.codes[0])
    shutil.rmtree(whole / "tokenizers" / "features")
    assert "no bundle in" in refused(capsys, "generate", "image", "a star", "--model", whole)
    shutil.copytree(corpus / "other", whole / "tokenizers" / "features")
    assert "was trained with" in refused(capsys, "generate", "image", "a star", "--model", whole)


def test_phrases_and_targets_of_features_are_refused(corpus: Path) -> None:
    with pytest.raises(ValueError, match="a condition alone"):
        module(str(corpus / "shards-alone"), target="features")
