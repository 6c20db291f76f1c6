"""Looks up pronunciations in a lexicon, with case variants and rules for inflected endings."""

import lzma
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property

from maskgen.phonetics.symbols import STRESS, VOWELS

SIBILANTS = "szʃʒʧʤ"
VOICELESS = "ptkfθ"
LEAST_PART = 4
PREFIXES = {
    **{"non": "nˌɑn", "un": "ˌʌn", "over": "ˌOvəɹ", "under": "ˌʌndəɹ", "super": "sˌupəɹ", "semi": "sˌɛmi", "anti": "ˌæntI"},
    **{"multi": "mˌʌlti", "inter": "ˌɪntəɹ", "micro": "mˌIkɹO", "mis": "mˌɪs", "pre": "pɹˌi", "re": "ɹˌi", "out": "ˌWt", "mega": "mˌɛɡə"},
}
SUFFIXES = {"ly": "li", "ness": "nəs", "less": "ləs", "like": "lˌIk", "ful": "fᵊl", "ish": "ɪʃ", "able": "əbᵊl", "er": "əɹ", "wise": "wˌIz"}
SOUND_BEFORE_FLAP = frozenset(VOWELS) - {"ᵊ"} | {"ɹ"}


def pack_lexicon(entries: Mapping[str, str]) -> bytes:
    """The lexicon as compressed bytes, sorted by word; the same entries give the same bytes."""
    lines = sorted(f"{word}\t{phonemes}" for word, phonemes in entries.items())
    return lzma.compress("\n".join(lines).encode(), format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, preset=9)


class Lexicon:
    """Pronunciations of words; the packed data is parsed at the first lookup.

    Args:
        packed: Output of `pack_lexicon`.
    """

    def __init__(self, packed: bytes) -> None:
        self.packed = packed

    @cached_property
    def entries(self) -> dict[str, str]:
        """Phonemes by word, as spelled in the lexicon."""
        lines = lzma.decompress(self.packed).decode().split("\n")
        return dict(line.split("\t", 1) for line in lines if line)

    def find(self, word: str) -> str | None:
        """Phonemes of a word: its own entry, else its stem's with the phonemes of the ending; None if neither is known."""
        for way in (self.entry, self._by_ending, self._by_parts):
            found = way(word)
            if found:
                return found
        return None

    def entry(self, word: str) -> str | None:
        """Phonemes of the word's own entry: as written, lower-cased, capitalised or upper-cased."""
        return next((self.entries[form] for form in case_variants(word) if form in self.entries), None)

    def _by_ending(self, word: str) -> str | None:
        """Phonemes of stem and ending, for plurals, possessives, past tenses and participles."""
        for ending, sound, least in INFLECTIONS:
            if word.lower().endswith(ending) and len(word) >= least + len(ending):
                for stem in stems(word, ending):
                    found = self.entry(stem)
                    if found:
                        return sound(found)
                if ending in ("'s", "'"):
                    found = self._by_ending(word[: -len(ending)])
                    return sound(found) if found else None
        return None

    def _by_parts(self, word: str) -> str | None:
        """Phonemes of prefix and word, or word and suffix: "nonviolently", "streetlike"."""
        plain = word.lower()
        for prefix, sound in PREFIXES.items():
            if plain.startswith(prefix) and len(plain) >= len(prefix) + LEAST_PART:
                found = self.entry(plain[len(prefix) :]) or self._by_ending(plain[len(prefix) :])
                if found and "ˈ" in found:
                    return sound + found
        for suffix, sound in SUFFIXES.items():
            found = self.entry(plain[: -len(suffix)]) if plain.endswith(suffix) and len(plain) >= len(suffix) + LEAST_PART else None
            if found:
                return found + sound
        return None


def case_variants(word: str) -> Iterable[str]:
    """Case variants to look up: as written, lower-cased, capitalised, upper-cased."""
    return dict.fromkeys((word, word.lower(), word.capitalize(), word.upper()))


def stems(word: str, ending: str) -> Iterator[str]:
    """Candidate stems before an ending: unchanged, with a dropped "e" or a changed "y" restored, or with a doubled consonant undone."""
    stem = word[: -len(ending)]
    if ending == "'s" or ending == "'":
        yield stem
        return
    if ending == "ies" or ending == "ied":
        yield f"{stem}y"
        yield f"{stem}ie"
        return
    if ending == "s" and stem.lower().endswith(("s", "u")) and not stem.lower().endswith("ou"):
        return
    yield stem
    if ending in ("ed", "ing"):
        yield f"{stem}e"
        if len(stem) > 2 and stem[-1] == stem[-2]:
            yield stem[:-1]
        if ending == "ing" and stem.endswith("y"):
            yield f"{stem[:-1]}ie"
        if stem.endswith("ck"):
            yield stem[:-1]


def plural(stem: str) -> str:
    """Phonemes with the ending -s: ᵻz after a sibilant, s after a voiceless consonant, else z."""
    return stem + ("ᵻz" if stem[-1] in SIBILANTS else "s" if stem[-1] in VOICELESS else "z")


def past(stem: str) -> str:
    """Phonemes with the ending -ed: ᵻd after t and d, t after a voiceless consonant, else d."""
    if stem[-1] in "td":
        return f"{flapped(stem)}ᵻd"
    return stem + ("t" if stem[-1] in VOICELESS or stem[-1] in "sʃʧ" else "d")


def participle(stem: str) -> str:
    """Phonemes with the ending -ing."""
    return f"{flapped(stem)}ɪŋ"


def flapped(stem: str) -> str:
    """Phonemes whose final t becomes the flap T between vowels, as in American English."""
    plain = stem.translate(str.maketrans("", "", STRESS))
    return f"{stem[:-1]}T" if plain[-1:] == "t" and plain[-2:-1] in SOUND_BEFORE_FLAP else stem


def possessive_of_plural(stem: str) -> str:
    """Phonemes unchanged: the apostrophe of "dogs'" is silent."""
    return stem


INFLECTIONS: tuple[tuple[str, Callable[[str], str], int], ...] = (
    ("'s", plural, 1),
    ("'", possessive_of_plural, 1),
    ("ies", plural, 2),
    ("es", plural, 2),
    ("s", plural, 2),
    ("ied", past, 2),
    ("ed", past, 2),
    ("ing", participle, 2),
)
"""Ending, the function that adds its phonemes to the stem's, and the fewest letters of the stem."""
