"""Small token shards of pictures with captions, and of speech, that share labels: for tests of mixtures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from maskgen.data.shards.format import json_bytes, npy_bytes, write_shard
from maskgen.data.shards.manifest import Index, write_index
from maskgen.tokens.space import Modality, TokenSpace

END = 10
TEXT = Modality(name="text", kind="text", num_levels=1, codebook_size=11, end=END)
IMAGE = Modality(name="image", kind="image", num_levels=2, codebook_size=7)
AUDIO = Modality(name="audio", kind="audio", num_levels=2, codebook_size=7)
SPEAKER = Modality(name="speaker", kind="attribute", num_levels=1, codebook_size=4)
TRANSCRIPT = Modality(name="transcript", kind="transcript", num_levels=1, codebook_size=11, stride=2)
PICTURES = TokenSpace([TEXT, IMAGE])
SPEECH = TokenSpace([AUDIO, SPEAKER, TRANSCRIPT])
LABELS = 6
"""Everything of a sample follows from its label, 0 to 5: codes are the label."""


def picture(label: int) -> dict[str, bytes]:
    """A caption of label + 1 codes, an alternative of one, and a picture."""
    captions = np.full((2, LABELS + 1), -1, np.int16)
    captions[0, : label + 1] = label
    captions[1, 0] = label
    return {
        "json": json_bytes({"label": str(label), "style": "flat"}),
        "text.npy": npy_bytes(captions),
        "image.npy": npy_bytes(np.full((2, 2, 2), label, np.int16)),
    }


def speech(label: int) -> dict[str, bytes]:
    """Eight frames of sound and four slots of words."""
    return {
        "json": json_bytes({"label": str(label)} if label < LABELS else {}),
        "audio.npy": npy_bytes(np.full((2, 8), label % 7, np.int16)),
        "speaker.npy": npy_bytes(np.zeros((1, 1), np.int16)),
        "transcript.npy": npy_bytes(np.full((1, 4), label, np.int16)),
    }


def write(folder: Path, space: TokenSpace, rows: Mapping[str, list[dict[str, bytes]]], prints: Mapping[str, str] | None = None) -> str:
    """A folder of one shard a split."""
    folder.mkdir(parents=True)
    shards = [
        write_shard(folder / f"{split}-000000.tar", split, [(f"{split.lower()}-{number:03d}", one) for number, one in enumerate(found)])
        for split, found in rows.items()
    ]
    names = {modality.name: f"{modality.name}-print" for modality in space.modalities}
    write_index(folder, Index(kind="tokens", shards=tuple(shards), space=space.to_dict(), fingerprints={**names, **(prints or {})}))
    return str(folder)


def write_both(folder: Path) -> tuple[str, str]:
    """Pictures (labels 0 to 5 in training, 4 in split A) and speech (labels 2 to 7, two of them without a picture)."""
    pictures = write(folder / "pictures", PICTURES, {"train": [picture(n) for n in range(LABELS)], "A": [picture(4)]})
    sounds = write(folder / "speech", SPEECH, {"train": [speech(n) for n in (2, 3, 3, 4, 6, 7)], "A": [speech(4), speech(3)]})
    return pictures, sounds
