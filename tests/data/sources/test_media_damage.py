"""Damaged and malicious media: thousands of broken files and dozens of bombs give a decoded object within limits or a reason, fast."""

import collections
import io
import random
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from builders.media import patched
from PIL import Image, ImageCms

from maskgen.data.sources.media import BadMedia, MediaLimits, Waveform, decode_audio, decode_image, decode_text

soundfile = pytest.importorskip("soundfile")
LIMITS = MediaLimits()
MOST_SECONDS = 2.0
MOST_GROWTH_BYTES = 500 * 2**20
Decoder = Callable[[bytes, MediaLimits], object]


def picture_bytes(kind: str, size: tuple[int, int] = (30, 20), seed: int = 0, **options: object) -> bytes:
    """A noisy picture with some structure."""
    noise = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(stream, format=kind, **options)
    return stream.getvalue()


def sound_bytes(kind: str, subtype: str, seed: int = 0, count: int = 3000, channels: int = 1) -> bytes:
    """A tone in noise."""
    noise = np.random.default_rng(seed).normal(0, 0.05, (count, channels)).clip(-0.4, 0.4)
    stream = io.BytesIO()
    soundfile.write(stream, noise + 0.5 * np.sin(np.arange(count) / 9)[:, None], 16_000, format=kind, subtype=subtype)
    return stream.getvalue()


def png_bomb(width: int, height: int, colour: int = 2, repeated: int | None = None) -> bytes:
    """A PNG of zeros: a picture of that size in a few KB."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer, row = zlib.compressobj(1), bytes(width * (3 if colour == 2 else 4) + 1)
    rows = b"".join(packer.compress(row) for _ in range(height if repeated is None else repeated)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def tiff(tags: dict[int, tuple[int, int, int]], body: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory; tag to (type, count, value)."""
    entries = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + body


def tiff_claim(width: int, height: int, **more: tuple[int, int, int]) -> bytes:
    tags = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 200),
        277: (3, 1, 1),
        279: (4, 1, 64),
    }
    return tiff({**tags, **{int(name[1:]): value for name, value in more.items()}}, bytes(500))


def silence(seconds: float, rate: int = 48_000, channels: int = 1, kind: str = "FLAC") -> bytes:
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", rate, channels, format=kind) as file:
        for _ in range(int(seconds)):
            file.write(np.zeros((rate, channels), np.int16))
    return stream.getvalue()


def scans_bomb() -> bytes:
    """A progressive JPEG of 6 Mpx whose last, empty scan comes 1,500 times: 49 KB, 5 seconds."""
    stream = io.BytesIO()
    Image.new("L", (3000, 2000)).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * 1500 + b"\xff\xd9"


def tile_bomb(side: int) -> bytes:
    """A TIFF of 64 x 64 pixels in one deflated tile of side x side."""
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(bytes(side)) for _ in range(side)) + packer.flush()
    tags = {256: (4, 1, 64), 257: (4, 1, 64), 258: (3, 1, 8), 259: (3, 1, 8), 262: (3, 1, 1), 277: (3, 1, 1)}
    tags |= {322: (4, 1, side), 323: (4, 1, side), 324: (4, 1, 8 + 2 + 10 * 12 + 4), 325: (4, 1, len(body))}
    return tiff(tags, body)


