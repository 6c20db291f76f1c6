"""Reading pictures: every common kind comes out right, every bad file is one clear ValueError."""

import io
import resource
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.media import png_of
from PIL import Image

from maskgen.io.images import contact_sheet, read_picture, to_pictures, to_pixels, write_picture
from maskgen.io.letterbox import letterbox

RED, BLUE = (255, 0, 0), (0, 0, 255)


def halves(mode: str = "RGB") -> Image.Image:
    """Left half red, right half blue, 4 x 2 pixels."""
    picture = Image.new("RGB", (4, 2), RED)
    picture.paste(BLUE, (2, 0, 4, 2))
    return picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_colour_modes_come_out_as_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("picture.tiff" if mode == "CMYK" else "picture.png")
    halves(mode).save(path)
    picture = read_picture(path)
    assert picture.mode == "RGB"
    assert [picture.getpixel((x, 1)) for x in (0, 3)] == [RED, BLUE]


def test_a_picture_is_turned_upright_by_its_exif_tag(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right of the stored picture
    halves().save(tmp_path / "turned.png", exif=exif)
    picture = read_picture(tmp_path / "turned.png")
    assert picture.size == (2, 4)
    assert [picture.getpixel((0, y)) for y in (0, 3)] == [RED, BLUE]


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    picture.putpixel((2, 0), (0, 0, 0, 128))
    picture.save(tmp_path / "alpha.png")
    read = read_picture(tmp_path / "alpha.png")
    assert [read.getpixel((x, 0)) for x in range(3)] == [RED, (255, 255, 255), (127, 127, 127)]


def test_a_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([9, 9, 9, 255, 0, 0])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "palette.png", transparency=0)
    read = read_picture(tmp_path / "palette.png")
    assert [read.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), RED]


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_stays_grey(tmp_path: Path, mode: str) -> None:
    Image.new("L", (2, 2), 255).convert(mode).save(tmp_path / "grey.png")
    assert read_picture(tmp_path / "grey.png").getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    read = read_picture(tmp_path / "deep.png")
    assert [read.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_truncated_picture_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, kind)
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    with pytest.raises(ValueError, match=r"cut\.\w+ cannot be used as a picture: "):
        read_picture(path)


@pytest.mark.parametrize("content", [b"", b"hello, world", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe", b"\x00" * 100, b"\xff\xd8\xff\xe0"])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be used as a picture: (empty|damaged|cut short)"):
        read_picture(tmp_path / "file.png")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.png"):
        with pytest.raises(ValueError, match="does not exist or is no file"):
            read_picture(path)


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_a_png_bomb_is_refused_quickly_and_with_little_memory(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of(side, side))
    warnings.simplefilter("error")
    before_kib, started_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match="at most 50000000"):
        read_picture(tmp_path / "bomb.png")
    assert time.process_time() - started_s < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 50_000


def test_letterboxing_keeps_the_proportions() -> None:
    assert letterbox(halves(), (4, 2)).size == (4, 2)
    fitted = letterbox(Image.new("RGB", (40, 20), RED), (16, 16))
    assert fitted.size == (16, 16)
    assert [fitted.getpixel((8, y)) for y in (0, 3, 4, 11, 12)] == [(255,) * 3, (255,) * 3, RED, RED, (255,) * 3]


def test_pixels_and_pictures_are_inverse() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal((to_pixels(to_pictures(values / 255.0)) * 255).round().byte(), values)
    assert to_pictures(torch.tensor([-1.0, 0.0, 2.0]).reshape(1, 3, 1, 1))[0].getpixel((0, 0)) == (0, 0, 255)


def test_a_sheet_shows_every_picture_at_its_place(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (2, 3), (number, 0, 0)) for number in range(5)]
    sheet = contact_sheet(pictures, 2, gap=1)
    assert sheet.size == (7, 13)
    assert [sheet.getpixel((1 + 3 * (number % 2), 1 + 4 * (number // 2)))[0] for number in range(5)] == [0, 1, 2, 3, 4]  # type: ignore[index]
    write_picture(sheet, tmp_path / "sheet.png")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "sheet.png")), np.asarray(sheet))
