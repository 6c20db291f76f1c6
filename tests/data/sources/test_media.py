"""Media decoding: what is whole is decoded right, what is damaged, too large or of another kind has a reason and costs nothing."""

import io
import re
import struct
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from builders.media import patched
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskgen.data.sources.media import BadMedia, MediaLimits, Waveform, decode_audio, decode_image, decode_text, fit_audio, fit_image

LIMITS = MediaLimits()
CORNERS = np.zeros((20, 30, 3), np.uint8)
CORNERS[:10, :15], CORNERS[:10, 15:], CORNERS[10:, :15] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
"""Red, green over blue, black: every turn shows."""


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format=kind, **options)
    return stream.getvalue()


def corners(kind: str, **options: object) -> bytes:
    return saved(Image.fromarray(CORNERS), kind, **options)


def sound(kind: str = "WAV", subtype: str = "PCM_16", rate: int = 24_000, channels: int = 1, count: int = 6_000) -> bytes:
    soundfile = pytest.importorskip("soundfile")
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(count) / rate)
    stream = io.BytesIO()
    soundfile.write(stream, np.stack([wave * 0.5**channel for channel in range(channels)], 1), rate, format=kind, subtype=subtype)
    return stream.getvalue()


def reason(decode: Callable[[bytes, MediaLimits], object], content: bytes, limits: MediaLimits = LIMITS) -> str:
    with pytest.raises(BadMedia) as caught:
        decode(content, limits)
    assert "\n" not in str(caught.value)
    assert 3 < len(str(caught.value)) < 200
    assert " at 0x" not in str(caught.value), "a reason that differs from run to run"
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("GIF", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 98, "subsampling": 0}, 8),
        ("JPEG", {"quality": 98, "subsampling": 0, "progressive": True}, 8),
    ],
)
def test_every_format_gives_the_same_rgb_pixels(kind: str, options: dict[str, object], tolerance: int) -> None:
    found = decode_image(corners(kind, **options), LIMITS)
    assert (found.mode, found.size, found.info) == ("RGB", (30, 20), {})
    assert np.abs(np.asarray(found, np.int16) - CORNERS).max() <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_comes_upright(kind: str, orientation: int) -> None:
    stored = {1: CORNERS, 2: CORNERS[:, ::-1], 3: CORNERS[::-1, ::-1], 4: CORNERS[::-1], 5: CORNERS.transpose(1, 0, 2)}
    stored |= {6: np.rot90(CORNERS, 1), 7: np.rot90(CORNERS, 2).transpose(1, 0, 2), 8: np.rot90(CORNERS, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    content = saved(Image.fromarray(np.ascontiguousarray(stored[orientation])), kind, exif=exif, **options)
    assert np.abs(np.asarray(decode_image(content, LIMITS), np.int16) - CORNERS).max() <= 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB+", "L+"])
def test_transparency_lies_on_white(mode: str) -> None:
    picture, options = Image.new("RGBA", (3, 600), (200, 0, 0, 255)), dict[str, object]()
    picture.paste((9, 9, 9, 0), (0, 300, 3, 600))
    if mode == "P":
        picture = picture.quantize(4)
    elif mode.endswith("+"):
        picture = picture.convert(mode[:-1])
        options["transparency"] = (9, 9, 9) if mode == "RGB+" else 9
    else:
        picture = picture.convert(mode)
    pixels = np.asarray(decode_image(saved(picture, **options), LIMITS))
    assert (pixels[300:] == 255).all()
    assert (pixels[:300] == ((60, 60, 60) if mode[0] == "L" else (200, 0, 0))).all(), "a translucent colour is mixed, an opaque one is kept"


def test_half_transparent_red_on_white_is_pink() -> None:
    pixels = np.asarray(decode_image(saved(Image.new("RGBA", (2, 2), (255, 0, 0, 128))), LIMITS))
    assert np.abs(pixels.astype(int) - (255, 127, 127)).max() <= 1


def test_odd_modes_are_scaled_or_refused() -> None:
    ramp = np.arange(65_536, dtype=np.uint32).reshape(256, 256)
    grey = np.asarray(decode_image(saved(Image.fromarray(ramp.astype(np.uint16))), LIMITS))
    assert (grey[..., 0] == ramp // 257).all(), "16 bits are scaled, not clipped"
    wide = np.asarray(decode_image(saved(Image.fromarray(ramp.astype(np.int32)), "TIFF"), LIMITS))
    assert (wide[..., 0] == ramp // 257).all()
    assert "range is unknown" in reason(decode_image, saved(Image.fromarray((ramp * 3).astype(np.int32)), "TIFF"))
    assert "range is unknown" in reason(decode_image, saved(Image.fromarray(ramp.astype(np.int32) - 5), "TIFF"))
    floats = np.asarray(decode_image(saved(Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32)[None]), "TIFF"), LIMITS))
    assert (floats[0, :, 0] == np.arange(256)).all()
    for bad in (ramp.astype(np.float32), np.float32([[-0.1, 0.5]]), np.float32([[np.nan, 0.5]])):
        assert "outside 0 to 1" in reason(decode_image, saved(Image.fromarray(bad), "TIFF"))
    assert "range is unknown" in reason(decode_image, saved(Image.new("LAB", (3, 3)), "TIFF"))
    one_bit = Image.fromarray(CORNERS[..., 0]).convert("1")
    assert (np.asarray(decode_image(saved(one_bit), LIMITS)) == np.asarray(one_bit.convert("RGB"))).all()
    for kind in ("JPEG", "TIFF"):
        ink = decode_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), kind), LIMITS)
        assert np.abs(np.asarray(ink, int) - (255, 0, 0)).max() <= 3, kind


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert decode_image(content, LIMITS).getpixel((4, 4)) == (255, 0, 0), kind


