"""Audio containers made of chunks or with a fixed header: WAV, RF64, RIFX, AIFF, W64, CAF, AU and NIST SPHERE.

libsndfile silently reads what is left of a file that was cut, so the declared sizes are compared with the bytes here.
"""

import re
import struct

from maskgen.io.limits import BadMedia

MOST_PARTS = 200_000
"""Maximum number of chunks, pages or frames that are scanned; a minute of audio has a few thousand."""
PIPE_BYTES = 0x7F000000
"""Sizes from here up are placeholders of programs that write to a pipe (ffmpeg 0xFFFFFFFF, sox 0x7FFFF000 and 0x7F000008, arecord
0x7FFFFF00): no file of that size is read."""
W64_GUID = bytes.fromhex("2e91cf11a5d628db04c10000")
"""Rest of the GUID after "riff"."""
CAF_CHUNKS = (b"data", b"pakt", b"chan", b"kuki", b"strg", b"mark", b"regn", b"inst", b"midi", b"umid", b"uuid", b"info", b"edct", b"ovvw",
              b"free", b"peak")  # fmt: skip
NIST_FIELD = re.compile(rb"^(sample_count|sample_n_bytes|channel_count) -i (\d{1,12})\s*$", re.MULTILINE)
NIST_CODINGS = (b"pcm", b"ulaw", b"alaw", b"mu-law", b"a-law")


def cut_short(claimed: int, there: int) -> BadMedia:
    """The error for a chunk that declares more bytes than the file has."""
    return BadMedia(f"cut short: a chunk claims {claimed} bytes, {there} are there")


def riff_content(content: bytes) -> bytes:
    """A RIFF (WAV), RIFX, RF64, BW64 or FORM (AIFF) file up to its end, with the size of its samples where a pipe left a placeholder.

    Raises:
        BadMedia: If a chunk is cut short, or there is no chunk with samples.
    """
    order = "<" if content[:4] in (b"RIFF", b"RF64", b"BW64") else ">"
    samples = b"SSND" if content[:4] == b"FORM" else b"data"
    wide = content[:4] in (b"RF64", b"BW64")
    whole, long = _wide_sizes(content) if wide else (struct.unpack_from(order + "I", content, 4)[0], 0)
    end = len(content) if whole == 0 or whole >= PIPE_BYTES else 8 + whole
    place, found, known = 12, -1, 0
    for _ in range(MOST_PARTS):
        if place + 8 > len(content) or (found >= 0 and place >= end):
            break
        name, (size,) = content[place : place + 4], struct.unpack_from(order + "I", content, place + 4)
        there = len(content) - place - 8
        if name == samples and found < 0:
            size = long if wide and size == 2**32 - 1 else size
            if size >= PIPE_BYTES or (size == 0 and not _are_chunks(content, place + 8, order)):
                size = there
            found, known = place, size
        if size > there:
            raise cut_short(size, there)
        place += 8 + size + size % 2
    else:
        raise BadMedia(f"more than {MOST_PARTS} chunks")
    if found < 0:
        raise BadMedia("damaged or cut short: no chunk of samples")
    if wide:
        return b"RF64" + content[4:28] + struct.pack("<Q", known) + content[36:place]
    return content[: found + 4] + struct.pack(order + "I", known) + content[found + 8 : place]


def _wide_sizes(content: bytes) -> tuple[int, int]:
    """Sizes of the file and of its samples in an RF64 file, from its first chunk."""
    if content[12:16] != b"ds64" or len(content) < 36:
        raise BadMedia("damaged: RF64 without sizes")
    whole, long = struct.unpack_from("<QQ", content, 20)
    return whole, long or 2**32 - 1


def _are_chunks(content: bytes, place: int, order: str) -> bool:
    """Whether the rest of the file is a chain of whole chunks, so that a chunk of samples before it is really empty."""
    for _ in range(MOST_PARTS):
        if place + 8 > len(content):
            return 0 <= place - len(content) <= 1
        if not all(32 <= byte < 127 for byte in content[place : place + 4]):
            return False
        (size,) = struct.unpack_from(order + "I", content, place + 4)
        place += 8 + size + size % 2
    return True


def w64_content(content: bytes) -> bytes:
    """A W64 file up to its end.

    Raises:
        BadMedia: If a chunk is cut short, or there is no chunk with samples.
    """
    place, found = 40, False
    for _ in range(MOST_PARTS):
        if place + 24 > len(content) or (found and place >= struct.unpack_from("<Q", content, 16)[0]):
            break
        name, (size,) = content[place : place + 4], struct.unpack_from("<Q", content, place + 16)
        if size < 24:
            raise BadMedia(f"damaged: a chunk of {size} bytes")
        if place + size > len(content):
            raise cut_short(size - 24, len(content) - place - 24)
        found = found or name == b"data"
        place += -(-size // 8) * 8
    else:
        raise BadMedia(f"more than {MOST_PARTS} chunks")
    if not found:
        raise BadMedia("damaged or cut short: no chunk of samples")
    return content[:place]


def caf_content(content: bytes) -> bytes:
    """A CAF file. A chunk of samples with size -1 reaches to the end of the file.

    Raises:
        BadMedia: If a chunk is cut short, or there is no chunk with samples.
    """
    place, found = 8, False
    for _ in range(MOST_PARTS):
        if place + 12 > len(content):
            break
        name, (size,) = content[place : place + 4], struct.unpack_from(">q", content, place + 4)
        found = found or name == b"data"
        if name == b"data" and size == -1:
            return content[: place + 4] + struct.pack(">q", len(content) - place - 12) + content[place + 12 :]
        if found and name not in CAF_CHUNKS:
            break  # bytes after the last chunk: the header holds no size of the file
        if size < 0 or place + 12 + size > len(content):
            raise cut_short(size, len(content) - place - 12)
        place += 12 + size
    else:
        raise BadMedia(f"more than {MOST_PARTS} chunks")
    if not found:
        raise BadMedia("damaged or cut short: no chunk of samples")
    return content[:place]


def au_content(content: bytes) -> bytes:
    """An AU file up to its end; a size of 2**32 - 1, or another placeholder, reaches to the end of the file.

    Raises:
        BadMedia: If it is cut short.
    """
    if len(content) < 24:
        raise BadMedia("cut short within the header")
    start, size = struct.unpack_from((">" if content[:4] == b".snd" else "<") + "II", content, 4)
    if size >= PIPE_BYTES or size == 0:
        return content[:8] + b"\xff" * 4 + content[12:]
    if start + size > len(content):
        raise cut_short(size, max(len(content) - start, 0))
    return content[: start + size]


def nist_content(content: bytes) -> bytes:
    """A NIST SPHERE file up to its end.

    Raises:
        BadMedia: If its header is incomplete, its samples are compressed, or it is cut short.
    """
    header = content[8:16].strip()
    if not header.isdigit() or int(header) > len(content):
        raise BadMedia("cut short within the header")
    text = content[: int(header)]
    coding = re.search(rb"^sample_coding -s\d+ (\S+)", text, re.MULTILINE)
    if coding is not None and coding[1] not in NIST_CODINGS:
        raise BadMedia(f"samples of coding {coding[1].decode('ascii', 'replace')[:40]!r}, which is not read")
    fields = {name: int(value) for name, value in NIST_FIELD.findall(text)}
    if len(fields) < 3:
        raise BadMedia("damaged header: no number of samples, channels or bytes a sample")
    size = fields[b"sample_count"] * fields[b"sample_n_bytes"] * fields[b"channel_count"]
    if int(header) + size > len(content):
        raise cut_short(size, len(content) - int(header))
    return content[: int(header) + size]
