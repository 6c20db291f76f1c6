"""Shards from object storage that fails, changes and is larger than the cache."""

import errno
import os
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from maskgen.data.loading.rows import FEW_OPEN
from maskgen.data.loading.samples import open_rows
from maskgen.data.shards.format import json_bytes, write_shard
from maskgen.data.shards.manifest import Index, ShardEntry, write_index
from maskgen.data.shards.remote import Expected, Retries, evict, fetch_file, is_passing
from maskgen.data.shards.store import ShardStore


class Cut(MemoryFile):
    """A file whose connection ends early: it holds less than the store said."""

    @property
    def size(self) -> int:
        return len(self.getvalue()) + 700


class Flaky(MemoryFileSystem):
    """A store in memory that fails at its first openings of each file and cuts what it sends."""

    protocol = "az"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False
    failures = 0
    error: type[OSError] = ConnectionResetError
    cuts = 0
    opened: ClassVar[Counter[str]] = Counter()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("az://", "memory://"))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "rb":
            Flaky.opened[path] += 1
            if Flaky.opened[path] <= Flaky.failures:
                raise Flaky.error("the line is down")
            if Flaky.opened[path] <= Flaky.failures + Flaky.cuts:
                return Cut(None, None, self.cat_file(path)[:-700])
        return super()._open(path, mode, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        content: bytes = self.store[self._strip_protocol(path)].getvalue()
        return content[start:end]


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> type[Flaky]:
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "az", Flaky)
    for name, value in (("store", {}), ("failures", 0), ("cuts", 0), ("opened", Counter()), ("error", ConnectionResetError)):
        monkeypatch.setattr(Flaky, name, value)
    return Flaky


def upload(near: Path, counts: list[int], word: str = "a") -> list[ShardEntry]:
    """Shards of samples on the flaky store."""
    near.mkdir(exist_ok=True)
    entries = [
        write_shard(
            near / f"train-{n:06d}.tar", "train", ((f"row-{n}-{row:03d}", {"json": json_bytes({"w": word})}) for row in range(count))
        )
        for n, count in enumerate(counts)
    ]
    write_index(near, Index(kind="raw", shards=tuple(entries)))
    for path in near.iterdir():
        Flaky().pipe_file(f"az://set/{path.name}", path.read_bytes())
    return entries


def retries(waits: list[float], attempts: int = 4) -> Retries:
    return Retries(attempts=attempts, wait_s=1.0, longest_s=3.0, sleep=waits.append)


@pytest.mark.parametrize(("failures", "cuts"), [(3, 0), (0, 3), (2, 1)])
def test_errors_that_pass_are_tried_again_with_growing_waits(tmp_path: Path, flaky: type[Flaky], failures: int, cuts: int) -> None:
    entries = upload(tmp_path / "near", [3])
    waits: list[float] = []
    store = ShardStore("az://set", tmp_path / "cache", retries=retries(waits))
    flaky.failures, flaky.cuts = failures, cuts
    assert store.locate(entries[0]).read_bytes() == (tmp_path / "near" / entries[0].name).read_bytes()
    assert [low <= wait <= 2 * low for low, wait in zip((0.5, 1.0, 1.5), waits, strict=True)] == [True] * 3
    assert store.locate(entries[0]).is_file()
    assert sum(flaky.opened.values()) == 4, "a cached shard is not fetched again"


def test_the_last_attempt_says_what_failed_and_leaves_nothing(tmp_path: Path, flaky: type[Flaky]) -> None:
    entries = upload(tmp_path / "near", [3])
    for failures, cuts, said in ((9, 0, "at attempt 4 .the line is down"), (0, 9, "at attempt 4 .it ended after")):
        flaky.failures, flaky.cuts = failures, cuts
        flaky.opened.clear()
        waits: list[float] = []
        with pytest.raises(ValueError, match=said):
            ShardStore("az://set", tmp_path / "cache", retries=retries(waits)).locate(entries[0])
        assert len(waits) == 3
        assert not list((tmp_path / "cache").rglob("*.t*"))


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_errors_that_do_not_pass_are_not_tried_again(tmp_path: Path, flaky: type[Flaky], error: type[OSError]) -> None:
    entries = upload(tmp_path / "near", [3])
    flaky.failures, flaky.error = 9, error
    waits: list[float] = []
    with pytest.raises(ValueError, match=r"cannot be fetched .the line is down"):
        ShardStore("az://set", tmp_path / "cache", retries=retries(waits)).locate(entries[0])
    assert not waits