def bombs() -> Iterator[tuple[str, Decoder, Callable[[], bytes]]]:
    """Name, decoder and maker of each bomb."""
    gif, bmp, webp = picture_bytes("GIF"), picture_bytes("BMP"), picture_bytes("WEBP")
    wav, flac, mp3 = sound_bytes("WAV", "PCM_16"), sound_bytes("FLAC", "PCM_16"), sound_bytes("MP3", "MPEG_LAYER_III")
    yield "png 12000 x 12000", decode_image, lambda: png_bomb(12_000, 12_000)
    yield "png 9000 x 9000, which Pillow takes", decode_image, lambda: png_bomb(9_000, 9_000)
    yield "png that claims 2^31", decode_image, lambda: png_bomb(2**31 - 1, 2**31 - 1, repeated=0)
    yield "png 7000 x 7000, allowed", decode_image, lambda: png_bomb(7_000, 7_000, colour=6)
    yield "png with more rows than it claims, allowed", decode_image, lambda: png_bomb(4_000, 4, repeated=5_000)
    yield "png 50 million x 1", decode_image, lambda: png_bomb(50_000_000, 1)
    yield "png text, allowed", decode_image, lambda: text_png()
    yield "gif canvas 65535", decode_image, lambda: patched(gif, 6, b"\xff\xff\xff\xff")
    yield "gif frame beyond its canvas", decode_image, lambda: gif.replace(b",\0\0\0\0\x1e\0\x14\0", b",\0\0\0\0\xff\xff\xff\xff")
    yield "bmp 2^31 wide", decode_image, lambda: patched(bmp, 18, struct.pack("<ii", 2**31 - 1, 2**31 - 1))
    yield "bmp upside down", decode_image, lambda: patched(bmp, 18, struct.pack("<ii", 30_000, -30_000))
    yield "bmp rle", decode_image, lambda: patched(patched(palette_bmp(), 18, struct.pack("<ii", 60_000, 800)), 30, b"\x01\0\0\0")
    yield "webp 16384", decode_image, lambda: patched(webp, 26, b"\xff\x3f\xff\x3f")
    yield (
        "webp canvas",
        decode_image,
        lambda: b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff" * 6,
    )
    avif, icon, jp2 = picture_bytes("AVIF"), picture_bytes("ICO"), picture_bytes("JPEG2000")
    yield "avif 65535", decode_image, lambda: patched(avif, avif.index(b"ispe") + 8, b"\0\0\xff\xff\0\0\xff\xff")
    yield "ico of a png 9000 x 9000", decode_image, lambda: patched(icon[:22], 14, struct.pack("<II", len(big_png()), 22)) + big_png()
    yield "ico of a bmp 2^31 wide", decode_image, lambda: icon_bmp(2**31 - 1, 2)
    yield "jpeg 2000 of 2^31", decode_image, lambda: patched(jp2, jp2.index(b"\xff\x51") + 6, struct.pack(">II", 2**31 - 1, 2**31 - 1))
    yield "ppm 60000 x 60000", decode_image, lambda: b"P6 60000 60000 255 " + bytes(100)
    yield "ppm text of 9 million pixels", decode_image, lambda: b"P2 3000 3000 255 " + b"1 " * 9_000_000
    yield "png profile of 128 MB, allowed", decode_image, lambda: profile_png()
    yield "png of 1 million chunks", decode_image, lambda: png_bomb(3, 3)[:33] + tiny_chunk() * 1_000_000 + png_bomb(3, 3)[33:]
    yield "jpeg 65500", decode_image, lambda: jpeg_claim(65_500, 65_500)
    yield "jpeg of 1500 scans", decode_image, scans_bomb
    yield "tiff 100000 x 100000", decode_image, lambda: tiff_claim(100_000, 100_000)
    yield "tiff of 65535 channels", decode_image, lambda: tiff_claim(4000, 4000, t277=(3, 1, 65_535))
    yield "tiff of 2^31 strips", decode_image, lambda: tiff_claim(4000, 4000, t273=(4, 2**31 - 1, 200), t279=(4, 2**31 - 1, 200))
    yield "tiff of one tile, allowed", decode_image, lambda: tile_bomb(256)
    yield "tiff of one huge tile", decode_image, lambda: tile_bomb(16_384)
    yield "tiff of tags", decode_image, lambda: tiff({700: (7, 2**31 - 1, 8), 256: (4, 1, 9), 257: (4, 1, 9)})
    yield "tiff whose directory follows itself, allowed", decode_image, lambda: tiff_claim(8, 8)[:-504] + struct.pack("<I", 8) + bytes(500)
    yield "wav claims 1 GB", decode_audio, lambda: patched(wav, 40, b"\0\0\0\x40")
    yield "wav of a pipe, allowed", decode_audio, lambda: patched(wav, 40, b"\xff\xff\xff\xff")
    yield "wav of a pipe of five minutes", decode_audio, lambda: patched(wav, 40, b"\xff\xff\xff\xff") + bytes(300 * 32_000)
    yield "wav of 65535 channels", decode_audio, lambda: patched(wav, 22, b"\xff\xff")
    yield "wav of 4 GHz", decode_audio, lambda: patched(wav, 24, b"\xff\xff\xff\xff")
    yield "wav of 8 million chunks", decode_audio, lambda: wav[:12] + b"LIST\0\0\0\0" * 8_000_000
    yield "flac claims 2^36 samples", decode_audio, lambda: patched(flac, 21, b"\xff\xff\xff\xff\xff")
    yield "flac of five minutes of silence", decode_audio, lambda: silence(300)
    yield "flac of a minute of 8 channels, allowed", decode_audio, lambda: silence(60, 192_000, 8)
    yield "ogg of ten minutes of silence", decode_audio, lambda: silence(600, 4_000, kind="OGG")
    yield "ogg of empty pages", decode_audio, lambda: (b"OggS" + bytes(23)) * 2_000_000
    yield "mp3 tag of 256 MB", decode_audio, lambda: b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + mp3
    yield "mp3 of ten minutes", decode_audio, lambda: mp3 * 3_000
    yield "text of 50 MB", decode_text, lambda: b"a " * 25_000_000
    yield "text of marks", decode_text, lambda: ("a" + "\u0301" * 12_000).encode()


