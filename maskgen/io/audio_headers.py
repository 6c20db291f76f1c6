"""Detect damage in audio files that decoders ignore. Each container is scanned once and nothing is decoded."""

import struct
import zlib

MOST_PARTS = 200_000
"""Maximum number of chunks, pages or frames that are scanned; a minute of audio has a few thousand."""
MP3_KBPS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MP3_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Keyed by the version bits of the header: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5."""
MP3_ENDINGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3", b"3DI")
LAST_PAGE = 4
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def find_damage(content: bytes) -> str | None:
    """Describe the damage of an audio container in one short sentence.

    Args:
        content: The file's bytes.

    Returns:
        The description, or None for an intact WAV, Ogg or MP3 file. FLAC also gives None, because its decoder checks everything itself.
    """
    if content[:4] == b"fLaC":
        return None
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        return _wav_damage(content)
    if content[:4] == b"OggS":
        return _ogg_damage(content)
    if content[:3] == b"ID3" or (content[:1] == b"\xff" and len(content) > 1 and content[1] & 0xE0 == 0xE0):
        return _mp3_damage(content)
    return "damaged header or none of WAV, FLAC, Ogg, MP3"


def _wav_damage(content: bytes) -> str | None:
    """Find chunks that declare more bytes than the file has. libsndfile silently reads what is there."""
    place = 12
    for _ in range(MOST_PARTS):
        if place + 8 > len(content):
            return None
        (size,) = struct.unpack_from("<I", content, place + 4)
        if place + 8 + size > len(content):
            return f"cut short: a chunk claims {size} bytes, {len(content) - place - 8} are there"
        place += 8 + size + size % 2
    return f"more than {MOST_PARTS} chunks"


def _ogg_damage(content: bytes) -> str | None:
    """Find pages with a wrong checksum and a missing last page. libogg silently skips both."""
    place, kind = 0, 0
    for _ in range(MOST_PARTS):
        if place == len(content):
            return None if kind & LAST_PAGE else "cut short: the last page is missing"
        header = content[place : place + 27]
        if len(header) < 27 or header[:4] != b"OggS":
            return f"damaged: no page at byte {place}"
        kind, table = header[5], content[place + 27 : place + 27 + header[26]]
        end = place + 27 + header[26] + sum(table)
        if end > len(content):
            return "cut short within a page"
        if _ogg_checksum(header[:22] + bytes(4) + content[place + 26 : end]) != struct.unpack_from("<I", header, 22)[0]:
            return f"damaged: wrong checksum of the page at byte {place}"
        place = end
    return f"more than {MOST_PARTS} pages"


def _ogg_checksum(page: bytes) -> int:
    """Compute the CRC-32 of Ogg (most significant bit first, initial value 0) as zlib's bit-reversed CRC over bit-reversed bytes."""
    mirrored = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _mp3_damage(content: bytes) -> str | None:
    """Find gaps between frames and incomplete frames. mpg123 silently skips or conceals them."""
    start = place = _after_id3(content)
    for count in range(MOST_PARTS):
        if place >= len(content) or content.startswith(MP3_ENDINGS, place) or not content[place : place + 4096].strip(b"\0"):
            return _mp3_count_damage(content[start : start + 256], count)
        length = _mp3_frame_bytes(content[place : place + 4])
        if length is None:
            return f"damaged: no frame at byte {place}"
        if place + length > len(content):
            return "cut short within a frame"
        place += length
    return f"more than {MOST_PARTS} frames"


def _mp3_count_damage(first: bytes, count: int) -> str | None:
    """Compare the frame count with the first frame's ("Xing" or "Info", flags, count). Encoders differ on whether it counts itself."""
    mark = max(first.find(b"Xing"), first.find(b"Info"))
    if mark >= 0 and len(first) >= mark + 12 and first[mark + 7] & 1:
        (claimed,) = struct.unpack_from(">I", first, mark + 8)
        if count not in (claimed, claimed + 1):
            return f"cut short or joined: the header claims {claimed} frames, {count - 1} are there"
    return None if count else "no frames"


def _after_id3(content: bytes) -> int:
    """Return the offset of the first frame, after the ID3 tag (its size is stored as 7 bits per byte) and the padding."""
    if content[:3] != b"ID3" or len(content) < 10:
        return 0
    place = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
    rest = content[place:]
    return place + len(rest) - len(rest.lstrip(b"\0"))


def _mp3_frame_bytes(header: bytes) -> int | None:
    """Return the length of a layer III frame including its header, or None if the four bytes are not such a header."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, kbps, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or kbps in (0, 15) or rate == 3:
        return None
    slots = 144_000 if version == 3 else 72_000
    return slots * MP3_KBPS[1 if version == 3 else 2][kbps] // MP3_RATES_HZ[version][rate] + (header[2] >> 1 & 1)
