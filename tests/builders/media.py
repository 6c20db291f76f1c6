"""Small files and clips of media."""

import struct
import zlib

import numpy as np

from maskgen.io.audio import Waveform


def png_of(width: int, height: int) -> bytes:
    """A valid PNG of black bits, compressed to almost nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def recording(seconds: float = 1.0, rate: int = 16_000, channels: int = 1) -> Waveform:
    """Noise, the same at every call."""
    noise = np.random.default_rng(0).standard_normal((channels, round(seconds * rate))).astype(np.float32)
    return Waveform(samples=0.1 * noise.clip(-3, 3), sample_rate_hz=rate)


def patched(content: bytes, place: int, value: bytes) -> bytes:
    """A file with other bytes at one place."""
    return content[:place] + value + content[place + len(value) :]
