"""`maskgen data verify`: every cut and every flipped bit is found, all damages are named, and what is whole passes."""

import hashlib
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from builders.dots import corpus, planned

from maskgen.cli.main import main
from maskgen.data.build.engine import PLAN_FILE, REJECTS_FILE, run_build
from maskgen.data.build.verify import verify
from maskgen.data.shards.format import json_bytes, write_shard
from maskgen.data.shards.manifest import INDEX_FILE, MANIFEST_FILE, Index, read_index, write_index

SAMPLE = Path(__file__).parents[3] / "data" / "emoji" / "sample"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small build; read only."""
    folder = tmp_path_factory.mktemp("verify")
    run_build(planned(corpus(folder, count=9, bad=(3,), image={"size": 8}, shard_samples=4)), folder / "out")
    return folder / "out"


@pytest.fixture
def build(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original, tmp_path / "build"))


def test_what_was_built_is_whole_and_strays_are_named(build: Path) -> None:
    assert verify(build).damages == verify(build, full=True).damages == ()
    assert verify(build).strays == verify(build).notes == ()
    (build / "notes.txt").touch()
    (build / "old").mkdir()
    found = verify(build, full=True)
    assert (found.damages, found.strays) == ((), ("notes.txt", "old/"))


def test_a_shard_cut_at_any_64_bytes_is_found_by_its_size(build: Path) -> None:
    path = build / "train-000000.tar"
    content = path.read_bytes()
    for length in range(len(content) - 64, -1, -64):
        os.truncate(path, length)
        assert verify(build).damages == (
            f"{path} has {length} bytes, the index says {len(content)}: damaged or replaced; build it again",
        ), length
    path.write_bytes(content)
    assert verify(build).damages == ()


def test_1000_flipped_bits_are_all_found(build: Path) -> None:
    chance = random.Random(0)
    paths = sorted(build.iterdir())
    assert {path.name for path in paths} >= {INDEX_FILE, MANIFEST_FILE, PLAN_FILE, REJECTS_FILE, "train-000000.tar"}
    for turn in range(1000):
        path = paths[turn % len(paths)]
        content = path.read_bytes()
        place, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        assert verify(build, full=True).damages, (path.name, place, bit)
        path.write_bytes(content)
    assert verify(build, full=True).damages == ()


def test_every_bit_of_the_index_counts(build: Path) -> None:
    path = build / INDEX_FILE
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        assert verify(build).damages, place
    path.write_bytes(content.replace(b'"sha256"', b'"sha257"', 1))
    assert verify(build).damages
    path.write_bytes(content.replace(b'"dots"', b'"dats"', 1))
    with pytest.raises(ValueError, match="does not give the sha256 that stands in it"):
        read_index(build)
    path.write_bytes(content + b"\n")
    assert verify(build).damages == (f"{path} is not as maskgen wrote it; build it again",)


def test_all_damages_are_named_one_a_line_with_code_2(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (build / "train-000000.tar").unlink()
    (build / REJECTS_FILE).unlink()
    with (build / "train-000001.tar").open("ab") as handle:
        handle.write(b"more")
    with pytest.raises(SystemExit) as stop:
        main(["data", "verify", str(build)])
    said = capsys.readouterr()
    assert (stop.value.code, said.out) == (2, "")
    lines = said.err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("maskgen: error: ") for line in lines)
    assert [name in line for name, line in zip((REJECTS_FILE, "train-000000.tar", "train-000001.tar"), lines, strict=True)] == [True] * 3


def test_what_is_whole_gives_code_0_and_a_summary(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (build / "notes.txt").touch()
    main(["data", "verify", str(build), "--full"])
    counts = read_index(build).counts
    shards = len(read_index(build).shards)
    summary = ", ".join(f"{count} {split}" for split, count in counts.items())
    assert capsys.readouterr().out == (
        f"not in the index: notes.txt\n{build} is whole: {shards} raw shards, {summary} (every byte was read)\n"
    )


def test_a_manifest_that_says_otherwise_is_found(build: Path) -> None:
    index = read_index(build)
    lines = (build / MANIFEST_FILE).read_text().splitlines()
    (build / MANIFEST_FILE).write_text("\n".join([*lines[1:], lines[1].replace("train-0", "other-0")]) + "\n")
    sealed = index.files | {MANIFEST_FILE: hashlib.sha256((build / MANIFEST_FILE).read_bytes()).hexdigest()}
    write_index(build, replace(index, files=sealed))
    first = json.loads(lines[0])["name"]
    assert [sentence.split(f"{MANIFEST_FILE} ")[1] for sentence in verify(build).damages] == [
        f"does not say of {first} what the index says; build it again",
        "has other-000001.tar, the index does not; build it again",
    ]


def test_a_lying_index_is_found_by_reading(tmp_path: Path) -> None:
    rows = [(f"row-{number}", {"json": json_bytes({})}) for number in range(3)]
    entries = [write_shard(tmp_path / f"train-00000{number}.tar", "train", rows) for number in range(2)]
    write_index(tmp_path, Index(kind="raw", shards=(replace(entries[0], count=4), entries[1])))
    assert verify(tmp_path).damages == ()
    found = verify(tmp_path, full=True).damages
    assert "holds 3 samples, the index says 4" in found[0]
    assert [f"repeats the key row-{number} of train-000000.tar" in sentence for number, sentence in enumerate(found[1:])] == [True] * 3


def test_an_index_of_maskgen_0_1_passes_with_a_note(tmp_path: Path) -> None:
    found = verify(SAMPLE, full=True)
    assert found.damages == ()
    assert "holds no hash of itself" in found.notes[0]
    copy = Path(shutil.copytree(SAMPLE, tmp_path / "copy"))
    content = bytearray((copy / "C-000000.tar").read_bytes())
    content[700] ^= 4
    (copy / "C-000000.tar").write_bytes(content)
    assert "C-000000.tar has sha256" in verify(copy, full=True).damages[0]


def test_a_folder_without_index_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["data", "verify", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"maskgen: error: {tmp_path}/index.json does not exist")
