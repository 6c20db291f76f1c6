"""A recipe over small pictures with captions, some of them damaged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from maskgen.data.build.plan import Plan, plan_recipe
from maskgen.data.build.raw_shards import RawOutput
from maskgen.data.build.recipe import read_recipe

RECIPE: dict[str, Any] = {
    "name": "dots",
    "sources": [{"kind": "folder", "path": "pictures"}],
    "image": {"size": 16},
    "splits": {"validation": 0.2},
    "shard_samples": 6,
    "max_bad": 0.5,
}


def corpus(folder: Path, count: int = 60, bad: Sequence[int] = (7, 31), **changes: Any) -> Path:
    """A recipe over small pictures with captions, some of them damaged; returns the YAML."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for number in range(count):
        path = pictures / f"dot-{number:03d}.png"
        Image.fromarray(chance.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path)
        path.with_suffix(".txt").write_text(f"a dot {number}\nnumber {number}\n")
        if number in bad:
            path.write_bytes(path.read_bytes()[:60])
    return recipe_file(folder, **changes)


def recipe_file(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


def planned(recipe: Path) -> Plan:
    return plan_recipe(read_recipe(recipe), RawOutput())
