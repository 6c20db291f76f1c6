"""Captioned rows with skin tones, and raw shards of them."""

from pathlib import Path

from PIL import Image

from maskgen.data.shards.format import json_bytes, png_bytes, write_shard
from maskgen.data.shards.manifest import Index, write_index
from maskgen.evaluation.image.corpus import Row
from maskgen.evaluation.image.pixels import to_rgb_bytes


def row(subject: int, tone: int, style: str) -> Row:
    word = ("", "light", "medium-light", "medium", "medium-dark", "dark")[tone]
    caption = f"subject {subject}{f' with {word} skin' if tone else ''}, {style} style"
    return Row(
        key=f"{style}-{subject:02}", label=f"subject {subject}: {tone}", caption=caption, style=style, tone=tone, group="people-body"
    )


ROWS = [row(subject, subject % 6, style) for style in ("flat", "noto") for subject in range(12)]


def write_toned(folder: Path) -> Path:
    """The rows as raw shards, training and split A alike; the colour of a picture is the number of its row."""
    members = []
    for number, one in enumerate(ROWS):
        picture = to_rgb_bytes([Image.new("RGB", (64, 64), (number, 0, 0))])[0].permute(1, 2, 0).numpy()
        info = {"label": one.label, "captions": [one.caption], "style": one.style, "tone": one.tone, "group": one.group}
        members.append((one.key, {"png": png_bytes(picture), "json": json_bytes(info)}))
    shards = [write_shard(folder / f"{split}-000000.tar", split, members) for split in ("train", "A")]
    write_index(folder, Index(kind="raw", shards=tuple(shards)))
    return folder