def test_a_full_disk_is_not_tried_again() -> None:
    assert not is_passing(OSError(errno.ENOSPC, "no space left"))
    assert is_passing(OSError(errno.EIO, "the store is busy"))


def test_readers_of_one_machine_fetch_a_shard_once(tmp_path: Path, flaky: type[Flaky]) -> None:
    entries = upload(tmp_path / "near", [3])
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: ShardStore("az://set", tmp_path / "cache").locate(entries[0]), range(8)))
    assert len(found) == 1
    assert sum(flaky.opened.values()) == 1


def test_a_changed_object_is_refused_every_time_and_a_new_build_of_the_set_is_fetched(tmp_path: Path, flaky: type[Flaky]) -> None:
    old = upload(tmp_path / "near", [3], "a")
    store = ShardStore("az://set", tmp_path / "cache")
    assert b'"a"' in store.locate(old[0]).read_bytes()
    new = upload(tmp_path / "near", [3], "b")
    assert new[0].bytes == old[0].bytes
    assert new[0].name == old[0].name
    assert b'"b"' in store.locate(new[0]).read_bytes()
    fresh = ShardStore("az://set", tmp_path / "fresh")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"has sha256 .* damaged or replaced"):
            fresh.locate(old[0])
    Flaky().pipe_file(f"az://set/{old[0].name}", b"0" * 10**6)
    with pytest.raises(ValueError, match="has 1000000 bytes, the index says"):
        fresh.locate(old[0])


def test_the_cache_keeps_its_bound_and_what_was_used_last(tmp_path: Path, flaky: type[Flaky], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskgen.data.shards.remote.GRACE_S", -1.0)
    entries = upload(tmp_path / "near", [5] * 6)
    size, cache = entries[0].bytes or 0, tmp_path / "cache"
    store = ShardStore("az://set", cache, cache_bytes=3 * size)
    rows = open_rows(store, store.index(), "train")
    assert rows.most_open == FEW_OPEN
    for number, entry in enumerate(entries):
        path = store.locate(entry)
        os.utime(path, (number, number))
        assert path.is_file()
        assert sum(one.stat().st_size for one in cache.rglob("*.tar")) <= 3 * size
    assert [rows.meta(row)["w"] for row in range(30)] == ["a"] * 30, "an evicted shard is fetched again"
    (cache / "mine").mkdir()
    (cache / "mine" / "photos.tar").write_bytes(bytes(10 * size))
    os.utime(cache / "mine" / "photos.tar", (0, 0))
    evict(cache, 1)
    assert [path.name for path in cache.rglob("*.tar")] == ["photos.tar"], "what is not the cache's stays"
    store.locate(entries[0])
    monkeypatch.setattr("maskgen.data.shards.remote.GRACE_S", 60.0)
    assert evict(cache, 1) == 0, "shards that were just asked for stay"


@pytest.mark.parametrize("text", ["0", "-1", "many", "nan", "inf"])
def test_a_bound_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MASKGEN_SHARD_CACHE_GB", text)
    with pytest.raises(ValueError, match="MASKGEN_SHARD_CACHE_GB"):
        ShardStore("memory://set")
    assert ShardStore("set").cache_bytes is None
    monkeypatch.setenv("MASKGEN_SHARD_CACHE_GB", "1.5")
    assert ShardStore("memory://set").cache_bytes == 1_500_000_000


def test_http_statuses_that_pass_are_tried_again(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    answers = Counter[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            self.answer(b"content")

        def answer(self, body: bytes) -> None:
            answers[self.path] += 1
            status = 403 if self.path == "/closed" else 404 if self.path == "/none" else 503 if answers[self.path] < 6 else 200
            self.send_response(status)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(body if self.command == "HEAD" else b"content")

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base, expected = f"http://127.0.0.1:{server.server_port}", Expected("", None)
        waits: list[float] = []
        fetch_file(f"{base}/busy", tmp_path / "busy", None, retries(waits))
        assert (tmp_path / "busy").read_bytes() == b"content"
        assert waits
        for name in ("none", "closed"):
            waits.clear()
            with pytest.raises(ValueError, match=f"{name} cannot be fetched"):
                fetch_file(f"{base}/{name}", tmp_path / name, expected, retries(waits))
            assert not waits
            assert not (tmp_path / name).exists()
        server.shutdown()
