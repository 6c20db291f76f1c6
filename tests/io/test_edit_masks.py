"""Masks: however the same selection is painted, the same pixels are regenerated, and an ambiguous mask is refused."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskgen.io.edit_masks import NOTHING, PAINTED, convert_mask, decode_mask
from maskgen.io.limits import BadMedia, MediaLimits

LIMITS = MediaLimits()
CHOSEN = np.zeros((16, 16), bool)
CHOSEN[:4, 2:10] = True
"""A selection that no symmetry hides."""


def painted(colour: tuple[int, int, int], around: tuple[int, int, int, int]) -> Image.Image:
    """The selection in one opaque colour, the rest in another with its opacity."""
    return Image.fromarray(np.where(CHOSEN[..., None], (*colour, 255), around).astype(np.uint8))


def labels(value: int) -> Image.Image:
    """A palette picture of labels, as segmentation data sets have it: dark red for the label."""
    picture = Image.fromarray((CHOSEN * value).astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    return picture


def soft_strokes() -> Image.Image:
    """White strokes on transparency with soft edges, whose colour a browser's canvas rounds."""
    rows = np.zeros((16, 16, 4), np.uint8)
    rows[CHOSEN] = (255, 255, 255, 255)
    rows[4, 2:10] = (240, 250, 255, 40)
    return Image.fromarray(rows)


MASKS: dict[str, Callable[[], Image.Image]] = {
    "grey": lambda: Image.fromarray(CHOSEN.astype(np.uint8) * 255),
    "grey, two bright values": lambda: Image.fromarray(np.where(CHOSEN, 200, 90).astype(np.uint8)),
    "one bit": lambda: Image.fromarray(CHOSEN),
    "0 and 1": lambda: Image.fromarray(CHOSEN.astype(np.uint8)),
    "0 and 38": lambda: Image.fromarray(CHOSEN.astype(np.uint8) * 38),
    "16 bits": lambda: Image.fromarray(CHOSEN.astype(np.uint16) * 65_535),
    "16 bits of 0 and 1": lambda: Image.fromarray(CHOSEN.astype(np.uint16)),
    "32 bits of 0 and 1": lambda: Image.fromarray(CHOSEN.astype(np.int32)),
    "float": lambda: Image.fromarray(CHOSEN.astype(np.float32)),
    "labels": lambda: labels(1),
    "inverted palette": lambda: Image.fromarray(CHOSEN.astype(np.uint8) * 255).convert("RGB").quantize(2),
    "RGB": lambda: Image.fromarray(CHOSEN.astype(np.uint8) * 255).convert("RGB"),
    "white on transparent black": lambda: painted((255, 255, 255), (0, 0, 0, 0)),
    "white on transparent white": lambda: painted((255, 255, 255), (255, 255, 255, 0)),
    "black on transparency": lambda: painted((0, 0, 0), (0, 0, 0, 0)),
    "red on transparency": lambda: painted((200, 10, 10), (9, 99, 9, 0)),
    "soft strokes": soft_strokes,
    "grey with opacity": lambda: painted((255, 255, 255), (0, 0, 0, 0)).convert("LA"),
    "white on black, all opaque": lambda: painted((255, 255, 255), (0, 0, 0, 255)),
    "white on black, all half opaque": lambda: Image.fromarray(np.dstack([CHOSEN * 255, CHOSEN * 0 + 99]).astype(np.uint8)),
    "white and black strokes": lambda: black_stroke(painted((255, 255, 255), (0, 0, 0, 0))),
}  # fmt: skip


def black_stroke(picture: Image.Image) -> Image.Image:
    picture.paste((0, 0, 0, 255), (0, 10, 16, 12))
    return picture


@pytest.mark.parametrize("name", MASKS)
def test_every_way_to_paint_a_selection_gives_the_same_mask(name: str) -> None:
    mask = MASKS[name]()
    found = convert_mask(mask, LIMITS)
    assert found.mode == "L"
    assert np.array_equal(np.asarray(found), CHOSEN * 255)
    if mask.mode != "F":
        stream = io.BytesIO()
        mask.save(stream, "PNG" if mask.mode != "I" else "TIFF")
        assert np.array_equal(np.asarray(decode_mask(stream.getvalue(), LIMITS)), CHOSEN * 255)


def noise() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)


def test_a_mask_without_a_bright_part_or_with_two_meanings_is_refused() -> None:
    for values in (CHOSEN * 2 + 1, np.arange(256).reshape(16, 16) // 3, np.full((16, 16), 38)):
        with pytest.raises(BadMedia, match="no bright part: its brightest value is"):
            convert_mask(Image.fromarray(values.astype(np.uint8)), LIMITS)
    hole = np.dstack([noise(), np.where(CHOSEN, 0, 255).astype(np.uint8)])
    with pytest.raises(BadMedia, match="both colours and transparency"):
        convert_mask(Image.fromarray(hole), LIMITS)


def test_what_transparency_selects_and_an_empty_mask_are_said() -> None:
    notes: list[str] = []
    convert_mask(painted((255, 255, 255), (0, 0, 0, 0)), LIMITS, notes.append)
    assert notes == [PAINTED]
    for empty in (Image.new("L", (4, 4)), Image.new("RGBA", (4, 4)), Image.new("1", (4, 4))):
        notes.clear()
        assert not np.asarray(convert_mask(empty, LIMITS, notes.append)).any()
        assert notes == [NOTHING]
    notes.clear()
    assert np.asarray(convert_mask(Image.new("L", (4, 4), 1), LIMITS, notes.append)).all()
    assert notes == []


def test_a_mask_is_turned_upright_as_its_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(CHOSEN.astype(np.uint8) * 255).save(stream, "PNG", exif=exif)
    assert np.array_equal(np.asarray(decode_mask(stream.getvalue(), LIMITS)), np.rot90(CHOSEN, -1) * 255)
