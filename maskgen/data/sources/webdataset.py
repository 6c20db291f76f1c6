"""WebDataset tars as a source, read without unpacking: only an index of members is built."""

import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import pairwise
from pathlib import Path

from maskgen.data.sources.handles import TarPart
from maskgen.data.sources.items import Item, Keys, Source
from maskgen.data.sources.pairing import ENDINGS, FileGroup, SampleFile, joined_groups, listed, paired
from maskgen.data.sources.patterns import paths_of


@dataclass(frozen=True)
class WebDatasetSource(Source):
    """Uncompressed tars with WebDataset's naming: members with the same name up to the first dot are one item.

    The members of an item may stand apart in a tar, and a cut between two tars may go through one. Items whose members are in two tars
    otherwise are refused. Only exact endings of `ENDINGS` are used (`a.png`, not `a.mask.png`); other members are counted but never
    opened. Handles hold a tar, an offset and a size.

    Args:
        path: A tar, a folder of tars, or a pattern such as `shards/train-*.tar`, `*/train-*.tar` or `train-{000000..000099}.tar`.
        weight: See `Source`.
    """

    path: Path
    _: KW_ONLY
    weight: float = 1.0

    def items(self) -> Iterator[Item]:
        """See `Source`; in the order of the tars' names and of the members.

        Raises:
            ValueError: If there is no tar, one is compressed, damaged or truncated, or the members of an item are in two tars.
        """
        ignored: Counter[str] = Counter()
        yield from listed(self.path, self._items(ignored), ignored)

    def _items(self, ignored: Counter[str]) -> Iterator[Item | None]:
        keys, tars = Keys(), paths_of(self.path, "tar")
        runs = [_runs(tar, ignored) for tar in tars]
        _mend_cuts(runs)
        groups = [list(joined_groups(of_tar)) for of_tar in runs]
        _check_halves(self.path, tars, groups)
        for of_tar in groups:
            for group in of_tar:
                yield paired(keys.of(group.stem), group)


def _runs(tar: Path, ignored: Counter[str]) -> list[FileGroup]:
    """Neighbouring members with the same stem."""
    runs: list[tuple[str, list[SampleFile]]] = []
    for header in _headers(tar):
        stem, ending = _webdataset_name(header)
        if ending not in ENDINGS:
            ignored[ending] += 1
            continue
        if not runs or runs[-1][0] != stem:
            runs.append((stem, []))
        runs[-1][1].append(SampleFile(ending, header.name, TarPart(tar, header.offset_data, header.size)))
    return [FileGroup(stem, members) for stem, members in runs]


def _mend_cuts(runs: list[list[FileGroup]]) -> None:
    """Move the first run of a tar to the last one of the tar before, if both are parts of one sample."""
    filled = [of_tar for of_tar in runs if of_tar]
    for before, after in reversed(list(pairwise(filled))):
        last, first = before[-1], after[0]
        if last.stem == first.stem and not last.kinds & first.kinds:
            before[-1] = replace(last, members=[*last.members, *first.members])
            del after[0]


def _check_halves(path: Path, tars: Sequence[Path], groups: Sequence[Sequence[FileGroup]]) -> None:
    """Refuse tars of which one holds the pictures and another the texts of the same samples.

    Raises:
        ValueError: If stems occur in several tars, each time with other kinds of content.
    """
    places: dict[str, list[tuple[Path, frozenset[str]]]] = {}
    for tar, of_tar in zip(tars, groups, strict=True):
        for group in of_tar:
            places.setdefault(group.stem, []).append((tar, group.kinds))
    parted = {
        stem: found
        for stem, found in places.items()
        if len(found) > 1 and sum(len(kinds) for _, kinds in found) == len(frozenset[str]().union(*(kinds for _, kinds in found)))
    }
    if parted:
        stem, found = next(iter(parted.items()))
        where = ", ".join(f"{' and '.join(sorted(kinds))} in {tar.name}" for tar, kinds in found)
        raise ValueError(
            f"{path}: {len(parted)} samples are spread over several tars, such as {stem[:80]!r} ({where}); put all members of a sample "
            "into one tar, or, if they are different samples, give each tar as a source of its own"
        )


def _webdataset_name(header: tarfile.TarInfo) -> tuple[str, str]:
    """Stem and ending; for anything but a regular file with a safe name the ending is a phrase that is not in `ENDINGS`."""
    if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or header.sparse is not None:
        return "", "folder" if header.isdir() else "link or device"
    folder, _, base = header.name.removeprefix("./").rpartition("/")
    if header.name.startswith("/") or ".." in folder.split("/"):
        return "", "name that leads outside"
    stem, _, ending = base.partition(".")
    return f"{folder}/{stem}" if folder else stem, ending.lower() if stem else "hidden"


def _headers(tar: Path) -> Iterator[tarfile.TarInfo]:
    """Every member's header. Python's reader stops silently at a damaged header, so the end of the archive is checked as well.

    Raises:
        ValueError: If the file is not an uncompressed tar, damaged or truncated.
    """
    size = tar.stat().st_size
    with _opened(tar) as archive:
        while (header := _next(tar, archive)) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
            if header.offset_data + header.size > size:
                raise ValueError(f"{tar} is cut short in member {header.name!r}; fetch it again")
            yield header
        end: int = archive.offset
    if end + tarfile.BLOCKSIZE > size or not _is_zero(tar, end):
        raise ValueError(f"{tar} is damaged or cut short at byte {end}; fetch it again")


def _opened(tar: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(tar, "r:", errors="surrogateescape")
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{tar} is no uncompressed tar or is damaged ({error}); unpack it or fetch it again") from error


def _next(tar: Path, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return archive.next()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{tar} is damaged ({error}); fetch it again") from error


def _is_zero(path: Path, start: int) -> bool:
    """Whether only zeros follow."""
    with path.open("rb") as handle:
        handle.seek(start)
        return not any(block.strip(b"\0") for block in iter(lambda: handle.read(2**20), b""))
