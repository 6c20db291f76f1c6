"""The code grids of shards are what a training generates by default, and another one is refused before it starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from builders.mixed_shards import AUDIO, IMAGE, TEXT, picture, write, write_both

from maskgen.data.loading.grids import checked_grids
from maskgen.data.shards.format import json_bytes, npy_bytes
from maskgen.networks.transformer import TransformerConfig
from maskgen.tokens.space import TokenSpace
from maskgen.training.modules.any_to_any import AnyToAnyModule
from maskgen.training.modules.hybrid_noise import HybridNoiseModule
from maskgen.training.modules.masked import MaskedTokenModule

SIZES = TransformerConfig(dim=32, num_layers=2, num_heads=2)
SPACE = TokenSpace([TEXT, IMAGE, AUDIO])


def shards_of(folder: Path, images: Sequence[tuple[int, ...]], sounds: Sequence[tuple[int, ...]]) -> str:
    """Token shards whose samples have grids of these shapes."""

    def member(name: str, levels: int, grid: tuple[int, ...]) -> Mapping[str, bytes]:
        return {"json": json_bytes({}), f"{name}.npy": npy_bytes(np.zeros((levels, *grid), np.int16))}

    rows = [dict(member("image", 2, grid)) for grid in images] + [dict(member("audio", 2, grid)) for grid in sounds]
    return write(folder, SPACE, {"train": rows})


@pytest.mark.parametrize(
    ("images", "sounds", "given", "expected"),
    [
        ([(4, 4)], [(9,), (5,)], {}, {"image": [4, 4]}),
        ([(4, 4)], [(9,)], {"image": [4, 4], "audio": [100], "text": [16]}, {"image": [4, 4], "audio": [100], "text": [16]}),
        ([(4, 4), (4, 6)], [], {}, {}),
        ([(4, 4), (4, 6)], [], {"image": [4, 6]}, {"image": [4, 6]}),
        ([(32,)], [], {}, {"image": [32]}),
        ([(2, 4, 4)], [(3, 5)], {}, {"image": [2, 4, 4], "audio": [3, 5]}),
        ([(4, 4)], [], {"image": [8, 8]}, r"grid of image is \[8, 8\], the codes in .* have \[4, 4\]"),
        ([(4, 4)], [], {"image": [16]}, r"have \[4, 4\]"),
        ([(32,)], [], {"image": [64]}, r"have \[32\]"),
        ([(2, 4, 4)], [], {"image": [4, 4]}, r"have \[2, 4, 4\]"),
        ([(4, 4), (6, 4)], [], {"image": [6, 6]}, r"have \[4, 4\] or \[6, 4\]"),
        ([], [(9,)], {"audio": [3, 3]}, r"grid of audio is \[3, 3\]"),
        ([], [(3, 5)], {"audio": [3, 6]}, r"have \[3, 5\]"),
        ([(4, 4)], [], {"text": [4, 4]}, "a text has one axis"),
    ],
)
def test_a_grid_is_that_of_the_samples_or_refused(
    images: list[tuple[int, ...]],
    sounds: list[tuple[int, ...]],
    given: dict[str, list[int]],
    expected: dict[str, list[int]] | str,
    tmp_path: Path,
) -> None:
    folder = shards_of(tmp_path / "shards", images, sounds)
    if isinstance(expected, dict):
        assert checked_grids(folder, SPACE, given) == expected
        return
    with pytest.raises(ValueError, match=expected):
        checked_grids([folder], SPACE, given)


def test_trainings_refuse_another_grid_and_keep_the_grids_of_what_they_see(tmp_path: Path) -> None:
    pictures, _ = write_both(tmp_path)
    for refused in (
        lambda: MaskedTokenModule(pictures, SIZES, [32, 32]),
        lambda: AnyToAnyModule([pictures], SIZES, {}, grids={"image": [32, 32]}),
    ):
        with pytest.raises(ValueError, match=r"is \[32, 32\], the codes in .* have \[2, 2\]"):
            refused()
    assert MaskedTokenModule(pictures, SIZES).generation_defaults() == {"target": "image", "grid": [2, 2], "seen_grids": {}}
    captions = {"target": "text", "grid": [6], "seen_grids": {"image": [2, 2]}}
    assert MaskedTokenModule(pictures, SIZES, [6], target="text").generation_defaults() == captions
    assert HybridNoiseModule(pictures, SIZES, target="text", grid=[6]).generation_defaults() == captions
    assert AnyToAnyModule([pictures], SIZES, {}).generation_defaults() == {"grids": {"image": [2, 2]}}


def test_damaged_shards_are_left_to_the_data(tmp_path: Path) -> None:
    folder = write(tmp_path / "shards", TokenSpace([TEXT, IMAGE]), {"train": [picture(1)]})
    (tmp_path / "shards/train-000000.tar").write_bytes(b"no tar")
    assert checked_grids(folder, TokenSpace([TEXT, IMAGE]), {"image": [8, 8]}) == {"image": [8, 8]}
