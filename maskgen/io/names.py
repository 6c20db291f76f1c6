"""Validation of file names from untrusted data: an index, bundle or checkpoint may only name files in its own folder."""

import re
from pathlib import PurePath
from typing import Any

PLAIN = re.compile(r"\w[\w.+ -]*")
"""Letters, digits, underscores and, after the first character, also . + - and space. No separators, control characters or wildcards."""
LONGEST_NAME_BYTES = 200
"""File systems allow 255; atomic writing appends the process id and an extension."""
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that are devices on Windows, with any extension."""
PLACE_PART = re.compile(r'[^\\/:*?"<>|\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+')
"""One component of a path: a folder name without separators, drives, wildcards or invisible characters."""
LONGEST_PLACE = 1024


def is_file_name(name: object) -> bool:
    """Return whether a value is a plain file name: no path, hidden file or device, and valid on every operating system."""
    return (
        isinstance(name, str)
        and PLAIN.fullmatch(name) is not None
        and name[-1] not in ". "
        and len(name.encode()) <= LONGEST_NAME_BYTES
        and DEVICES.fullmatch(name) is None
    )


def file_name(name: Any, where: str) -> str:
    """Validate a file name from an untrusted record, for use as `folder / name`.

    Args:
        name: Value that was read.
        where: Record that holds the name, for the error message.

    Returns:
        The name.

    Raises:
        ValueError: If it is not a plain file name, so that `folder / name` could point outside the folder.
    """
    if not is_file_name(name):
        raise ValueError(
            f"{where} names the file {str(name)[:80]!r}, wanted a plain file name (letters, digits and . + - _, no folders); "
            "don't use it unless you trust where it comes from, and build or copy it again"
        )
    return str(name)


def relative_place(place: Any, where: str) -> str:
    """Validate a relative folder from an untrusted record, for reading only: "tokenizers/text", "../../tokenizers/text-bpe/bundle".

    A bundle may refer to a sibling, so leading ".." is allowed. What is read there is verified by its fingerprint, and nothing is
    written there.

    Args:
        place: Value that was read.
        where: Record that holds the path, for the error message.

    Returns:
        The path.

    Raises:
        ValueError: If it is absolute, in another system's syntax, empty, has ".." after a name, or holds invisible characters.
    """
    parts = place.split("/") if isinstance(place, str) and len(place) <= LONGEST_PLACE else []
    named = next((parts[number:] for number, part in enumerate(parts) if part != ".."), [])
    if not named or not all(PLACE_PART.fullmatch(part) and part not in (".", "..") for part in named):
        raise ValueError(
            f"{where} names the folder {str(place)[:80]!r}, wanted a relative path such as ../../tokenizers/text-bpe/bundle; "
            "don't use it unless you trust where it comes from, and build or copy it again"
        )
    return str(place)


def checkpoint_path(path: PurePath | str) -> PurePath:
    """Validate the path of a checkpoint to delete. It comes from the state of a resumed training, which may be untrusted.

    Raises:
        ValueError: If it is a URL, contains "..", or is not a .ckpt file.
    """
    found = PurePath(path)
    if "://" in str(path) or ".." in found.parts or found.suffix != ".ckpt" or "\0" in str(path):
        raise ValueError(
            f"the training's state names the checkpoint {str(path)[:80]!r} for removal, wanted a local .ckpt file without '..'; "
            "don't resume from a checkpoint of unknown origin"
        )
    return found
