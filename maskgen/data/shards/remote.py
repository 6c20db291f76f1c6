"""Files of a remote folder: fetched through fsspec with retries, checked while they arrive, kept in a cache of bounded size."""

import errno
import hashlib
import logging
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from maskgen.io.files import atomic_file

logger = logging.getLogger(__name__)

CHUNK = 2**20
SET_FOLDER = re.compile(r"[0-9a-f]{16}")
"""Name of the folder of one set in a cache."""
LOCKS = 64
GRACE_S = 10.0
"""Seconds for which a shard that was just asked for is not evicted: whoever asked still has to open it."""
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
FULL_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
PASSING_STATUS = (408, 425, 429)
"""HTTP statuses below 500 after which a second try makes sense."""
STALE_S = 3600.0
"""Seconds without a new byte after which an unfinished download is taken for that of a killed process."""


class CutShort(OSError):
    """A file that ended before its size."""


@dataclass(frozen=True)
class Expected:
    """What the index says of a file.

    Args:
        sha256: Hash of its bytes.
        bytes: Its size; None if unknown.
    """

    sha256: str
    bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often a fetch is tried, with waits that double.

    Args:
        attempts: Tries in all.
        wait_s: Seconds before the second try; each is drawn from 0.5 to 1 times its length, so that ranks do not come back together.
        longest_s: Longest wait in seconds.
        sleep: Called with the seconds to wait.

    Raises:
        ValueError: If attempts is below 1 or a wait is negative.
    """

    attempts: int = 6
    wait_s: float = 0.5
    longest_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.wait_s < 0 or self.longest_s < 0:
            raise ValueError(
                f"wanted at least 1 attempt and waits of 0 s or more, got attempts={self.attempts}, wait_s={self.wait_s}, "
                f"longest_s={self.longest_s}"
            )

    def wait(self, attempt: int) -> float:
        """Wait after a failed attempt, counted from 1, and return the seconds."""
        seconds: float = min(self.longest_s, self.wait_s * 2 ** (attempt - 1)) * random.SystemRandom().uniform(0.5, 1.0)
        self.sleep(seconds)
        return seconds


def fetch_file(url: str, target: Path, expected: Expected | None, retries: Retries) -> None:
    """Download a file; it appears under its name only when it is complete and as expected.

    Args:
        url: Address for fsspec.
        target: Local path; its folder must exist.
        expected: Size and hash; None takes any content.
        retries: Tries of errors that may pass: broken connections, timeouts, HTTP 408, 425, 429 and 5xx, files that end early.

    Raises:
        ValueError: If it cannot be fetched, or has another size or hash than expected.
    """
    for attempt in range(1, retries.attempts + 1):
        try:
            return _copy(url, target, expected)
        except ImportError as error:
            raise ValueError(f"{url} cannot be fetched ({error}); install what its scheme needs") from error
        except _transfer_errors() as error:
            if attempt == retries.attempts or not is_passing(error):
                tries = "" if attempt == 1 else f" at attempt {attempt}"
                said = str(error) or type(error).__name__
                raise ValueError(f"{url} cannot be fetched{tries} ({said}); check the address and the connection") from error
            logger.warning("%s: attempt %d of %d failed (%s)", url, attempt, retries.attempts, error or type(error).__name__)
            retries.wait(attempt)


def is_passing(error: BaseException) -> bool:
    """Whether a failed transfer may succeed when it is tried again."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and isinstance(cause, (*_http_errors(), TimeoutError)):
        return is_passing(cause)  # fsspec says of any failed look at an http address that there is no such file
    if isinstance(error, PERMANENT) or (isinstance(error, OSError) and error.errno in FULL_DISK):
        return False
    status = getattr(error, "status", None)  # of aiohttp's errors
    return not isinstance(status, int) or not 400 <= status < 500 or status in PASSING_STATUS


def _transfer_errors() -> tuple[type[BaseException], ...]:
    """What a failed transfer raises; the errors of aiohttp, which reads http and https, are not all OSErrors."""
    return (OSError, *_http_errors())


def _http_errors() -> tuple[type[BaseException], ...]:
    http = sys.modules.get("aiohttp")
    return () if http is None else (http.ClientError,)


def _copy(url: str, target: Path, expected: Expected | None) -> None:
    """One attempt of `fetch_file`."""
    import fsspec

    digest, size = hashlib.sha256(), 0
    most = None if expected is None else expected.bytes
    with fsspec.open(url, "rb") as source, atomic_file(target) as file:
        stated = getattr(source, "size", None)
        if None not in (most, stated) and stated != most:
            raise ValueError(f"{url} has {stated} bytes, the index says {most}: damaged or replaced; build it again")
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            if most is not None and size > most:
                raise ValueError(f"{url} has more than the {most} bytes of the index: damaged or replaced; build it again")
            file.write(chunk)
        if most is not None and size < most:
            raise CutShort(f"it ended after {size} of {most} bytes")
        if expected is not None and digest.hexdigest() != expected.sha256:
            raise ValueError(
                f"{url} has sha256 {digest.hexdigest()}, the index says {expected.sha256}: damaged or replaced; build it again"
            )


def lock_of(folder: Path, name: str) -> FileLock:
    """A lock between processes for the fetch of one file, so that ranks of one machine fetch it once."""
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16) % LOCKS
    return FileLock(folder / f".lock-{number:02d}")


def evict(root: Path, most_bytes: int) -> int:
    """Remove the shards of a cache that were asked for longest ago, until the others fit.

    A shard that was asked for in the last `GRACE_S` seconds stays. A process that has a removed shard open reads on; the disk gets its
    space back when the last one closes it. Several processes may call this at the same time.

    Args:
        root: Folder of the cache, with one folder a set.
        most_bytes: Bytes that may stay.

    Returns:
        Bytes that were removed.
    """
    found = []
    for path in (path for path in root.glob("*/*") if SET_FOLDER.fullmatch(path.parent.name)):  # others are not the cache's
        try:
            facts = path.stat()
        except FileNotFoundError:  # another process removed it
            continue
        if path.suffix in (".tar", ".tmp"):
            found.append((facts.st_mtime + (STALE_S if path.suffix == ".tmp" else GRACE_S), facts.st_size, path))
    left, removed, now = sum(size for _, size, _ in found), 0, time.time()
    for free_at, size, path in sorted(found):
        if left - removed <= most_bytes or free_at > now:
            break
        try:
            if path.stat().st_mtime > free_at - GRACE_S and path.suffix == ".tar":  # asked for meanwhile
                continue
        except FileNotFoundError:
            continue
        path.unlink(missing_ok=True)
        removed += size
    return removed
