"""How generated texts look as a set: entropy, variety, repetition, and how surprised another model is by them."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from maskgen.tokens.batch import UNKNOWN, Codes

Text = Sequence[int]
"""Codes of one text, without its end."""
Score = Callable[[Sequence[Text]], tuple[float, int]]
"""Nats that a judging model gives to texts, their ends included, and the tokens that this covers."""
END, START = -1, -2
"""Marks of the n-gram model; codes are never negative."""


@dataclass(frozen=True, kw_only=True)
class TextQuality:
    """Scores of one set of texts; compare with the same of held-out texts, not with a best value.

    Args:
        unigram_entropy: Entropy of all tokens of the set together, in nats.
        text_entropy: Entropy of the tokens of a text, in nats, the mean over texts.
        distinct_1: Different tokens over tokens.
        distinct_2: Different pairs of neighbours over pairs.
        repetition: Share of a text's neighbouring pairs that stood in it before, the mean over texts.
        generative_perplexity: exp of the judge's nats a token. Low alone means nothing: one word said again and again has it.
        texts: Texts in the set.
        tokens: Tokens in the set.

    Source: distinct-n, arXiv:1510.03055; repetition, seq-rep-n of arXiv:1908.04319; entropy beside perplexity, arXiv:2409.02908.
    """

    unigram_entropy: float
    text_entropy: float
    distinct_1: float
    distinct_2: float
    repetition: float
    generative_perplexity: float
    texts: int
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def text_quality(texts: Sequence[Text], score: Score) -> TextQuality:
    """All scores of a set of texts.

    Distinct-n falls as a set grows, so compare sets of as many tokens.

    Args:
        texts: Codes of each text.
        score: The judge, such as `NGramModel.score`.

    Raises:
        ValueError: If all texts are empty.
    """
    said = [list(text) for text in texts if len(text)]
    if not said:
        raise ValueError("found no text with a token in it, wanted at least one")
    nats, covered = score([list(text) for text in texts])
    return TextQuality(
        unigram_entropy=entropy(token for text in said for token in text),
        text_entropy=sum(entropy(text) for text in said) / len(said),
        distinct_1=distinct(said, 1),
        distinct_2=distinct(said, 2),
        repetition=sum(1 - distinct([text], 2) for text in said) / len(said),
        generative_perplexity=math.exp(nats / covered),
        texts=len(texts),
        tokens=sum(map(len, said)),
    )


def entropy(tokens: Iterable[int]) -> float:
    """Entropy of how often each token comes, in nats."""
    counts = torch.tensor(list(Counter(tokens).values()), dtype=torch.float64)
    shares = counts / counts.sum()
    return float(-(shares * shares.log()).sum())


def distinct(texts: Sequence[Text], length: int) -> float:
    """Different runs of `length` tokens over all runs; 1 where there is none."""
    runs = [tuple(text[start : start + length]) for text in texts for start in range(len(text) - length + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


def text_of(codes: Codes, end: int | None = None) -> list[int]:
    """Tokens of a text's codes [1, n] before the first end code.

    Raises:
        ValueError: If a cell is unknown.
    """
    tokens: list[int] = codes[0].tolist()
    if UNKNOWN in tokens:
        raise ValueError(f"{tokens.count(UNKNOWN)} of {len(tokens)} cells are still unknown; judge finished texts")
    return tokens[: tokens.index(end)] if end is not None and end in tokens else tokens


class NGramModel:
    """An n-gram model with Witten-Bell smoothing: the judge that is always at hand.

    Every order is mixed with the next shorter one by how often its context was followed by something new; the shortest is uniform over
    the codes and the end.

    Args:
        texts: Training texts.
        size: Codes of the modality.
        order: Longest run, its last token included.

    Source: Witten and Bell 1991; Chen and Goodman 1998 for the interpolated form.
    """

    def __init__(self, texts: Iterable[Text], size: int, order: int = 3) -> None:
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        self.size, self.order = size, order
        self.followers: dict[tuple[int, ...], Counter[int]] = {}
        for text in texts:
            for context, token in self._runs(text):
                for start in range(len(context) + 1):
                    self.followers.setdefault(context[start:], Counter())[token] += 1
        self.totals = {context: (sum(counts.values()), len(counts)) for context, counts in self.followers.items()}

    def _runs(self, text: Text) -> Iterable[tuple[tuple[int, ...], int]]:
        """Each token of a text and its end, with the tokens before it."""
        whole, before = [*(START,) * (self.order - 1), *text, END], self.order - 1
        return ((tuple(whole[place - before : place]), whole[place]) for place in range(before, len(whole)))

    def probability(self, context: tuple[int, ...], token: int) -> float:
        """Of a token (or END) after a context of at most order - 1 tokens."""
        chance = 1 / (self.size + 1)
        for start in range(len(context), -1, -1):
            total, kinds = self.totals.get(context[start:], (0, 0))
            if total:
                chance = (self.followers[context[start:]][token] + kinds * chance) / (total + kinds)
        return chance

    def score(self, texts: Sequence[Text]) -> tuple[float, int]:
        """See `Score`."""
        logs = [-math.log(self.probability(*run)) for text in texts for run in self._runs(text)]
        return sum(logs), len(logs)
