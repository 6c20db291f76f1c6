"""Lightning module that trains a token critic on what a frozen generator draws."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from maskgen.data.loading.token_spaces import merged_space, named
from maskgen.masking.masks import Masked, check_shares, checked_weights, draw_masks
from maskgen.masking.schedule import Cosine, MaskSchedule
from maskgen.networks.critic import CRITIC_KIND, TIED_HEAD, Critic, build_critic, critic_states
from maskgen.networks.pretrained import Pretrained, load_pretrained, require_space
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.sampling.draw import draw
from maskgen.tokens.batch import TokenBatch
from maskgen.training.modules.base import mixed_seed
from maskgen.training.modules.optim import warmup_cosine


class CriticModule(L.LightningModule):
    """Trains a critic to tell which cells of a filled row the generator drew.

    Each step masks real rows as in the generator's training, fills the masked cells with one draw of the frozen generator, and trains the
    critic on all cells of the target at that level with binary cross-entropy.

    Args:
        generator: Folder or shipped name of the generator. It is loaded without its tokenizers.
        shards: Folder of token shards; its index.json must name the generator's space and tokenizers.
        kind: "token" trains a separate transformer, "self" one linear layer on the generator's hidden states.
        transformer: Sizes of a token critic; None takes the generator's own.
        start: Initial weights of a token critic: "random", or those of the "generator", whose sizes it then has.
        target: Modality that the critic judges.
        labels: What counts as fake: every cell that was "drawn", or only those where the drawn code is "wrong".
        see_condition: Whether the critic sees the condition: True is the text-conditioned selector, False the plain Token-Critic.
        temperature: Of the generator's draw.
        schedule: Mask schedule; None is cosine.
        level_weights: How often each level of the target is learned; None weighs all alike.
        drop_condition: Share of rows that the generator fills, and the critic judges, without their condition.
        max_steps: Length of the learning-rate schedule in steps; `maskgen fit` takes trainer.max_steps.
        lr: Highest learning rate of AdamW.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of AdamW.
        clip: Largest gradient norm.
        seed: Every mask and every draw is made from (seed, step, rank).

    Raises:
        ValueError: If the shards were made for another space or with other tokenizers, a self-critic is given sizes or a start, or a
            critic that starts from the generator is given sizes.

    Source: Token-Critic, arXiv:2209.04439 (labels "drawn"); TCTS, arXiv:2304.01515 (the critic that sees the text). Labels "wrong" are
    those of a public re-implementation. Differs: the generator draws without guidance, which decoding may use.
    """

    def __init__(
        self,
        generator: str,
        shards: str | Sequence[str],
        kind: Literal["token", "self"] = "token",
        transformer: TransformerConfig | None = None,
        start: Literal["random", "generator"] = "random",
        target: str = "image",
        labels: Literal["drawn", "wrong"] = "drawn",
        see_condition: bool = True,
        temperature: float = 1.0,
        schedule: MaskSchedule | None = None,
        level_weights: Sequence[float] | None = None,
        drop_condition: float = 0.0,
        max_steps: int = 10_000,
        lr: float = 5e-4,
        warmup_steps: int = 200,
        weight_decay: float = 0.05,
        clip: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_shares(drop_condition)
        if kind == "self" and (transformer is not None or start != "random"):
            raise ValueError("a self-critic is one linear layer on its generator; leave transformer and start out, or take kind: token")
        if start == "generator" and transformer is not None:
            raise ValueError("a critic that starts from the generator has its sizes; leave transformer out, or take start: random")
        pretrained = load_pretrained(generator)
        _check_same_codes(pretrained, shards)
        self._generator = (pretrained.model,)
        """In a tuple, so that it isn't a submodule: not trained and not saved in checkpoints."""
        self.made = {
            "critic": kind,
            "space": pretrained.space.to_dict(),
            "target": target,
            "labels": labels,
            "see_condition": see_condition,
            "transformer": dataclasses.asdict(transformer or pretrained.model.config),
            "generator": pretrained.weights,
            "fingerprints": dict(pretrained.fingerprints),
        }
        self.critic = build_critic(self.made, pretrained.model)
        if start == "generator":
            _take_weights(self.critic, pretrained.model)
        self.segments, self.labels, self.temperature = self.critic.space.of(target), labels, temperature
        self.schedule, self.drop_condition = schedule or Cosine(), drop_condition
        self.level_weights = checked_weights(level_weights, len(self.segments))
        self.max_steps, self.lr, self.warmup_steps, self.weight_decay = max_steps, lr, warmup_steps, weight_decay
        self.clip, self.seed = clip, seed

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine, stepped per batch."""
        optimizer = torch.optim.AdamW(self.critic.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(self.warmup_steps, self.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip in the module: Lightning's own clipping refuses fused AdamW under mixed precision."""
        self.log("train/gradient_norm", torch.nn.utils.clip_grad_norm_(self.critic.parameters(), self.clip))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what `maskgen.networks.critic.export_critic` needs beside the weights."""
        checkpoint["maskgen"] = {"kind": CRITIC_KIND, **self.made}

    def training_step(self, batch: TokenBatch, batch_index: int) -> Tensor:
        """Binary cross-entropy over the cells of the target."""
        seed = mixed_seed(self.seed, self.global_step, self.global_rank)
        scores, fake = self.judged(batch, self.level_weights, self.drop_condition, seed)
        loss = functional.binary_cross_entropy_with_logits(scores, fake.float())
        self.log(f"train/loss_critic_{self.made['target']}", loss, prog_bar=True, sync_dist=True)
        self.log(f"train/accuracy_critic_{self.made['target']}", ((scores > 0) == fake).float().mean(), prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: TokenBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Log loss, accuracy and AUC of each level, with the condition visible and the same masks and draws at every validation."""
        for segment in self.segments:
            weights = [float(segment == other) for other in self.segments]
            scores, fake = self.judged(batch, weights, 0.0, mixed_seed(batch_index, segment.level, 7))
            loss = functional.binary_cross_entropy_with_logits(scores, fake.float())
            metrics = {"loss": loss, "accuracy": ((scores > 0) == fake).float().mean()}
            if bool(fake.any()) and not bool(fake.all()):
                metrics["auc"] = area_under_curve(scores, fake)
            for name, value in metrics.items():
                key = f"val{dataloader_idx or ''}/{name}_critic_{segment.modality}_level{segment.level}"
                self.log(key, value, batch_size=len(fake), add_dataloader_idx=False, sync_dist=name != "auc")  # not every process has one

    def judged(
        self, batch: TokenBatch, level_weights: Sequence[float], drop_condition: float, seed: int
    ) -> tuple[Float[Tensor, " cells"], Bool[Tensor, " cells"]]:
        """Mask, fill and judge: the critic's score of every target cell at its row's level, and whether the cell counts as fake."""
        generator = torch.Generator().manual_seed(seed)
        masked = draw_masks(batch, self.segments, self.schedule, level_weights, drop_condition, generator)
        filled, codes = self.filled(masked, torch.Generator(batch.ids.device).manual_seed(seed))
        fake = masked.cells if self.labels == "drawn" else masked.cells & (codes != masked.codes)
        target = filled.cells(self.segments[0].index)
        level = masked.level[:, None, None].expand(*target.shape, 1)
        scores: Tensor = self.critic(filled)
        return scores.float().gather(2, level)[target][:, 0], fake.gather(2, level)[target][:, 0]

    @torch.no_grad()
    def filled(self, masked: Masked, generator: torch.Generator) -> tuple[TokenBatch, Tensor]:
        """The masked batch with one draw of the generator in the masked cells, and those codes [batch length level] (0 elsewhere)."""
        model, batch = self._generator[0].to(masked.batch.ids.device), masked.batch
        hidden, ids, codes = critic_states(model, batch, self.segments[0].index), batch.ids.clone(), torch.zeros_like(batch.ids)
        for segment in self.segments:
            here = masked.cells[..., segment.level]
            if bool(here.any()):
                logits = model.logits(hidden[here], segment.offset, segment.size)
                one_row = torch.zeros(len(logits), dtype=torch.long, device=ids.device)
                drawn, _ = draw(logits, one_row, [generator], temperature=self.temperature)
                codes[..., segment.level][here] = drawn
                ids[..., segment.level][here] = drawn + segment.offset
        return batch.with_ids(ids), codes


