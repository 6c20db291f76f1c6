"""Corresponding cells of two modalities, and batches moved from one token space to another."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import MASK, TokenSpace


@dataclass(frozen=True)
class CellPairs:
    """Corresponding cells of two modalities in a batch.

    Args:
        row: Row of each pair.
        crossing: Its cell in the row that crosses the bridge.
        partner: Its cell in the row that belongs to the reading tower.
    """

    row: Int[Tensor, " pairs"]
    crossing: Int[Tensor, " pairs"]
    partner: Int[Tensor, " pairs"]


def pairs_of(batch: TokenBatch, space: TokenSpace, crossing: Sequence[str], partner: str) -> CellPairs:
    """Match the codes of each crossing modality with its partner's, row by row, by the longest common subsequence.

    End codes and empty slots, which hold the same code, are left out.

    Args:
        batch: Clean rows.
        space: Their token space.
        crossing: Modalities of one level and the partner's codes.
        partner: Modality of one level.
    """
    offset, end = space.segment(partner, 0).offset, space.modality(partner).end
    found: list[tuple[int, int, int]] = []

    def codes_of(name: str, row: int, first: int) -> list[tuple[int, int]]:
        cells = (batch.cells(space.index(name))[row]).nonzero()[:, 0]
        both = zip(cells.tolist(), (batch.ids[row, cells, 0] - first).tolist(), strict=True)
        return [(cell, code) for cell, code in both if code != end]

    for row in range(len(batch)):
        written = codes_of(partner, row, offset)
        for name in crossing:
            said = codes_of(name, row, space.segment(name, 0).offset)
            matched = common_subsequence([code for _, code in said], [code for _, code in written])
            found += [(row, said[left][0], written[right][0]) for left, right in matched]
    parts = torch.tensor(found, dtype=torch.long, device=batch.ids.device).view(-1, 3)
    return CellPairs(parts[:, 0], parts[:, 1], parts[:, 2])


def common_subsequence(left: Sequence[int], right: Sequence[int]) -> list[tuple[int, int]]:
    """Index pairs of a longest common subsequence, ascending in both; ties go to the most adjacent pairs, then to the latest.

    In "this is a picture of a red heart" the words of "a red heart" are the last three, not the first "a" and the last two.
    """
    none = (0, 0)
    best = [[none] * (len(right) + 1) for _ in range(len(left) + 1)]
    begun: list[list[tuple[int, int] | None]] = [[None] * (len(right) + 1) for _ in range(len(left) + 1)]
    """Length and neighbours of the best that begins with the pair of these two places."""
    for i in reversed(range(len(left))):
        for j in reversed(range(len(right))):
            if left[i] == right[j]:
                length, near = max(best[i + 1][j + 1], _one_nearer(begun[i + 1][j + 1]))
                begun[i][j] = (length + 1, near)
            best[i][j] = max(best[i + 1][j], best[i][j + 1], begun[i][j] or none)
    found, i, j, follows = [], 0, 0, False
    while i < len(left) and j < len(right) and (follows or best[i][j] != none):
        if not follows and best[i + 1][j] == best[i][j]:
            i += 1
        elif not follows and best[i][j + 1] == best[i][j]:
            j += 1
        else:
            found.append((i, j))
            i, j = i + 1, j + 1
            follows = begun[i][j] is not None and _one_nearer(begun[i][j]) >= best[i][j]
    return found


def _one_nearer(begun: tuple[int, int] | None) -> tuple[int, int]:
    """A subsequence that begins right after a pair has one adjacent pair more; None is the least."""
    return (-1, 0) if begun is None else (begun[0], begun[1] + 1)


def moved(batch: TokenBatch, old: TokenSpace, new: TokenSpace) -> TokenBatch:
    """The same cells in another token space; cells of modalities that it lacks are hidden.

    Raises:
        ValueError: If a modality has other ids there.
    """
    ids, modality = torch.where(batch.ids == MASK, MASK, 0), torch.zeros_like(batch.modality)
    known: Mapping[str, Any] = {one.name: one for one in new.modalities}
    for one in old.modalities:
        if one.name not in known:
            continue
        if not one.same_ids(known[one.name]):
            raise ValueError(f"{one.name} is {one} in the data and {known[one.name]} in the model; take shards of the model's tokenizers")
        here = batch.modality == old.index(one.name)
        modality = torch.where(here, new.index(one.name), modality)
        for ours, theirs in zip(old.of(one.name), new.of(one.name), strict=True):
            inside = here[..., None] & (batch.ids >= ours.offset) & (batch.ids < ours.offset + ours.size)
            ids = torch.where(inside, batch.ids - ours.offset + theirs.offset, ids)
    return dataclasses.replace(batch, ids=ids, modality=modality, valid=batch.valid & (modality != 0))
