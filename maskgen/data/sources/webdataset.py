"""WebDataset tars as a source, read without unpacking: only an index of members is built."""

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from maskgen.data.sources.handles import TarPart
from maskgen.data.sources.items import Item, Keys, Source, identity_of
from maskgen.data.sources.pairing import ENDINGS, Member, listed, paired


@dataclass(frozen=True)
class WebDatasetSource(Source):
    """Uncompressed tars with WebDataset's naming: members with the same name up to the first dot are one item.

    Only exact endings of `ENDINGS` are used (`a.png`, not `a.mask.png`); other members are counted but never opened. Handles hold a tar,
    an offset and a size.

    Args:
        path: A tar, or a pattern such as `shards/train-*.tar`.
        weight: See `Source`.
    """

    path: Path
    _: KW_ONLY
    weight: float = 1.0

    def items(self) -> Iterator[Item]:
        """See `Source`; in the order of the tars' names and of the members.

        Raises:
            ValueError: If there is no tar, or one is compressed, damaged or truncated.
        """
        ignored: Counter[str] = Counter()
        yield from listed(self.path, self._items(ignored), ignored)

    def _items(self, ignored: Counter[str]) -> Iterator[Item | None]:
        keys = Keys()
        for tar in self._tars():
            name, members, facts = "", list[Member](), list[object]()
            for header in _headers(tar):
                stem, ending = _webdataset_name(header)
                if ending not in ENDINGS:
                    ignored[ending] += 1
                    continue
                if members and stem != name:
                    yield paired(keys.of(name), members, identity_of(tar.name, *facts))
                    members, facts = [], []
                name = stem
                members.append((ending, TarPart(tar, header.offset_data, header.size)))
                facts.append((header.name, header.offset_data, header.size, header.mtime))
            if members:
                yield paired(keys.of(name), members, identity_of(tar.name, *facts))

    def _tars(self) -> list[Path]:
        """The tars, sorted by name."""
        if self.path.is_file():
            return [self.path.resolve()]
        folder, pattern = self.path.parent, self.path.name
        tars = sorted(path.resolve() for path in folder.glob(pattern) if path.is_file()) if folder.is_dir() else []
        if not tars:
            raise ValueError(
                f"{self.path}: no such tar; give a local file or a pattern such as train-*.tar (URLs and pipes are not opened)"
            )
        return tars


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