def _take_weights(critic: Critic, generator: MaskTransformer) -> None:
    """Copy the generator's weights into the trunk of a token critic, except the head, which a critic does not use."""
    trunk = critic.get_submodule("trunk")
    held = {name: tensor for name, tensor in generator.state_dict().items() if not name.startswith("head.")}
    missing, unexpected = trunk.load_state_dict(held, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {TIED_HEAD.removeprefix("trunk.")}, missing


def area_under_curve(scores: Float[Tensor, " cells"], positive: Bool[Tensor, " cells"]) -> Float[Tensor, ""]:
    """Area under the ROC curve: the chance that a positive scores above a negative, a tie counting one half. Both must occur."""
    negatives, ours = scores[~positive].double().sort().values, scores[positive].double()
    below, not_above = torch.searchsorted(negatives, ours), torch.searchsorted(negatives, ours, right=True)
    return ((below + not_above).double().mean() / (2 * len(negatives))).float()


def _check_same_codes(generator: Pretrained, shards: str | Sequence[str]) -> None:
    """Refuse shards whose codes are not those the generator was trained on."""
    space, prints = merged_space(shards)
    require_space(generator, space, named(shards))
    for name, wanted in generator.fingerprints.items():
        if (found := prints.get(name, "none")) != wanted:
            raise ValueError(
                f"shards in {named(shards)} were made with the {name} tokenizer {found[:12]}…, "
                f"{generator.name} was trained with {wanted[:12]}…; "
                "give the shards that it was trained on, or build them again: maskgen data tokenize"
            )
