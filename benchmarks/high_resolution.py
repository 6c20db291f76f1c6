"""An image of 1,024 pixels a side encoded, generated, edited and decoded on one CPU thread: seconds and peak memory of each phase.

Run:    OMP_NUM_THREADS=1 uv run python benchmarks/high_resolution.py               # about five minutes; weights are random
        OMP_NUM_THREADS=1 uv run python benchmarks/high_resolution.py --side 512    # a minute
        OMP_NUM_THREADS=1 uv run python benchmarks/high_resolution.py --parts tiles --side 256     # tiles beside the whole image
        OMP_NUM_THREADS=1 uv run python benchmarks/high_resolution.py --parts memory               # the same for memory

A cell is 16 x 16 pixels, so 1,024 pixels are 4,096 cells. What counts is the process' own memory (RssAnon), sampled every 10 ms. The edit
is inpainting of a hole of 1/16 of the image, once plainly and once with the setting `refresh`, which keeps keys and values of known
cells; `agree` is the share of the hole's codes that both write alike. Random weights write noise, so agreement on a trained model is
measured by `larger_grids.py edit`. Tiles: memory with a VQ-GAN of LlamaGen's size, differences with the shipped, trained tokenizer.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from maskgen.autoencoders.image import ImageAutoencoder, ImageAutoencoderConfig
from maskgen.autoencoders.llamagen import LlamaGenConfig, LlamaGenVQ
from maskgen.autoencoders.quantizers import VectorQuantizer
from maskgen.decoding.settings import GenerationSettings
from maskgen.io.shipped import find_path
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.llamagen_vq import LlamaGenVQTokenizer
from maskgen.tokenizers.text import train_bpe
from maskgen.tokenizers.tiling import Tiling
from maskgen.tokens.space import TokenSpace

PARTS = ("pipeline", "memory", "tiles")
TILES = ((0, "tile"), (64, "tile"), (64, "pooled"), (64, "exact"))
"""Halo and norms of the tiles that are compared."""


class Phases:
    """Seconds and largest memory of one phase after another."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self._largest = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._largest = max(self._largest, own_bytes())
            time.sleep(0.01)

    def run(self, name: str, call: Callable[[], Any]) -> Any:
        """The result of one phase."""
        self._largest = own_bytes()
        started_s = time.perf_counter()
        result = call()
        elapsed_s = time.perf_counter() - started_s
        self.found[name] = {"seconds": round(elapsed_s, 1), "peak_gb": round(max(self._largest, own_bytes()) / 1e9, 2)}
        print(f"{name:<32}{elapsed_s:8.1f} s   peak {self.found[name]['peak_gb']:.2f} GB", flush=True)
        return result


def own_bytes() -> int:
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


