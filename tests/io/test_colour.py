"""Colour: profiles become sRGB, broken ones are ignored and said, and pictures of every mode come out right."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from maskgen.io.limits import BadMedia, MediaLimits
from maskgen.io.pictures import FIRST_FRAME, NO_PROFILE, convert_image, decode_image
from maskgen.io.png import SIGNATURE

LIMITS = MediaLimits()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = {b"rXYZ": (0.5151, 0.2412, -0.0011), b"gXYZ": (0.2920, 0.6922, 0.0419), b"bXYZ": (0.1571, 0.0666, 0.7841)}
"""Primaries of Display P3, adapted to D50."""
COLOURS = np.array([[(200, 100, 50), (60, 180, 90), (0, 0, 0), (255, 255, 255), (128, 128, 128)]], np.uint8)


def display_p3() -> bytes:
    """The sRGB profile with other primaries; both have the same curves."""
    profile = bytearray(SRGB)
    for number in range(struct.unpack(">I", profile[128:132])[0]):
        tag, place, _ = struct.unpack(">4sII", profile[132 + 12 * number : 144 + 12 * number])
        if tag in P3:
            profile[place + 8 : place + 20] = struct.pack(">3i", *(round(value * 65536) for value in P3[tag]))
    return bytes(profile)


def grey_profile(gamma: float) -> bytes:
    """A grey profile of a power law: header, white point and one curve."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, 16)
    header = struct.pack(">I4sI4s4s4s", 192, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp" + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + tags + white + curve


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def p3_to_srgb(pixels: np.ndarray) -> np.ndarray:
    """By the definition: linear light, the two matrices, and back."""
    linear = np.where(pixels / 255 <= 0.04045, pixels / 255 / 12.92, ((pixels / 255 + 0.055) / 1.055) ** 2.4)
    to_srgb = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])
    back = (linear @ to_srgb.T).clip(0, 1)
    return np.rint(255 * np.where(back <= 0.0031308, back * 12.92, 1.055 * back ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100, "subsampling": 0})]
)
def test_display_p3_becomes_srgb_in_every_format(kind: str, options: dict[str, Any]) -> None:
    picture = Image.fromarray(COLOURS.repeat(8, 0).repeat(8, 1))
    found = np.asarray(decode_image(saved(picture, kind, icc_profile=display_p3(), **options), LIMITS), int)[4, 4::8]
    assert np.abs(found - p3_to_srgb(COLOURS[0])).max() <= 3
    assert np.abs(found - COLOURS[0]).max() > 8


def test_a_profile_applies_below_transparency_to_palettes_and_to_pillow_images() -> None:
    right = p3_to_srgb(COLOURS[0])
    clear = Image.fromarray(np.concatenate([COLOURS, np.array([[[255], [255], [255], [255], [0]]], np.uint8)], 2))
    palette = Image.fromarray(COLOURS).quantize(8)
    for picture in (clear, palette):
        found = decode_image(saved(picture, "PNG", icc_profile=display_p3()), LIMITS)
        assert np.abs(np.asarray(found, int)[0, :4] - right[:4]).max() <= 3, picture.mode
    assert found.getpixel((4, 0)) == (128, 128, 128)
    opened = Image.open(io.BytesIO(saved(clear, "PNG", icc_profile=display_p3())))
    assert np.array_equal(convert_image(opened, LIMITS), decode_image(saved(clear, "PNG", icc_profile=display_p3()), LIMITS))
    assert convert_image(opened, LIMITS).getpixel((4, 0)) == (255, 255, 255)


def test_an_srgb_profile_changes_no_bit() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 7, 3), dtype=np.uint8))
    assert np.array_equal(decode_image(saved(noise, "PNG", icc_profile=SRGB), LIMITS), noise)


def test_a_grey_profile_has_its_own_curve() -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    linear = np.asarray(decode_image(saved(ramp, "PNG", icc_profile=grey_profile(1.0)), LIMITS))[0]
    light = np.arange(256) / 255
    right = 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(linear - right[:, None]).max() <= 2


def test_ink_is_converted_with_a_profile_and_without() -> None:
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(np.asarray(decode_image(saved(ink, "TIFF"), LIMITS), int) - (255, 0, 0)).max() <= 3
    notes: list[str] = []
    decode_image(saved(ink, "TIFF", icc_profile=SRGB), LIMITS, notes.append)
    assert notes == [NO_PROFILE]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("profile", [b"hello", SRGB[:200], display_p3().replace(b"RGB XYZ ", b"CMYKLab ")])
