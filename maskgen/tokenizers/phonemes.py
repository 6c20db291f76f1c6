"""Tokenizer that converts English text to phonemes with durations for speech models, with a lexicon, rules and a small network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from maskgen.io.bundle import fingerprint_of, load_bundle, save_bundle
from maskgen.io.files import read_text, write_text
from maskgen.io.schema import Items, Record, Table, Text, Whole, record_of
from maskgen.phonetics.g2p import G2PConfig
from maskgen.phonetics.phonemizer import Phonemizer
from maskgen.phonetics.symbols import PAUSE, SYMBOLS
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.space import Kind

_BUNDLE_KIND = "phoneme_tokenizer"
LEXICON_FILE = "lexicon.xz"
CODEBOOK_SIZE = 128
PHONEME_SCHEMA = Record(
    {
        "symbols": Items(Text(), least=1, most=CODEBOOK_SIZE),
        "speaker": Record({"forms": Table(Table(Text())), "letters": record_of(G2PConfig, slots=Whole(1, 64))}),
    }
)
LONGEST_DURATION = CODEBOOK_SIZE - 1


def between_slashes(text: str) -> bool:
    """Return whether a text is written as phonemes between slashes: "/həlˈO/"."""
    return len(text) > 1 and text[0] == text[-1] == "/" and "/" not in text[1:-1]


class PhonemeTokenizer(Tokenizer):
    """Tokenizer for English text: phoneme ids (level 0) and durations in frames (level 1, UNKNOWN until a model predicts them).

    Id 0 is the pause at both ends of every utterance. Ids beyond the symbol table are never produced, and decoding them is an error.

    Args:
        speaker: Converts text to phonemes.
        symbols: Symbols in the order of their ids, from 0; at most 128.
    """

    kind: ClassVar[Kind] = "phones"

    def __init__(self, speaker: Phonemizer, symbols: Sequence[str] = SYMBOLS) -> None:
        if len(symbols) > CODEBOOK_SIZE or symbols[0] != PAUSE:
            raise ValueError(f"the table has {len(symbols)} symbols from {symbols[0]!r} on, wanted at most {CODEBOOK_SIZE} from {PAUSE!r}")
        self.num_levels, self.codebook_size = 2, CODEBOOK_SIZE
        self.symbols = tuple(symbols)
        self._speaker = speaker
        self._ids = {symbol: number for number, symbol in enumerate(symbols)}

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "PhonemeTokenizer":
        """Load a tokenizer that `save` wrote. The lexicon is parsed when the first text is encoded.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        bundle = load_bundle(folder, _BUNDLE_KIND, PHONEME_SCHEMA)
        lexicon = (bundle.folder / LEXICON_FILE).read_bytes()
        return cls(Phonemizer.from_parts(lexicon, bundle.config["speaker"], bundle.tensors, str(folder)), bundle.config["symbols"])

    @property
    def _config(self) -> dict[str, Any]:
        return {"symbols": list(self.symbols), "speaker": self._speaker.config}

    @property
    def _tensors(self) -> Mapping[str, Tensor]:
        return self._speaker.tensors

    @property
    def fingerprint(self) -> str:
        """Hash of the symbol table. Lexicon and rules are not included: they affect how text is pronounced, not what a code means. A model
        works with a better lexicon, and shards hold the phonemes that the teacher model spoke."""
        return fingerprint_of(_BUNDLE_KIND, {"symbols": list(self.symbols), "codebook_size": self.codebook_size}, {})

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        save_bundle(folder, _BUNDLE_KIND, self._config, self._tensors, {LEXICON_FILE: self._speaker.lexicon.packed})
        return self.fingerprint

    def read(self, path: Path | str) -> str:
        """Read a UTF-8 text file, without the line break at its end.

        Raises:
            ValueError: If the file is missing, over 1 MiB or not UTF-8.
        """
        return read_text(path)

    def write(self, media: str, path: Path | str) -> None:
        """Write text as UTF-8, with a line break at its end."""
        write_text(media, path)

    def phonemes(self, text: str) -> str:
        """Convert a text to phonemes, without slashes. Text that is already between slashes is used as phonemes unchanged.

        Raises:
            ValueError: If no part of it can be spoken, or phonemes between slashes contain a symbol that is not in the table.
        """
        if not between_slashes(text):
            return self._speaker.phonemes(text)
        self._ids_of(text[1:-1])
        return text[1:-1]

    def left_out(self, text: str) -> list[str]:
        """Return what is not spoken, without duplicates: first pieces of markup, such as tags, then characters in order of appearance."""
        return [] if between_slashes(text) else self._speaker.left_out(text)

    def sentences(self, text: str) -> list[str]:
        """Split a text into sentences; those over 300 phonemes are split further at clauses or spaces. Only whitespace is lost.

        Raises:
            ValueError: If no part of it can be spoken.
        """
        return [text] if between_slashes(text) else self._speaker.sentences(text)

    def codes_of(self, phonemes: str, durations: Sequence[int] | None = None) -> Codes:
        """Build codes [2, n + 2] from n phonemes, including the pauses at both ends.

        Args:
            phonemes: Symbols without slashes; "|" is a pause.
            durations: Frames (0 to 127) of each symbol and the two pauses, n + 2 numbers; None or -1 is unknown.

        Raises:
            ValueError: If a symbol is not in the table, there are no symbols, or durations have the wrong count or range.
        """
        ids = [0, *self._ids_of(phonemes), 0]
        frames = [UNKNOWN] * len(ids) if durations is None else [int(frames) for frames in durations]
        if len(frames) != len(ids):
            raise ValueError(f"got {len(frames)} durations for {len(ids)} symbols, the pauses at both ends included; give one a symbol")
        if not all(UNKNOWN <= count <= LONGEST_DURATION for count in frames):
            raise ValueError(f"durations must lie in [0, {CODEBOOK_SIZE}) frames or be {UNKNOWN}, got {min(frames)} to {max(frames)}")
        return torch.tensor([ids, frames])

    def _ids_of(self, phonemes: str) -> list[int]:
        """Return the id of each symbol."""
        unknown = sorted(set(phonemes) - set(self._ids))
        if unknown:
            raise ValueError(f"{', '.join(map(repr, unknown))} is no phoneme of this tokenizer; it has {' '.join(self.symbols)}")
        if not phonemes.strip(f" {PAUSE}"):
            raise ValueError(f"there is no phoneme in {phonemes!r}; give at least one")
        return [self._ids[symbol] for symbol in phonemes]

    def encode(self, media: Sequence[str]) -> list[Codes]:
        """Encode each text as codes of shape [2, n] with unknown durations. Phonemes between slashes ("/həlˈO/") are used unchanged.

        Raises:
            ValueError: If no part of a text can be spoken, or phonemes between slashes contain a symbol that is not in the table.
        """
        return [self.codes_of(self.phonemes(text)) for text in media]

    def decode(self, codes: Sequence[Codes]) -> list[str]:
        """Decode each [2, n] grid to phonemes between slashes, without the pauses at both ends. Encoding them restores level 0.

        Raises:
            ValueError: If codes have another shape, or ids are out of range or have no symbol.
        """
        return [f"/{self._symbols_of(grid)}/" for grid in codes]

    def _symbols_of(self, grid: Codes) -> str:
        """Return the phonemes of one utterance."""
        if grid.ndim != 2 or grid.shape[0] != self.num_levels:
            raise ValueError(f"phoneme codes have shape {tuple(grid.shape)}, wanted [{self.num_levels}, n]")
        ids, frames = grid.tolist()
        if any(not 0 <= code < CODEBOOK_SIZE for code in ids) or any(not UNKNOWN <= code < CODEBOOK_SIZE for code in frames):
            raise ValueError(f"phoneme codes must lie in [0, {CODEBOOK_SIZE}), durations may be {UNKNOWN}; got {ids} and {frames}")
        if max(ids, default=0) >= len(self.symbols):
            raise ValueError(f"phoneme code {max(ids)} stands for no symbol; this tokenizer has {len(self.symbols)}")
        return "".join(self.symbols[code] for code in ids).removeprefix(PAUSE).removesuffix(PAUSE)
