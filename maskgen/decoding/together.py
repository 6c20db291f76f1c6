"""Rows of a batch decoded together where that changes no bit of any of them, and one by one elsewhere."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from maskgen.decoding.logits import ModelCallCounter
from maskgen.networks.packed_linear import is_packed
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.space import Segment

_AGREES: "WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], bool]]" = WeakKeyDictionary()
"""Of each model, for a shape of its calls: whether rows came out with the same bits together and alone, measured once a process."""


def row_groups(batch: TokenBatch, model: nn.Module, batch_invariant: bool | None, plain: bool) -> tuple[list[list[int]], bool]:
    """Rows of a batch that are handed to the model together, and whether every row must keep the bits that it has alone.

    In float32 on a CPU a matrix product may round differently in another shape, so only rows of equal length, which need no padding, can
    go together and keep the bits that they have alone; `logits_together` checks that they do. On other devices and in other precisions
    all rows go together.

    Args:
        batch: The rows.
        model: The transformer.
        batch_invariant: True keeps the bits of every row, False ignores them; None keeps them with packed weights, whose products
            round alike in every batch, so that it costs nothing, and ignores them elsewhere.
        plain: Whether the model's calls remember nothing between steps; rows whose calls do go alone where bits are kept.
    """
    every = list(range(len(batch)))
    weight: Tensor = model.embed.weight  # type: ignore[assignment,union-attr]
    if len(every) < 2 or weight.device.type != "cpu" or weight.dtype != torch.float32 or batch_invariant is False:
        return [every], False
    lengths = (batch.modality != 0).sum(dim=1).tolist()
    if batch_invariant is None and not (plain and is_packed(model)):
        return [every], False
    if not plain:
        return [[row] for row in every], True
    return [[row for row in every if lengths[row] == length] for length in sorted(set(lengths))], True


def agrees(model: nn.Module, key: tuple[Any, ...]) -> bool | None:
    """Whether calls of this shape gave the same bits together and alone when they were compared; None where they never were.

    Args:
        model: The network.
        key: What decides the shape of the calls; the number of threads counts too.
    """
    return _AGREES.setdefault(model, {}).get((*key, torch.get_num_threads()))


def note_agreement(model: nn.Module, key: tuple[Any, ...], alone: Sequence[Tensor], together: Sequence[Tensor]) -> None:
    """Remember whether calls of this shape give the same bits together and alone.

    Args:
        model: The network.
        key: As in `agrees`.
        alone: Results of the calls one by one.
        together: Results of the same calls together.
    """
    _AGREES.setdefault(model, {})[(*key, torch.get_num_threads())] = all(map(torch.equal, alone, together))


def logits_together(
    model: nn.Module, together: LogitsFn, alone: Sequence[LogitsFn], counter: ModelCallCounter, shape: Callable[..., tuple[Any, ...]]
) -> LogitsFn:
    """Logits of rows of equal length in one call, if that gives every row the bits that it has alone; otherwise one call a row.

    The first call of each shape is computed both ways and compared. Which kernel a product takes depends on its shape and not on its
    numbers, so what holds once for a shape holds for it.

    Args:
        model: The transformer, to remember what was measured.
        together: Computes all rows at once.
        alone: Each computes its own row, as a batch of one.
        counter: Counts the model calls of `together`; the comparison does not count.
        shape: What else decides the shape of the model's call, from the arguments of a LogitsFn.
    """

    def logits_fn(batch: TokenBatch, cells: Bool[Tensor, "batch length"], segment: Segment, progress: float) -> Tensor:
        key = (*cells.shape, segment.size, *shape(batch, cells, segment, progress))
        measured = agrees(model, key)
        if measured:
            return together(batch, cells, segment, progress)
        rows = cells.any(dim=1).nonzero()[:, 0].tolist()
        parts = [alone[row](batch.alone(row), cells[row : row + 1], segment, progress) for row in rows]
        exact = torch.cat(parts) if parts else torch.zeros(0, segment.size)
        if measured is None and len(rows) == len(alone):
            before = counter.rows
            note_agreement(model, key, [exact], [together(batch, cells, segment, progress)])
            counter.rows = before
        return exact

    return logits_fn


def logits_by_group(functions: Sequence[LogitsFn], groups: Sequence[Sequence[int]]) -> LogitsFn:
    """Each group of rows through its own function, without the padding that other groups need.

    Args:
        functions: One a group.
        groups: Rows of each group, ascending.
    """
    if len(groups) == 1:
        return functions[0]

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        owner = cells.nonzero()[:, 0]
        logits = torch.zeros(len(owner), segment.size, device=cells.device)
        for function, rows in zip(functions, groups, strict=True):
            index = torch.tensor(rows, device=cells.device)
            mine = torch.isin(owner, index)
            if bool(mine.any()):
                own = batch.rows(index).trimmed()
                logits[mine] = function(own, cells[index, : own.ids.shape[1]], segment, progress).to(logits.dtype)
        return logits

    return logits_fn
