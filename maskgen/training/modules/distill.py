"""Lightning module that distils a guided, many-step model into an unguided, few-step one."""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.data.loading.grids import checked_grids
from maskgen.data.loading.token_spaces import merged_space, named
from maskgen.decoding.logits import guided_model, hide_condition
from maskgen.decoding.settings import GenerationSettings
from maskgen.io.bundle import require_fingerprint
from maskgen.masking.masks import Masked, checked_weights, draw_masks
from maskgen.masking.schedule import MaskSchedule
from maskgen.networks.pretrained import load_pretrained, require_space
from maskgen.networks.transformer import MaskTransformer
from maskgen.sampling.base import Sampler
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.space import MASK, Segment
from maskgen.training.modules.base import TargetModule, mixed_seed
from maskgen.training.modules.global_batch import divided, gathered
from maskgen.training.modules.running_means import RunningMeans

FOLLOWED = {"sampler", "sampler_options", "steps", "schedule", "temperature", "choice_temperature", "top_k", "top_p", "min_p", "typical_p"}
FOLLOWED |= {"guidance_scale", "guidance_schedule", "guidance_interval"}
"""Generation settings that a decode in training follows."""


@dataclass(frozen=True)
class AtSteps(MaskSchedule):
    """Mask schedule that takes the ratios before each step of a decode, all equally often.

    Args:
        schedule: Mask schedule of the decode, s.
        steps: Its steps; the ratios are s(0), s(1 / steps), ... s((steps - 1) / steps).
    """

    schedule: MaskSchedule
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.schedule(torch.floor(progress * self.steps) / self.steps)


def divergence(
    logits: Float[Tensor, "cells size"], wanted: Float[Tensor, "cells size"], reverse_share: float = 0.0
) -> Float[Tensor, " cells"]:
    """(1 - share) KL(teacher | student) + share KL(student | teacher) at each cell.

    Its gradient on the logits is p - q for the share 0 and p (log p - log q - KL(p | q)) for the share 1, with student p and teacher q.

    Args:
        logits: The student's.
        wanted: The teacher's.
        reverse_share: 0 covers every mode of the teacher, 1 seeks its strongest ones, 0.5 is half of Jeffreys' divergence.

    Source: the switch of Di[M]O, arXiv:2503.15457.
    """
    student, teacher = logits.log_softmax(dim=-1), wanted.log_softmax(dim=-1)
    gap = teacher - student
    forward, reverse = (teacher.exp() * gap).sum(dim=-1), -(student.exp() * gap).sum(dim=-1)
    return (1 - reverse_share) * forward + reverse_share * reverse


def said_while_decoding(
    logits_fn: LogitsFn, sampler: Sampler, batch: TokenBatch, segment: Segment, generators: Sequence[torch.Generator]
) -> Float[Tensor, "cells size"]:
    """Decode the unknown cells of a level and return the logits of each at the step in which its code was fixed.

    Args:
        logits_fn: The teacher.
        sampler: Decodes from here to the end; it must not revoke codes.
        batch: Rows with MASK at the unknown cells.
        segment: The level.
        generators: One a row.

    Returns:
        One row per unknown cell, row-major. The logits of a cell are asked for last in the step that fixes it.
    """
    unknown = batch.cells(segment.index) & (batch.ids[..., segment.level] == MASK)
    number = (unknown.flatten().cumsum(dim=0) - 1).view_as(unknown)
    said = torch.zeros(int(unknown.sum()), segment.size, device=batch.ids.device)

    def heard(now: TokenBatch, cells: Tensor, part: Segment, progress: float) -> Tensor:
        logits = logits_fn(now, cells, part, progress)
        said[number[cells]] = logits.float()
        return logits

    sampler.sample(heard, batch, segment, generators)
    return said


