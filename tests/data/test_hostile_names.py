"""A data set from outside can neither write nor read a file outside of its folder, whatever names its records give."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
import pytest
from builders.hostile import HOSTILE_NAMES

from maskgen.data.build.plan import PlannedShard
from maskgen.data.build.readers import RawShardOrigin
from maskgen.data.build.verify import verify
from maskgen.data.shards.format import json_bytes, write_shard
from maskgen.data.shards.manifest import (
    FORMAT,
    INDEX_FILE,
    MANIFEST_FILE,
    VERSION,
    ManifestLine,
    ShardEntry,
    _json_bytes,
    _seal,
    read_index,
    read_manifest,
)
from maskgen.data.shards.store import ShardStore
from maskgen.data.sources.synthesized import SpokenSource

CANARY = b"not written by maskgen"
REFUSED = "wanted a plain file name|is damaged"
"""The name is refused, or the record is damaged where the value is no name at all."""


@pytest.fixture
def entry(tmp_path: Path) -> dict[str, Any]:
    """Entry of a whole shard in the folder "set"."""
    return asdict(write_shard(tmp_path / "set" / "train-000000.tar", "train", [("row-0", {"json": json_bytes({})})]))


def sealed(entries: list[dict[str, Any]], files: dict[str, str]) -> bytes:
    """An index with a right seal, whatever it names."""
    plain: dict[str, Any] = {"format": FORMAT, "version": VERSION, "counts": {"train": 1}, "kind": "raw", "shards": entries, "space": None}
    plain |= {"fingerprints": {}, "about": {}, "plan": "", "files": files}
    return _json_bytes({**plain, "sha256": _seal(plain)})


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=repr)
def test_a_remote_index_writes_no_file_outside_of_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, entry: dict[str, Any]
) -> None:
    home = tmp_path / "home" / "user"
    cache = home / ".cache" / "maskgen" / "shards"
    cache.mkdir(parents=True)
    monkeypatch.chdir(home)
    (tmp_path / "set" / "train-000000.tar").unlink()
    far = fsspec.filesystem("memory")
    far.store.clear()
    far.pipe("/set/index.json", sealed([{**entry, "name": name}], {}))
    if isinstance(name, str):
        far.store[f"/set/{name}"] = far.store["/set/index.json"].__class__(far, f"/set/{name}", CANARY)
    before = files_under(tmp_path)
    store = ShardStore("memory://set", cache)
    with pytest.raises(ValueError, match=REFUSED):
        [store.locate(one) for one in store.index().shards]
    assert {place.rsplit("/")[-1] for place in files_under(tmp_path).keys() - before.keys()} <= {INDEX_FILE}


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=repr)
def test_a_local_index_reads_no_file_outside_of_its_folder(tmp_path: Path, name: Any, entry: dict[str, Any]) -> None:
    folder = tmp_path / "set"
    for entries, files in (([{**entry, "name": name}], {}), ([entry], {name: "0" * 64} if isinstance(name, str) else [name])):
        (folder / INDEX_FILE).write_bytes(sealed(entries, files))
        with pytest.raises(ValueError, match=REFUSED):
            read_index(folder)
        assert len(verify(folder, full=True).damages) == 1
    if isinstance(name, str):
        with pytest.raises(ValueError, match="wanted a plain file name"):
            ShardEntry(**{**entry, "name": name})


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=repr)
def test_a_manifest_line_with_such_a_name_is_no_line(tmp_path: Path, name: Any, entry: dict[str, Any]) -> None:
    line = ManifestLine(entry=ShardEntry(**entry), rejects=(), resampled=0, fingerprints={}, version="0", plan="p").to_json()
    (tmp_path / MANIFEST_FILE).write_text(f"{line}\n{json.dumps({**json.loads(line), 'name': name})}\n")
    assert [one.entry.name for one in read_manifest(tmp_path)] == ["train-000000.tar"]


@pytest.mark.parametrize("split", ["../../canary", "/canary", "a/b", "a\\b", "a\n", ".hidden"])
def test_a_split_cannot_lead_a_build_out_of_its_folder(tmp_path: Path, split: str, entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted a plain file name"):
        PlannedShard(f"{split}-000000.tar", split, RawShardOrigin(tmp_path, ShardEntry(**entry)), 1, "x")
    (tmp_path / "table.jsonl").write_text(json.dumps({"key": "a", "text": "b", "split": split}) + "\n")
    with pytest.raises(ValueError, match="wanted letters, digits"):
        list(SpokenSource(tmp_path / "table.jsonl").items())
