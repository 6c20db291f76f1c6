"""From rows of a TokenBatch to the token sequences that a language model was trained on, and back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import MASK, PAD, TokenSpace


@dataclass(frozen=True)
class Sequences:
    """Rows in the order and in the ids of a language model.

    Args:
        ids: Ids of the model's own vocabulary.
        valid: False where nothing is seen: padding and hidden cells.
        document: Document of each place; places see those of the same document.
        places: Place of each cell of the batch in its sequence; -1 for a cell that has none.
    """

    ids: Int[Tensor, "batch places"]
    valid: Bool[Tensor, "batch places"]
    document: Int[Tensor, "batch places"]
    places: Int[Tensor, "batch length"]


Layout = Callable[[TokenBatch], Sequences]
"""The order in which a model reads the cells of a row, and the tokens that it expects between them."""


@dataclass(frozen=True)
class ModelVocabulary:
    """Which ids of a language model are the codes of each modality.

    Args:
        space: Token space of the batches; every modality has one level.
        first: Modality to the id of its code 0.
        mask: Id of the mask token.
        size: Ids in all.
    """

    space: TokenSpace
    first: Mapping[str, int]
    mask: int
    size: int

    def __post_init__(self) -> None:
        for modality in self.space.modalities:
            if modality.num_levels != 1:
                raise ValueError(f"a language model reads one level a cell, {modality.name} has {modality.num_levels}")
            start, end = self.first[modality.name], self.first[modality.name] + modality.codebook_size
            if start < 0 or end > self.size:
                raise ValueError(f"{modality.name} needs the ids {start} to {end - 1}, the model's vocabulary has {self.size}")
        if not 0 <= self.mask < self.size:
            raise ValueError(f"the mask token has id {self.mask}, the model's vocabulary has {self.size}")

    def start(self, offset: int) -> int:
        """The model's id for the first id of a segment.

        Raises:
            ValueError: If no segment begins at `offset`.
        """
        for modality in self.space.modalities:
            if self.space.segment(modality.name, 0).offset == offset:
                return self.first[modality.name]
        raise ValueError(f"no modality of {self.space!r} begins at id {offset}")

    def ids(self, batch: TokenBatch) -> Int[Tensor, "batch length"]:
        """The model's id of every cell: the mask token where the code is unknown, 0 at padding."""
        shared = batch.ids[..., 0]
        found = torch.where(shared == MASK, self.mask, 0)
        for modality in self.space.modalities:
            segment = self.space.segment(modality.name, 0)
            known = (batch.modality == segment.index) & (shared != MASK) & (shared != PAD)
            found = torch.where(known, shared - segment.offset + self.first[modality.name], found)
        return found


def cell_after_cell(vocabulary: ModelVocabulary) -> Layout:
    """The layout of a model that reads the cells of a row as they stand, without any token between them."""

    def layout(batch: TokenBatch) -> Sequences:
        rows, length = batch.modality.shape
        places = torch.arange(length, device=batch.ids.device).expand(rows, length)
        return Sequences(vocabulary.ids(batch), batch.valid, batch.document, places)

    return layout


Piece = Sequence[int] | Int[Tensor, " _"]
"""A part of a sequence: tokens that the layout adds, or places of cells in their row."""


@dataclass(frozen=True)
class SequenceRow:
    """One row of a batch, as a layout reads it.

    Args:
        ids: The model's id of each cell.
        unknown: Cells whose code is unknown.
        coords: Position of each cell in its grid: (time, row, column).
        cells: Places of the visible cells of each modality.
    """

    ids: Int[Tensor, " length"]
    unknown: Bool[Tensor, " length"]
    coords: Int[Tensor, "length 3"]
    cells: Mapping[str, Int[Tensor, " _"]]

    @property
    def draws_image(self) -> bool:
        """Whether it is read as an image behind its caption: nothing of its text is unknown. Otherwise the text is an answer."""
        return len(self.cells["image"]) > 0 and not bool(self.unknown[self.cells["text"]].any())


Order = Callable[[SequenceRow], Sequence[Piece]]
"""The pieces of a row in the order in which a model reads them."""


def arranged(vocabulary: ModelVocabulary, order: Order) -> Layout:
    """The layout of a model that expects tokens of its own between the cells; a hidden cell is left out of its sequence.

    Args:
        vocabulary: Ids of the model.
        order: Arranges the visible cells of a row.
    """

    def layout(batch: TokenBatch) -> Sequences:
        if bool(batch.document.any()):
            raise ValueError("this model reads one sample a row, and the batch has several; pack them apart")
        ids, unknown = vocabulary.ids(batch), batch.ids[..., 0] == MASK
        visible = {one.name: batch.cells(vocabulary.space.index(one.name)) for one in vocabulary.space.modalities}
        rows = []
        for row in range(len(batch)):
            cells = {name: places[row].nonzero()[:, 0] for name, places in visible.items()}
            rows.append(order(SequenceRow(ids[row], unknown[row], batch.coords[row], cells)))
        return _joined(ids, rows)

    return layout


def _joined(ids: Int[Tensor, "batch length"], rows: Sequence[Sequence[Piece]]) -> Sequences:
    """Sequences of pieces, padded behind to the longest."""
    longest = max(1, *(sum(len(piece) for piece in pieces) for pieces in rows))
    made = ids.new_zeros(len(rows), longest)
    valid = torch.zeros_like(made, dtype=torch.bool)
    places = torch.full_like(ids, -1)
    for row, pieces in enumerate(rows):
        start = 0
        for piece in pieces:
            stop = start + len(piece)
            if isinstance(piece, Tensor):
                made[row, start:stop] = ids[row, piece]
                places[row, piece] = torch.arange(start, stop, device=ids.device)
            else:
                made[row, start:stop] = ids.new_tensor(list(piece))
            start = stop
        valid[row, :start] = True
    return Sequences(made, valid, torch.zeros_like(made), places)