def palette_bmp() -> bytes:
    stream = io.BytesIO()
    Image.new("P", (30, 20)).save(stream, format="BMP")
    return stream.getvalue()


def text_png() -> bytes:
    """A PNG whose compressed text is 128 MB of zeros."""
    body = b"a\0\0" + zlib.compress(bytes(2**27), 1)
    text = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    whole = png_bomb(3, 3)
    return whole[:33] + text + whole[33:]


def big_png() -> bytes:
    return png_bomb(9_000, 9_000, repeated=0)


def icon_bmp(width: int, height: int) -> bytes:
    """An icon whose bitmap claims another size than its directory."""
    bitmap = struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, 32, 0, 0, 0, 0, 0, 0) + bytes(4096)
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(bitmap), 22) + bitmap


def profile_png() -> bytes:
    """A PNG whose compressed colour profile is 128 MB of zeros."""
    body = b"a\0\0" + zlib.compress(bytes(2**27), 1)
    profile = struct.pack(">I", len(body)) + b"iCCP" + body + struct.pack(">I", zlib.crc32(b"iCCP" + body))
    return png_bomb(3, 3)[:33] + profile + png_bomb(3, 3)[33:]


def tiny_chunk() -> bytes:
    return struct.pack(">I", 0) + b"prVt" + struct.pack(">I", zlib.crc32(b"prVt"))


def jpeg_claim(width: int, height: int) -> bytes:
    content = picture_bytes("JPEG")
    frame = content.index(b"\xff\xc0")
    return patched(content, frame + 5, struct.pack(">HH", height, width))


def timed(decode: Decoder, content: bytes) -> tuple[object, float]:
    """What was decoded or None, and seconds of the processor; anything raised but BadMedia with a reason fails the test."""
    start = time.process_time()
    try:
        found = decode(content, LIMITS)
    except BadMedia as error:
        if not str(error):
            pytest.fail("a refusal without a reason")
        found = None
    return found, time.process_time() - start


def check(found: object) -> str:
    """ "decoded" if it is an object within limits, "refused" if it is None."""
    if isinstance(found, Image.Image):
        assert found.mode == "RGB"
        assert 0 < found.width * found.height <= LIMITS.max_pixels
    if isinstance(found, Waveform):
        assert LIMITS.min_sample_rate_hz <= found.sample_rate_hz <= LIMITS.max_sample_rate_hz
        assert 0 < found.samples.shape[1] <= LIMITS.max_seconds * found.sample_rate_hz
        assert len(found.samples) <= LIMITS.max_channels
        assert -1 <= found.samples.min() <= found.samples.max() <= 1, "NaN fails this too"
    return "refused" if found is None else "decoded"


