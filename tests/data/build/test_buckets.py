"""Aspect-ratio buckets and micro-conditions: from pictures of any shape to batches of many grids, every sample accounted for."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from builders.masked_training import TINY, trainer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskgen.autoencoders.image import ImageAutoencoder, ImageAutoencoderConfig
from maskgen.autoencoders.quantizers import FiniteScalarQuantizer
from maskgen.data.build.engine import run_build
from maskgen.data.build.job import ShardJob
from maskgen.data.build.plan import plan_recipe
from maskgen.data.build.raw_shards import RawOutput
from maskgen.data.build.recipe import ImageRecipe, read_recipe
from maskgen.data.build.token_shards import token_output
from maskgen.data.build.tokenize import tokenize
from maskgen.data.build.workers import Lines, in_process
from maskgen.data.loading.grids import checked_grids
from maskgen.data.loading.grouping import ByLength, Packed
from maskgen.data.loading.token_data import TokenData
from maskgen.data.shards.format import read_split
from maskgen.data.shards.manifest import read_index
from maskgen.data.sources.buckets import best_bucket, bucket_sizes, fit_bucket
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.micro import MicroTokenizer
from maskgen.tokens.space import TokenSpace
from maskgen.training.modules.masked import MaskedTokenModule

SIZES = {"wide": (80, 40), "tall": (31, 62), "square": (50, 50), "nearly": (64, 50), "panorama": (200, 40), "tiny": (9, 7)}
IMAGE = {"size": 32, "fit": "bucket", "multiple": 8, "max_ratio": 2.0}


@given(
    cells=st.integers(1, 16),
    multiple=st.sampled_from([4, 8, 16]),
    ratio=st.floats(1, 4),
    width=st.integers(1, 500),
    height=st.integers(1, 500),
)
def test_buckets_have_about_one_area_and_the_best_one_cuts_least(cells: int, multiple: int, ratio: float, width: int, height: int) -> None:
    size = cells * multiple
    found = bucket_sizes(size, multiple, ratio)
    assert (size, size) in found
    assert len(set(found)) == len(found)
    assert {(h, w) for w, h in found} == set(found)
    assert all(w % multiple == h % multiple == 0 and w * h <= size**2 and max(w, h) <= ratio * min(w, h) for w, h in found)
    assert all(w * h > size**2 - multiple * max(w, h) for w, h in found)  # one more row or column would be too much

    def cut(bucket: tuple[int, int]) -> float:
        scale = max(bucket[0] / width, bucket[1] / height)
        return 1 - bucket[0] * bucket[1] / (width * scale * height * scale)

    assert cut(best_bucket(width, height, found)) <= min(map(cut, found)) + 1e-9


def test_a_bucket_shows_the_centre_unstretched_and_says_what_is_cut() -> None:
    ramp = np.zeros((40, 100, 3), dtype=np.uint8)
    ramp[..., 0] = np.arange(100)[None] * 2
    ramp[..., 1] = np.arange(40)[:, None] * 6
    found = fit_bucket(Image.fromarray(ramp), [(64, 32)])  # scale 0.8: 80 x 32, of which 64 columns stay
    assert (found.image.size, found.left, found.top) == ((64, 32), 8, 0)
    shown = np.asarray(found.image).astype(float)
    assert abs(shown[16, 32, 0] - 101) < 3  # the middle stays the middle
    assert abs((shown[16, 60, 0] - shown[16, 4, 0]) / 56 - 2 / 0.8) < 0.1
    assert abs((shown[28, 32, 1] - shown[4, 32, 1]) / 24 - 6 / 0.8) < 0.3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 32, "fit": "bucket"}, "needs multiple"),
        ({"size": 32, "fit": "bucket", "multiple": 8, "buckets": [[32, 32]]}, "not both"),
        ({"size": 30, "fit": "bucket", "multiple": 8}, "multiple of"),
        ({"size": 32, "fit": "crop", "multiple": 8}, "need fit: bucket"),
        ({"size": 32, "fit": "bucket", "buckets": [[32]]}, "pairs"),
        ({"size": 4096, "fit": "bucket", "multiple": 1}, "buckets are more than"),
    ],
)
def test_impossible_buckets_are_refused(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_recipe(recipe(tmp_path, image=wrong))


def test_a_recipe_without_buckets_has_the_facts_that_it_always_had() -> None:
    assert ImageRecipe(size=16).to_dict() == {"size": 16, "fit": "letterbox", "crops": 1}


def recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    plain = {"name": "shapes", "sources": [{"kind": "folder", "path": "pictures"}], "image": IMAGE, "shard_samples": 4, "max_bad": 0.5}
    path.write_text(yaml.safe_dump({**plain, **changes}))
    return path


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of many shapes, some with a score, one damaged; the folder of the recipe."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "pictures").mkdir()
    chance = np.random.default_rng(0)
    for number, (name, (width, height)) in enumerate(sorted(SIZES.items()) * 2):
        path = folder / "pictures" / f"{name}-{number:02d}.png"
        Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        path.with_suffix(".json").write_text(
            json.dumps({"aesthetic_score": 5.5} if number % 2 else {"original_width": 4000, "original_height": 2000})
        )
    (folder / "pictures" / "zz.png").write_bytes(b"\x89PNG no picture")
    recipe(folder)
    return folder


def train_rows(folder: Path) -> dict[str, Any]:
    return dict(read_split(folder, read_index(folder), "train"))


def tokenizers() -> dict[str, Path | Tokenizer]:
    config = ImageAutoencoderConfig(patch=4, encoder_channels=(16, 16), decoder_channels=(16, 16), encoder_blocks=1, decoder_blocks=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ImageAutoencoder(config, FiniteScalarQuantizer((5, 4)))
    return {"image": ImageTokenizer(network, (32, 32)), "micro": MicroTokenizer(bins=16)}


@pytest.fixture(scope="module")
def built(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "out"
    run_build(plan_recipe(read_recipe(shapes / "recipe.yaml"), token_output(tokenizers())), out)
    return out


def test_every_sample_is_in_a_bucket_or_rejected_and_the_report_says_so(
    shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        index = run_build(plan_recipe(read_recipe(shapes / "recipe.yaml"), RawOutput()), tmp_path)
    assert sum(index.counts.values()) == 2 * len(SIZES)
    assert "12 images in 3 buckets: 6 of 32 x 32, 4 of 40 x 24, 2 of 24 x 40" in caplog.text
    assert "1 rejects" in caplog.text
    rows = train_rows(tmp_path)
    for row in rows.values():
        height, width = row["png"].shape[:2]
        assert row["json"]["bucket"] == f"{width} x {height}"
        assert (width, height) in bucket_sizes(32, 8, 2.0)
    odd = next(row["json"] for key, row in rows.items() if key.startswith("panorama") and "aesthetic_score" in row["json"])
    assert (odd["original_width"], odd["original_height"], odd["bucket"]) == (200, 40, "40 x 24")
    assert odd["crop_left"] == 40
    resized = next(row["json"] for row in rows.values() if "aesthetic_score" not in row["json"])
    assert (resized["original_width"], resized["original_height"]) == (4000, 2000)  # a source that has resized its pictures is believed


def test_codes_have_the_grid_of_the_bucket_and_both_ways_of_building_agree(shapes: Path, built: Path, tmp_path: Path) -> None:
    run_build(plan_recipe(read_recipe(shapes / "recipe.yaml"), RawOutput()), tmp_path / "raw")
    tokenize(tmp_path / "raw", tmp_path / "tokens", tokenizers())
    again = train_rows(tmp_path / "tokens")
    for key, row in train_rows(built).items():
        width, height = map(int, row["json"]["bucket"].split(" x "))
        assert row["image.npy"].shape == (1, height // 8, width // 8)
        numbers = MicroTokenizer(bins=16).decode([torch.from_numpy(row["micro.npy"])])[0]
        assert (numbers["aesthetic_score"] is None) == ("aesthetic_score" not in row["json"])
        assert abs(numbers["original_width"] / row["json"]["original_width"] - 1) < 0.25
        assert all((again[key][name] == row[name]).all() for name in ("image.npy", "micro.npy"))


def test_an_interrupted_build_ends_with_the_same_bytes(shapes: Path, built: Path, tmp_path: Path) -> None:
    def stopping(jobs: Sequence[ShardJob]) -> Lines:
        def lines() -> Iterator[Any]:
            yield next(iter(in_process(jobs)))
            raise KeyboardInterrupt

        return lines()

    plan = plan_recipe(read_recipe(shapes / "recipe.yaml"), token_output(tokenizers()))
    with pytest.raises(KeyboardInterrupt):
        run_build(plan, tmp_path, stopping)
    run_build(plan, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {path.name: path.read_bytes() for path in built.iterdir()}


def test_batches_of_many_grids_are_little_padded_or_packed_without_a_mix(built: Path) -> None:
    alike = TokenData(str(built), batch_size=2, grouping=ByLength(6), validation_splits=["train"], seed=1)
    packed = TokenData(str(built), batch_size=2, grouping=Packed(cells=64, draws=12), validation_splits=["train"])
    for data, least in ((alike, 0.9), (packed, 0.6)):
        data.setup("fit")
        batches = list(data.train_dataloader())
        filled = torch.cat([batch.valid.flatten() for batch in batches]).float().mean()
        assert float(filled) > least
        grids = {tuple(extent) for batch in batches for extent in batch.extent.flatten(0, 1).tolist() if extent[1]}
        assert len(grids) > 1
        for batch in batches:
            for row in range(len(batch)):
                for document in batch.document[row].unique():
                    cells = (batch.document[row] == document) & (batch.modality[row] == data.space.index("image"))
                    extents = batch.extent[row][cells].unique(dim=0)
                    assert len(extents) == 1
                    assert int(extents[0, 1] * extents[0, 2]) == int(cells.sum())


def test_a_training_on_buckets_takes_any_default_grid_of_rows_and_columns(built: Path) -> None:
    space = TokenSpace([one.modality(name) for name, one in tokenizers().items() if isinstance(one, Tokenizer)])
    assert checked_grids(str(built), space, {"image": [9, 9]})["image"] == [9, 9]
    with pytest.raises(ValueError, match="grid of image"):
        checked_grids(str(built), space, {"image": [16]})


def test_a_model_learns_from_buckets_and_micro_conditions(built: Path, tmp_path: Path) -> None:
    data = TokenData(str(built), batch_size=4, grouping=ByLength(2), validation_splits=["train"])
    learner = MaskedTokenModule(str(built), TINY, [4, 4], max_steps=100, warmup_steps=2)
    before = learner.model.embed.weight.detach().clone()
    trainer(3, tmp_path).fit(learner, data)
    first = learner.space.of("micro")[0].offset
    moved = (learner.model.embed.weight.detach() - before)[first:].abs().sum(dim=1)
    assert float(moved.max()) > 0
    assert learner.grids["image"] == [4, 4]
