"""Access to shards: a local folder, or a URL whose shards are downloaded once into a cache."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from maskgen.data.shards.format import check_shard, shard_damage
from maskgen.data.shards.manifest import INDEX_FILE, Index, ShardEntry, read_index
from maskgen.io.files import atomic_file

logger = logging.getLogger(__name__)

PROTOCOLS = ("file", "http", "https", "s3", "gs", "gcs", "az", "abfs", "hf", "memory")
"""Allowed fsspec protocols. Others (shells, nested archives, local commands) are refused."""
CHUNK = 2**20
Damage = Literal["stop", "skip"]
Check = Literal["hash", "size"]


class ShardStore:
    """A local or remote folder of shards.

    Args:
        place: Local folder, or a URL such as s3://bucket/shards, read through fsspec.
        cache: Folder for downloaded shards; None is ~/.cache/maskgen/shards. Not used for local folders.

    Raises:
        ValueError: If the URL has an unsupported scheme.
    """

    def __init__(self, place: str, cache: Path | None = None) -> None:
        scheme, far, _ = place.partition("://")
        if far and (scheme not in PROTOCOLS or "::" in place):
            raise ValueError(f"shards at {place} are not read: the scheme must be one of {', '.join(PROTOCOLS)}, without chaining")
        self.place, self.far = place.rstrip("/"), bool(far)
        name = hashlib.sha256(self.place.encode()).hexdigest()[:16]
        self.folder = (cache or Path("~/.cache/maskgen/shards").expanduser()) / name if far else Path(place)

    def index(self) -> Index:
        """The index; a remote one is downloaded at every call.

        Raises:
            ValueError: If it is missing or damaged.
        """
        if self.far:
            self._fetch(INDEX_FILE)
        return read_index(self.folder)

    def locate(self, entry: ShardEntry) -> Path:
        """Path of a local copy of a shard; a remote one is downloaded if it is not cached, and its hash is checked.

        Raises:
            ValueError: If it cannot be downloaded or its hash differs from the index.
        """
        path = self.folder / entry.name
        if self.far and not (path.is_file() and entry.bytes in (None, path.stat().st_size)):
            self._fetch(entry.name)
            check_shard(self.folder, entry)
        return path

    def _fetch(self, name: str) -> None:
        """Download one file into the cache atomically."""
        import fsspec

        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with fsspec.open(f"{self.place}/{name}", "rb") as source, atomic_file(self.folder / name) as target:
                while chunk := source.read(CHUNK):
                    target.write(chunk)
        except (OSError, ImportError) as error:
            raise ValueError(f"{self.place}/{name} cannot be fetched ({error}); check the address and the connection") from error

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
