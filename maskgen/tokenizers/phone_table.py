"""Text tokenizer of models that read phones: a table of phones, and what turns text into them."""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch

from maskgen.io.bundle import fingerprint_of, load_bundle, save_bundle
from maskgen.io.files import read_text, write_text
from maskgen.io.schema import Record, Table, Whole
from maskgen.io.shipped import find_path
from maskgen.phonetics.espeak import english_joined, espeak_phones, espeak_program, own_phones
from maskgen.phonetics.normalise import normalise
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.phonemes import PhonemeTokenizer, between_slashes
from maskgen.tokens.batch import Codes
from maskgen.tokens.space import MOST_CODES, Kind

logger = logging.getLogger(__name__)
_BUNDLE_KIND = "phone_table_tokenizer"
ENGLISH = "en"
VOICES = {ENGLISH: "en-us", "fr": "fr-fr", "de": "de"}
"""Languages that are written as phones here, to voices of eSpeak."""
OWN_PHONES = "tokenizers/phones-en/bundle"
_SCHEMA = Record({"vocabulary": Table(Whole(0, MOST_CODES)), "size": Whole(1, MOST_CODES)})


class PhoneTableTokenizer(Tokenizer):
    """Text as phones of a published table: codes [1, n].

    English, French and German are read by eSpeak NG where the program is installed; without it English is read by maskgen's own
    phonemizer, whose phones are close to eSpeak's. Phones may be given instead of a text: between slashes, with a bar between them,
    `/h|ə|l|oʊ|_|w|ɜː|l|d/`; so the other languages of a model can be spoken.

    Args:
        vocabulary: Phone to its id.
        size: Ids of the model's table; it may have more rows than there are phones.

    Raises:
        ValueError: If an id lies outside of the table, or there is no phone.

    Source: MaskGCT's text front end (open-mmlab/Amphion). Differs: numbers and abbreviations are written out by maskgen.
    """

    kind: ClassVar[Kind] = "text"
    num_levels = 1

    def __init__(self, vocabulary: Mapping[str, int], size: int) -> None:
        if not vocabulary or not all(0 <= code < size for code in vocabulary.values()):
            raise ValueError(f"the table of phones has {len(vocabulary)} entries, wanted some, each with an id in [0, {size})")
        self.vocabulary, self.codebook_size = dict(vocabulary), size
        self._phones = {code: phone for phone, code in self.vocabulary.items()}

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "PhoneTableTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        config = load_bundle(folder, _BUNDLE_KIND, _SCHEMA).config
        return cls(config["vocabulary"], config["size"])

    @property
    def _config(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "size": self.codebook_size}

    @property
    def fingerprint(self) -> str:
        """Hash of the table, equal to the bundle's fingerprint. How a text becomes phones is not part of it."""
        return fingerprint_of(_BUNDLE_KIND, self._config, {})

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        return save_bundle(folder, _BUNDLE_KIND, self._config, {})

    def read(self, path: Path | str) -> str:
        """Read a UTF-8 text file, without the line break at its end.

        Raises:
            ValueError: If the file is missing, over 1 MiB or not UTF-8.
        """
        return read_text(path)

    def write(self, media: str, path: Path | str) -> None:
        """Write text as UTF-8, with a line break at its end."""
        write_text(media, path)

    def phones(self, text: str, language: str = ENGLISH) -> list[str]:
        """Phones of a text that the table has.

        Args:
            text: The text, or phones between slashes.
            language: Code of the language, such as "fr".

        Raises:
            ValueError: If the language is not one of `VOICES`, its phones need a program that is missing, a phone between slashes is not in
                the table, or nothing of the text can be spoken.
        """
        if between_slashes(text):
            found = [phone for phone in text[1:-1].split("|") if phone]
            if unknown := [phone for phone in found if phone not in self.vocabulary]:
                raise ValueError(f"{', '.join(map(repr, unknown[:4]))} is no phone of this model; see its vocab.json")
        else:
            made = _phones_of(" ".join(text.split()), language)
            found = [phone for phone in made if phone in self.vocabulary]
            if lost := sorted(set(made) - set(self.vocabulary)):
                logger.warning("the model has no phones %s, which are left out of %r", ", ".join(lost), text[:40])
        if not any(phone[:1].isalpha() for phone in found):
            raise ValueError(f"there is nothing to speak in {text[:40]!r}; give a text with words")
        return found

    def codes_of(self, phones: Sequence[str]) -> Codes:
        """Codes [1, n] of phones of the table."""
        return torch.tensor([[self.vocabulary[phone] for phone in phones]], dtype=torch.long)

    def encode(self, media: Sequence[str]) -> list[Codes]:
        """Encode each English text, or phones between slashes, as codes [1, n].

        Raises:
            ValueError: As for `phones`.
        """
        return [self.codes_of(self.phones(text)) for text in media]

    def decode(self, codes: Sequence[Codes]) -> list[str]:
        """Phones of each grid between slashes.

        Raises:
            ValueError: If codes have another shape, or stand for no phone.
        """
        found = []
        for grid in codes:
            if grid.ndim != 2 or grid.shape[0] != 1:
                raise ValueError(f"codes of phones have shape {tuple(grid.shape)}, wanted [1, n]")
            if wrong := [code for code in grid[0].tolist() if code not in self._phones]:
                raise ValueError(f"code {wrong[0]} stands for no phone; this table has {len(self._phones)}")
            found.append(f"/{'|'.join(self._phones[code] for code in grid[0].tolist())}/")
        return found


def read_phone_table(path: Path) -> dict[str, int]:
    """The table of a `vocab.json`: {"vocab": {phone: id}}.

    Raises:
        ValueError: If the file is missing or is no such table.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["vocab"]
        if not isinstance(found, dict) or not all(isinstance(code, int) and not isinstance(code, bool) for code in found.values()):
            raise TypeError("vocab maps no phones to whole numbers")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no table of phones ({error!r:.80}); copy the file again") from error
    return found


def _phones_of(text: str, language: str) -> list[str]:
    """Phones of a text in a language.

    Raises:
        ValueError: If they can't be had here.
    """
    if language not in VOICES:
        raise ValueError(
            f"texts in {language!r} are not turned into phones here, only in {', '.join(VOICES)}; give phones of the model's vocab.json "
            "between slashes, with a bar between them: /h|ə|l|oʊ/"
        )
    program = espeak_program()
    if language == ENGLISH:
        spoken = normalise(text).text
        phones = own_phones(_own().phonemes(text)) if program is None else espeak_phones(spoken, VOICES[language], program)
        return english_joined(phones)
    if program is None:
        raise ValueError(f"phones of {language!r} are made by eSpeak NG, which is not installed; install espeak-ng (apt, brew, conda)")
    return espeak_phones(text, VOICES[language], program)


@lru_cache(maxsize=1)
def _own() -> PhonemeTokenizer:
    """maskgen's English phonemizer.

    Raises:
        ValueError: If it did not come with this installation.
    """
    return PhonemeTokenizer.from_bundle(find_path(OWN_PHONES))
