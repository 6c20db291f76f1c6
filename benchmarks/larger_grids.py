"""Loss at twice the training's grid by scaling of rotary positions, and the cost and the loss of merged cells: drawn scenes, small models.

Run:    OMP_NUM_THREADS=1 uv run python benchmarks/larger_grids.py positions     # about four minutes of one thread
        OMP_NUM_THREADS=1 uv run python benchmarks/larger_grids.py compress      # likewise: equal CPU time for both
        OMP_NUM_THREADS=1 uv run python benchmarks/larger_grids.py step          # a training step and a call at 1,024 cells
        OMP_NUM_THREADS=1 uv run python benchmarks/larger_grids.py edit          # known cells kept in edits of a trained model

A scene is stripes with discs and squares on them, a code a cell: no two are the same, so a loss on new scenes is not learned by heart.
"finer" is the same scene in twice as many cells a side, "wider" a scene of twice the width in cells of the same size. Losses are nats a
masked code, means over mask rates of 0.3, 0.7 and 0.95, with their standard error over batches of scenes.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from maskgen.decoding.decoder import Decoder
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, TokenSpace

COLOURS = 12
SPACE = TokenSpace([Modality(name="image", kind="image", num_levels=1, codebook_size=2 * COLOURS)])
IMAGE = SPACE.of("image")[0]
CONFIG = TransformerConfig(dim=96, num_layers=4, num_heads=3, rope_split=(0, 1, 1))
RATES = (0.3, 0.7, 0.95)


def scenes(count: int, side: int, seed: int, width: float = 1.0) -> Tensor:
    """Codes [count, side, side] of random scenes that are `width` wide."""
    generator = torch.Generator().manual_seed(seed)

    def number(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def colours() -> list[int]:
        return torch.randint(COLOURS, (2,), generator=generator).tolist()

    axis = (torch.arange(side) + 0.5) / side * width
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    found = []
    for _ in range(count):
        angle, period, (one, other) = number(0, math.pi), number(0.15, 0.5), colours()
        scene = torch.where(((x * math.cos(angle) + y * math.sin(angle)) / period) % 1 < 0.5, one, other)
        for _ in range(int(3 * width**2)):
            up, left, reach = y - number(0, width), x - number(0, width), number(0.1, 0.3)
            away = (up**2 + left**2).sqrt() if number(0, 1) < 0.5 else torch.maximum(up.abs(), left.abs())
            fill, rim = colours()
            scene = torch.where(away < reach, torch.where(away > 0.6 * reach, rim, fill) + COLOURS, scene)
        found.append(scene)
    return torch.stack(found)


def masked_loss(model: MaskTransformer, codes: Tensor, seed: int, rate: float | None = None) -> Tensor:
    """Mean cross-entropy of the masked codes; the rate is that of a cosine schedule where none is given."""
    generator = torch.Generator().manual_seed(seed)
    batch = pack([{"image": scene[None]} for scene in codes], SPACE)
    rates = torch.cos(torch.rand(len(codes), 1, generator=generator) * math.pi / 2) if rate is None else torch.full((len(codes), 1), rate)
    hide = torch.rand(batch.valid.shape, generator=generator) < rates
    hide[:, 0] |= ~hide.any(dim=1)
    hidden = model(batch.with_ids(batch.ids.masked_fill(hide[..., None], MASK)))
    return functional.cross_entropy(model.logits(hidden[hide], IMAGE.offset, IMAGE.size), batch.ids[..., 0][hide] - IMAGE.offset)


def trained(config: TransformerConfig, side: int, seconds: float, rows: int = 24) -> tuple[MaskTransformer, int]:
    """A model after so many seconds of CPU time, and its number of steps; the learning rate falls to 0 over that time."""
    torch.manual_seed(0)
    model = MaskTransformer(config, SPACE.size, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    spent = steps = 0
    while spent < seconds:
        codes = scenes(rows, side, 1000 + steps)  # its time is not the model's
        started_s = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (steps + 1) / 50) * 0.5 * (1 + math.cos(math.pi * spent / seconds))
        optimizer.zero_grad()
        masked_loss(model, codes, steps).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        spent, steps = spent + time.process_time() - started_s, steps + 1
    return model.eval(), steps


@torch.no_grad()
def judged(model: MaskTransformer, side: int, width: float = 1.0, batches: int = 4, rows: int = 24) -> str:
    """Mean loss on new scenes with its standard error."""
    drawn = [scenes(rows, side, 10**6 + number, width) for number in range(batches)]
    losses = torch.tensor([[float(masked_loss(model, codes, number, rate)) for rate in RATES] for number, codes in enumerate(drawn)]).mean(
        dim=1
    )
    return f"{losses.mean():.3f} +- {losses.std() / batches**0.5:.3f}"


def kept(side: int, seconds: float, file: Path | None) -> MaskTransformer:
    """A trained model, from the file where it is there already."""
    model = MaskTransformer(CONFIG, SPACE.size, 1).eval()
    if file is None or not file.is_file():
        model, steps = trained(CONFIG, side, seconds)
        print(f"trained {steps} steps", flush=True)
        if file is not None:
            save_file(model.state_dict(), file)
        return model
    model.load_state_dict(load_file(file))
    return model


def positions(seconds: float, file: Path | None, side: int = 8) -> dict[str, Any]:
    """Losses of one model at twice its grid, for each way to scale positions."""
    model = kept(side, seconds, file)
    found: dict[str, Any] = {"trained grid": judged(model, side)}
    ways = [("none", 1.0), *((name, factor) for name in ("interpolate", "ntk", "yarn") for factor in (1.5, 2.0))]
    for name, factor in ways:
        model.config = dataclasses.replace(CONFIG, rope_scaling=name, rope_factor=factor, rope_trained=side)
        found[f"{name} {factor:g}"] = {"finer": judged(model, 2 * side), "wider": judged(model, 2 * side, 2.0)}
        print(name, factor, found[f"{name} {factor:g}"], flush=True)
    return found


def compress(seconds: float, file: Path | None, side: int = 16) -> dict[str, Any]:
    """Losses of a plain and a compressing model after the same CPU time."""
    found = {}
    for cells in (1, 2):
        model, steps = trained(dataclasses.replace(CONFIG, compress=cells), side, seconds / 2)
        found[f"compress {cells}"] = {"steps": steps, "loss": judged(model, side)}
        print(found, flush=True)
    return found


def step(seconds: float, file: Path | None, side: int = 32) -> dict[str, Any]:
    """CPU seconds of a training step and of a call on two rows of 32 x 32 cells, least of five in turn."""
    base = TransformerConfig(dim=256, num_layers=8, num_heads=4)
    models = {cells: MaskTransformer(dataclasses.replace(base, compress=cells), SPACE.size, 1) for cells in (1, 2)}
    codes, times = scenes(2, side, 0), dict[str, list[float]]()
    for _ in range(5):
        for cells, model in models.items():
            started_s = time.process_time()
            masked_loss(model, codes, 0).backward()
            times.setdefault(f"step, compress {cells}", []).append(time.process_time() - started_s)
            started_s = time.process_time()
            with torch.no_grad():
                masked_loss(model, codes, 0)
            times.setdefault(f"call, compress {cells}", []).append(time.process_time() - started_s)
    return {name: round(min(spent), 2) for name, spent in times.items()}


def edit(seconds: float, file: Path | None, side: int = 16) -> dict[str, Any]:
    """Edits of a hole of a quarter of a scene's sides, at twice the grid of training: plainly, and with states of known cells kept."""
    model = kept(side // 2, seconds, file)
    model.config = dataclasses.replace(CONFIG, rope_scaling="interpolate", rope_factor=1.5)
    whole = scenes(24, side, 5 * 10**6)
    hole = torch.zeros(side, side, dtype=torch.bool)
    hole[side // 4 : side // 2, side // 4 : side // 2] = True
    batch = pack([{"image": torch.where(hole, -1, scene)[None]} for scene in whole], SPACE)
    found: dict[str, Any] = {}
    plain = _edited(model, batch, 1)
    for refresh in (2, 4, 8):
        made = _edited(model, batch, refresh)
        inside = hole.flatten()
        found[f"refresh {refresh}"] = {
            "computed": round(sum(made[1]) / sum(plain[1]), 3),
            "same codes": round(float((made[0] == plain[0])[:, inside].float().mean()), 3),
            "right codes": round(float((made[0] == whole.flatten(1))[:, inside].float().mean()), 3),
        }
    found["plain, right codes"] = round(float((plain[0] == whole.flatten(1))[:, hole.flatten()].float().mean()), 3)
    return found


def _edited(model: MaskTransformer, batch: TokenBatch, refresh: int) -> tuple[Tensor, Sequence[float]]:
    """Codes of the filled scenes, and the model calls of each."""
    settings = GenerationSettings(steps=(8,), refresh=refresh, guidance_scale=1.0, temperature=(0.0,), choice_temperature=(0.0,))
    made = Decoder(model, SPACE, "image", settings)(batch, [torch.Generator().manual_seed(row) for row in range(len(batch))])
    return made.batch.ids[..., 0] - IMAGE.offset, made.model_calls


def main() -> None:
    """Print one part as JSON."""
    parts = {"positions": positions, "compress": compress, "step": step, "edit": edit}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--seconds", type=float, default=100.0, help="CPU time of the trainings together")
    parser.add_argument(
        "--model", type=Path, help="safetensors file of a trained model, for positions and edit; written where it is missing"
    )
    options = parser.parse_args()
    print(json.dumps(parts[options.part](options.seconds, options.model), indent=1))


if __name__ == "__main__":
    main()