class DistillModule(TargetModule[MaskTransformer]):
    """Distils a guided, many-step model into a copy that decodes in few steps without guidance.

    From real codes masked as before a step of the student, the teacher decodes to the end in a few guided steps, and the student learns the
    teacher's logits at every cell. Guidance is built into the student, which halves the model calls, and one step of it predicts what the
    teacher's next steps would have said. Chosen over Di[M]O: no second trained network, no noise at the input, no two alternating
    optimizers, and an ordinary checkpoint. Its limit: cells drawn in one step stay independent of each other; only more steps change that.

    Args:
        shards: Folder of token shards; their tokenizers and token space must be those of the teacher.
        teacher: Folder or shipped name of the model; also the start of the student.
        decode: How the teacher decodes from each state to the end: few steps, and the guidance that the student learns. Temperatures
            are not learned; decode the student with the same ones.
        target: Modality whose codes are predicted.
        student_steps: Steps of the student whose mask ratios are trained; decodes with fewer steps use these ratios or ones close to them.
        reverse_share: See `divergence`.
        level_weights: How often each level of the target is learned; None weighs all alike.
        max_steps: Length of the learning-rate schedule in steps; `maskgen fit` takes trainer.max_steps.
        lr: Highest learning rate.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of the hidden matrices.
        clip: Largest gradient norm.
        seed: Masks and the teacher's draws come from (seed, step) and the place in the global batch.
        compile: Compile the student with torch.compile.

    Raises:
        ValueError: If the teacher is missing, or its tokenizers or token space are not those of the shards, or an option is out of range.

    Source: Self-Distillation Through Time, arXiv:2410.21035; guidance distillation, arXiv:2210.03142. Differs: the teacher always decodes
    to the end, with the sampler and the guidance of `decode`.
    """

    lr_floor = 0.0

    def __init__(
        self,
        shards: str | Sequence[str],
        teacher: str,
        decode: GenerationSettings,
        target: str = "image",
        student_steps: int = 4,
        reverse_share: float = 0.0,
        level_weights: Sequence[float] | None = None,
        max_steps: int = 1_000,
        lr: float = 3e-4,
        warmup_steps: int = 50,
        weight_decay: float = 0.0,
        clip: float = 1.0,
        seed: int = 0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        pretrained, (space, prints) = load_pretrained(teacher), merged_space(shards)
        require_space(pretrained, space, named(shards))
        for name, fingerprint in prints.items():
            require_fingerprint(name, fingerprint, pretrained.fingerprints.get(name, "none"), teacher)
        _check(decode, reverse_share)
        require_seeing(pretrained.model.config.blind_condition, teacher)
        self.space, self.fingerprints = pretrained.space, prints
        self.target, self.segments = target, pretrained.space.of(target)
        self.grids = checked_grids(shards, space, {name: grid for name, grid in pretrained.grids.items() if name in prints})
        self.conditions = tuple(pretrained.space.index(one.name) for one in pretrained.space.modalities if one.name != target)
        self.model = copy.deepcopy(pretrained.model).train().requires_grad_(True)
        self.decode, self.reverse_share = decode, reverse_share
        self.schedule = AtSteps(decode.at(0).schedule, student_steps)
        self.level_weights = checked_weights(level_weights, len(self.segments))
        self.max_steps, self.lr, self.warmup_steps = max_steps, lr, warmup_steps
        self.weight_decay, self.clip, self.seed = weight_decay, clip, seed
        self._teacher = (pretrained.model,)
        """In a tuple, so that it isn't trained, averaged or saved; it is moved to the batch's device when it is called."""
        self._forward = (torch.compile(self.model, dynamic=False) if compile else self.model,)

    def training_step(self, batch: TokenBatch, batch_index: int) -> Tensor:
        """Mean divergence at the masked cells."""
        generator, whole = torch.Generator().manual_seed(mixed_seed(self.seed, self.global_step, 0)), gathered(batch)
        drawn = draw_masks(whole.batch, self.segments, self.schedule, self.level_weights, 0.0, generator)
        seeds = row_seeds(len(whole.batch), generator)[whole.own]
        per_cell = torch.cat([*self.divergences(whole.part(drawn), seeds).values()])
        loss = whole.mean(per_cell, drawn.cells.sum())
        self.log("train/divergence", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: TokenBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Log the divergence of each level, with the same masks and teacher draws at every validation."""
        generator = torch.Generator().manual_seed(mixed_seed(batch_index, 0, 7))
        whole = divided(batch)
        means = self.means if whole.counts else RunningMeans()
        drawn = draw_masks(whole.batch, self.segments, self.schedule, self.level_weights, 0.0, generator)
        seeds = row_seeds(len(whole.batch), generator)[whole.own]
        for level, per_cell in self.divergences(whole.part(drawn), seeds).items():
            means.add(f"val{dataloader_idx or ''}/divergence_{self.target}_level{level}", per_cell)

    def divergences(self, masked: Masked, seeds: Sequence[int]) -> dict[int, Float[Tensor, " cells"]]:
        """Divergence of the student from the teacher at every masked cell, by level.

        Args:
            masked: What the student sees and where it is asked.
            seeds: Seeds of the teacher's draws, one a row.
        """
        seen, by_level = masked.batch, {}
        hidden = self._forward[0](seen)
        for segment in self.segments:
            here = masked.cells[..., segment.level]
            rows = here.any(dim=1).nonzero()[:, 0]
            if not len(rows):
                by_level[segment.level] = hidden[here].sum(dim=-1)
                continue
            own = [torch.Generator().manual_seed(seeds[row]) for row in rows.tolist()]
            wanted = self.targets(seen.rows(rows), segment, own)
            logits = self.model.logits(hidden[here], segment.offset, segment.size).float()
            by_level[segment.level] = divergence(logits, wanted, self.reverse_share)
        return by_level

    @torch.no_grad()
    def targets(self, batch: TokenBatch, segment: Segment, generators: Sequence[torch.Generator]) -> Float[Tensor, "cells size"]:
        """The teacher's guided logits at every masked cell of the level, each at the step in which it fixes the cell."""
        logits_fn = guided_model(self._teacher[0].to(batch.ids.device), hide_condition(self.conditions), self.decode.guidance())
        return said_while_decoding(logits_fn, self.decode.at(segment.level), batch, segment, generators)


def row_seeds(rows: int, generator: torch.Generator) -> list[int]:
    """A seed for each row of a batch."""
    seeds: list[int] = torch.randint(2**62, (rows,), generator=generator).tolist()
    return seeds


def require_plain(decode: GenerationSettings) -> None:
    """Refuse generation settings that a decode in training does not follow: groups of levels, logits processors, acceleration.

    Raises:
        ValueError: If there are any; names them.
    """
    default = GenerationSettings()
    others = [one.name for one in dataclasses.fields(decode) if one.name not in FOLLOWED]
    if extra := [f"{name}={getattr(decode, name)}" for name in others if getattr(decode, name) != getattr(default, name)]:
        raise ValueError(f"decode has {', '.join(extra)}, which a training does not follow; it follows {', '.join(sorted(FOLLOWED))}")


def require_seeing(blind_condition: bool, model: str) -> None:
    """Refuse a model trained with blind_condition: its calls need to be told which cells are the condition.

    Raises:
        ValueError: If it is one; names it.
    """
    if blind_condition:
        raise ValueError(f"{model} was trained with blind_condition, which this training does not serve; give a model trained without it")


def _check(decode: GenerationSettings, reverse_share: float) -> None:
    """Refuse what the module cannot do."""
    if not 0.0 <= reverse_share <= 1.0:
        raise ValueError(f"reverse_share must lie in [0, 1], got {reverse_share}")
    require_plain(decode)
    if decode.at(0).revokes:
        raise ValueError(f"the sampler {decode.sampler} revokes codes, so no step fixes a code for good; give decode another sampler")
