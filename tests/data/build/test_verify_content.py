"""`maskgen data verify --full` names what is wrong inside of shards whose hashes are right, and training refuses it too."""

import io
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.mixed_shards import LABELS, PICTURES, picture, write

from maskgen.cli.main import main
from maskgen.data.build.verify import verify
from maskgen.data.loading.token_data import TokenData
from maskgen.data.shards.format import json_bytes, npy_bytes, png_bytes, read_shard, write_shard
from maskgen.data.shards.manifest import INDEX_FILE, Index, _json_bytes, _seal, read_index, write_index
from maskgen.evaluation.inspect import inspect_shards


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An npy file with any header."""
    text = header.encode("latin1")
    text += b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data


def array(values: Any, dtype: str = "int16") -> bytes:
    return npy_bytes(np.asarray(values, dtype))


def fortran() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asfortranarray(np.zeros((2, 2, 2), np.int16)))
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


PNG = png_bytes(np.zeros((4, 4, 3), np.uint8))
NO_SPACES: tuple[dict[str, Any], ...] = ({}, {"modalities": 1, "specials": []}, {"modalities": [{"name": "x"}], "specials": []})
NO_ENTRIES = ({"count": 0.5}, {"count": -1}, {"split": 4}, {"sha256": None}, {"bytes": "x"}, {"tokens": []}, {"sources": {"a": "b"}})
DEFECTS: dict[str, tuple[str, bytes, str]] = {
    "an unfinished header": ("image.npy", npy("{'descr': '<i2', 'fortran_order': False, 'shape': (2, 2, "), "damaged npy header"),
    "an unfinished string": ("image.npy", npy("{'descr': '<i2"), "damaged npy header"),
    "a header of another version": ("image.npy", npy("{'descr': '<i2', 'shape': (1,)}", version=b"\x03\x00"), "no npy array"),
    "nested brackets": ("image.npy", npy("(" * 110), "damaged npy header"),
    "an endless shape": ("image.npy", npy("{'descr': '<i2', 'fortran_order': False, 'shape': (999999999999999999999,)}"), "npy array"),
    "a shape of terabytes": ("image.npy", npy("{'descr': '<i2', 'fortran_order': False, 'shape': (2, 1000000, 1000000)}"), "bytes long"),
    "a shape below zero": ("image.npy", npy("{'descr': '<i2', 'fortran_order': False, 'shape': (-1, 2)}"), "plain numbers"),
    "no shape": ("image.npy", npy("{'descr': '<i2', 'fortran_order': False}"), "damaged npy header"),
    "a header that is a list": ("image.npy", npy("[1, 2]"), "damaged npy header"),
    "objects": ("image.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\0" * 8), "plain numbers"),
    "strings": ("image.npy", array(["a"], "U1"), "plain numbers"),
    "records": ("image.npy", npy("{'descr': [('a', '<i2')], 'fortran_order': False, 'shape': (1,)}", b"\0\0"), "npy header"),
    "Fortran order": ("image.npy", fortran(), "C order"),
    "no bytes": ("image.npy", b"", "no npy array"),
    "magic alone": ("image.npy", b"\x93NUMPY\x01\x00", "no npy array|damaged npy header"),
    "cut data": ("image.npy", array(np.zeros((2, 2, 2)))[:-2], "bytes long"),
    "deep json": ("json", b"[" * 100_000 + b"]" * 100_000, r"\.json does not decode"),
    "json of another encoding": ("json", b'{"a": "\xff"}', r"\.json does not decode"),
    "a number of 5000 digits": ("json", b'{"a": ' + b"9" * 5000 + b"}", r"\.json does not decode"),
    "a list as json": ("json", b"[]", "json holds list, wanted an object"),
    "a number as json": ("json", b"1", "json holds int, wanted an object"),
    "a png cut in its header": ("png", PNG[:20], r"\.png does not decode"),
    "a png cut in its data": ("png", PNG[:-30], r"\.png does not decode"),
    "a png without data": ("png", PNG[:33] + chunk(b"IEND", b""), r"\.png does not decode"),
    "a png of other bytes": ("png", PNG[:33] + chunk(b"IDAT", b"no zlib") + chunk(b"IEND", b""), r"\.png does not decode"),
    "a png with a short header": ("png", PNG[:8] + chunk(b"IHDR", b"\0\0\0\1") + chunk(b"IEND", b""), r"\.png does not decode"),
    "a png with an empty palette": ("png", PNG[:33] + chunk(b"tRNS", b"") + PNG[33:-40], r"\.png does not decode"),
    "float codes": ("image.npy", array(np.full((2, 2, 2), 1.5), "float32"), r"image\.npy holds float32, wanted integer codes"),
    "truth values": ("image.npy", array(np.ones((2, 2, 2)), "bool"), r"image\.npy holds bool, wanted integer codes"),
    "a code too large": ("image.npy", array(np.full((2, 2, 2), 7)), "holds the codes 7 to 7, wanted 0 to 6"),
    "a code too small": ("image.npy", array(np.full((2, 2, 2), -2)), "holds the codes -2 to -2, wanted 0 to 6"),
    "a level too few": ("image.npy", array(np.zeros((1, 2, 2))), r"has shape \(1, 2, 2\), wanted 2 levels"),
    "a level too many": ("image.npy", array(np.zeros((3, 2, 2))), "wanted 2 levels"),
    "no grid": ("image.npy", array(np.zeros(2)), "wanted 2 levels"),
    "too many axes": ("image.npy", array(np.zeros((2, 1, 1, 1, 1))), "wanted 2 levels"),
    "float text": ("text.npy", array(np.zeros((2, 3)), "float64"), r"text\.npy holds float64"),
    "text out of range": ("text.npy", array([[3, 11]]), "holds the codes 3 to 11, wanted 0 to 10"),
    "text of one axis": ("text.npy", array([1, 2]), "alternatives longest"),
    "text without captions": ("text.npy", array(np.zeros((0, 3))), "alternatives longest"),
    "codes behind the end": ("text.npy", array([[1, -1, 2]]), "behind the end of a text"),
    "an unknown modality": ("film.npy", array(np.zeros((1, 2))), r"film\.npy is of no modality of the index, which has text, image"),
}


def damaged(folder: Path, field: str, content: bytes) -> Path:
    """A folder of one shard whose second sample has a member of its own; every hash is right."""
    rows = [picture(label) for label in range(LABELS)]
    rows[1] = {**rows[1], field: content}
    return Path(write(folder, PICTURES, {"train": rows, "A": [picture(4)]}))


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_one_finding(tmp_path: Path, defect: str) -> None:
    field, content, message = DEFECTS[defect]
    folder = damaged(tmp_path / "set", field, content)
    assert verify(folder).damages == ()
    found = verify(folder, full=True).damages
    assert len(found) == 1, found
    assert found[0].startswith(f"{folder / 'train-000000.tar'}")
    assert found[0].endswith("build it again")
    assert re.search(message, found[0])


def test_the_command_ends_with_code_2_and_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = damaged(tmp_path / "set", "image.npy", DEFECTS["a code too large"][1])
    with pytest.raises(SystemExit) as stop:
        main(["data", "verify", str(folder), "--full"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        f"maskgen: error: {folder}/train-000000.tar: image.npy holds the codes 7 to 7, wanted 0 to 6, or -1 (sample train-001); "
        "build it again\n"
    )


def test_a_fault_of_many_samples_is_one_sentence(tmp_path: Path) -> None:
    rows = [{**picture(label), "image.npy": array(np.zeros((1, 2, 2)))} for label in range(LABELS)]
    folder = Path(write(tmp_path / "set", PICTURES, {"train": rows}))
    assert [sentence.split("(")[-1] for sentence in verify(folder, full=True).damages] == [
        "sample train-000 and 5 other samples); build it again"
    ]


def test_a_wrong_number_of_tokens_is_found(tmp_path: Path) -> None:
    folder = Path(write(tmp_path / "set", PICTURES, {"train": [picture(2)]}))
    index = read_index(folder)
    for tokens, wrong in (({"text": 4, "image": 8}, False), ({"text": 4, "image": 8, "film": 0}, False), ({"text": 4, "image": 9}, True)):
        write_index(folder, replace(index, shards=(replace(index.shards[0], tokens=tokens),)))
        found = verify(folder, full=True).damages
        assert bool(found) is wrong, found
        assert not wrong or "holds {'image': 8, 'text': 4} tokens, the index says" in found[0]


@pytest.mark.parametrize("space", NO_SPACES, ids=repr)
def test_an_index_without_a_token_space_is_a_finding(tmp_path: Path, space: dict[str, Any]) -> None:
    folder = Path(write(tmp_path / "set", PICTURES, {"train": [picture(2)]}))
    write_index(folder, replace(read_index(folder), space=space))
    found = verify(folder, full=True).damages
    assert len(found) == 1
    assert "holds no token space" in found[0]
    with pytest.raises(ValueError, match="holds no token space"):
        _ = TokenData(str(folder)).space


@pytest.mark.parametrize("change", NO_ENTRIES, ids=repr)
def test_an_entry_of_other_types_is_a_finding(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = Path(write(tmp_path / "set", PICTURES, {"train": [picture(2)]}))
    plain = json.loads((folder / INDEX_FILE).read_text())
    plain["shards"][0].update(change)
    (folder / INDEX_FILE).write_bytes(_json_bytes({**plain, "sha256": _seal(plain)}))
    found = verify(folder, full=True).damages
    assert len(found) == 1
    assert "index.json is damaged (the entry of train-000000.tar" in found[0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool"])
def test_training_and_inspection_refuse_codes_that_are_no_integers(tmp_path: Path, dtype: str) -> None:
    folder = damaged(tmp_path / "set", "image.npy", array(np.full((2, 2, 2), 1.7), dtype))
    data = TokenData(str(folder), batch_size=LABELS)
    data.setup("fit")
    with pytest.raises(ValueError, match=rf"image\.npy of sample train-001 holds {dtype}, wanted integer codes"):
        next(iter(data.train_dataloader()))
    with pytest.raises(ValueError, match=rf"image\.npy of sample train-001 holds {dtype}, wanted integer codes"):
        inspect_shards(folder, tmp_path / "out")


def test_a_flac_that_claims_hours_of_samples_is_refused(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros((4000, 1), np.float32), 16000, format="FLAC")
    content = bytearray(stream.getvalue())
    content[21:26] = bytes([content[21] & 0xF0 | 0x0F, 0xFF, 0xFF, 0xFF, 0xFF])  # total samples: 36 bits from the middle of byte 21
    entry = write_shard(tmp_path / "train-000000.tar", "train", [("row-0", {"json": json_bytes({}), "flac": bytes(content)})])
    write_index(tmp_path, Index(kind="raw", shards=(entry,)))
    found = verify(tmp_path, full=True).damages
    assert len(found) == 1
    assert "a recording of 68719476735 samples in 1 channels, at most 268435456 are read" in found[0]


def test_arrays_of_a_shard_may_be_written_to(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", "train", [("row-0", {"image.npy": array(np.zeros((2, 2, 0)))}), ("row-1", {"image.npy": array([[1]])})])
    shapes = []
    for _, sample in read_shard(tmp_path / "a.tar"):
        sample["image.npy"][...] = 3
        shapes.append(sample["image.npy"].shape)
    assert shapes == [(2, 2, 0), (1, 1)]
