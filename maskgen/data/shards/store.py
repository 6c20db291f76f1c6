"""Access to shards: a local folder, or a URL whose shards are downloaded once into a cache."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from maskgen.data.shards.format import shard_damage
from maskgen.data.shards.manifest import INDEX_FILE, Index, ShardEntry, read_index
from maskgen.data.shards.remote import Expected, Retries, evict, fetch_file, lock_of

logger = logging.getLogger(__name__)

PROTOCOLS = ("file", "http", "https", "s3", "gs", "gcs", "az", "abfs", "hf", "memory")
"""Allowed fsspec protocols. Others (shells, nested archives, local commands) are refused."""
CACHE_FOLDER, CACHE_SIZE = "MASKGEN_SHARD_CACHE", "MASKGEN_SHARD_CACHE_GB"
"""Environment variables: folder for downloaded shards, and gigabytes (1e9 bytes) that they may take."""
Damage = Literal["stop", "skip"]
Check = Literal["hash", "size"]


class ShardStore:
    """A local or remote folder of shards.

    Args:
        place: Local folder, or a URL such as s3://bucket/shards, read through fsspec.
        cache: Folder for downloaded shards; None is the variable MASKGEN_SHARD_CACHE, else ~/.cache/maskgen/shards. Not used for local
            folders.
        cache_bytes: Bytes that downloaded shards of all sets in this cache may take: those that were asked for longest ago go first.
            None is the variable MASKGEN_SHARD_CACHE_GB, and without it there is no bound.
        retries: Tries of a download; None takes the defaults of `Retries`.

    Raises:
        ValueError: If the URL has an unsupported scheme, or the bound is no positive number.
    """

    def __init__(
        self,
        place: str,
        cache: Path | None = None,
        cache_bytes: int | None = None,
        retries: Retries | None = None,
    ) -> None:
        scheme, far, _ = place.partition("://")
        if far and (scheme not in PROTOCOLS or "::" in place):
            raise ValueError(f"shards at {place} are not read: the scheme must be one of {', '.join(PROTOCOLS)}, without chaining")
        self.place, self.far, self.retries = place.rstrip("/"), bool(far), retries or Retries()
        name = hashlib.sha256(self.place.encode()).hexdigest()[:16]
        self.cache = cache or Path(os.environ.get(CACHE_FOLDER) or "~/.cache/maskgen/shards").expanduser()
        self.cache_bytes = _bound(cache_bytes) if far else None
        self.folder = self.cache / name if far else Path(place)

    def index(self) -> Index:
        """The index; a remote one is downloaded at every call.

        Raises:
            ValueError: If it is missing or damaged.
        """
        if self.far:
            self._fetch(INDEX_FILE, INDEX_FILE, None)
        return read_index(self.folder)

    def locate(self, entry: ShardEntry) -> Path:
        """Path of a local copy of a shard, to be opened at once; a remote one is downloaded if it is not cached, and its hash is checked.

        A cached shard is named by its hash too, so a set that was built again under the same address is downloaded again.

        Raises:
            ValueError: If it cannot be downloaded or its hash differs from the index.
        """
        if not self.far:
            return self.folder / entry.name
        name = f"{hashlib.sha256(entry.sha256.encode()).hexdigest()[:16]}-{entry.name}"
        path = self.folder / name
        if self._is_cached(path, entry):
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock_of(self.folder, name):
            if not self._is_cached(path, entry):  # another process may have fetched it meanwhile
                self._fetch(entry.name, name, Expected(entry.sha256, entry.bytes))
        if self.cache_bytes is not None:
            evict(self.cache, self.cache_bytes)
        return path

    def _is_cached(self, path: Path, entry: ShardEntry) -> bool:
        """Whether a copy is there; marks it as used."""
        try:
            if entry.bytes not in (None, path.stat().st_size):
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _fetch(self, name: str, local_name: str, expected: Expected | None) -> None:
        """Download one file into the cache."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fetch_file(f"{self.place}/{name}", self.folder / local_name, expected, self.retries)

    def whole(self, entries: Sequence[ShardEntry], check: Check = "hash", damage: Damage = "stop") -> list[ShardEntry]:
        """The undamaged shards. Remote ones are checked when they are downloaded, where damage always raises.

        Args:
            entries: Shards of the index.
            check: "hash" reads every byte once; "size" compares only file sizes.
            damage: "stop" raises at the first damaged shard; "skip" leaves it out, with a warning and a count.

        Raises:
            ValueError: If a shard is damaged and `damage` is "stop", or none is left.
        """
        if self.far:
            return list(entries)
        damages = {entry.name: shard_damage(self.folder, entry, check == "hash") for entry in entries}
        bad = [entry for entry in entries if damages[entry.name]]
        if bad and damage == "stop":
            raise ValueError(damages[bad[0].name])
        for entry in bad:
            logger.warning("skipped: %s", damages[entry.name])
        if bad:
            logger.warning("%d of %d shards with %d samples are left out", len(bad), len(entries), sum(entry.count for entry in bad))
        if len(bad) == len(entries):
            raise ValueError(f"all {len(entries)} shards in {self.place} are damaged; build them again")
        return [entry for entry in entries if not damages[entry.name]]


def _bound(cache_bytes: int | None) -> int | None:
    """The bound of the cache in bytes, from the argument or the environment.

    Raises:
        ValueError: If it is no positive number.
    """
    text = os.environ.get(CACHE_SIZE, "")
    if cache_bytes is None and text:
        try:
            cache_bytes = int(float(text) * 1e9)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{CACHE_SIZE} is {text!r}, wanted gigabytes, such as 50") from error
    if cache_bytes is not None and cache_bytes < 1:
        raise ValueError(f"the cache of shards may take {cache_bytes} bytes, wanted at least 1; see {CACHE_SIZE}")
    return cache_bytes
