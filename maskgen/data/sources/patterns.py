"""Paths of files that one text stands for: a file, a folder, a pattern with *, ? or [ ], or a list in braces."""

import re
from collections.abc import Iterator
from pathlib import Path

RANGE = re.compile(r"(\d+)\.\.(\d+)")
BRACES = re.compile(r"\{([^{}]*)\}")
MOST_PATHS = 1_000_000


def paths_of(path: Path, ending: str) -> list[Path]:
    """The files that a path stands for, sorted by path, each once.

    Args:
        path: A file; a folder, for all of its files with the ending, nested ones too; or a pattern: `*`, `?` and `[ ]` in any part,
            `{a,b}` and `{000..099}`.
        ending: Ending of the files of a folder, without the dot.

    Raises:
        ValueError: If there is none, or a file of a list in braces is missing.
    """
    if path.is_file():
        return [path.resolve()]
    if path.is_dir():
        found = sorted(one for one in path.rglob(f"*.{ending}") if one.is_file())
        if not found:
            raise ValueError(f"{path} is a folder without files ending in .{ending}; give the folder of the {ending}s, or one of them")
    else:
        found = sorted(one for text in _expanded(str(path)) for one in _globbed(Path(text), path, ending))
    return list(dict.fromkeys(one.resolve() for one in found))


def _globbed(pattern: Path, path: Path, ending: str) -> list[Path]:
    """The files of a pattern without braces.

    Raises:
        ValueError: If there is none.
    """
    if pattern.is_file():
        return [pattern]
    plain = next((n for n, part in enumerate(pattern.parts) if re.search(r"[*?\[]", part)), len(pattern.parts))
    root, rest = Path(*pattern.parts[:plain]), pattern.parts[plain:]
    found = [one for one in root.glob(str(Path(*rest))) if one.is_file()] if rest and root.is_dir() else []
    if not found:
        which = "" if pattern == path else f" as {pattern.name}"
        raise ValueError(
            f"{path}: no such {ending}{which}; give a local file, a folder, or a pattern such as train-*.{ending} or "
            f"train-{{000..099}}.{ending} (URLs and pipes are not opened)"
        )
    return found


def _expanded(text: str) -> Iterator[str]:
    """The texts of a text with lists in braces: {a,b} and {000..099}, as in a shell.

    Raises:
        ValueError: If there are too many.
    """
    match = BRACES.search(text)
    if match is None:
        yield text
        return
    for part in _parts(match[1]):
        yield from _expanded(f"{text[: match.start()]}{part}{text[match.end() :]}")


def _parts(inner: str) -> Iterator[str]:
    """What stands for a pair of braces."""
    numbers = RANGE.fullmatch(inner)
    if numbers is None:
        yield from inner.split(",")
        return
    first, last = int(numbers[1]), int(numbers[2])
    if not 0 <= last - first < MOST_PATHS:
        raise ValueError(f"{{{inner}}} is no range from a number to a higher one, with at most {MOST_PATHS} in between; mend the pattern")
    width = max(map(len, numbers.groups())) if any(text.startswith("0") for text in numbers.groups()) else 0
    yield from (f"{number:0{width}d}" for number in range(first, last + 1))
