"""Special tokens that a pretrained tokenizer puts around a text, such as [CLS] and [SEP], as cells that a network adds to its input."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import PAD


class Framed(NamedTuple):
    """A batch with special tokens around the text of each document.

    Args:
        batch: The longer batch, its cells in the order in which a tokenizer would give them.
        place: Position in it of every cell of the original batch.
    """

    batch: TokenBatch
    place: Int[Tensor, "batch length"]


def template_of(vocabulary: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Codes that a tokenizer puts before and after a single text, by the post-processor in its tokenizer.json.

    Args:
        vocabulary: Content of a tokenizer.json.

    Returns:
        Codes before the text and codes after it; empty where the tokenizer adds none.
    """
    from tokenizers import Tokenizer as Engine

    engine = Engine.from_str(vocabulary)
    engine.no_truncation()
    engine.no_padding()
    plain, whole = (list(engine.encode("a", add_special_tokens=special).ids) for special in (False, True))
    for start in range(len(whole) - len(plain) + 1):
        if plain and whole[start : start + len(plain)] == plain:
            return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    return (), ()


def framed(batch: TokenBatch, modality: int, before: Sequence[int], after: Sequence[int]) -> Framed:
    """Add special tokens before the first and after the last text cell of each document that has text.

    They are visible where a text cell of their document is, and have the coordinates of the text cell beside them.

    Args:
        batch: Rows of cells.
        modality: Number of the text modality.
        before: Shared ids before a text.
        after: Shared ids after a text.
    """
    (rows, length), device = batch.valid.shape, batch.valid.device
    documents = int(batch.document.max()) + 1 if batch.document.numel() else 1
    number = torch.arange(documents, device=device)
    text = ((batch.modality == modality) & (batch.modality != 0))[:, None] & (batch.document[:, None] == number[:, None])
    there, seen = text.any(dim=2), (text & batch.valid[:, None]).any(dim=2)
    order = torch.arange(length, device=device)
    first, last = torch.where(text, order, length).amin(dim=2).clamp(max=length - 1), torch.where(text, order, 0).amax(dim=2)
    beside = torch.stack([first] * len(before) + [last] * len(after), dim=2).flatten(1)
    wide = len(before) + len(after) + 1
    shift = torch.tensor([*range(-len(before), 0), *range(1, len(after) + 1)], device=device)
    behind = (length + 1) * wide  # specials of documents without text stand behind everything
    key = torch.where(there[..., None], beside.view(rows, documents, -1) * wide + shift, behind).flatten(1)
    keys = torch.cat([(order * wide).expand(rows, -1), key], dim=1)
    moved = keys.argsort(dim=1, stable=True)
    each = len(before) + len(after)
    present, visible = (flags[..., None].expand(-1, -1, each).flatten(1) for flags in (there, seen))
    ids = batch.ids.new_full((rows, documents * each, batch.ids.shape[2]), PAD)
    ids[..., 0] = torch.where(present, torch.tensor([*before, *after], device=device).repeat(documents), PAD)
    added = TokenBatch(
        ids,
        torch.where(present, modality, 0),
        batch.coords.take_along_dim(beside[..., None], 1),
        visible,
        number[:, None].expand(-1, each).flatten().expand(rows, -1) * present,
        batch.extent.take_along_dim(beside[..., None], 1),
    )

    def joined(name: str) -> Tensor:
        both = torch.cat([getattr(batch, name), getattr(added, name)], dim=1)
        return both.take_along_dim(moved.reshape(*moved.shape, *[1] * (both.ndim - 2)), 1)

    names = ("ids", "modality", "coords", "valid", "document", "extent")
    return Framed(TokenBatch(*map(joined, names)), moved.argsort(dim=1)[:, :length])