@pytest.mark.parametrize("kind", ["TGA", "PCX", "EPS", "PDF", "ICNS", "SGI", "DDS", "QOI"])
def test_formats_that_are_not_on_the_list_are_refused(kind: str) -> None:
    assert "none of PNG, JPEG" in reason(decode_image, saved(Image.new("RGB", (32, 32)), kind))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_cut_of_a_picture_is_refused(kind: str) -> None:
    content = corners(kind)
    endings = {"PNG": 4, "GIF": 2, "BMP": 2}.get(kind, 0)  # bytes after the last pixel and its checksum
    for length in range(0, len(content) - endings, max(1, len(content) // 150)):
        reason(decode_image, content[:length])
    reason(decode_image, content[: len(content) - endings - 1])


def test_every_flipped_byte_of_a_png_is_found_or_changes_nothing() -> None:
    content = corners("PNG")
    for place in range(len(content)):
        damaged = content[:place] + bytes([content[place] ^ 32]) + content[place + 1 :]
        try:
            assert (np.asarray(decode_image(damaged, LIMITS)) == CORNERS).all(), place
        except BadMedia:
            continue


def test_limits_of_pictures_are_those_given() -> None:
    small = MediaLimits(max_pixels=600, min_side=20)
    assert decode_image(corners("PNG"), small).size == (30, 20)
    assert reason(decode_image, corners("PNG"), MediaLimits(max_pixels=599)).startswith("30 x 20 pixels, at most 599")
    assert reason(decode_image, corners("PNG"), MediaLimits(min_side=21)) == "30 x 20 pixels, at least 21 a side"
    assert reason(decode_image, b"") == "empty file"
    assert reason(decode_image, corners("BMP"), MediaLimits(max_bytes=1000)) == f"{len(corners('BMP'))} bytes, at most 1000"


@pytest.mark.parametrize(
    "change", [{"max_bytes": 0}, {"max_pixels": 90_000_000}, {"max_seconds": float("nan")}, {"min_sample_rate_hz": 200_000}]
)
def test_limits_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        MediaLimits(**change)  # type: ignore[arg-type]


def test_pillow_and_the_warnings_are_left_as_they_were() -> None:
    before = (Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    decode_image(corners("PNG"), LIMITS)
    reason(decode_image, saved(Image.new("1", (12_000, 5_000))))
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


@given(width=st.integers(1, 50), height=st.integers(1, 50), size=st.integers(1, 20), crops=st.integers(1, 5))
@settings(deadline=None, max_examples=25)
def test_fitted_pictures_have_the_size_and_are_always_the_same(width: int, height: int, size: int, crops: int) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))
    found = fit_image(picture, size, "crop", crops)
    assert [each.size for each in found] == [(size, size)] * crops
    assert [each.tobytes() for each in found] == [each.tobytes() for each in fit_image(picture, size, "crop", crops)]
    assert [each.tobytes() for each in found[:1]] == [each.tobytes() for each in fit_image(picture, size, "crop")]
    assert [each.size for each in fit_image(picture, size, "letterbox")] == [(size, size)]


@pytest.mark.parametrize("shape", [(20, 80), (80, 20), (1, 500), (500, 1), (64, 64)])
def test_a_letterbox_never_stretches_and_a_crop_never_pads(shape: tuple[int, int]) -> None:
    picture = Image.new("RGB", shape, "black")
    dark = np.asarray(fit_image(picture, 16, "letterbox")[0])[..., 0] < 128
    wide, tall = int(dark.any(0).sum()), int(dark.any(1).sum())
    assert (wide, tall) == tuple(max(1, round(16 * side / max(shape))) for side in shape)
    assert all((np.asarray(window) == 0).all() for window in fit_image(picture, 16, "crop", 5))


def test_crops_are_the_centre_then_the_ends_then_corners() -> None:
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (50, 1, 3)))
    means = [round(float(np.asarray(window).mean())) for window in fit_image(ramp, 25, "crop", 5)]
    assert means == pytest.approx([100, 25, 175, 20, 180], abs=1)
    square = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8)[None, :, None], (100, 1, 3)))
    assert [round(float(np.asarray(window).mean())) for window in fit_image(square, 25, "crop", 3)] == pytest.approx([50, 40, 60], abs=1)


