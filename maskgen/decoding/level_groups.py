"""Several levels decoded together: any sampler on an unrolled view in which every level of a cell is a cell of its own."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from einops import rearrange, repeat
from jaxtyping import Int
from torch import Tensor

from maskgen.sampling.base import Sampler, Trajectory
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.space import MASK, Segment

FIRST = 2
"""Id of code 0 in the unrolled view; 0 and 1 stay padding and MASK."""


def sample_group(
    sampler: Sampler,
    logits_fn: LogitsFn,
    batch: TokenBatch,
    segments: Sequence[Segment],
    generators: Sequence[torch.Generator],
    callback: Callable[..., None] | None = None,
) -> tuple[TokenBatch, Trajectory]:
    """Fill the unknown codes of several levels of one modality, ranking all of them against each other.

    Each step asks once a level for the same batch; a LogitsFn that remembers its last pass, as those of a model do, computes it once.

    Args:
        sampler: Decides how many codes and which are kept at each step.
        logits_fn: Scores of one level.
        batch: Rows; coarser levels are known, finer ones stay as they are.
        segments: The levels of the group, coarse to fine, of one codebook size.
        generators: One a row.
        callback: Called after every step with the state of the unrolled view.

    Returns:
        The batch with the group filled, and the trajectory over the unrolled view: of each cell its levels behind each other.

    Source: G-IPD, arXiv:2401.01099 (iterative parallel decoding of groups of levels; our reading of its abstract).
    """
    levels = [segment.level for segment in segments]
    segment = replace(segments[0], level=0, offset=FIRST)

    def inner(view: TokenBatch, cells: Tensor, _: Segment, progress: float) -> Tensor:
        rolled, found = _rolled(batch, view.ids[..., 0], segments), None
        wanted = rearrange(cells, "b (l k) -> b l k", k=len(levels))
        place = cells.nonzero()[:, 1] % len(levels)
        for number, one in enumerate(segments):
            if not bool((place == number).any()):
                continue
            logits = logits_fn(rolled, wanted[..., number], one, progress)
            found = logits.new_zeros(len(place), segment.size) if found is None else found
            found[place == number] = logits
        assert found is not None, "a sampler asks for at least one cell"
        return found

    made, trajectory = sampler.sample(inner, _unrolled(batch, segments), segment, generators, callback, len(segments))
    return _rolled(batch, made.ids[..., 0], segments), trajectory


def _unrolled(batch: TokenBatch, segments: Sequence[Segment]) -> TokenBatch:
    """Every level of a target cell as a cell of its own, codes counted from FIRST; all other cells are hidden.

    A target that runs along time alone (text, audio) gets the number of the level in the group as its row coordinate, so a sampler over
    places sees depth x time. In a picture the levels of a cell share its place: its rows are taken.
    """
    ours = batch.cells(segments[0].index)
    columns = [torch.where(batch.ids[..., one.level] == MASK, MASK, batch.ids[..., one.level] - one.offset + FIRST) for one in segments]
    ids = torch.where(ours[..., None], torch.stack(columns, dim=-1), 0)
    modality, valid, document = (repeat(field, "b l -> b (l k)", k=len(segments)) for field in (batch.modality, ours, batch.document))
    coords = repeat(batch.coords, "b l c -> b (l k) c", k=len(segments)).clone()
    in_time = ((batch.coords[..., 1:] == 0).all(dim=2) | ~ours).all(dim=1, keepdim=True)
    number = torch.arange(len(segments), device=coords.device).repeat(batch.ids.shape[1])
    coords[..., 1] = torch.where(in_time, number, coords[..., 1])
    extent = repeat(batch.extent, "b l c -> b (l k) c", k=len(segments))
    return TokenBatch(rearrange(ids, "b l k -> b (l k) 1"), modality, coords, valid, document, extent)


def _rolled(batch: TokenBatch, ids: Int[Tensor, "batch unrolled"], segments: Sequence[Segment]) -> TokenBatch:
    """The batch with the codes of an unrolled view at the levels of the group."""
    ours, columns = batch.cells(segments[0].index), rearrange(ids, "b (l k) -> b l k", k=len(segments))
    whole = batch.ids.clone()
    for number, one in enumerate(segments):
        column = columns[..., number]
        written = torch.where(column == MASK, MASK, column - FIRST + one.offset)
        whole[..., one.level] = torch.where(ours, written, whole[..., one.level])
    return batch.with_ids(whole)
