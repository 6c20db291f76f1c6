"""The list of formats: every ending on it is listed by folders and tars, and its files are decoded."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskgen.data.sources.folder import FolderSource
from maskgen.data.sources.items import Source
from maskgen.data.sources.webdataset import WebDatasetSource
from maskgen.io.audio import decode_audio, read_sound
from maskgen.io.formats import AUDIO_ENDINGS, AUDIO_FORMATS, IMAGE_ENDINGS, IMAGE_FORMATS
from maskgen.io.images import read_picture
from maskgen.io.limits import MediaLimits
from maskgen.io.pictures import decode_image

LIMITS = MediaLimits()
MODES = {"pbm": "1", "pgm": "L", "pfm": "F"}
SUBTYPES = {"oga": "VORBIS", "ogg": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III", "aifc": "FLOAT"}
RATE_HZ = 16_000


def media(folder: Path) -> Path:
    """A folder with a dark-red picture or a tone of half a second for every ending, each with a text."""
    soundfile = pytest.importorskip("soundfile")
    for ending in IMAGE_ENDINGS:
        picture = Image.new("RGB", (32, 32), (130, 0, 0)).convert(MODES.get(ending, "RGB"), dither=Image.Dither.NONE)
        picture = Image.fromarray(np.asarray(picture) / np.float32(255)) if ending == "pfm" else picture
        picture.save(folder / f"{ending}-picture.{ending}")
        (folder / f"{ending}-picture.txt").write_text(ending)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ // 2) / RATE_HZ)
    for kind, endings in AUDIO_FORMATS.items():
        for ending in endings:
            written = "RF64" if ending == "rf64" else kind.upper()
            subtype = SUBTYPES.get(ending, "PCM_16")
            soundfile.write(folder / f"{ending}-sound.{ending}", tone, RATE_HZ, format=written, subtype=subtype)
            (folder / f"{ending}-sound.txt").write_text(ending)
    return folder


def check(source: Source) -> None:
    """Every ending is an item with its text, and is decoded."""
    found = {item.key.partition("-")[0]: item.parts for item in source.items()}
    assert set(found) == {*IMAGE_ENDINGS, *AUDIO_ENDINGS}
    for ending in IMAGE_ENDINGS:
        grey = np.asarray(decode_image(found[ending]["image"].read(LIMITS.max_bytes), LIMITS).convert("L"), int)
        assert np.abs(grey - (0 if ending == "pbm" else 39)).max() <= 3, ending
        assert found[ending]["text"].read(99) == ending.encode()
    for ending in AUDIO_ENDINGS:
        wave = decode_audio(found[ending]["audio"].read(LIMITS.max_bytes), LIMITS)
        assert (wave.samples.shape, wave.sample_rate_hz) == ((1, RATE_HZ // 2), RATE_HZ), ending
        assert float(np.sqrt((wave.samples[0, 2000:6000] ** 2).mean())) == pytest.approx(0.5**1.5, abs=0.02), ending


def test_every_ending_is_found_in_folders_and_tars_and_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    folder = media(tmp_path / "folder")
    check(FolderSource(folder))
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    check(WebDatasetSource(tmp_path / "all.tar"))
    assert read_picture(folder / "avif-picture.avif").size == (32, 32)
    assert read_sound(folder / "opus-sound.opus").samples.shape == (1, RATE_HZ // 2)


def test_the_list_has_every_ending_that_pillow_knows_for_its_formats() -> None:
    known = {ending.lstrip("."): {"MPO": "JPEG"}.get(kind, kind) for ending, kind in Image.registered_extensions().items()}
    for kind, endings in IMAGE_FORMATS.items():
        assert set(endings) == {ending for ending, name in known.items() if name == kind}, kind
