"""Layouts of token shards as a YAML file, and small shards of random codes with that layout, to rehearse a training without its data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from maskgen.data.shards.format import json_bytes, npy_bytes, write_shard
from maskgen.data.shards.manifest import Index, write_index
from maskgen.tokens.space import Modality, TokenSpace


@dataclass(frozen=True)
class ShardLayout:
    """Modalities of token shards and the shape of their samples.

    Args:
        space: Token space of the shards.
        shapes: Modality to the code grid of its longest sample, without the levels.
    """

    space: TokenSpace
    shapes: Mapping[str, Sequence[int]]


def read_layout(path: Path) -> ShardLayout:
    """A layout from a YAML file: modality to kind, codebook_size, num_levels, end, stride and shape.

    Raises:
        ValueError: If the file is no such layout.
    """
    try:
        plain: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
        shapes = {name: [int(size) for size in one.pop("shape")] for name, one in plain.items()}
        modalities = [Modality(name=name, **{"num_levels": 1, **one}) for name, one in plain.items()]
        if any(one.kind == "features" for one in modalities):
            raise ValueError("features of a text encoder have no layout; build a small set of real shards")
        return ShardLayout(TokenSpace(modalities), shapes)
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path} is no layout of shards ({error}); "
            "a modality is a line such as image: {kind: image, codebook_size: 16384, shape: [16, 16]}"
        ) from error


def write_random_shards(folder: Path, layout: ShardLayout, splits: Mapping[str, int], seed: int = 0) -> None:
    """Token shards of random codes: what a training can read, and learns nothing from.

    Args:
        folder: Where they go.
        layout: What they hold. Every second text is half as long as the layout says.
        splits: Split to its number of samples.
        seed: Of the codes.
    """
    draw = np.random.default_rng(seed)

    def members(number: int) -> dict[str, bytes]:
        found = {"json": json_bytes({"label": str(number % 10)})}
        for one in layout.space.modalities:
            shape = list(layout.shapes[one.name])
            if one.is_text and number % 2:
                shape[-1] = max(1, shape[-1] // 2)
            codes = draw.integers(0, one.codebook_size, [one.num_levels, *shape]).astype(np.int32)
            if one.timed:
                codes[1:] = 1
            found[f"{one.name}.npy"] = npy_bytes(codes)
        return found

    entries = [
        write_shard(folder / f"{split}-000000.tar", split, [(f"{split.lower()}-{number:06d}", members(number)) for number in range(count)])
        for split, count in splits.items()
    ]
    write_index(folder, Index(kind="tokens", shards=tuple(entries), space=layout.space.to_dict(), fingerprints={}))