def test_fitting_that_makes_no_sense_is_refused() -> None:
    picture = Image.new("RGB", (4, 4))
    for arguments in ((0, "crop", 1), (4, "crop", 0), (4, "crop", 6), (4, "letterbox", 2)):
        with pytest.raises(ValueError, match=r"got .*crops="):
            fit_image(picture, *arguments)  # type: ignore[arg-type]


SOUNDS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "PCM_U8"),
    ("RF64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("W64", "PCM_16"),
    ("CAF", "PCM_16"),
    ("CAF", "ALAC_16"),
    ("NIST", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


@pytest.mark.parametrize(("kind", "subtype"), SOUNDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_gives_the_same_wave(kind: str, subtype: str, channels: int) -> None:
    found = decode_audio(sound(kind, subtype, channels=channels), LIMITS)
    assert (found.samples.shape, found.samples.dtype, found.sample_rate_hz) == ((channels, 6000), np.float32, 24_000)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(6000) / 24_000)
    middle = slice(1500, 4500)  # lossy codecs fade in and out
    for channel in range(channels):
        assert np.abs(found.samples[channel, middle] - expected[middle] * 0.5**channel).max() < (0.1 if subtype == "OPUS" else 0.05)


@pytest.mark.parametrize(("kind", "subtype"), SOUNDS)
def test_every_cut_of_a_sound_is_refused(kind: str, subtype: str) -> None:
    content = sound(kind, subtype)
    for length in range(0, len(content), max(1, len(content) // 60)):
        reason(decode_audio, content[:length])
    reason(decode_audio, content[: -2 if subtype == "ALAC_16" else -1])  # libsndfile writes one byte after the last chunk of ALAC


@pytest.mark.parametrize(("kind", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")])
def test_every_flipped_byte_of_a_sound_with_checksums_is_found_or_changes_nothing(kind: str, subtype: str) -> None:
    content = sound(kind, subtype)
    whole = decode_audio(content, LIMITS).samples
    start = 42 if kind == "FLAC" else 0  # FLAC's metadata, with rate and channels, has no checksum
    for place in range(start, len(content), max(1, len(content) // 120)):
        try:
            found = decode_audio(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :], LIMITS)
        except BadMedia:
            continue
        assert np.array_equal(found.samples, whole), place


def noisy_vorbis() -> bytes:
    """5 seconds of noise in Ogg, which fill many pages."""
    soundfile = pytest.importorskip("soundfile")
    stream = io.BytesIO()
    soundfile.write(stream, np.random.default_rng(0).normal(0, 0.1, 80_000).clip(-1, 1), 16_000, format="OGG", subtype="VORBIS")
    return stream.getvalue()


def test_a_sound_of_many_pages_or_frames_is_whole_or_refused() -> None:
    vorbis = noisy_vorbis()
    pages = [match.start() for match in re.finditer(b"OggS", vorbis)]
    whole = decode_audio(vorbis, LIMITS).samples
    assert (len(pages) > 4, whole.shape) == (True, (1, 80_000))
    for page in pages:
        reason(decode_audio, vorbis[:page])  # cut between pages
        reason(decode_audio, vorbis[:page] + vorbis[page + 1 :])
    for place in range(pages[3], len(vorbis), len(vorbis) // 20):
        reason(decode_audio, patched(vorbis, place, bytes([vorbis[place] ^ 4])))
    mp3 = sound("MP3", "MPEG_LAYER_III")
    bare = mp3[mp3.index(mp3[:2], 4) :]  # without the first frame, which counts the others
    assert decode_audio(bare, LIMITS).samples.any()
    reason(decode_audio, bare[:-1])
    reason(decode_audio, bare[:200] + b"noise" + bare[200:])
    reason(decode_audio, bare + b"noise" * 50)
    reason(decode_audio, mp3 + bare)


def test_headers_that_claim_too_much_are_refused() -> None:
    wav = bytearray(sound())
    wav[40:44] = struct.pack("<I", 2**30)
    assert "a chunk claims 1073741824 bytes, 12000 are there" in reason(decode_audio, bytes(wav))
    flac = bytearray(sound("FLAC"))
    flac[22:26] = struct.pack(">I", 24_000 * 59)
    assert "cut short" in reason(decode_audio, bytes(flac)) or "damaged" in reason(decode_audio, bytes(flac))
    flac[22:26] = struct.pack(">I", 24_000 * 61)
    assert reason(decode_audio, bytes(flac)) == "61.0 seconds, at most 60.0"
    flac[22:26] = struct.pack(">I", 0)
    reason(decode_audio, bytes(flac))


def test_limits_of_sounds_are_those_given() -> None:
    assert reason(decode_audio, sound(), MediaLimits(max_seconds=0.2)) == "0.2 seconds, at most 0.2"
    assert reason(decode_audio, sound(), MediaLimits(min_sample_rate_hz=24_001)) == "24000 Hz, wanted 24001 to 192000 Hz"
    assert reason(decode_audio, sound(), MediaLimits(max_sample_rate_hz=23_999)) == "24000 Hz, wanted 4000 to 23999 Hz"
    assert reason(decode_audio, sound(channels=3), MediaLimits(max_channels=2)) == "3 channels, at most 2"
    assert reason(decode_audio, sound(count=0)) == "no samples"
    assert "none of WAV" in reason(decode_audio, sound("VOC"))
    assert "none of WAV" in reason(decode_audio, b"RIFF\x04\0\0\0AVI ")


def floats(values: list[float], subtype: str = "FLOAT") -> bytes:
    soundfile = pytest.importorskip("soundfile")
    stream = io.BytesIO()
    soundfile.write(stream, np.array(values * 100), 16_000, format="WAV", subtype=subtype)
    return stream.getvalue()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_samples_that_are_no_numbers_are_refused(value: float) -> None:
    assert "NaN or infinite" in reason(decode_audio, floats([0.1, value], "DOUBLE"))


def test_overshoot_is_clipped_integers_posing_as_floats_are_refused_and_silence_is_a_sound() -> None:
    assert decode_audio(floats([0.5, 1.5, -2.0]), LIMITS).samples[0, :3].tolist() == [0.5, 1.0, -1.0]
    assert "wanted -1 to 1" in reason(decode_audio, floats([0.5, 3000.0]))
    assert not decode_audio(floats([0.0]), LIMITS).samples.any()


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000, 24_000])
def test_a_tone_keeps_its_pitch_and_place_when_resampled(rate: int) -> None:
    pytest.importorskip("soxr")
    wave = Waveform(samples=(0.5 * np.sin(2 * np.pi * 440 * np.arange(12_000) / 24_000)).astype(np.float32)[None], sample_rate_hz=24_000)
    found, changed = fit_audio(wave, rate)
    assert changed is (rate != 24_000)
    assert (found.samples.shape, found.samples.dtype, found.sample_rate_hz) == ((1, -(-12_000 * rate // 24_000)), np.float32, rate)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(found.samples.shape[1]) / rate)
    inner = slice(200, -200)
    assert np.abs(found.samples[0, inner] - expected[inner]).max() < 1e-3


@given(count=st.integers(1, 400), old=st.integers(4_000, 192_000), new=st.integers(4_000, 192_000))
@settings(deadline=None, max_examples=30)
def test_a_resampled_sound_has_the_length_promised(count: int, old: int, new: int) -> None:
    pytest.importorskip("soxr")
    wave = Waveform(samples=np.ones((1, count), np.float32), sample_rate_hz=old)
    found, changed = fit_audio(wave, new)
    assert found.samples.shape == (1, -(-count * new // old))
    assert changed is (old != new)
    assert np.abs(found.samples).max() <= 1


def test_channels_are_kept_mixed_or_repeated() -> None:
    wave = Waveform(samples=np.array([[0.2, 0.4], [0.6, 0.0]], np.float32), sample_rate_hz=8000)
    assert fit_audio(wave, 8000, 1)[0].samples.tolist() == pytest.approx(np.array([[0.4, 0.2]]))
    assert fit_audio(wave, 8000, 2)[0].samples.tolist() == wave.samples.tolist()
    assert fit_audio(wave, 8000, 3)[0].samples.tolist() == pytest.approx(np.array([[0.4, 0.2]] * 3))
    with pytest.raises(ValueError, match="at least 1"):
        fit_audio(wave, 0)


def test_lines_are_alternatives_cleaned() -> None:
    content = "\ufeffa  red\theart \r\n\r\n  cafe\u0301\u00a0noir\u2028two\n \u200b \n".encode()
    assert decode_text(content, LIMITS) == ["a red heart", "caf\u00e9 noir", "two"]
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert decode_text(family.encode(), LIMITS) == [family], "joiners inside an emoji stay"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty file"),
        (b" \r\n\t", "no text"),
        ("\u200b\u200d".encode(), "no text"),
        (b"ab\xff", "no UTF-8 at byte 2"),
        (b"\xed\xa0\x80", "no UTF-8 at byte 0"),
        ("a".encode("utf-16"), "no UTF-8 at byte 0"),
        (b"a\0b", "control character U+0000"),
        (b"a\x1b[31m", "control character U+001B"),
        ("a\x85".encode(), "control character U+0085"),
        (b"a" * 10_001, "10001 characters, at most 10000"),
        (b"a" * 50_000_000, "50000000 bytes of text, at most 10000 characters"),
    ],
)
def test_texts_that_cannot_be_used_have_a_reason(content: bytes, expected: str) -> None:
    assert reason(decode_text, content) == expected


@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))))
@settings(deadline=None)
def test_any_bytes_give_clean_captions_or_a_reason(content: bytes) -> None:
    try:
        captions = decode_text(content, LIMITS)
    except BadMedia:
        return
    assert captions
    assert all(caption == " ".join(caption.split()) and caption.encode() and "\n" not in caption for caption in captions)
    assert decode_text("\n".join(captions).encode(), LIMITS) == captions, "decoding what was decoded changes nothing"
