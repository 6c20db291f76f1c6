"""Names of files that come from data: an index, a bundle or a checkpoint may only name files of its own folder."""

import re
from pathlib import PurePath
from typing import Any

PLAIN = re.compile(r"\w[\w.+ -]*")
"""A letter, digit or underscore, then these and the signs . + - and space: no separator, control character or wildcard fits."""
LONGEST_NAME_BYTES = 200
"""File systems take 255; atomic writing adds the process's number and an ending."""
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that are devices on Windows, with any ending."""
PLACE_PART = re.compile(r'[^\\/:*?"<>|\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+')
"""One part of a place: any folder name without separators, drives, wildcards and characters that cannot be seen."""
LONGEST_PLACE = 1024


def is_file_name(name: object) -> bool:
    """Whether a value is the name of a plain file: no path, no hidden file, no device, and the same on every system."""
    return (
        isinstance(name, str)
        and PLAIN.fullmatch(name) is not None
        and name[-1] not in ". "
        and len(name.encode()) <= LONGEST_NAME_BYTES
        and DEVICES.fullmatch(name) is None
    )


def file_name(name: Any, where: str) -> str:
    """The name of a file that a record from outside gives, for use as `folder / name`.

    Args:
        name: Anything that was read.
        where: What names the file, for the error.

    Returns:
        The name.

    Raises:
        ValueError: If it is not the name of a plain file, so that `folder / name` could lie elsewhere.
    """
    if not is_file_name(name):
        raise ValueError(
            f"{where} names the file {str(name)[:80]!r}, wanted a plain file name (letters, digits and . + - _, no folders); "
            "don't use it unless you trust where it comes from, and build or copy it again"
        )
    return str(name)


def relative_place(place: Any, where: str) -> str:
    """A folder that a record names relative to its own, for reading only: "tokenizers/text", "../../tokenizers/text-bpe/bundle".

    A bundle may name a sibling, so leading ".." are allowed; whatever is read there is verified by its fingerprint, and nothing is
    written there.

    Args:
        place: Anything that was read.
        where: What names the folder, for the error.

    Returns:
        The place.

    Raises:
        ValueError: If it is absolute, of another system, empty, has ".." behind a name, or holds characters that cannot be seen.
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
    """The path of a checkpoint that may be removed: the state of a resumed training names it, and it may come from outside.

    Raises:
        ValueError: If it is an address, climbs by "..", or is not a .ckpt file.
    """
    found = PurePath(path)
    if "://" in str(path) or ".." in found.parts or found.suffix != ".ckpt" or "\0" in str(path):
        raise ValueError(
            f"the training's state names the checkpoint {str(path)[:80]!r} for removal, wanted a local .ckpt file without '..'; "
            "don't resume from a checkpoint of unknown origin"
        )
    return found
