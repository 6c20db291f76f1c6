"""The walk of "A modality" in docs/extending.md: a modality that maskgen does not know joins a trained model, and no old id moves."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maskgen.data.build.engine import run_build
from maskgen.data.build.plan import plan_recipe
from maskgen.data.build.recipe import ImageRecipe, Recipe
from maskgen.data.build.token_shards import token_output
from maskgen.data.loading.token_data import TokenData
from maskgen.decoding.settings import GenerationSettings
from maskgen.io.bundle import fingerprint_of, load_bundle, save_bundle
from maskgen.io.images import read_picture, write_picture
from maskgen.networks.pretrained import load_pretrained
from maskgen.networks.transformer import MaskTransformer
from maskgen.pipelines.base import Pipeline
from maskgen.tokenizers.auto import TOKENIZER_KINDS
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.batch import Codes
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Kind, TokenSpace
from maskgen.training.modules.masked import MaskedTokenModule

BUNDLE_KIND = "shade_tokenizer"


class ShadeTokenizer(Tokenizer):
    """How dark a picture is, cell by cell: a map of scalars as codes, the way a depth map would be one.

    Args:
        side: Cells a side.
        pixels_per_cell: Pixels of a cell's side.
        codebook_size: Steps from black to white.
    """

    kind: ClassVar[Kind] = "image"

    def __init__(self, side: int, pixels_per_cell: int, codebook_size: int = 12) -> None:
        self.side, self.pixels_per_cell = side, pixels_per_cell
        self.num_levels, self.codebook_size = 1, codebook_size

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "ShadeTokenizer":
        return cls(**load_bundle(folder, BUNDLE_KIND).config)

    @property
    def _config(self) -> dict[str, int]:
        return {"side": self.side, "pixels_per_cell": self.pixels_per_cell, "codebook_size": self.codebook_size}

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(BUNDLE_KIND, self._config, {})

    def save(self, folder: Path | str) -> str:
        return save_bundle(folder, BUNDLE_KIND, self._config, {})

    def read(self, path: Path | str) -> Image.Image:
        return read_picture(Path(path))

    def write(self, media: Image.Image, path: Path | str) -> None:
        write_picture(media, Path(path))

    def encode(self, media: Sequence[Image.Image]) -> list[Codes]:
        small = [picture.convert("L").resize((self.side, self.side), Image.Resampling.BOX) for picture in media]
        return [torch.from_numpy(np.asarray(one, np.int64) * self.codebook_size // 256)[None] for one in small]

    def decode(self, codes: Sequence[Codes]) -> list[Image.Image]:
        middles = [((grid[0].double() + 0.5) * 256 / self.codebook_size).numpy().astype(np.uint8) for grid in codes]
        size = self.side * self.pixels_per_cell
        return [Image.fromarray(one).convert("RGB").resize((size, size), Image.Resampling.NEAREST) for one in middles]


@pytest.fixture(scope="module")
def shade() -> ShadeTokenizer:
    return ShadeTokenizer(side=4, pixels_per_cell=8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, shade: ShadeTokenizer) -> Path:
    """Token shards of pictures with captions, in the old space and the new modality behind it."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "pictures" / f"{number}.png")
        (folder / "pictures" / f"{number}.txt").write_text("a red heart, flat style")
    old = Pipeline.from_pretrained(tiny_bundle)
    tokenizers = {**{one.name: old.tokenizers[one.name] for one in old.space.modalities}, "shade": shade}
    recipe = Recipe(name="walk", sources=({"kind": "folder", "path": "pictures"},), image=ImageRecipe(size=32), root=folder)
    run_build(plan_recipe(recipe, token_output(tokenizers)), folder / "tokens")
    return folder / "tokens"


def started(shards: Path, bundle: Path) -> MaskedTokenModule:
    config = load_pretrained(bundle).model.config
    return MaskedTokenModule(str(shards), config, [4, 4], target="shade", max_steps=2, warmup_steps=0, start=str(bundle))


def image_logits(model: MaskTransformer, space: TokenSpace) -> list[Tensor]:
    """Of both levels of two pictures with captions of different lengths."""
    draw = torch.Generator().manual_seed(0)
    rows = [
        {"text": torch.randint(0, 50, (1, n), generator=draw), "image": torch.randint(-1, 16, (2, 4, 4), generator=draw)} for n in (3, 7)
    ]
    batch = pack(rows, space)
    with torch.no_grad():
        hidden = model.eval()(batch)
    return [model.logits(hidden[batch.cells(segment.index)], segment.offset, segment.size) for segment in space.of("image")]


def test_the_contract_holds(shade: ShadeTokenizer, tmp_path: Path) -> None:
    codes = torch.arange(16).reshape(1, 4, 4) % 12
    assert torch.equal(shade.encode(shade.decode([codes]))[0], codes)
    shade.save(tmp_path)
    assert ShadeTokenizer.from_bundle(tmp_path).fingerprint == shade.fingerprint


def test_old_ids_stay_and_old_logits_are_equal_to_the_bit(shards: Path, tiny_bundle: Path, shade: ShadeTokenizer) -> None:
    old, module = load_pretrained(tiny_bundle), started(shards, tiny_bundle)
    assert module.space.begins_with(old.space.extended(shade.modality("shade")))
    assert len(module.space.modalities) == len(old.space.modalities) + 1
    assert [module.space.of(one.name) for one in old.space.modalities] == [old.space.of(one.name) for one in old.space.modalities]
    wanted = image_logits(old.model, old.space)
    for spaces in (old.space, module.space):
        assert all(torch.equal(*pair) for pair in zip(image_logits(module.model, spaces), wanted, strict=True))


def test_it_trains_saves_loads_and_generates_in_every_direction(
    shards: Path, tiny_bundle: Path, shade: ShadeTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, old = started(shards, tiny_bundle), Pipeline.from_pretrained(tiny_bundle)
    new = module.space.of("shade")[0]
    before = module.model.embed.weight[new.offset : new.offset + new.size].detach().clone()
    trainer = L.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, TokenData(str(shards), batch_size=2, validation_splits=[]))
    assert bool(torch.isfinite(trainer.callback_metrics["train/loss_shade"]))
    assert not torch.equal(module.model.embed.weight[new.offset : new.offset + new.size], before)
    settings = {**old.settings, "shade": GenerationSettings(steps=(3,))}
    grids = {**old.grids, "shade": (4, 4)}
    Pipeline(module.model, module.space, {**old.tokenizers, "shade": shade}, settings, grids).save_pretrained(tmp_path)
    monkeypatch.setitem(TOKENIZER_KINDS, BUNDLE_KIND, ShadeTokenizer)
    pipeline = Pipeline.from_pretrained(tmp_path)
    picture = Image.new("RGB", (32, 32), (200, 30, 30))
    map_of_text = pipeline.generate([{"text": "a red heart"}], "shade", [0])
    map_of_picture = pipeline.generate([{"image": picture}], "shade", [0])
    picture_of_map = pipeline.generate([{"text": "a red heart", "shade": map_of_text.media[0]}], "image", [0])
    assert [made.media[0].size for made in (map_of_text, map_of_picture, picture_of_map)] == [(32, 32)] * 3
    assert all(bool(((made.codes[0] >= 0) & (made.codes[0] < 12)).all()) for made in (map_of_text, map_of_picture))
    assert len(pipeline("a red heart", seed=1).images) == 1