def memory(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def growth(decode: Decoder, content: bytes) -> tuple[str, float, int]:
    """Outcome, seconds, and how far the peak of memory rose above what was there, the content included."""
    Path("/proc/self/clear_refs").write_text("5")  # peak = now
    before = memory("VmRSS")
    found, elapsed_s = timed(decode, content)
    grown = memory("VmHWM") - before
    return check(found), elapsed_s, grown


BOMBS = list(bombs())
SLOW = {
    "png 9000 x 9000, which Pillow takes",
    "tiff of one huge tile",
    "png 12000 x 12000",
    "png 7000 x 7000, allowed",
    "flac of a minute of 8 channels, allowed",
    "png 50 million x 1",
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux")
@pytest.mark.parametrize(
    ("decode", "make"), [pytest.param(*bomb[1:], id=bomb[0], marks=[pytest.mark.slow] * (bomb[0] in SLOW)) for bomb in BOMBS]
)
def test_bombs_cost_little_time_and_memory(decode: Decoder, make: Callable[[], bytes], request: pytest.FixtureRequest) -> None:
    found, elapsed_s, grown = growth(decode, make())
    print(f"BOMB {request.node.callspec.id}: {found}, {elapsed_s:.2f} s, {grown / 2**20:.0f} MiB")
    assert found == ("decoded" if "allowed" in request.node.callspec.id else "refused")
    assert elapsed_s < MOST_SECONDS
    assert grown < (MOST_GROWTH_BYTES if found == "decoded" else 64 * 2**20), "what is refused is refused by its header"


BMP_ICON = {"bitmap_format": "bmp"}


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def originals(seed: int) -> dict[str, tuple[Decoder, bytes]]:
    """One whole file of every kind that is decoded."""
    pictures = {
        "png": ("PNG", {}), "jpeg": ("JPEG", {}), "progressive jpeg": ("JPEG", {"progressive": True}), "webp": ("WEBP", {}),
        "lossless webp": ("WEBP", {"lossless": True}), "gif": ("GIF", {}), "bmp": ("BMP", {}), "tiff": ("TIFF", {}),
        "deflated tiff": ("TIFF", {"compression": "tiff_deflate"}), "tiff with jpeg": ("TIFF", {"compression": "jpeg"}),
        "lzw tiff": ("TIFF", {"compression": "tiff_lzw"}), "avif": ("AVIF", {}), "icon": ("ICO", {}), "bitmap icon": ("ICO", BMP_ICON),
        "ppm": ("PPM", {}), "jpeg 2000": ("JPEG2000", {}), "png with profile": ("PNG", {"icc_profile": srgb_profile()}),
    }  # fmt: skip
    sounds = {
        "wav": ("WAV", "PCM_16"), "float wav": ("WAV", "FLOAT"), "adpcm wav": ("WAV", "MS_ADPCM"), "flac": ("FLAC", "PCM_16"),
        "vorbis": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III"), "rf64": ("RF64", "PCM_16"),
        "aiff": ("AIFF", "PCM_16"), "aifc": ("AIFF", "FLOAT"), "au": ("AU", "PCM_16"), "w64": ("W64", "PCM_16"), "caf": ("CAF", "PCM_16"),
        "alac": ("CAF", "ALAC_16"), "nist": ("NIST", "PCM_16"),
    }  # fmt: skip
    found: dict[str, tuple[Decoder, bytes]] = {}
    for name, (kind, options) in pictures.items():
        found[name] = decode_image, picture_bytes(kind, (60 + seed % 7, 40 + seed % 5), seed, **options)
    for name, (kind, subtype) in sounds.items():
        found[name] = decode_audio, sound_bytes(kind, subtype, seed, channels=1 + seed % 2)
    return found


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content cut, with flipped bits, with overwritten, doubled or lost bytes, mostly near the header."""
    body = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8])):
        place = draw.randrange(len(body)) if draw.random() < 0.5 else draw.randrange(min(len(body), 80))
        kind = draw.randrange(5)
        if kind == 0:
            del body[max(place, 1) :]
        elif kind == 1:
            body[place] ^= 1 << draw.randrange(8)
        elif kind == 2:
            body[place : place + 4] = draw.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", draw.randbytes(4)])
        elif kind == 3:
            body[place:place] = body[place : place + draw.randrange(1, 64)]
        else:
            del body[place : place + draw.randrange(1, 64)]
        if not body:
            body = bytearray(b"\0")
    return bytes(body)


def fuzz(files: int, seed: int) -> collections.Counter[str]:
    """Decodes damaged files of every kind in turn; how many of each kind were decoded and refused."""
    draw, counts, slowest = random.Random(seed), collections.Counter[str](), 0.0
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    kinds: dict[str, tuple[Decoder, bytes]] = {}
    for number in range(files):
        if number % (10 * max(1, len(kinds))) == 0:
            kinds = originals(seed + number)
        name = list(kinds)[number % len(kinds)]
        decode, content = kinds[name]
        found, elapsed_s = timed(decode, damaged(content, draw))
        counts[f"{name} {check(found)}"] += 1
        slowest = max(slowest, elapsed_s)
    grown = memory("VmHWM") - before
    print(f"FUZZ {files} files: slowest {slowest:.3f} s, memory +{grown / 2**20:.0f} MiB, {dict(sorted(counts.items()))}")
    assert slowest < MOST_SECONDS
    assert grown < MOST_GROWTH_BYTES
    return counts


def test_whole_files_of_every_kind_are_decoded() -> None:
    for name, (decode, content) in originals(1).items():
        assert check(timed(decode, content)[0]) == "decoded", name


def test_200_damaged_files_are_decoded_within_limits_or_refused() -> None:
    counts = fuzz(200, seed=0)
    assert counts.total() == 200


@pytest.mark.slow
def test_5000_damaged_files_are_decoded_within_limits_or_refused() -> None:
    counts = fuzz(5000, seed=1)
    for name in ("png", "vorbis", "opus"):  # checksums over everything, so that nearly nothing passes
        assert counts[f"{name} decoded"] <= 0.03 * counts[f"{name} refused"], name
