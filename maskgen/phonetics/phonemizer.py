"""Converts text to phonemes: normalises it, looks words up, and predicts the pronunciation of unknown ones."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

from torch import Tensor

from maskgen.io.fitting import fitted
from maskgen.phonetics.g2p import G2PConfig, G2PNetwork, sound_out
from maskgen.phonetics.lexicon import Lexicon
from maskgen.phonetics.normalise import normalise
from maskgen.phonetics.postlexical import WORD, Forms, in_context, places, spread_stress
from maskgen.phonetics.sentences import split_sentences
from maskgen.phonetics.symbols import VOWELS

LONGEST_SENTENCE = 300
MOST_KNOWN = 2**16
HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
PLURAL_LETTERS = re.compile(r"[A-Z]{2,}(?='?s$)")


class Phonemizer:
    """Converts English text to phonemes.

    Args:
        lexicon: Pronunciations.
        forms: Pronunciations by context, where they differ from the lexicon's.
        letters: Grapheme-to-phoneme network for words outside the lexicon.
    """

    def __init__(self, lexicon: Lexicon, forms: Forms, letters: G2PNetwork) -> None:
        self.lexicon, self.forms, self._letters = lexicon, forms, letters
        self._known: dict[str, str] = {}

    @classmethod
    def from_parts(
        cls, packed: bytes, config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str = "the phonemizer"
    ) -> "Phonemizer":
        """Rebuilds the phonemizer from a bundle's parts.

        Args:
            packed: The lexicon, packed by `pack_lexicon`.
            config: The saved `config`.
            tensors: The saved `tensors`.
            source: Where the parts come from, for error messages.

        Raises:
            ValueError: If the configuration is invalid, or its sizes don't match the weights.
        """
        network = fitted(lambda: G2PNetwork(G2PConfig(**config["letters"])), tensors, source)
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return cls(Lexicon(packed), config["forms"], network.eval().requires_grad_(False))

    @property
    def config(self) -> dict[str, Any]:
        """JSON-serialisable configuration for the bundle."""
        return {"forms": self.forms, "letters": asdict(self._letters.config)}

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Weights for the bundle, in half precision."""
        return {name: tensor.detach().half() for name, tensor in self._letters.state_dict().items()}

    def left_out(self, text: str) -> list[str]:
        """Markup and characters of the text that can't be spoken, each once."""
        return normalise(text).left_out

    def sentences(self, text: str) -> list[str]:
        """Sentences of a text, each speakable; those over 300 phonemes are split at clauses, else at spaces.

        Raises:
            ValueError: If nothing of it can be spoken.
        """
        return split_sentences(text, self._length, LONGEST_SENTENCE) or [self.phonemes(text)]

    def _length(self, text: str) -> int:
        """Number of phonemes of a text, 0 if nothing of it can be spoken."""
        spoken = normalise(text).text
        return len(self._running(spoken)) if WORD.search(spoken) else 0

    def phonemes(self, text: str) -> str:
        """Phonemes of a text.

        Raises:
            ValueError: If nothing of it can be spoken.
        """
        spoken = normalise(text).text
        if not WORD.search(spoken):
            raise ValueError(f"there is nothing to speak in {text[:40]!r}; give a text with English words or numbers")
        return self._running(spoken)

    def _running(self, spoken: str) -> str:
        """Phonemes of speakable text, converted from the last word to the first: a word's form depends on what follows."""
        shouted = spoken.isupper() and spoken.count(" ") >= 2
        said, rest, following = "", len(spoken), ""
        for place in reversed(places(spoken)):
            sound = self._word(place.word, shouted, place.before, following if place.joined else "")
            said, rest, following = sound + spoken[place.end : rest] + said, place.start, sound
        return spoken[:rest] + said

    def _word(self, word: str, shouted: bool, before: str, following: str) -> str:
        """Phonemes of a word in context."""
        if shouted and self.lexicon.entry(word.lower()) is not None:
            word = word.lower()
        return in_context(word, self.word(word), self.forms, before, following)

    def word(self, word: str) -> str:
        """Phonemes of one word out of context."""
        if word not in self._known:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[word] = self._pronounced(word)
        return self._known[word]

    def _pronounced(self, word: str) -> str:
        """Phonemes of a word from the lexicon, its letter names, its parts or the network."""
        if word.isupper() and len(word) > 1 and word in ALWAYS_SPELLED:
            return self._spelled(word)
        found = self.lexicon.find(word)
        if found is None and "-" in word:
            return spread_stress([self.word(part) for part in word.split("-") if part.strip("'")])
        if found is None and word != word.strip("'"):
            return self.word(word.strip("'")) if word.strip("'") else ""
        if found is not None:
            return found
        letters = word if word.isupper() and "'" not in word else PLURAL_LETTERS.match(word)
        if letters is None and (humps := HUMP.split(word))[1:]:
            return spread_stress([self.word(part) for part in humps])
        if isinstance(letters, str):
            return self._spelled(letters)
        if letters is not None:
            return self._spelled(letters.group()) + "z"
        return self._sounded(word)

    def _sounded(self, word: str) -> str:
        """Phonemes of a word by the network, or its letter names if the prediction has no vowel."""
        sounds = sound_out(self._letters, word)
        return sounds if any(sound in VOWELS for sound in sounds) else self._spelled(word)

    def _spelled(self, letters: str) -> str:
        """Phonemes of the letter names, with the stress on the last."""
        names = [self.lexicon.entries.get(letter, "") for letter in letters.upper() if letter.isalpha()]
        return "".join(name.replace("ˈ", "ˌ") for name in names[:-1]) + "".join(names[-1:])


ALWAYS_SPELLED = frozenset(("AM", "PM", "US", "IT", "PHD", "UK", "EU", "TV", "AD", "BC"))
"""Upper-case words that are spelled out although the lexicon has a word with the same spelling."""
