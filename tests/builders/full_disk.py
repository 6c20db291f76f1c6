"""A disk that is full after some bytes."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def full_disk(after: int) -> Iterator[None]:
    """Inside, every write beyond the first `after` bytes of a file fails with OSError, whatever library does it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