def test_a_broken_or_foreign_profile_is_ignored_and_said(kind: str, profile: bytes) -> None:
    notes: list[str] = []
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode_image(saved(Image.new("RGB", (8, 8), (200, 100, 50)), kind, icc_profile=profile, **options), LIMITS, notes.append)
    assert notes == [NO_PROFILE]
    assert np.abs(np.asarray(found, int) - (200, 100, 50)).max() <= 3


def test_a_damaged_packed_profile_and_lost_fragments_are_said() -> None:
    png = saved(Image.new("RGB", (8, 8), (200, 100, 50)), "PNG", icc_profile=display_p3())
    place = png.index(b"iCCP")
    size = struct.unpack(">I", png[place - 4 : place])[0]
    body = png[place + 4 : place + 4 + size - 20] + bytes(20)
    torn = png[:place] + b"iCCP" + body + struct.pack(">I", zlib.crc32(b"iCCP" + body)) + png[place + 8 + size :]
    jpeg = saved(Image.new("RGB", (8, 8)), "JPEG", icc_profile=display_p3()).replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2")
    for content in (torn, jpeg):
        notes: list[str] = []
        decode_image(content, LIMITS, notes.append)
        assert notes == [NO_PROFILE]


def test_a_large_text_in_a_png_is_left_out_and_an_orientation_in_xmp_is_kept() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    for packed in (False, True):
        texts = PngInfo()
        texts.add_text("workflow", "node " * 3_000_000, zip=packed)
        xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
        texts.add_itxt("XML:com.adobe.xmp", xmp, zip=packed)
        found = decode_image(saved(Image.fromarray(noise), "PNG", pnginfo=texts), LIMITS)
        assert np.array_equal(found, np.rot90(noise, -1)), packed


def test_every_chunk_of_a_png_has_its_checksum_compared() -> None:
    content = bytearray(saved(Image.new("RGB", (8, 8)), "PNG"))
    content[len(content) - 1] ^= 1
    with pytest.raises(BadMedia, match="wrong checksum"):
        decode_image(bytes(content), LIMITS)
    with pytest.raises(BadMedia, match="cut short"):
        decode_image(SIGNATURE, LIMITS)


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {}), ("AVIF", {})])
def test_of_several_frames_the_first_is_used_and_said(kind: str, options: dict[str, Any]) -> None:
    frames, notes = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")], list[str]()
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.abs(np.asarray(decode_image(content, LIMITS, notes.append), int) - (255, 0, 0)).max() <= 3
    assert notes == [FIRST_FRAME]


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16", "I;16L", "I;16B", "F"]


@pytest.mark.parametrize("mode", MODES)
def test_a_pillow_image_of_every_mode_is_white_where_it_is_white(mode: str) -> None:
    values = np.zeros((4, 4), np.uint8)
    values[1:3, 1:3] = 255
    grey = Image.fromarray(values)
    if mode == "F":
        picture = Image.fromarray(values / np.float32(255))
    elif mode.startswith("I"):
        wide = (values.astype(np.uint16) * 257).astype({"I": "<i4", "I;16B": ">u2"}.get(mode, "<u2"))
        picture = Image.frombytes(mode, (4, 4), wide.tobytes())
    elif mode in ("La", "RGBa", "PA"):
        picture = grey.convert({"La": "LA", "RGBa": "RGBA", "PA": "P"}[mode]).convert(mode)
    else:
        picture = grey.convert("RGB").convert(mode)
    assert np.abs(np.asarray(convert_image(picture, LIMITS), int) - values[..., None]).max() <= 1


def test_a_pillow_image_of_unknown_range_is_refused() -> None:
    with pytest.raises(BadMedia, match="range is unknown"):
        convert_image(Image.new("LAB", (2, 2)), LIMITS)


def test_a_transparent_value_of_16_bit_grey_is_white() -> None:
    picture = Image.fromarray(np.array([[0, 1000, 65535]], np.uint16))
    content = saved(picture, "PNG", transparency=0)
    assert np.asarray(decode_image(content, LIMITS))[0, :, 0].tolist() == [255, 3, 255]
