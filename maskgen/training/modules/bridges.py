"""Lightning module that trains the bridge between two frozen towers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from maskgen.io.bundle import WEIGHTS_FILE, find_model, load_bundle, read_bundle_record
from maskgen.masking.masks import Masked, draw_masks
from maskgen.masking.schedule import Cosine
from maskgen.networks.bridges import BRIDGE_KIND, Bridge
from maskgen.networks.pretrained import PIPELINE_KIND, transformer_of
from maskgen.networks.towers import TowerTransformer, bridged
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import Segment
from maskgen.training.modules.base import mixed_seed
from maskgen.training.modules.bridge_solution import BridgeSolution, compact, partners_in_time
from maskgen.training.modules.optim import warmup_cosine
from maskgen.training.modules.pairs import CellPairs, moved
from maskgen.training.modules.running_means import RunningMeans


class BridgeModule(L.LightningModule):
    """Trains the bridge over which one tower attends to cells of another; the towers, and what each does without the bridge, don't change.

    A cell that crosses should look, in the other tower, like its partner there: the cell of another modality with the same code, such as a
    transcribed word and the same word written. At every block the bridge learns the keys and values that the reading tower computes for the
    partners, and whether a cell has a partner at all: cells without one stay hidden.

    Args:
        model: Folder or shipped name of a model with towers. If it has this bridge already, training starts from it.
        reader: Tower that attends over the bridge.
        bridge: What crosses, and its width.
        partner: Modality of the reader whose cells the crossing ones stand for; both share their codes.
        beside: Modalities of the other tower that are seen whole together with the cells that cross.
        judged: Modality of the reader whose loss and accuracy validation logs, level by level, under the same masks: over the bridge, from
            the partners themselves, and from nothing. None logs none.
        judged_weight: Weight of a further loss: the divergence of the reader's predictions for that modality over the bridge from those
            with the partners visible (knowledge distillation, arXiv:1503.02531). 0 trains keys, values and presence only, in half the
            time.
        known_share: Share of rows whose crossing cells are all known; of the others a random share is masked.
        ridge_batches: Batches from which the linear part is solved in closed form before the first step; 0 leaves it out.
        max_steps: Length of the learning-rate schedule in steps; `maskgen fit` takes trainer.max_steps.
        lr: Highest learning rate.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of AdamW.
        clip: Largest gradient norm.
        seed: Every mask is drawn from (seed, step, rank).

    Raises:
        ValueError: If the model is missing or has no towers, a name is not where it should be, or a number is out of range.

    Source: none known for towers; stitching layers of frozen networks in closed form, arXiv:2106.07682.
    """

    def __init__(
        self,
        model: str,
        reader: str,
        bridge: Bridge,
        partner: str,
        beside: Sequence[str] = (),
        judged: str | None = None,
        judged_weight: float = 0.0,
        known_share: float = 0.75,
        ridge_batches: int = 60,
        max_steps: int = 1_000,
        lr: float = 3e-3,
        warmup_steps: int = 20,
        weight_decay: float = 0.01,
        clip: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        bundle = load_bundle(find_model(model), PIPELINE_KIND)
        network, self.space = transformer_of(bundle)
        if not isinstance(network, TowerTransformer):
            raise ValueError(f"{model} has no towers between which a bridge could lead; join models first: maskgen export towers")
        if not 0.0 <= known_share <= 1.0 or ridge_batches < 0:
            raise ValueError(f"known_share lies in [0, 1] and ridge_batches is at least 0, got {known_share} and {ridge_batches}")
        self.fingerprints: dict[str, str] = dict(bundle.config["fingerprints"])
        self.towers = read_bundle_record(find_model(model))["files"][WEIGHTS_FILE]
        self.network = bridged(network, self.space, reader, bridge)
        source = self.network.config.source_of(reader)
        self._check(reader, source, bridge, partner, beside, judged)
        self.reader, self.source, self.bridge, self.partner, self.beside = reader, source, bridge, partner, tuple(beside)
        if judged_weight < 0.0 or (judged_weight and judged is None):
            raise ValueError(f"judged_weight is at least 0 and needs judged, got {judged_weight} and {judged}; name a modality of {reader}")
        self.judged, self.known_share, self.ridge_batches, self.seed = judged, known_share, ridge_batches, seed
        self.judged_weight = judged_weight
        self.max_steps, self.lr, self.warmup_steps, self.weight_decay, self.clip = max_steps, lr, warmup_steps, weight_decay, clip
        self.started = network.config.bridges.get(reader) == bridge
        self.network.bridges[reader].requires_grad_(True)
        self.solution = BridgeSolution(
            self.network, self.space, reader, source, bridge, partner, self.beside, known_share=known_share, seed=seed
        )
        self._means = RunningMeans()

    def _check(self, reader: str, source: str, bridge: Bridge, partner: str, beside: Sequence[str], judged: str | None) -> None:
        """Refuse names that are not where they should be.

        Raises:
            ValueError: If the partner or what is judged is not the reader's, what is seen beside is not the other tower's, or codes are
                not shared.
        """
        towers = self.network.config.towers
        if partner not in towers[reader].modalities or (judged is not None and judged not in towers[reader].modalities):
            given = partner if judged is None else f"{partner} and {judged}"
            raise ValueError(f"partner and judged are modalities of {reader} ({', '.join(towers[reader].modalities)}), got {given}")
        if odd := [name for name in beside if name not in towers[source].modalities or name in bridge.modalities]:
            raise ValueError(f"{', '.join(odd)} cannot be seen beside what crosses: name other modalities of {source}")
        sizes = {name: self.space.modality(name) for name in (*bridge.modalities, partner)}
        if any(one.num_levels != 1 or one.codebook_size != sizes[partner].codebook_size for one in sizes.values()):
            raise ValueError(f"{', '.join(sizes)} do not share their codes; a bridge is trained between modalities of one vocabulary")

    def setup(self, stage: str) -> None:
        """Refuse data whose codes are not the model's; modalities may come in another order.

        Raises:
            ValueError: If the data lacks a modality that is needed or judged, or has it from another tokenizer.
        """
        data = getattr(self.trainer, "datamodule", None)
        self.data_space = getattr(data, "space", self.space)
        prints = getattr(data, "fingerprints", self.fingerprints)
        names = [one.name for one in self.data_space.modalities]
        for name in (*self.bridge.modalities, self.partner, *self.beside, *([] if self.judged is None else [self.judged])):
            if name not in names or prints.get(name) != self.fingerprints.get(name):
                raise ValueError(
                    f"the data's modalities are {', '.join(names)}; the bridge needs {name} from the model's own tokenizer; "
                    "join shards that have it: maskgen data tokenize"
                )

    def on_fit_start(self) -> None:
        """Solve the linear part and open the bridge, unless it was trained before.

        Raises:
            ValueError: If there is no data module whose batches could be solved, or not one cell of theirs has a partner.
        """
        if self.started or self.trainer.ckpt_path:
            return
        if not self.ridge_batches:
            for number in range(self.network.num_layers):
                nn.init.zeros_(self.network.translation(self.reader, number).presence.bias)  # no number of steps leads there from UNSEEN
            return
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise ValueError("the closed solution reads batches of a data module; fit with datamodule=..., or set ridge_batches to 0")
        loader = data.train_dataloader()
        batches = [self.transfer(batch) for _, batch in zip(range(self.ridge_batches), loader, strict=False)]
        with self.trainer.precision_plugin.forward_context():
            self.solution.solve(batches)
        self.network.bridges.load_state_dict(self.trainer.strategy.broadcast(self.network.bridges.state_dict()))

    def transfer(self, batch: TokenBatch) -> TokenBatch:
        """A batch of the data in the token space of the model, on its device."""
        return moved(batch.to(self.device), self.data_space, self.space)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what `maskgen export bridge` needs, and of the weights the bridge's alone."""
        kept = f"network.bridges.{self.reader}."
        checkpoint["state_dict"] = {name: tensor for name, tensor in checkpoint["state_dict"].items() if name.startswith(kept)}
        checkpoint["maskgen"] = self._made()

    def _made(self) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        return {"kind": BRIDGE_KIND, "reader": self.reader, "bridge": dataclasses.asdict(self.bridge), "towers": self.towers}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the towers, which the checkpoint does not hold.

        Raises:
            ValueError: If it is of another bridge, or between other towers.
        """
        record, wanted = checkpoint.get("maskgen", {}), self._made()
        if odd := [name for name in wanted if record.get(name) != wanted[name]]:
            raise ValueError(
                f"the checkpoint is of another {' and '.join(odd)} than this training; take its own config, or leave out --ckpt_path"
            )
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine, stepped per batch."""
        weights = self.network.bridges[self.reader].parameters()
        optimizer = torch.optim.AdamW(weights, lr=self.lr, betas=(0.9, 0.98), weight_decay=self.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(self.warmup_steps, self.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip in the module: Lightning's own clipping refuses fused AdamW under mixed precision."""
        weights = self.network.bridges[self.reader].parameters()
        self.log("train/gradient_norm", torch.nn.utils.clip_grad_norm_(weights, self.clip))

    def training_step(self, batch: TokenBatch, batch_index: int) -> Tensor | None:
        """Sum over blocks of the errors of keys and values and the cross-entropy of presence; None for a batch without a pair."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.global_step, self.global_rank))
        batch = self.transfer(batch)
        by_kind = self.solution.errors(batch, self.known_share, generator)
        if by_kind is None:
            return None
        means = {name: torch.stack(parts).mean() for name, parts in by_kind.items()}
        loss = torch.stack(list(means.values())).sum()
        if self.judged_weight:
            means["divergence"] = self.divergence(batch, generator)
            loss = loss + self.judged_weight * means["divergence"]
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in means.items()}, prog_bar=True)
        return loss

    def validation_step(self, batch: TokenBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Log the errors of every block with all crossing cells known, and loss and accuracy of the judged modality."""
        generator = torch.Generator().manual_seed(mixed_seed(batch_index, dataloader_idx, 7))
        batch = self.transfer(batch)
        for name, parts in (self.solution.errors(batch, 1.0, generator) or {}).items():
            for number, value in enumerate(parts):
                self._means.add(f"val/{name}_block{number}", value)
            self._means.add(f"val/{name}", torch.stack(parts).mean())
        if self.judged is not None:
            self._judge(batch, self.judged, generator)

    def _judge(self, batch: TokenBatch, name: str, generator: torch.Generator) -> None:
        """Count loss and accuracy of a modality's codes from three views under the same masks."""
        asked, views = self._views(batch, self.solution.pairs(batch), name)
        for number, segment in enumerate(self.space.of(name)):
            masked = self._drawn(batch, name, number, generator)
            wanted = masked.codes[..., number][masked.cells[..., number]]
            for way, view in views.items():
                logits = self._logits(view, asked, masked, segment)
                key = f"{name}_level{number}_{way}"
                self._means.add(f"val/loss_{key}", functional.cross_entropy(logits, wanted, reduction="none"))
                self._means.add(f"val/accuracy_{key}", (logits.argmax(dim=-1) == wanted).float())

    def divergence(self, batch: TokenBatch, generator: torch.Generator) -> Tensor:
        """Divergence of the reader's predictions for the judged modality over the bridge from those with the partners visible.

        Args:
            batch: Clean rows in the model's token space.
            generator: CPU generator of the masks and the level; coarse levels come more often, three levels at shares 3, 2 and 1.

        Returns:
            Mean over masked cells of the Kullback-Leibler divergence in nats.
        """
        assert self.judged is not None
        segments = self.space.of(self.judged)
        asked, views = self._views(batch, self.solution.pairs(batch), self.judged)
        shares = torch.arange(len(segments), 0, -1, dtype=torch.float64)
        number = int(torch.multinomial(shares, 1, generator=generator))
        masked, segment = self._drawn(batch, self.judged, number, generator), segments[number]
        with torch.no_grad():
            wanted = self._logits(views["from_partners"], asked, masked, segment).log_softmax(dim=-1)
        predicted = self._logits(views["over_bridge"], asked, masked, segment).log_softmax(dim=-1)
        return functional.kl_div(predicted, wanted, reduction="batchmean", log_target=True)

    def _views(self, batch: TokenBatch, pairs: CellPairs, name: str) -> tuple[Bool[Tensor, "batch length"], dict[str, TokenBatch]]:
        """The cells of a modality, and three views of the batch for them: over the bridge, from the partners themselves, from nothing."""
        kept, partners = partners_in_time(batch, pairs)
        asked = self.solution.cells(batch, [name])
        return asked, {
            "over_bridge": batch.hide(~self.solution.cells(batch, [name, *self.bridge.modalities, *self.beside])),
            "from_partners": partners.hide(~kept & ~asked),
            "from_nothing": batch.hide(~asked),
        }

    def _drawn(self, batch: TokenBatch, name: str, level: int, generator: torch.Generator) -> Masked:
        """Masks of one level of a modality."""
        segments = self.space.of(name)
        return draw_masks(batch, segments, Cosine(), [float(one == level) for one in range(len(segments))], 0.0, generator)

    def _logits(self, view: TokenBatch, asked: Tensor, masked: Masked, segment: Segment) -> Float[Tensor, "cells codes"]:
        """Logits at the masked cells of a level, in a view of the batch."""
        seen = compact(view.with_ids(torch.where(asked[..., None], masked.batch.ids, view.ids)))
        hidden = self.network(seen.batch).flatten(0, 1)
        return self.network.logits(hidden[seen.place[masked.cells[..., segment.level]]], segment.offset, segment.size).float()

    def on_validation_epoch_start(self) -> None:
        """Reset the means."""
        self._means.clear()

    def on_validation_epoch_end(self) -> None:
        """Log the means over all batches."""
        self.log_dict(self._means.values(), sync_dist=True)
