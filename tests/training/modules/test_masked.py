"""Training the masked transformer: it learns, its losses are the definition, and its checkpoints carry everything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from builders.masked_training import batches, module, trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor
from torch.nn import functional

from maskgen.masking.masks import Masked, draw_masks
from maskgen.networks.transformer import TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import Segment
from maskgen.training.modules import objective
from maskgen.training.modules.masked import MaskedTokenModule
from maskgen.training.modules.objective import order_agnostic_bound


def accuracy(trained: MaskedTokenModule, batch: TokenBatch, drop_condition: float) -> float:
    """Share of masked cells that are guessed, over fresh masks of all rates and both levels."""
    correct = []
    with torch.no_grad():
        for seed in range(1000, 1020):
            generator = torch.Generator().manual_seed(seed)
            masked = draw_masks(batch, trained.segments, trained.schedule, (1.0, 1.0), drop_condition, generator)
            correct.append(trained.losses(masked, 0.0)["correct"])
    return float(torch.cat(correct).mean())


@pytest.mark.slow
def test_two_layers_learn_eight_samples_by_heart_and_from_their_captions(shards: str, batch: TokenBatch) -> None:
    steps = 220
    trained = module(shards, TransformerConfig(dim=64, num_layers=2, num_heads=2), lr=1e-2, weight_decay=0.0, max_steps=steps)
    made = trained.configure_optimizers()
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        masked = draw_masks(batch.repeat(4), trained.segments, trained.schedule, (1.0, 1.0), 0.0, generator)
        made["optimizer"].zero_grad()
        trained.reduced(masked, trained.losses(masked, 0.0)).backward()
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert accuracy(trained, batch, drop_condition=0.0) >= 0.99
    assert accuracy(trained, batch, drop_condition=1.0) < 0.9, "codes were guessed without the caption that tells the rows apart"


def naive(trained: MaskedTokenModule, masked: Masked, label_smoothing: float) -> list[tuple[float, bool, int, int]]:
    """Loss, correctness, row and level of every masked code, one by one."""
    seen, found = masked.batch, []
    hidden = trained.model(seen)
    for segment in trained.segments:
        for row, place in masked.cells[..., segment.level].nonzero().tolist():
            logits = trained.model.head.weight[segment.offset : segment.offset + segment.size] @ hidden[row, place]
            logprobs = logits.log_softmax(-1)
            wanted = int(masked.codes[row, place, segment.level])
            loss = -(1 - label_smoothing) * logprobs[wanted] - label_smoothing * logprobs.mean()
            found.append((float(loss), int(logits.argmax()) == wanted, row, segment.level))
    return found


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_losses_are_the_definition_cell_by_cell(shards: str, batch: TokenBatch, label_smoothing: float) -> None:
    trained = module(shards).eval()
    masked = draw_masks(batch, trained.segments, trained.schedule, (1.0, 1.0), 0.5, torch.Generator().manual_seed(3))
    assert len(set(masked.level.tolist())) == 2
    losses, expected = trained.losses(masked, label_smoothing), naive(trained, masked, label_smoothing)
    torch.testing.assert_close(losses["loss"], torch.tensor([row[0] for row in expected]), rtol=1e-4, atol=1e-5)
    assert [*map(bool, losses["correct"])] == [row[1] for row in expected]
    assert losses["row"].tolist() == [row[2] for row in expected]
    assert losses["level"].tolist() == [row[3] for row in expected]


@pytest.mark.parametrize(("weights", "level"), [((1.0, 0.0), 0), ((0.0, 1.0), 1)])
def test_heads_of_levels_that_are_not_learned_get_no_gradient(
    shards: str, batch: TokenBatch, weights: tuple[float, float], level: int
) -> None:
    trained = module(shards)
    masked = draw_masks(batch, trained.segments, trained.schedule, weights, 0.0, torch.Generator().manual_seed(0))
    trained.reduced(masked, trained.losses(masked, 0.0)).backward()
    gradient = trained.model.head.weight.grad
    assert gradient is not None
    for segment in trained.segments:
        own = gradient[segment.offset : segment.offset + segment.size]
        assert bool(own.any()) == (segment.level == level)


def test_maskgit_weighs_cells_alike_and_elbo_weighs_rows_by_their_rate(shards: str, batch: TokenBatch) -> None:
    trained = module(shards)
    masked = draw_masks(batch, trained.segments, trained.schedule, (1.0, 1.0), 0.0, torch.Generator().manual_seed(3))
    loss = torch.rand(int(masked.cells.sum()), generator=torch.Generator().manual_seed(1))
    losses = {"loss": loss, "row": masked.cells.nonzero()[:, 0]}
    assert float(trained.reduced(masked, losses)) == pytest.approx(float(loss.mean()))
    trained.weight = "elbo"
    count = losses["row"].bincount(minlength=8)
    expected = sum(float(loss[cell]) * 16 / int(count[row]) for cell, row in enumerate(losses["row"].tolist())) / (8 * 16)
    assert float(trained.reduced(masked, losses)) == pytest.approx(expected, rel=1e-5)


def test_elbo_of_a_constant_loss_is_that_constant(shards: str, batch: TokenBatch) -> None:
    """The weight n / k undoes the share of masked cells, however few there are."""
    trained = module(shards, weight="elbo")
    for seed in range(20):
        masked = draw_masks(batch, trained.segments, trained.schedule, (1.0, 1.0), 0.0, torch.Generator().manual_seed(seed))
        losses = {"loss": torch.ones(int(masked.cells.sum())), "row": masked.cells.nonzero()[:, 0]}
        assert float(trained.reduced(masked, losses)) == pytest.approx(1.0)


def test_the_bound_is_the_mean_loss_of_writing_in_a_random_order() -> None:
    """A row of three codes whose loss depends on how many are masked: the mean over k of n / k x k x loss(k), for every k alike."""
    loss_of = {1: 0.5, 2: 1.5, 3: 4.0}
    found = [
        float(order_agnostic_bound(torch.full((k,), loss_of[k]), torch.zeros(k, dtype=torch.long), torch.tensor([3]))) for k in (1, 2, 3)
    ]
    assert sum(found) / 3 == pytest.approx(sum(loss_of.values()) / 3)


def test_every_validation_hides_the_same_cells(shards: str, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, seen = module(shards).eval(), []
    real = trained.losses

    def recorded(masked: Masked, label_smoothing: float) -> dict[str, Tensor]:
        seen.append((masked.batch.ids.clone(), masked.dropped.any(), label_smoothing))
        return real(masked, label_smoothing)

    monkeypatch.setattr(trained, "losses", recorded)
    monkeypatch.setattr(trained, "log", lambda *args, **kwargs: None)
    for _ in range(2):
        torch.rand(3)
        trained.validation_step(batch, 0)
    trained.validation_step(batch, 1)
    first, second, other = seen[:2], seen[2:4], seen[4:]
    assert all(torch.equal(ours[0], theirs[0]) for ours, theirs in zip(first, second, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
    assert not any(dropped or smoothing for _, dropped, smoothing in seen)


def test_training_masks_depend_on_the_step(shards: str, batch: TokenBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, seen = module(shards), []
    real = trained.losses

    def recorded(masked: Masked, label_smoothing: float) -> dict[str, Tensor]:
        seen.append(masked.batch.ids.clone())
        return real(masked, label_smoothing)

    monkeypatch.setattr(trained, "losses", recorded)
    trainer(3, tmp_path).fit(trained, batches(batch))
    assert not torch.equal(seen[0], seen[1])


def equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_exported_model_has_the_averaged_weights(
    shards: str, batch: TokenBatch, tmp_path: Path, tiny_text: TextTokenizer, tiny_image: ImageTokenizer
) -> None:
    trained, average = module(shards, lr=1e-2), EMAWeightAveraging(decay=0.5)
    run = trainer(6, tmp_path, average, Keep(tmp_path / "six.ckpt", at=6))
    run.fit(trained, batches(batch, batch))
    checkpoint = torch.load(tmp_path / "six.ckpt", weights_only=True)
    pipeline = Pipeline.from_checkpoint(tmp_path / "six.ckpt", {"text": tiny_text, "image": tiny_image})
    averaged = {name: value for name, value in trained.model.state_dict().items()}  # Lightning copies the average at the end
    assert equal(pipeline.model.state_dict(), averaged)
    assert not equal(pipeline.model.state_dict(), {name[6:]: value for name, value in checkpoint["current_model_state"].items()} | {})
    assert pipeline("a red heart", num_inference_steps=2).images[0].size == (32, 32)
    with pytest.raises(ValueError, match="text tokenizer has fingerprint"):
        Pipeline.from_checkpoint(tmp_path / "six.ckpt", {"text": TextTokenizer(tiny_text.vocabulary, lowercase=False)})


def test_a_checkpoint_from_before_averaging_exports_the_trained_weights(
    shards: str, batch: TokenBatch, tmp_path: Path, tiny_text: TextTokenizer, tiny_image: ImageTokenizer
) -> None:
    untrained = {name: value.clone() for name, value in module(shards).model.state_dict().items()}
    average = EMAWeightAveraging(decay=0.5, update_starting_at_step=50)
    trainer(3, tmp_path, average, Keep(tmp_path / "three.ckpt", at=3)).fit(module(shards, lr=1e-2), batches(batch))
    pipeline = Pipeline.from_checkpoint(tmp_path / "three.ckpt", {"text": tiny_text, "image": tiny_image})
    assert not torch.equal(pipeline.model.state_dict()["head.weight"], untrained["head.weight"])


class Keep(L.Callback):
    """Writes a checkpoint after a given step."""

    def __init__(self, path: Path, at: int) -> None:
        self.path, self.at = path, at

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)


def test_a_resumed_training_ends_with_the_same_weights(shards: str, batch: TokenBatch, tmp_path: Path) -> None:
    """Exact where an epoch ends at the checkpoint; inside an epoch Lightning starts its order anew, so only the masks go on."""
    flipped = batch.rows(torch.arange(8).flip(0))
    whole = module(shards, lr=1e-2)
    trainer(8, tmp_path, EMAWeightAveraging(decay=0.5)).fit(whole, batches(batch, flipped))
    keep = ModelCheckpoint(tmp_path, filename="half", every_n_train_steps=4, monitor=None)
    interrupted = trainer(6, tmp_path, EMAWeightAveraging(decay=0.5), keep, enable_checkpointing=True)
    interrupted.fit(module(shards, lr=1e-2), batches(batch, flipped))
    second = module(shards, lr=1e-2)
    resumed = trainer(8, tmp_path, EMAWeightAveraging(decay=0.5))
    resumed.fit(second, batches(batch, flipped), ckpt_path=tmp_path / "half.ckpt")
    assert resumed.global_step == 8
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(second.parameters(), whole.parameters(), strict=True))


def test_a_training_logs_loss_and_accuracy_per_level_and_rate(shards: str, batch: TokenBatch, tmp_path: Path) -> None:
    run = trainer(1, tmp_path)
    run.fit(module(shards), batches(batch), [batches(batch, batch), batches(batch)])
    names = set(run.callback_metrics)
    for stage in ("val", "val1"):
        assert {f"{stage}/{what}_image_level{level}" for what in ("loss", "accuracy") for level in (0, 1)} <= names
        assert any(name.startswith(f"{stage}/loss_image_rate") for name in names)
    assert {"train/loss_image", "train/accuracy_image", "train/lr", "train/gradient_norm"} <= names


def test_cross_entropy_here_is_torchs() -> None:
    """Guards the naive twin above: with smoothing 0.2 it must agree with torch on a planted row."""
    logits = torch.tensor([[1.0, 2.0, -1.0]])
    logprobs = logits.log_softmax(-1)[0]
    expected = functional.cross_entropy(logits, torch.tensor([1]), label_smoothing=0.2)
    assert float(-(0.8 * logprobs[1] + 0.2 * logprobs.mean())) == pytest.approx(float(expected))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_in_chunks_equal_the_dense_losses_and_gradients(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head, states, wanted = torch.randn(50, 8, requires_grad=True), torch.randn(23, 8, requires_grad=True), torch.randint(50, (23,))
    segment, largest = Segment(modality="image", index=1, level=0, offset=2, size=50), 0

    def logits_of(hidden: torch.Tensor, offset: int, size: int) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, len(hidden) * size)
        return hidden @ head.T

    found = []
    for most in (10**6, 256):
        monkeypatch.setattr(objective, "CHUNK_LOGITS", most)
        largest = 0
        loss, correct = objective.chunked_cross_entropy(logits_of, states, wanted, segment, smoothing)
        found.append([loss, correct, *torch.autograd.grad((loss * torch.linspace(0, 1, 23)).sum(), [head, states])])
        assert largest <= most
    for dense, chunked in zip(*found, strict=True):
        assert torch.allclose(dense, chunked, atol=1e-6)
