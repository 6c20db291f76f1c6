"""Edits as choices of cells: exact counts, exact pixels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskgen.processors.image_edits import canvas, composite, make_edit, mask_cells, strength_cells, with_blanks
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokens.batch import UNKNOWN


@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    side=st.sampled_from([1, 2, 8]),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_a_cell_is_unknown_if_and_only_if_one_of_its_pixels_is_white(rows: int, columns: int, side: int, seed: int, share: float) -> None:
    white = np.random.default_rng(seed).random((rows * side, columns * side)) < share
    found = mask_cells(Image.fromarray(np.where(white, 128, 127).astype(np.uint8)), side)
    for row in range(rows):
        for column in range(columns):
            assert bool(found[row, column]) == white[row * side : (row + 1) * side, column * side : (column + 1) * side].any()


def test_growing_adds_rings_of_cells() -> None:
    mask = Image.new("L", (40, 40), 0)
    mask.putpixel((20, 20), 255)
    assert [int(mask_cells(mask, 8, grow).sum()) for grow in (0, 1, 2, 3)] == [1, 9, 25, 25]
    with pytest.raises(ValueError, match="grow"):
        mask_cells(mask, 8, -1)
    with pytest.raises(ValueError, match="multiples of 7"):
        mask_cells(mask, 7)


def test_blank_hides_all_levels_of_the_cells_and_copies() -> None:
    codes = torch.arange(8).reshape(2, 2, 2)
    assert with_blanks(codes, torch.tensor([[True, False], [False, False]])).tolist() == [[[UNKNOWN, 1], [2, 3]], [[UNKNOWN, 5], [6, 7]]]
    assert codes[0, 0, 0] == 0


def test_composite_never_mixes_two_pictures() -> None:
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    made = np.asarray(composite(Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue"), grey))
    assert (made.reshape(-1, 3)[:128] == (255, 0, 0)).all()
    assert (made.reshape(-1, 3)[128:] == (0, 0, 255)).all()


def test_a_canvas_holds_the_picture_and_its_mask_is_the_rest() -> None:
    wider, new = canvas(Image.new("RGB", (4, 3), "red"), 1, 2, 3, 4)
    assert wider.size == new.size == (8, 9)
    known = np.asarray(new) == 0
    assert known.sum() == 12
    assert known[2:5, 1:5].all()
    assert (np.asarray(wider)[known] == (255, 0, 0)).all()
    assert (np.asarray(wider)[~known] == 255).all()


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), strength=st.floats(0, 1), seed=st.integers(0, 5))
@settings(deadline=None)
def test_strength_frees_the_least_number_that_is_its_share(rows: int, columns: int, strength: float, seed: int) -> None:
    found = int(strength_cells((rows, columns), strength, torch.Generator().manual_seed(seed)).sum())
    assert found == math.ceil(strength * rows * columns - 1e-9)
    assert strength > 0 or found == 0
    assert strength < 1 or found == rows * columns


def test_strength_cells_are_nested_for_one_seed() -> None:
    fewer, more = (strength_cells((5, 7), strength, torch.Generator().manual_seed(3)) for strength in (0.3, 0.6))
    assert not (fewer & ~more).any()


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan, math.inf])
def test_strength_outside_its_range_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="strength must lie in"):
        strength_cells((2, 2), strength, torch.Generator())


def test_a_picture_of_another_size_is_letterboxed_with_its_mask(tiny_image: ImageTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    mask = Image.new("L", (64, 32), 0)
    mask.paste(255, (0, 0, 64, 32))
    edit = make_edit(tiny_image, Image.new("RGB", (64, 32), "red"), mask, None, None)
    assert edit.picture.size == (32, 32)
    assert edit.cells is not None
    assert edit.cells.tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
    assert "letterboxed" in caplog.text
