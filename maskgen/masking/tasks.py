"""Any-to-any training tasks: which modalities of a row are conditions, which the model must predict, and how they are masked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from maskgen.masking.budgets import Budget, shared_out
from maskgen.masking.masks import Masked, draw_masks, mask_group
from maskgen.masking.schedule import Cosine, Linear, MaskSchedule
from maskgen.tokens.batch import TokenBatch, stack
from maskgen.tokens.space import TokenSpace


@dataclass(frozen=True, kw_only=True)
class Task:
    """A training task: target and condition modalities of a row. Modalities that it doesn't name are hidden.

    Args:
        asked: Target modalities, whose codes are masked and predicted; each is masked at its own rate.
        given: Modalities that are fully visible, except the cells after the end of a text.
        partly: Modalities of which a random share, drawn per row, is visible.
        weight: Relative frequency of the task among those that fit a row; any scale.
        budget: Splits the visible and the predicted cells among the target modalities of a row; `given` and `partly` must then be empty.

    Raises:
        ValueError: If there is no target, a modality has two roles, or the weight is not positive.
    """

    asked: Sequence[str]
    given: Sequence[str] = ()
    partly: Sequence[str] = ()
    weight: float = 1.0
    budget: Budget | None = None

    def __post_init__(self) -> None:
        if not self.asked or len(set(self.modalities)) != len(self.modalities) or not self.weight > 0:
            raise ValueError(
                f"a task asks for at least one modality, gives each one role and has a positive weight; got asked={list(self.asked)}, "
                f"given={list(self.given)}, partly={list(self.partly)}, weight={self.weight}"
            )
        if self.budget is not None and len(self.modalities) != len(self.asked):
            raise ValueError(f"a budget decides itself what is seen; leave out given={list(self.given)} and partly={list(self.partly)}")

    @property
    def modalities(self) -> tuple[str, ...]:
        """All modalities that the task names."""
        return (*self.asked, *self.given, *self.partly)

    def fits(self, present: Sequence[str]) -> bool:
        """Whether rows with these modalities can be trained on the task."""
        wanted = set(self.modalities)
        return bool(wanted & set(present)) if self.budget is not None else wanted <= set(present)


@dataclass(frozen=True, kw_only=True)
class TargetObjective:
    """Mask schedule and loss of a target modality.

    Args:
        schedule: Mask schedule; the rate is its value at a uniform draw.
        loss: "maskgit" is the mean over masked codes; "elbo" is the bound on the likelihood, which needs the linear schedule.
        weight: Weight of this modality's loss.
        level_weights: Relative frequency with which each level is trained; None weights all equally.
        prompt_share: Share of rows that keep a prompt of the modality, see `maskgen.masking.masks.draw_spans`.
        infill_share: Share of rows that keep both ends of the modality.

    Raises:
        ValueError: If the loss is unknown, or the weight is not positive.
    """

    schedule: MaskSchedule = field(default_factory=Cosine)
    loss: str = "maskgit"
    weight: float = 1.0
    level_weights: Sequence[float] | None = None
    prompt_share: float = 0.0
    infill_share: float = 0.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(
                f"the weight of a target must be positive, got {self.weight}; leave out of the tasks what is not to be learned"
            )
        if self.loss not in ("maskgit", "elbo"):
            raise ValueError(f"a target's loss is maskgit or elbo, got {self.loss!r}")
        if self.loss == "elbo" and not isinstance(self.schedule, Linear):
            raise ValueError(
                f"elbo is a bound for rates of the linear schedule alone, got {type(self.schedule).__name__}; set schedule to Linear"
            )


@dataclass(frozen=True)
class Asked:
    """The masked rows of one target modality.

    Args:
        rows: Rows of the batch that have it as a target.
        masked: Masked cells, codes and rates of those rows, in the same order.
    """

    rows: Int[Tensor, " rows"]
    masked: Masked


@dataclass(frozen=True)
class TaskBatch:
    """A masked batch with a task per row, for one training step.

    Args:
        batch: What the model sees.
        asked: Target modality to its masked rows.
        task: Index of each row's task in the table.
    """

    batch: TokenBatch
    asked: dict[str, Asked]
    task: Int[Tensor, " batch"]

    def rows(self, index: slice) -> "TaskBatch":
        """Consecutive rows; a target modality that none of them has stays, without rows."""
        start, stop, _ = index.indices(len(self.batch))
        asked = {}
        for name, found in self.asked.items():
            here = (found.rows >= start) & (found.rows < stop)
            asked[name] = Asked(found.rows[here] - start, found.masked.rows(here))
        return TaskBatch(self.batch.rows(index), asked, self.task[index])


def draw_tasks(
    batch: TokenBatch,
    space: TokenSpace,
    tasks: Mapping[str, Task],
    targets: Mapping[str, TargetObjective],
    drop_condition: float,
    generator: torch.Generator,
) -> TaskBatch:
    """Masks a batch for any-to-any training: draws a task per row, hides modalities that it doesn't name and masks its targets.

    Args:
        batch: Clean rows, one document each.
        space: Their token space.
        tasks: Table of tasks.
        targets: Modality to its masking and loss; others use the defaults.
        drop_condition: Share of rows whose given and partly given modalities are hidden: the null condition of guidance.
        generator: CPU generator of all random draws.

    Raises:
        ValueError: If no task fits a row.
    """
    task = choose_tasks(batch, space, tasks, generator)
    table = list(tasks.values())
    seen = _by_role(batch, space, table, task, drop_condition, generator)
    asked: dict[str, Asked] = {}
    timed = {one.name for one in space.modalities if one.timed}
    for name, with_timed in product(dict.fromkeys(name for one in table if one.budget is None for name in one.asked), (False, True)):
        asks = [one.budget is None and name in one.asked and bool(timed & set(one.asked)) == with_timed for one in table]
        if rows := torch.tensor(asks, device=task.device)[task].nonzero()[:, 0].tolist():
            # Timed cells that are targets themselves are not hidden around a gap in the frames.
            around = [] if with_timed or not space.modality(name).has_frames else [space.index(one) for one in timed]
            here = torch.tensor(rows, device=task.device)
            new = _masked(seen, space, name, targets.get(name, TargetObjective()), here, around, generator)
            asked[name] = _joined(asked[name], new) if name in asked else new
    for name, found in asked.items():
        seen = _with(seen, found, space.index(name))
    for number, one in enumerate(table):
        rows = (task == number).nonzero()[:, 0].tolist()
        if one.budget is not None and rows:
            seen = _budgeted(seen, space, one, one.budget, targets, rows, asked, generator)
    return TaskBatch(seen, asked, task)


def choose_tasks(batch: TokenBatch, space: TokenSpace, tasks: Mapping[str, Task], generator: torch.Generator) -> Int[Tensor, " batch"]:
    """Index of each row's task, drawn by weight among those that fit it.

    Raises:
        ValueError: If no task fits a row; the message names the row's modalities.
    """
    table, names = list(tasks.values()), [one.name for one in space.modalities]
    has = torch.stack([batch.cells(space.index(name)).any(dim=1) for name in names], dim=1).cpu()
    weights = torch.zeros(len(batch), len(table), dtype=torch.float64)
    for row, present in enumerate(has.tolist()):
        found = [name for name, here in zip(names, present, strict=True) if here]
        weights[row] = torch.tensor([one.weight * one.fits(found) for one in table], dtype=torch.float64)
        if not bool(weights[row].any()):
            raise ValueError(f"no task of {', '.join(tasks)} fits a row with {', '.join(found) or 'nothing in it'}; add one to the table")
    return torch.multinomial(weights, 1, generator=generator)[:, 0].to(batch.ids.device)


def _by_role(
    batch: TokenBatch,
    space: TokenSpace,
    table: Sequence[Task],
    task: Int[Tensor, " batch"],
    drop_condition: float,
    generator: torch.Generator,
) -> TokenBatch:
    """Hides modalities without a role, parts of those partly given, cells after the end of given texts, and dropped conditions."""
    device = task.device
    dropped = (torch.rand(len(batch), generator=generator) < drop_condition).to(device)
    share = torch.rand(len(batch), 1, generator=generator).to(device)
    luck = torch.rand(batch.modality.shape, generator=generator).to(device)
    hidden = torch.zeros_like(batch.valid)
    for modality in space.modalities:
        here = batch.modality == space.index(modality.name)
        asked, given, partly = (
            torch.tensor([modality.name in getattr(one, role) for one in table], device=device)[task][:, None]
            for role in ("asked", "given", "partly")
        )
        hidden |= here & ~(asked | given | partly)
        hidden |= here & (given | partly) & dropped[:, None]
        hidden |= here & partly & (luck >= share)
        if modality.end is not None:
            hidden |= here & ~asked & (batch.ids[..., 0] == space.segment(modality.name, 0).offset + modality.end)
    return batch.hide(hidden)


def _masked(
    batch: TokenBatch,
    space: TokenSpace,
    name: str,
    target: TargetObjective,
    rows: Int[Tensor, " rows"],
    timed: Sequence[int],
    generator: torch.Generator,
) -> Asked:
    """Masks one modality of some rows."""
    segments = space.of(name)
    weights = target.level_weights or [1.0] * len(segments)
    shares = 0.0, generator, target.prompt_share, target.infill_share, timed
    return Asked(rows, draw_masks(batch.rows(rows), segments, target.schedule, weights, *shares))


def _with(batch: TokenBatch, asked: Asked, index: int) -> TokenBatch:
    """The batch with one modality of some rows replaced by its masked cells."""
    ids, valid = batch.ids.clone(), batch.valid.clone()
    own = (asked.masked.batch.modality == index)[..., None]
    ids[asked.rows] = torch.where(own, asked.masked.batch.ids, ids[asked.rows])
    valid[asked.rows] &= asked.masked.batch.valid
    return replace(batch, ids=ids, valid=valid)


def _budgeted(
    batch: TokenBatch,
    space: TokenSpace,
    task: Task,
    budget: Budget,
    targets: Mapping[str, TargetObjective],
    rows: list[int],
    asked: dict[str, Asked],
    generator: torch.Generator,
) -> TokenBatch:
    """Masks the rows whose task has a budget, and adds their targets to `asked`."""
    names = [name for name in task.asked if any(bool(batch.cells(space.index(name))[row].any()) for row in rows)]
    seen, wanted = torch.zeros_like(batch.valid), torch.zeros_like(batch.valid)
    for row in rows:
        places = [batch.cells(space.index(name))[row].nonzero()[:, 0] for name in names]
        for found, first, count in zip(places, *shared_out([len(found) for found in places], budget, generator), strict=True):
            mixed = found[torch.randperm(len(found), generator=generator).to(found.device)]
            seen[row, mixed[:first]] = True
            wanted[row, mixed[first : first + count]] = True
    index = torch.tensor(rows, device=batch.ids.device)
    ours = torch.zeros_like(batch.valid)
    ours[index] = True
    batch = batch.hide(ours & ~seen & ~wanted)
    for name in names:
        here = wanted & (batch.modality == space.index(name))
        if bool(here.any()):
            new = _asked_cells(batch, space, name, targets.get(name, TargetObjective()), here, generator)
            batch = _with(batch, new, space.index(name))
            asked[name] = _joined(asked[name], new) if name in asked else new
    return batch


def _asked_cells(
    batch: TokenBatch,
    space: TokenSpace,
    name: str,
    target: TargetObjective,
    cells: Bool[Tensor, "batch length"],
    generator: torch.Generator,
) -> Asked:
    """Masks the given cells of one modality at a level drawn for each row."""
    rows = cells.any(dim=1).nonzero()[:, 0]
    segments, here, part = space.of(name), cells[rows], batch.rows(rows)
    weights = torch.tensor(target.level_weights or [1.0] * len(segments), dtype=torch.float64)
    level = torch.multinomial(weights, len(rows), replacement=True, generator=generator).to(rows.device)
    pairs = torch.zeros(*here.shape, len(segments), dtype=torch.bool, device=here.device)
    pairs.scatter_(2, level[:, None, None].expand(-1, here.shape[1], 1), here[..., None])
    seen, codes = mask_group(part, segments, level, pairs, here)
    total = part.cells(space.index(name)).sum(dim=1)
    masked = Masked(seen, pairs, codes, level, total, here.sum(dim=1) / total.clamp(min=1), torch.zeros_like(level, dtype=torch.bool))
    return Asked(rows, masked)


def _joined(first: Asked, second: Asked) -> Asked:
    """The masked rows of one modality from two sets of rows."""
    one, other = first.masked, second.masked
    batch = stack(one.batch, other.batch)
    rest = (torch.cat([getattr(one, part), getattr(other, part)]) for part in ("cells", "codes", "level", "total", "rate", "dropped"))
    return Asked(torch.cat([first.rows, second.rows]), Masked(batch, *rest))
