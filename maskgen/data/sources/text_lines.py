"""Text files as a source, one text per line; WordNet's data files give their glosses."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from maskgen.data.sources.items import Item, Keys, Source, identity_of, text_part


def lines_of(path: Path) -> Iterator[str]:
    """Texts of a file: the glosses of a WordNet data file (`data.noun` and others), otherwise its lines; empty ones are left out.

    Raises:
        ValueError: If the file is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if path.name.startswith("data.") and not line.startswith("  "):
                    line = line.partition(" | ")[2]
                if line.strip():
                    yield line.strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}: {error.reason}); save it as UTF-8") from error


@dataclass(frozen=True)
class LinesSource(Source):
    """Lines of a file as items with text only.

    Args:
        path: A UTF-8 file.
        weight: See `Source`.
    """

    path: Path
    _: KW_ONLY
    weight: float = 1.0

    def items(self) -> Iterator[Item]:
        """See `Source`; in the order of the lines.

        Raises:
            ValueError: If the file is missing, empty or not UTF-8.
        """
        if not self.path.is_file():
            raise ValueError(f"{self.path} does not exist or is no file; give a text file with one text per line")
        keys, number = Keys(), -1
        for number, text in enumerate(lines_of(self.path)):
            key = keys.of(f"{self.path.name.replace('.', '-')}-{number:08d}")
            yield Item(key=key, parts={"text": text_part([text])}, identity=identity_of(key, text))
        if number < 0:
            raise ValueError(f"{self.path} holds no text; check the file")
