"""Held-out texts of token shards, their end codes, and a model of their lengths."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from maskgen.data.loading.order import fixed_subset
from maskgen.data.loading.samples import TokenRows, open_rows
from maskgen.data.shards.store import ShardStore
from maskgen.tokens.batch import Codes, TokenBatch
from maskgen.tokens.packing import pack, until_end
from maskgen.tokens.space import TokenSpace


class LengthLaw:
    """Probability of a text's length: counts of training texts, smoothed with one pseudo-count of a geometric distribution.

    A model that fills a given number of cells does not predict the length; a causal model does, with its end token. Adding the nats of
    the length makes their bounds comparable.

    Args:
        lengths: Tokens of the training texts.
    """

    def __init__(self, lengths: Iterable[int]) -> None:
        self.lengths = torch.tensor(list(lengths), dtype=torch.float64)
        self.stop = 1 / max(float(self.lengths.mean()), 1.0)

    def nats(self, length: int) -> float:
        """Negative log-probability of a length of at least 1."""
        tail = self.stop * (1 - self.stop) ** (length - 1)
        return -math.log((float((self.lengths == length).sum()) + tail) / (len(self.lengths) + 1))


def held_out_texts(
    folder: str, space: TokenSpace, target: str, split: str = "validation", limit: int | None = None, canvas: int = 0
) -> list[dict[str, Codes]]:
    """A fixed choice of samples of a split that have the target modality, with their first caption.

    Args:
        folder: Token shards.
        space: Token space of the model.
        target: Modality to score.
        split: Split of the shards.
        limit: Maximum number, chosen by the hash of their keys; None takes all.
        canvas: If the target has an end code, each text is padded with it to this many cells; there is always at least one end code.

    Raises:
        ValueError: If the shards or the split are missing, or the shards have another token space.
    """
    store = ShardStore(folder)
    index = store.index()
    shards_space = TokenSpace.from_dict(dict(index.space or {"modalities": [], "specials": []}))
    if not space.begins_with(shards_space):
        raise ValueError(f"{folder} has {shards_space}, the model {space}; give the shards that the model was trained on")
    rows = TokenRows(open_rows(store, index, split), shards_space)
    draws = fixed_subset([rows.rows.key(row) for row in range(len(rows))], len(rows) if limit is None else limit)
    texts, end = (sample for sample in (rows[draw] for draw in draws) if target in sample), space.modality(target).end
    return list(texts) if end is None else [{**sample, target: ended(sample[target], end, canvas)} for sample in texts]


def ended(codes: Codes, end: int, canvas: int = 0) -> Codes:
    """A text's codes [1, n] followed by at least one end code, padded with it to `canvas` cells."""
    before = until_end(codes, end)
    return torch.cat([before, before.new_full((1, max(1, canvas - before.shape[1])), end)], dim=1)


def by_length(samples: Sequence[Mapping[str, Codes]], space: TokenSpace, batch_size: int, multiple: int = 1) -> Iterator[TokenBatch]:
    """Batches of rows of similar length, shortest first."""
    ranked = sorted(samples, key=lambda sample: sum(codes[0].numel() for codes in sample.values()))
    for start in range(0, len(ranked), batch_size):
        yield pack(ranked[start : start + batch_size], space, multiple)
