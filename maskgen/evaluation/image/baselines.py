"""Row sets that need no model: the nearest training caption's picture, and pictures of other captions."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from maskgen.evaluation.image.corpus import Corpus, Row
from maskgen.evaluation.image.features import text_features


def copy_index(held_out: Sequence[Row], training: Sequence[Row], cache: Path | None = None) -> Int[Tensor, " batch"]:
    """For each held-out row the training row whose caption lies nearest: the copy baseline.

    Nearest by cosine of MiniLM embeddings of the canonical captions, style included; a tie goes to the first row. It shows what a model
    reaches that knows its training captions and draws nothing new.
    """
    asked = text_features([row.caption for row in held_out], cache)
    known = text_features([row.caption for row in training], cache)
    return (asked @ known.T).argmax(dim=1)


def shuffled(corpus: Corpus) -> Corpus:
    """The corpus with each caption beside another row's picture: the floor.

    Rows stay in place; row i gets the picture of the row that follows it in the order of the keys' hashes, so none keeps its own.
    """
    order = sorted(range(len(corpus.rows)), key=lambda place: corpus.rows[place].hash)
    following = {place: order[(rank + 1) % len(order)] for rank, place in enumerate(order)}
    return Corpus(corpus.rows, corpus.pick([following[place] for place in range(len(order))]).pixels)
