"""Rate of building token shards from a folder of 256-pixel JPEGs, beside a plain one-process script and beside encoding alone.

Run:    uv run python benchmarks/building.py
        uv run python benchmarks/building.py --raw data/emoji/build/raw      # tokenising raw shards, the emoji corpus
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image

from maskgen.data.build.engine import run_build
from maskgen.data.build.plan import plan_recipe
from maskgen.data.build.recipe import ImageRecipe, Recipe
from maskgen.data.build.token_shards import token_output
from maskgen.data.build.tokenize import tokenize
from maskgen.data.build.workers import Processes
from maskgen.data.shards.format import read_split
from maskgen.data.shards.manifest import read_index
from maskgen.io.letterbox import letterbox
from maskgen.tokenizers.auto import load_tokenizer

ROOT = Path(__file__).parents[1]
FOLDERS = {"text": ROOT / "tokenizers/text-bpe/bundle", "image": ROOT / "tokenizers/image-emoji64/bundle"}
BATCH = 64
TOKENS = 3 * 8 * 8
"""Image tokens a sample."""


def pictures(folder: Path, count: int) -> None:
    """Smooth random JPEGs of 256 x 256 pixels with a caption each."""
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{number:06d}.jpg", quality=90)
        (folder / f"{number:06d}.txt").write_text(f"picture number {number} of many")


def ours(folder: Path, out: Path, workers: int) -> None:
    """The build engine."""
    recipe = Recipe(name="jpegs", sources=({"kind": "folder", "path": str(folder)},), image=ImageRecipe(size=64), shard_samples=250)
    run_build(plan_recipe(recipe, token_output(FOLDERS)), out, Processes(workers))


def plain(folder: Path, out: Path) -> None:
    """What one would write in an hour: read, scale, encode in batches, webdataset's writer; no checks, no resume."""
    image, text = load_tokenizer(FOLDERS["image"]), load_tokenizer(FOLDERS["text"])
    paths = sorted(folder.glob("*.jpg"))
    out.mkdir()
    with torch.inference_mode(), webdataset.ShardWriter(str(out / "train-%06d.tar"), maxcount=250, verbose=0) as writer:
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            scaled = [letterbox(Image.open(path).convert("RGB"), (64, 64)) for path in batch]
            captions = [path.with_suffix(".txt").read_text() for path in batch]
            for path, codes, caption in zip(batch, image.encode(scaled), text.encode(captions), strict=True):
                members = {"image.npy": codes.numpy().astype(np.int16), "text.npy": caption.numpy().astype(np.int16)}
                writer.write({"__key__": path.stem, **members, "json": {"captions": [path.stem]}})


def encoding(folder: Path) -> None:
    """The image tokenizer alone on pictures in memory: the limit of any build on this machine."""
    image = load_tokenizer(FOLDERS["image"])
    scaled = [letterbox(Image.open(path).convert("RGB"), (64, 64)) for path in sorted(folder.glob("*.jpg"))[:BATCH]]
    with torch.inference_mode():
        for _ in range(0, len(list(folder.glob("*.jpg"))), BATCH):
            image.encode(scaled)


def measured(what: str, count: int, work: Callable[[], None]) -> float:
    """Run once, print and return samples a second."""
    start = time.perf_counter()
    work()
    rate = count / (time.perf_counter() - start)
    print(f"{what:44} {rate:8.0f} samples/s {rate * TOKENS:11,.0f} image tokens/s", flush=True)
    return rate


def folder_of_jpegs(count: int) -> None:
    """Every way once, on the same folder."""
    torch.set_num_threads(1)  # a core each, as in the engine's workers
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "jpegs"
        folder.mkdir()
        pictures(folder, count)
        measured("encode alone, one thread", count, lambda: encoding(folder))
        measured("plain script, one process", count, lambda: plain(folder, Path(name) / "plain"))
        measured("maskgen data build, 1 worker", count, lambda: ours(folder, Path(name) / "one", 1))
        measured(f"maskgen data build, {cores} workers", count, lambda: ours(folder, Path(name) / "all", cores))


def raw_shards(raw: Path) -> None:
    """Tokenising raw shards beside encoding their pictures in one process."""
    torch.set_num_threads(1)
    count, cores = sum(read_index(raw).counts.values()), os.cpu_count() or 1
    index, image = read_index(raw), load_tokenizer(FOLDERS["image"])

    def alone() -> None:
        batch = [Image.fromarray(sample["png"]) for _, sample in read_split(raw, index, "A")]
        with torch.inference_mode():
            image.encode(batch)

    measured("read and encode split A, one thread", index.counts["A"], alone)
    with tempfile.TemporaryDirectory() as name:
        folders: dict[str, Path] = dict(FOLDERS)
        measured(
            f"maskgen data tokenize, {cores} workers", count, lambda: tokenize(raw, Path(name), folders, runner=Processes(cores)) and None
        )


def main() -> None:
    """Measure one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="JPEGs to make")
    parser.add_argument("--raw", type=Path, help="raw shards to tokenise instead")
    args = parser.parse_args()
    if args.raw is None:
        folder_of_jpegs(args.count)
    else:
        raw_shards(args.raw)


if __name__ == "__main__":
    main()
