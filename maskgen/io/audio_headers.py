"""Find the end and the damage of audio files, which decoders ignore. Each container is scanned once and nothing is decoded."""

import struct
import zlib
from collections.abc import Callable, Mapping

from maskgen.io.audio_chunks import MOST_PARTS, W64_GUID, au_content, caf_content, nist_content, riff_content, w64_content
from maskgen.io.formats import AUDIO_FORMATS
from maskgen.io.limits import BadMedia, Note

BYTES_AFTER = "bytes after its end, which are ignored"
MP3_KBPS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MP3_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Keyed by the version bits of the header: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5."""
MP3_ENDINGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3", b"3DI")
LAST_PAGE = 4
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def audio_content(content: bytes, note: Note) -> bytes:
    """The bytes of an audio file from the container's signature to its end, checked for damage that libsndfile ignores.

    Args:
        content: The file's bytes, perhaps with an ID3 tag before the signature and anything after the end.
        note: Called if bytes after the end are left out.

    Returns:
        The bytes to decode. Sizes that a program writing to a pipe could not know are filled in. FLAC is passed on unchecked, because its
        decoder checks everything itself.

    Raises:
        BadMedia: If the file is damaged, cut short or of another format.
    """
    content = _without_tag(content)
    scan = next((scan for mark, scan in SCANS.items() if content.startswith(mark)), None)
    if scan is not None and _is_audio(content):
        found = scan(content)
        after = content[len(found) :]
        if after.strip(b"\0") and not after.startswith(MP3_ENDINGS):
            note(BYTES_AFTER)
        return found
    if content[:3] == b"ID3" or (content[:1] == b"\xff" and len(content) > 1 and content[1] & 0xE0 == 0xE0):
        if damage := _mp3_damage(content):
            raise BadMedia(damage)
        return content
    raise BadMedia(f"damaged header or none of {', '.join(AUDIO_FORMATS)}")


def _is_audio(content: bytes) -> bool:
    """Whether a container of chunks holds audio: RIFF files are also pictures and videos."""
    kinds = {b"RIFF": (b"WAVE",), b"RIFX": (b"WAVE",), b"RF64": (b"WAVE",), b"BW64": (b"WAVE",), b"FORM": (b"AIFF", b"AIFC")}
    return content[:4] not in kinds or content[8:12] in kinds[content[:4]]


def _without_tag(content: bytes) -> bytes:
    """The content without an ID3 tag before the signature of another container than MP3; libsndfile would lose the last samples."""
    start = _after_id3(content)
    return content[start:] if start and content.startswith(tuple(SCANS), start) else content


def _ogg_content(content: bytes) -> bytes:
    """An Ogg file up to its last page. Finds pages with a wrong checksum and a missing last page, which libogg silently skips."""
    place, kind = 0, 0
    for _ in range(MOST_PARTS):
        if place == len(content):
            break
        header = content[place : place + 27]
        if len(header) < 27 or header[:4] != b"OggS":
            if kind & LAST_PAGE and b"OggS" not in content[place:]:
                return content[:place]
            raise BadMedia(f"damaged: no page at byte {place}")
        kind, table = header[5], content[place + 27 : place + 27 + header[26]]
        end = place + 27 + header[26] + sum(table)
        if end > len(content):
            raise BadMedia("cut short within a page")
        if _ogg_checksum(header[:22] + bytes(4) + content[place + 26 : end]) != struct.unpack_from("<I", header, 22)[0]:
            raise BadMedia(f"damaged: wrong checksum of the page at byte {place}")
        place = end
    else:
        raise BadMedia(f"more than {MOST_PARTS} pages")
    if not kind & LAST_PAGE:
        raise BadMedia("cut short: the last page is missing")
    return content


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


SCANS: Mapping[bytes, Callable[[bytes], bytes]] = {
    b"fLaC": bytes,
    b"OggS": _ogg_content,
    **dict.fromkeys((b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"), riff_content),
    b"riff" + W64_GUID: w64_content,
    b"caff": caf_content,
    b".snd": au_content,
    b"dns.": au_content,
    b"NIST_1A": nist_content,
}
"""Signature of a container to the function that finds its end."""
