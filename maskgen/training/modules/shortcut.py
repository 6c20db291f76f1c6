"""Lightning module that trains a shortcut block on decodes of a frozen model."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import lightning as L
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.data.loading.token_spaces import merged_space, named
from maskgen.decoding.acceleration.shortcut import predicted
from maskgen.decoding.logits import guided_model, hide_condition
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.pretrained import load_pretrained, require_space
from maskgen.networks.shortcut import SHORTCUT_KIND, ShortcutBlock, ShortcutConfig
from maskgen.networks.transformer import MaskTransformer
from maskgen.tokens.batch import TokenBatch, stack
from maskgen.tokens.space import MASK
from maskgen.training.modules.base import mixed_seed
from maskgen.training.modules.distill import require_plain, require_seeing
from maskgen.training.modules.optim import warmup_cosine


@dataclass(frozen=True)
class ModelCall:
    """One model call during a decode.

    Args:
        batch: What it saw.
        hidden: Hidden states that it returned.
    """

    batch: TokenBatch
    hidden: Float[Tensor, "batch length dim"]


class _Recorder:
    """The model as a TokenModel that records its calls."""

    def __init__(self, model: MaskTransformer) -> None:
        self.model, self.calls = model, list[ModelCall]()

    def __call__(self, batch: TokenBatch) -> Tensor:
        hidden: Tensor = self.model(batch)
        self.calls.append(ModelCall(batch, hidden.float()))
        return hidden

    def logits(self, hidden: Tensor, offset: int, size: int) -> Tensor:
        return self.model.logits(hidden, offset, size)


@dataclass(frozen=True)
class Moves:
    """Rows of two consecutive model calls: input and hidden states before and after new codes were drawn.

    Args:
        before: Ids of the earlier call.
        after: What the later one saw; the earlier one saw the same cells.
        hidden: Hidden states of the earlier call.
        wanted: Those of the later one.
    """

    before: Int[Tensor, "batch length level"]
    after: TokenBatch
    hidden: Float[Tensor, "batch length dim"]
    wanted: Float[Tensor, "batch length dim"]

    def rows(self, index: Int[Tensor, " rows"] | Bool[Tensor, " batch"]) -> "Moves":
        """The chosen rows."""
        return Moves(self.before[index], self.after.rows(index), self.hidden[index], self.wanted[index])


def moves_of(calls: list[ModelCall]) -> Moves:
    """All rows of consecutive model calls in which a code was drawn; calls of different shapes (guidance went on or off) are no pair."""
    pairs = [(old, new) for old, new in pairwise(calls) if old.batch.ids.shape == new.batch.ids.shape]
    assert pairs, f"a decode of {len(calls)} model calls has no two in a row of the same shape"
    before, after = torch.cat([old.batch.ids for old, _ in pairs]), stack(*(new.batch for _, new in pairs))
    hidden, wanted = torch.cat([old.hidden for old, _ in pairs]), torch.cat([new.hidden for _, new in pairs])
    return Moves(before, after, hidden, wanted).rows((before != after.ids).flatten(1).any(dim=1))


class ShortcutModule(L.LightningModule):
    """Trains a ShortcutBlock to predict the hidden states of the next model call, on decodes that the frozen model makes of every batch.

    Only the conditions of a batch are used; its target is decoded from masks. The conditional and the unconditional view of guidance are
    both learned. The block always starts from exact hidden states, so it is trained for `full_every` of 2; above that, errors add up.

    Args:
        shards: Folder of token shards whose token space is the model's.
        generator: Folder or shipped name of the model.
        decode: Generation settings of the decodes; use the same ones with the shortcut.
        target: Modality that is decoded.
        inner_dim: Width inside the block.
        num_heads: Attention heads of the block.
        modulate: Tell the block which share of a row is masked.
        updates: Optimizer steps per decode, each on its share of the rows.
        max_steps: Optimizer steps in all: length of the learning-rate schedule.
        lr: Highest learning rate.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of AdamW.
        clip: Largest gradient norm.
        seed: Every decode is drawn from (seed, step, rank).

    Raises:
        ValueError: If the model is missing or has another token space, updates is not positive, or a setting of decode is not followed.

    Source: MIGM-Shortcut, arXiv:2602.23996. Differs: trajectories are made while training instead of being stored.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        generator: str,
        decode: GenerationSettings,
        target: str = "image",
        inner_dim: int = 128,
        num_heads: int = 4,
        modulate: bool = True,
        updates: int = 8,
        max_steps: int = 2_000,
        lr: float = 1e-3,
        warmup_steps: int = 100,
        weight_decay: float = 0.01,
        clip: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if updates < 1:
            raise ValueError(f"updates must be at least 1, got {updates}")
        require_plain(decode)
        pretrained = load_pretrained(generator)
        require_space(pretrained, merged_space(shards)[0], named(shards))
        require_seeing(pretrained.model.config.blind_condition, generator)
        self.segments, self.decode, self.weights = pretrained.space.of(target), decode, pretrained.weights
        self.conditions = tuple(pretrained.space.index(one.name) for one in pretrained.space.modalities if one.name != target)
        dim = pretrained.model.config.dim
        self.block = ShortcutBlock(ShortcutConfig(dim=dim, inner_dim=inner_dim, num_heads=num_heads, modulate=modulate))
        self.updates, self.max_steps, self.lr, self.warmup_steps = updates, max_steps, lr, warmup_steps
        self.weight_decay, self.clip, self.seed = weight_decay, clip, seed
        self._generator = (pretrained.model,)
        """In a tuple, so that it isn't trained or saved; it is moved to the batch's device when it is called."""

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine."""
        optimizer = torch.optim.AdamW(self.block.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(self.warmup_steps, self.max_steps))]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what `maskgen export` needs beside the weights."""
        config = dataclasses.asdict(self.block.config)
        checkpoint["maskgen"] = {"kind": SHORTCUT_KIND, "block": config, "generator": self.weights}

    def training_step(self, batch: TokenBatch, batch_index: int) -> None:
        """One decode, and `updates` steps on its rows in random order."""
        draws = torch.Generator().manual_seed(mixed_seed(self.seed, self.global_step, self.global_rank))
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        for moves in self._shares(self.moves(batch, draws), draws):
            error, reuse = self.errors(moves)
            optimizer.zero_grad()
            self.manual_backward(error)
            torch.nn.utils.clip_grad_norm_(self.block.parameters(), self.clip)
            optimizer.step()
            schedule.step()
            self.log_dict({"train/error": error, "train/share_of_reuse": error.detach() / reuse}, prog_bar=True, sync_dist=True)

    def validation_step(self, batch: TokenBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Log the error on decodes that are the same at every validation, and its ratio to the error of old states used as they are."""
        moves = self.moves(batch, torch.Generator().manual_seed(mixed_seed(batch_index, 0, 7)))
        error, reuse = self.errors(moves)
        stage = f"val{dataloader_idx or ''}"
        metrics = {f"{stage}/error": error, f"{stage}/share_of_reuse": error / reuse}
        self.log_dict(metrics, prog_bar=True, batch_size=len(batch), add_dataloader_idx=False, sync_dist=True)

    @torch.no_grad()
    def moves(self, batch: TokenBatch, draws: torch.Generator) -> Moves:
        """Decode the target of a batch from masks and return the hidden states of every step.

        Args:
            batch: Rows; of the target only the positions are used.
            draws: Seeds the decode, row by row.
        """
        cells = batch.cells(self.segments[0].index)
        levels = torch.zeros(batch.ids.shape[-1], dtype=torch.bool, device=cells.device)
        levels[[segment.level for segment in self.segments]] = True
        batch = batch.with_ids(batch.ids.masked_fill(cells[..., None] & levels, MASK))
        seeds = torch.randint(2**62, (len(batch),), generator=draws).tolist()
        recorder, own = _Recorder(self._generator[0].to(batch.ids.device)), [torch.Generator().manual_seed(seed) for seed in seeds]
        logits_fn = guided_model(recorder, hide_condition(self.conditions), self.decode.guidance())
        for segment in self.segments:
            batch, _ = self.decode.at(segment.level).sample(logits_fn, batch, segment, own)
        return moves_of(recorder.calls)

    def errors(self, moves: Moves) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean squared error of the block at the valid cells, and that of the old hidden states used as they are."""
        valid, model = moves.after.valid, self._generator[0].to(moves.before.device)
        predicted_states = predicted(model, self.block, moves.hidden, moves.before, moves.after).float()
        return (predicted_states - moves.wanted)[valid].square().mean(), (moves.hidden - moves.wanted)[valid].square().mean()

    def _shares(self, moves: Moves, draws: torch.Generator) -> Iterator[Moves]:
        """The rows in random order, in `updates` parts."""
        order = torch.randperm(len(moves.before), generator=draws).to(moves.before.device)
        for part in order.chunk(self.updates):
            yield moves.rows(part)
