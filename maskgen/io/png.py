"""PNG files chunk by chunk: every checksum is compared, texts are left out and the colour profile is read within a limit.

Pillow refuses a whole picture for a compressed text or a profile above 1 MB, and does not compare the checksums of all chunks.
"""

import struct
import zlib

from maskgen.io.colour import LARGEST_PROFILE_BYTES
from maskgen.io.limits import BadMedia

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_CHUNKS = 200_000
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
TURNING = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
"""Keywords of texts that may hold the orientation, which are kept if they are small."""
LARGEST_TEXT_BYTES = 2**20


def png_parts(content: bytes) -> tuple[bytes, bytes | None]:
    """A PNG without texts, and its colour profile.

    Args:
        content: A file that begins with `SIGNATURE`.

    Returns:
        The PNG up to its end, without texts and profile, and the profile: None if there is none, empty if it is damaged.

    Raises:
        BadMedia: If a chunk is cut short or has a wrong checksum, or the last chunk is missing.
    """
    kept: list[bytes | memoryview] = [SIGNATURE]
    profile, place, view = None, len(SIGNATURE), memoryview(content)
    for _ in range(MOST_CHUNKS):
        if place + 12 > len(content):
            raise BadMedia("cut short: the last chunk is missing")
        (size,) = struct.unpack_from(">I", content, place)
        name, end = content[place + 4 : place + 8], place + 12 + size
        if end > len(content):
            raise BadMedia(f"cut short: a chunk claims {size} bytes, {len(content) - place - 12} are there")
        if zlib.crc32(view[place + 4 : end - 4]) != struct.unpack_from(">I", content, end - 4)[0]:
            raise BadMedia(f"damaged: wrong checksum of the chunk at byte {place}")
        body = view[place + 8 : end - 4]
        if name == b"iCCP":
            profile = _profile(body)
        elif name not in TEXTS or _turns(name, bytes(body[:LARGEST_TEXT_BYTES])):
            kept.append(view[place:end])
        place = end
        if name == b"IEND":
            return b"".join(kept), profile
    raise BadMedia(f"more than {MOST_CHUNKS} chunks")


def _profile(body: memoryview) -> bytes:
    """A compressed profile; empty if it is damaged or too large."""
    _, _, packed = bytes(body).partition(b"\0")
    return _inflated(packed[1:], LARGEST_PROFILE_BYTES) if packed[:1] == b"\0" else b""


def _inflated(packed: bytes, limit: int) -> bytes:
    """Decompressed bytes; none if they are damaged, cut short or more than `limit`."""
    packer = zlib.decompressobj()
    try:
        found = packer.decompress(packed, limit + 1)
    except zlib.error:
        return b""
    return found if packer.eof and len(found) <= limit else b""


def _turns(name: bytes, body: bytes) -> bool:
    """Whether a text may hold the orientation and is small, also when it is decompressed."""
    if not body.startswith(TURNING) or len(body) >= LARGEST_TEXT_BYTES // 4:
        return False
    rest = body.partition(b"\0")[2]
    if name == b"iTXt":
        packed = rest[2:].partition(b"\0")[2].partition(b"\0")[2] if rest[:1] == b"\1" else None
    else:
        packed = rest[1:] if name == b"zTXt" else None
    return packed is None or bool(_inflated(packed, LARGEST_TEXT_BYTES - 1))