def picture(side: int) -> Image.Image:
    """Soft colours with discs."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (side // 32, side // 32, 3), dtype=np.uint8))
    image = coarse.resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for x, y, radius, *colour in generator.integers(0, side, (60, 6)).tolist():
        reach = radius // 10
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=tuple(one % 256 for one in colour))
    return image


def pipeline(side: int, dim: int, layers: int) -> TextToImagePipeline:
    """Tokenizers and a transformer with random weights."""
    torch.manual_seed(0)
    text = train_bpe(["a red heart on the table"] * 3, 270, lowercase=False)
    config = ImageAutoencoderConfig(encoder_channels=(128, 256, 256), decoder_channels=(256, 256, 128))
    image = ImageTokenizer(ImageAutoencoder(config, VectorQuantizer(8192, 16)), (side, side))
    tokenizers = {"text": text, "image": image}
    space = TokenSpace([one.modality(name) for name, one in tokenizers.items()])
    model = MaskTransformer(TransformerConfig(dim=dim, num_layers=layers, num_heads=dim // 64), space.size, 2).eval()
    settings = {"image": GenerationSettings(steps=(8,), guidance_scale=1.0)}
    return TextToImagePipeline(model, space, tokenizers, settings, {"image": (side // 16, side // 16)})


def run_pipeline(phases: Phases, side: int, dim: int, layers: int, refresh: int) -> dict[str, Any]:
    """Every phase of a model's life at this size."""
    pipe = phases.run("build", lambda: pipeline(side, dim, layers))
    pipe.set_progress_bar_config(disable=True)
    image, tokenizer = picture(side), pipe.tokenizers["image"]
    codes = phases.run("encode", lambda: tokenizer.encode([image])[0])
    phases.run("decode", lambda: tokenizer.decode([codes]))
    phases.run("generate, 8 steps", lambda: pipe("a red heart", seed=0))
    hole = Image.new("L", (side, side), 0)
    hole.paste(255, (side // 2, side // 2, side // 2 + side // 4, side // 2 + side // 4))
    plain = phases.run("edit, 8 steps", lambda: pipe("a red heart", image=image, mask_image=hole, seed=0))
    kept = pipe.settings_of("image").changed(refresh=refresh)
    quick = phases.run(
        f"edit, 8 steps, refresh {refresh}", lambda: pipe("a red heart", image=image, mask_image=hole, seed=0, settings=kept)
    )
    inside = slice(side // 32, side // 32 + side // 64)
    agree = float((plain.codes[0][:, inside, inside] == quick.codes[0][:, inside, inside]).float().mean())
    outside = np.asarray(plain.images[0])[: side // 2], np.asarray(image)[: side // 2]
    return {
        "side": side,
        "cells": (side // 16) ** 2,
        "parameters": sum(weight.numel() for weight in pipe.model.parameters()),
        "agree": round(agree, 3),
        "known_pixels_kept": bool((outside[0] == outside[1]).all()),
        "model_calls": [plain.model_calls_per_row, round(quick.model_calls_per_row, 2)],
    }


def run_memory(phases: Phases, image: Image.Image) -> None:
    """A VQ-GAN of LlamaGen's size on the whole image and in tiles."""
    torch.manual_seed(0)
    large = LlamaGenVQTokenizer(LlamaGenVQ(LlamaGenConfig()))
    for tile in (None, Tiling(size=image.width // 4, halo=image.width // 16, above=0, norms="tile")):
        large.tile = tile
        what = "whole" if tile is None else f"tiles of {tile.size}"
        codes = phases.run(f"VQ-GAN, encode {what}", lambda: large.encode([image])[0])
        phases.run(f"VQ-GAN, decode {what}", lambda known=codes: large.decode([known])[0])


def run_tiles(phases: Phases, side: int, ways: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """What tiles change in the codes and images of the shipped tokenizer."""
    image = picture(side)
    shipped, rows = load_tokenizer(find_path("tokenizers/image-emoji64/bundle")), []
    assert isinstance(shipped, ImageTokenizer), "the shipped image tokenizer is learned"
    shipped.tile = None
    whole = shipped.encode([image])[0]
    shown = np.asarray(shipped.decode([whole])[0]).astype(int)
    for halo, norms in ways:
        shipped.tile = tile = Tiling(size=side // 4, halo=halo, above=0, norms=norms)  # type: ignore[arg-type]
        name = f"shipped, {{}}, halo {halo}, {norms}"
        codes = phases.run(name.format("encode"), lambda: shipped.encode([image])[0])
        made = np.asarray(phases.run(name.format("decode"), lambda: shipped.decode([whole])[0])).astype(int)
        same = [round(float((one == other).float().mean()), 3) for one, other in zip(codes, whole, strict=True)]
        rows.append({"norms": norms, "halo": halo, "same_codes_by_level": same, **seams(made, shown, tile.size)})
        print(rows[-1], flush=True)
    return rows


def seams(made: np.ndarray, whole: np.ndarray, size: int) -> dict[str, float]:
    """Difference from the whole image, and its jumps between neighbouring columns: at borders of tiles and everywhere else."""
    apart = made - whole
    jumps = np.abs(np.diff(apart, axis=1)).mean(axis=(0, 2))
    borders = np.arange(size, made.shape[1], size) - 1
    inside = np.delete(jumps, borders)
    return {
        "mean_difference": round(float(np.abs(apart).mean()), 3),
        "largest_difference": int(np.abs(apart).max()),
        "jump_at_borders": round(float(jumps[borders].mean()), 3),
        "jump_inside": round(float(inside.mean()), 3),
    }


def main() -> None:
    """Print each phase, and all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="pixels a side, a multiple of 64")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--refresh", type=int, default=8, help="calls between full passes in the second edit")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["pipeline"])
    parser.add_argument("--norms", nargs="+", choices=("tile", "pooled", "exact"), default=["tile", "pooled", "exact"], help="of the tiles")
    options = parser.parse_args()
    phases, found = Phases(), dict[str, Any]()
    if "pipeline" in options.parts:
        found["pipeline"] = run_pipeline(phases, options.side, options.dim, options.layers, options.refresh)
    if "memory" in options.parts:
        run_memory(phases, picture(options.side))
    if "tiles" in options.parts:
        found["tiles"] = run_tiles(phases, options.side, [(halo, norms) for halo, norms in TILES if norms in options.norms])
    peak = max(phase["peak_gb"] for phase in phases.found.values())
    print(json.dumps({**found, "phases": phases.found, "peak_gb": peak, "threads": torch.get_num_threads()}, indent=1))


if __name__ == "__main__":
    main()
