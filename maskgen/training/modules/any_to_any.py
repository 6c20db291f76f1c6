"""Lightning module that trains one masked transformer on a table of tasks over several modalities."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.data.loading.grids import checked_grids
from maskgen.data.loading.token_spaces import merged_space, named
from maskgen.masking.tasks import Asked, TargetObjective, Task, TaskBatch, draw_tasks
from maskgen.networks.auto import new_network
from maskgen.networks.deferred import fresh
from maskgen.networks.pretrained import start_from
from maskgen.networks.recompute import Recompute
from maskgen.networks.tower_config import TowersConfig, tower_spaces
from maskgen.networks.towers import TowerTransformer
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.unpadding import unpad
from maskgen.training.modules.base import GeneratorModule, mixed_seed
from maskgen.training.modules.global_batch import divided, gathered
from maskgen.training.modules.objective import code_losses, denominator, reduced
from maskgen.training.modules.running_means import RunningMeans


class AnyToAnyModule(GeneratorModule[MaskTransformer | TowerTransformer]):
    """Trains one network on any direction between modalities: each row draws a task from a table, and a batch mixes tasks.

    The loss of a step is the weighted mean of one loss per modality, each averaged over that modality's codes, so an image of 64 cells
    doesn't outweigh a caption of nine. Hidden cells are removed before the model runs (unpadding): a batch costs what it shows.

    Args:
        shards: Folders of token shards, as in the data's parts; their index.json name the token space.
        transformer: Sizes of the model, or of its towers: then each modality has weights of its own.
        tasks: The table.
        targets: Modality to how it is masked and weighted.
        grids: Code grid of each modality that generation fills by default.
        drop_condition: Share of rows that learn without their condition, for guidance.
        baselines: Modality to the validation loss of a model of that modality alone, level 0; validation logs the difference.
        fold_length: Cells per row after unpadding; several samples share a row.
        fold_rows: The number of rows after unpadding is padded up to a multiple of this, so that a compiled model sees few shapes.
        label_smoothing: Of the cross-entropy.
        max_steps: Length of the learning-rate schedule in steps; `maskgen fit` takes trainer.max_steps.
        lr: Highest learning rate.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of the hidden matrices.
        clip: Largest gradient norm.
        seed: Every task and mask is drawn from (seed, step) and the place in the global batch: the same on any number of ranks.
        compile: Compile the transformer with torch.compile; with towers, the blocks of each.
        recompute: What the backward pass computes again instead of keeping it: "elementwise" keeps the results of linear layers and fused
            attention, "blocks" the input of each block alone. Gradients are equal.
        start: Folder or shipped name of a model whose weights initialise this one; this token space must begin with the model's. With
            towers: tower to such a name; towers that are left out start from random weights.

    Raises:
        ValueError: If a task, a target or a baseline names a modality that the shards lack, or a share, level weights or `start` don't fit.

    Source: mixtures of tasks by masking, 4M, arXiv:2312.06647, and UniDisc, arXiv:2503.20853.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        transformer: TransformerConfig | TowersConfig,
        tasks: dict[str, Task],
        targets: dict[str, TargetObjective] | None = None,
        grids: dict[str, list[int]] | None = None,
        drop_condition: float = 0.1,
        baselines: dict[str, float] | None = None,
        fold_length: int = 256,
        fold_rows: int = 1,
        label_smoothing: float = 0.0,
        max_steps: int = 10_000,
        lr: float = 1e-3,
        warmup_steps: int = 200,
        weight_decay: float = 0.05,
        clip: float = 1.0,
        seed: int = 0,
        compile: bool = False,
        recompute: Recompute = "none",
        start: str | dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.space, self.fingerprints = merged_space([shards] if isinstance(shards, str) else shards)
        for name in {name for task in tasks.values() for name in task.modalities} | {*(targets or {}), *(grids or {}), *(baselines or {})}:
            self.space.of(name)
        for name in {name for task in tasks.values() for name in task.asked}:
            self.space.target(name)
        for name, target in (targets or {}).items():
            if target.level_weights is not None and len(target.level_weights) != len(self.space.of(name)):
                raise ValueError(
                    f"{name} has {len(self.space.of(name))} levels, level_weights are {list(target.level_weights)}; give one a level"
                )
        if not 0.0 <= drop_condition <= 1.0:
            raise ValueError(f"drop_condition is a share of the rows and lies in [0, 1], got {drop_condition}")
        if getattr(transformer, "compress", 1) > 1 and any(task.budget is not None for task in tasks.values()):
            raise ValueError("a budget leaves cells of an image out, and compress merges whole blocks of them; take one of the two")
        self.model = fresh(lambda: new_network(transformer, self.space), whole=start is not None)
        self.model.recompute = recompute
        if start is not None:
            self._start(start, named(shards))
        self.tasks, self.targets, self.grids = dict(tasks), dict(targets or {}), checked_grids(shards, self.space, grids or {})
        self.drop_condition, self.baselines, self.label_smoothing = drop_condition, dict(baselines or {}), label_smoothing
        self.fold_length, self.fold_rows = fold_length, fold_rows
        self.max_steps, self.lr, self.warmup_steps = max_steps, lr, warmup_steps
        self.weight_decay, self.clip, self.seed = weight_decay, clip, seed
        whole = compile and isinstance(self.model, MaskTransformer)
        if compile and isinstance(self.model, TowerTransformer):
            self.model.compile_blocks()
        self._forward = (torch.compile(self.model, dynamic=False) if whole else self.model,)
        """In a tuple, so that the compiled copy isn't a submodule and the checkpoint holds its weights once."""

    def _start(self, start: str | dict[str, str], shards: str) -> None:
        """Take over the weights of trained models.

        Raises:
            ValueError: If a model does not fit, or names of towers are wanted and not given, or the other way round.
        """
        if isinstance(start, str) and isinstance(self.model, MaskTransformer):
            start_from(self.model, self.space, self.fingerprints, start, shards)
            return
        if isinstance(start, str) or not isinstance(self.model, TowerTransformer) or set(start) - set(self.model.names):
            towers = ", ".join(self.model.names) if isinstance(self.model, TowerTransformer) else "none"
            raise ValueError(f"this network has the towers {towers}, start is {start}; give one model, or with towers one per tower")
        spaces = tower_spaces(self.model.config, self.space)
        for tower, name in start.items():
            start_from(self.model.tower(tower), spaces[tower], self.fingerprints, name, shards)

    def generation_defaults(self) -> dict[str, Any]:
        """Code grid of each modality that generation fills by default."""
        return {"grids": self.grids}

    def training_step(self, batch: TokenBatch, batch_index: int) -> Tensor:
        """Weighted mean of the losses of all modalities that the batch's tasks ask for."""
        generator, whole = torch.Generator().manual_seed(mixed_seed(self.seed, self.global_step, 0)), gathered(batch)
        all_rows = draw_tasks(whole.batch, self.space, self.tasks, self.targets, self.drop_condition, generator)
        drawn = whole.part(all_rows)
        by_modality = self.losses(drawn, self.label_smoothing)
        over = {name: whole.per_rank(denominator(self._weighting(name), asked.masked)) for name, asked in all_rows.asked.items()}
        parts = {name: self.reduced(name, drawn.asked[name], losses, over[name]) for name, losses in by_modality.items()}
        weights = {name: self.targets.get(name, TargetObjective()).weight for name in parts}
        loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum() / sum(weights.values())
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        for name, part in parts.items():
            self.log(f"train/loss_{name}", part, prog_bar=True, sync_dist=True)
            accuracy = whole.mean(by_modality[name]["correct"], all_rows.asked[name].masked.cells.sum())
            self.log(f"train/accuracy_{name}", accuracy, sync_dist=True)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return loss

    def validation_step(self, batch: TokenBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Loss and accuracy of every task that fits the rows, level by level, with the same masks at every validation."""
        whole = divided(batch)
        means = self.means if whole.counts else RunningMeans()
        present = [one.name for one in self.space.modalities if bool(batch.cells(self.space.index(one.name)).any(dim=1).all())]
        for number, (name, task) in enumerate(self.tasks.items()):
            if not task.fits(present):
                continue
            generator = torch.Generator().manual_seed(mixed_seed(batch_index, dataloader_idx, number, 7))
            drawn = whole.part(draw_tasks(whole.batch, self.space, {name: task}, self.targets, 0.0, generator))
            for modality, losses in self.losses(drawn, 0.0).items():
                for level in sorted(set(losses["level"].tolist())):
                    here = losses["level"] == level
                    means.add(f"val/{name}/loss_{modality}_level{level}", losses["loss"][here])
                    means.add(f"val/{name}/accuracy_{modality}_level{level}", losses["correct"][here])
                if modality in self.baselines and task.budget is None and bool((losses["level"] == 0).any()):
                    excess = losses["loss"][losses["level"] == 0] - self.baselines[modality]
                    means.add(f"val/{name}/loss_{modality}_over_baseline", excess)

    def losses(self, drawn: TaskBatch, label_smoothing: float) -> dict[str, dict[str, Tensor]]:
        """Of each modality: cross-entropy and correctness of every masked code, and its level and row among those asked."""
        batch, place = unpad(drawn.batch, self.fold_length, self.fold_rows)
        hidden = self._forward[0](batch).flatten(0, 1)
        return {
            name: code_losses(self.model.logits, self.space.of(name), asked.masked, hidden, place[asked.rows], label_smoothing)
            for name, asked in drawn.asked.items()
        }

    def reduced(self, name: str, asked: Asked, losses: Mapping[str, Tensor], over: Float[Tensor, ""] | None = None) -> Float[Tensor, ""]:
        """One number from the losses of a modality's codes, by the rule that its target names; `over` as in `reduced`."""
        return reduced(self._weighting(name), losses, asked.masked.total, over)

    def _weighting(self, name: str) -> str:
        """How the losses of a modality's codes become one number."""
        return self.targets.get(name, TargetObjective()).loss
