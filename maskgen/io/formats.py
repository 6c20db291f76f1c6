"""Formats and file endings of the images and audio that are read: the only list, used by readers, folders, tars and the command line.

The formats are those that Pillow and libsndfile read with a native decoder and recognise by a signature at the start of the file. Formats
without a signature (TGA, PCX), with a decoder in Python (QOI) or that run another program (EPS) are left out: convert such files.
"""

from collections.abc import Mapping
from itertools import chain

IMAGE_FORMATS: Mapping[str, tuple[str, ...]] = {
    "PNG": ("png", "apng"),
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "mpo"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "TIFF": ("tif", "tiff"),
    "AVIF": ("avif", "avifs"),
    "JPEG2000": ("jp2", "j2k", "jpc", "jpf", "jpx", "j2c"),
    "ICO": ("ico",),
    "PPM": ("ppm", "pgm", "pbm", "pnm", "pfm"),
}
"""Pillow's name of a format to the endings of its files."""
AUDIO_FORMATS: Mapping[str, tuple[str, ...]] = {
    "WAV": ("wav", "wave", "bwf", "rf64"),
    "FLAC": ("flac",),
    "Ogg": ("ogg", "oga", "opus"),
    "MP3": ("mp3",),
    "AIFF": ("aiff", "aif", "aifc"),
    "AU": ("au", "snd"),
    "W64": ("w64",),
    "CAF": ("caf",),
    "NIST": ("sph", "nist"),
}
"""Name of a format to the endings of its files; all are read with libsndfile. WAV includes RF64 and big-endian RIFX."""
IMAGE_ENDINGS = tuple(chain.from_iterable(IMAGE_FORMATS.values()))
AUDIO_ENDINGS = tuple(chain.from_iterable(AUDIO_FORMATS.values()))
