"""Baselines without a model: the image of the nearest training caption, and shuffled captions."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from maskgen.evaluation.image.corpus import Corpus, Row
from maskgen.evaluation.image.features import text_features


def copy_index(held_out: Sequence[Row], training: Sequence[Row], cache: Path | None = None) -> Int[Tensor, " batch"]:
    """For each held-out row the training row whose caption lies nearest: the copy baseline.

    Nearest by cosine of MiniLM embeddings of the canonical captions, style included; ties go to the first row. This is the score of a
    model that only copies training images.
    """
    asked = text_features([row.caption for row in held_out], cache)
    known = text_features([row.caption for row in training], cache)
    return (asked @ known.T).argmax(dim=1)


def shuffled(corpus: Corpus) -> Corpus:
    """The corpus with each caption paired with another row's image: the lower bound of every score.

    Row i gets the image of the row that follows it in the order of the keys' hashes, so no row keeps its own.
    """
    order = sorted(range(len(corpus.rows)), key=lambda place: corpus.rows[place].hash)
    following = {place: order[(rank + 1) % len(order)] for rank, place in enumerate(order)}
    return Corpus(corpus.rows, corpus.pick([following[place] for place in range(len(order))]).pixels)
