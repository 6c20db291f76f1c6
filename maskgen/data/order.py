"""The order of training rows: balanced over drawing families, and a function of (seed, epoch) alone."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Sampler

Draw = tuple[int, int]
"""Row number and number of the draw; draw -1 is validation, where nothing is left to chance."""


def chance(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    text = ":".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big") / 2**48


def family_weights(rows: Sequence[Mapping[str, Any]]) -> Float[Tensor, " rows"]:
    """Probability of each row: families equal, styles equal inside a family, rows equal inside a style.

    Args:
        rows: Metadata with "family" and "style".

    Returns:
        Weights that sum to 1.
    """
    styles = Counter((row["family"], row["style"]) for row in rows)
    per_family = Counter(family for family, _ in styles)
    shares = {key: 1 / (len(per_family) * per_family[key[0]] * count) for key, count in styles.items()}
    return torch.tensor([shares[row["family"], row["style"]] for row in rows], dtype=torch.float64)


class BalancedOrder(Sampler[Draw]):
    """One epoch after another of as many draws as there are rows; each row comes its expected number of times, rounded down or up.

    Args:
        weights: Probability of each row.
        seed: With the epoch, decides the order.
    """

    def __init__(self, weights: Float[Tensor, " rows"], seed: int) -> None:
        self.weights, self.seed, self.epoch = weights.double() / weights.double().sum(), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[Draw]:
        count = len(self.weights)
        generator = torch.Generator().manual_seed(int(chance(self.seed, self.epoch) * 2**48))
        points = (torch.arange(count) + torch.rand(1, generator=generator, dtype=torch.float64)) / count
        rows = torch.searchsorted(self.weights.cumsum(0), points).clamp(max=count - 1)
        mixed = rows[torch.randperm(count, generator=generator)].tolist()
        return iter([(row, self.epoch * count + position) for position, row in enumerate(mixed)])


def fixed_subset(keys: Sequence[str], count: int) -> list[Draw]:
    """At most `count` rows, the same ones always: those whose keys have the smallest hashes."""
    ranked = sorted(range(len(keys)), key=lambda row: hashlib.sha256(keys[row].encode()).hexdigest())
    return [(row, -1) for row in sorted(ranked[:count])]
