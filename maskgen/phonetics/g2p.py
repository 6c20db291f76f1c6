"""Grapheme-to-phoneme network: a small recurrent network that pronounces words outside the lexicon."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskgen.phonetics.symbols import CONSONANTS, STRESS, VOWELS

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
CTC_BLANK = 0
LONGEST_WORD = 64


@dataclass(frozen=True, kw_only=True)
class G2PConfig:
    """Configuration of the network: its size and its alphabets.

    Args:
        dim: Width of a letter's embedding.
        hidden: Width of each direction of a recurrent layer.
        num_layers: Recurrent layers.
        slots: Outputs per letter, which limits the phonemes per letter.
        letters: Input alphabet.
        sounds: Output alphabet of phonemes; code 0 is the blank, the phonemes follow.
    """

    dim: int = 128
    hidden: int = 128
    num_layers: int = 2
    slots: int = 3
    letters: str = LETTERS
    sounds: str = STRESS + VOWELS + CONSONANTS


class G2PNetwork(nn.Module):
    """Network that predicts log-probabilities of phonemes at `slots` positions per letter, trained with CTC.

    Args:
        config: Its size and alphabets.
    """

    def __init__(self, config: G2PConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(len(config.letters), config.dim)
        self.layers = nn.GRU(config.dim, config.hidden, config.num_layers, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * config.hidden, config.slots * (1 + len(config.sounds)))

    def forward(self, letters: Int[Tensor, "batch length"]) -> Float[Tensor, "batch slots size"]:
        """Log-probabilities in float32; all words of a batch have the same length, so there is no padding."""
        hidden, _ = self.layers(self.embedding(letters))
        places = rearrange(self.head(hidden), "batch length (slot size) -> batch (length slot) size", slot=self.config.slots)
        logprob: Tensor = places.float().log_softmax(dim=-1)
        return logprob


def letter_ids(word: str, config: G2PConfig) -> list[int]:
    """Ids of a word's letters, lower-cased; other characters are skipped."""
    return [config.letters.index(letter) for letter in word.lower() if letter in config.letters]


def collapse(best: Sequence[int], config: G2PConfig) -> str:
    """Phonemes of a CTC path: repeats are merged, blanks removed."""
    kept = [code for code, before in zip(best, [CTC_BLANK, *best], strict=False) if code not in (before, CTC_BLANK)]
    return "".join(config.sounds[code - 1] for code in kept)


def stressed(sounds: str) -> str:
    """The same phonemes with exactly one primary stress, if there is a vowel."""
    first = sounds.find("ˈ")
    if first >= 0:
        return sounds[: first + 1] + sounds[first + 1 :].replace("ˈ", "ˌ")
    if "ˌ" in sounds:
        return sounds.replace("ˌ", "ˈ", 1)
    vowel = next((place for place, sound in enumerate(sounds) if sound in VOWELS), None)
    return sounds if vowel is None else f"{sounds[:vowel]}ˈ{sounds[vowel:]}"


@torch.no_grad()
def sound_out(network: G2PNetwork, word: str) -> str:
    """Phonemes of a word by the most probable path; "" if it has no letters. Words over 64 letters are converted in pieces."""
    letters = letter_ids(word, network.config)
    pieces = [letters[start : start + LONGEST_WORD] for start in range(0, len(letters), LONGEST_WORD)]
    paths = [network(torch.tensor([piece]))[0].argmax(dim=-1).tolist() for piece in pieces]
    return stressed("".join(collapse(path, network.config) for path in paths))
