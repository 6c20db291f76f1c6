"""A full disk: what is written is whole or absent, and what was there before stays."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.full_disk import full_disk
from PIL import Image

import maskgen
from maskgen.cli.main import main
from maskgen.cli.outputs import write_images
from maskgen.evaluation.cache import cached
from maskgen.io.images import write_animation, write_picture

PICTURES = [Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)) for seed in range(3)]
"""Noise, which no format makes small."""


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


WRITERS: dict[str, Callable[[Path], object]] = {
    "a png": lambda folder: write_picture(PICTURES[1], folder / "a.png"),
    "a jpeg": lambda folder: write_picture(PICTURES[1], folder / "a.jpg"),
    "a webp": lambda folder: write_picture(PICTURES[1], folder / "a.webp"),
    "an animation": lambda folder: write_animation(PICTURES[1:], folder / "a.gif", [120, 1500]),
    "an image of the command line": lambda folder: write_images(PICTURES[1:2], folder / "a.png", 1),
    "a sheet of the command line": lambda folder: write_images(PICTURES, folder / "a.png", 3),
    "tensors of a cache": lambda folder: cached(folder, "a", lambda: {"x": torch.zeros(100)}),
}


@pytest.mark.parametrize("older", [b"", b"an older file"])
@pytest.mark.parametrize("writer", WRITERS)
def test_no_part_of_a_file_is_left_and_an_older_one_stays(tmp_path: Path, writer: str, older: bytes) -> None:
    if older and writer != "tensors of a cache":
        for ending in (".png", "-0.png", ".jpg", ".webp", ".gif"):
            (tmp_path / f"a{ending}").write_bytes(older)
    before = content(tmp_path)
    with full_disk(after=200), pytest.raises(OSError, match="File too large"):
        WRITERS[writer](tmp_path)
    assert content(tmp_path) == before
    if older:
        WRITERS[writer](tmp_path)
        assert content(tmp_path) != before


def test_what_is_written_is_what_pillow_writes(tmp_path: Path) -> None:
    for ending in (".png", ".jpg", ".webp", ".bmp", ".PNG"):
        write_picture(PICTURES[0], tmp_path / f"ours{ending}")
        PICTURES[0].save(tmp_path / f"theirs{ending}")
        assert (tmp_path / f"ours{ending}").read_bytes() == (tmp_path / f"theirs{ending}").read_bytes()
    write_animation(PICTURES, tmp_path / "ours.gif", [120, 120, 1500])
    PICTURES[0].save(tmp_path / "theirs.gif", save_all=True, append_images=PICTURES[1:], duration=[120, 120, 1500], loop=0)
    assert (tmp_path / "ours.gif").read_bytes() == (tmp_path / "theirs.gif").read_bytes()
    for name in ("a", "a.txt", ".png"):
        with pytest.raises(ValueError, match="names no format of pictures"):
            write_picture(PICTURES[0], tmp_path / name)


def test_a_generated_image_is_whole_or_absent(tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "image", "a red heart", "--model", str(tiny_bundle), "--scale", "4", "--out", str(tmp_path / "a.png")]
    (tmp_path / "a.png").write_bytes(b"older")
    with full_disk(after=200), pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("maskgen: error: ")
    assert content(tmp_path) == {"a.png": b"older"}
    main([*command, "--gif", str(tmp_path / "a.gif")])
    with full_disk(after=(tmp_path / "a.png").stat().st_size), pytest.raises(SystemExit):
        main([*command, "--gif", str(tmp_path / "b.gif")])
    assert sorted(content(tmp_path)) == ["a.gif", "a.png"]


DIRECT = re.compile(
    r"\.write_(text|bytes)\(|(?<!tarfile\.)\bopen\([^)]*\"[wx]|\bsave_file\(|\bshutil\.copy"
    r"|\b(picture|image|sheet|frame|plot|figure)s?(\[\w+\])?\.save\((?!.*format=)"
)
ALLOWED = {
    "io/files.py": "the atomic writer itself",
    "tokenizers/contract.py": "tests of tokenizers, which damage files",
    "training/runtime/checkpoint_io.py": "a copy under a temporary name",
}


def test_files_are_written_atomically_everywhere() -> None:
    root = Path(maskgen.__file__).parent
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in sorted(root.rglob("*.py"))
        if str(path.relative_to(root)) not in ALLOWED
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if DIRECT.search(line)
    ]
    assert not found, "write through maskgen.io.files.write_atomic or io.images.write_picture:\n" + "\n".join(found)
