"""API keys of the server: read from a file or the environment, compared in constant time."""

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

VARIABLE = "MASKGEN_API_KEYS"
SHORTEST_KEY = 8
LARGEST_FILE_BYTES = 2**20


class ApiKeys:
    """Keys of which a request must bring one, as `Authorization: Bearer KEY`. Only their hashes are kept.

    Args:
        keys: The keys; none leaves the server open.

    Raises:
        ValueError: If a key is short or holds spaces or control characters.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        given = list(keys)
        for key in given:
            if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(f"an API key needs at least {SHORTEST_KEY} printable ASCII characters without spaces, got {len(key)}")
        self._hashes = [_hash(key.encode()) for key in given]

    def __len__(self) -> int:
        return len(self._hashes)

    def allows(self, authorization: bytes | None, basic: bool = False) -> bool:
        """Whether a header `Authorization` holds one of the keys; always where there are none.

        All keys are compared, each in constant time, so that the time says nothing about them.

        Args:
            authorization: The header.
            basic: Whether the scheme Basic, whose password is the key, is taken beside Bearer.
        """
        if not self._hashes:
            return True
        scheme, _, key = (authorization or b"").strip().partition(b" ")
        by_password = basic and scheme.lower() == b"basic"
        given = _hash(_password(key) if by_password else key.strip())
        found = [hmac.compare_digest(given, one) for one in self._hashes]
        return any(found) and (by_password or scheme.lower() == b"bearer")


def read_keys(path: Path | None, environment: Mapping[str, str] | None = None) -> ApiKeys:
    """Keys from a file, one a line ("#" begins a comment), and from the variable MASKGEN_API_KEYS, separated by commas.

    Args:
        path: The file; None reads the environment alone.
        environment: Variables; None takes those of the process.

    Raises:
        ValueError: If the file is missing, too large, no text, or holds no key, or a key cannot be used.
    """
    keys = []
    if path is not None:
        if not path.is_file() or path.stat().st_size > LARGEST_FILE_BYTES:
            raise ValueError(f"{path} is no file of API keys; give a text file with one key a line")
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text; give a file with one key a line") from error
        keys += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not keys:
            raise ValueError(f"{path} holds no API key, so nobody could use the server; write one key a line")
    found = (os.environ if environment is None else environment).get(VARIABLE, "")
    return ApiKeys([*keys, *(key.strip() for key in found.split(",") if key.strip())])


def _password(credentials: bytes) -> bytes:
    """The password of the scheme Basic; empty where there is none."""
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except ValueError:
        return b""


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
