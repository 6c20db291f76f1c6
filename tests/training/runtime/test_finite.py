"""Steps that are not finite are skipped, counted, and end the run when they are too many."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from builders.training import Watch, autoencoder, loader, masked, pictures, same, trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor

from maskgen.tokens.batch import TokenBatch
from maskgen.training.runtime.finite import SkipNonFinite


def poison(planted: L.LightningModule, steps: set[int], how: str, monkeypatch: pytest.MonkeyPatch, inside: str | None = None) -> None:
    """From the outside: NaN as a factor of the loss, or an infinity in one gradient, at the given backward passes."""
    real, passes = L.LightningModule.backward, [-1]

    def backward(self: L.LightningModule, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        passes[0] += 1
        real(self, loss, *args, **kwargs)
        if passes[0] in steps and how == "gradient":
            named = [p for name, p in self.named_parameters() if p.grad is not None and (inside or "") in name]
            assert named[0].grad is not None
            named[0].grad[(0,) * named[0].ndim] = float("inf")

    monkeypatch.setattr(type(planted), "backward", backward, raising=False)
    if how == "loss":
        before = type(planted).manual_backward if not planted.automatic_optimization else None
        calls = [-1]

        def spoiled(loss: Tensor) -> Tensor:
            calls[0] += 1
            return loss * float("nan") if calls[0] in steps else loss

        if before is not None:
            monkeypatch.setattr(planted, "manual_backward", lambda loss: before(planted, spoiled(loss)))
        else:
            step = planted.training_step
            monkeypatch.setattr(planted, "training_step", lambda *args: spoiled(step(*args)))


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("kind", ["masked", "autoencoder"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(
    kind: str, how: str, bare_shards: str, token_batches: list[TokenBatch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: L.LightningModule = masked(bare_shards) if kind == "masked" else autoencoder()
    average = EMAWeightAveraging(decay=0.5)
    watch, skip = Watch(average), SkipNonFinite()
    poison(trained, {2, 3}, how, monkeypatch)
    run = trainer(tmp_path, 6, average, watch, skip)
    run.fit(trained, loader(token_batches if kind == "masked" else pictures()))
    assert run.global_step == 6
    assert [same(watch.rows[step], watch.rows[step - 1]) for step in range(1, 6)] == [False, True, True, False, False]
    assert all(same(*pair) for pair in zip(watch.rows[1], watch.rows[3], strict=True))
    assert not any(same(*pair) for pair in zip(watch.rows[3], watch.rows[4], strict=True)), "a part that never changes shows nothing"
    assert (skip.skipped_steps, skip.in_a_row) == (2, 0)
    assert float(run.callback_metrics["train/skipped_steps"]) == 2
    assert all(bool(value.isfinite().all()) for value in trained.state_dict().values())


def test_a_picture_that_is_not_finite_does_not_spoil_the_codebook(tmp_path: Path) -> None:
    """The codebook learns in the forward pass, before any loss."""
    trained, watch, found = autoencoder(discriminator=True), Watch(), pictures()
    found[2] = torch.full_like(found[2], float("nan"))
    trainer(tmp_path, 2 * 3 + 2, watch).fit(trained, loader(found))
    assert same(watch.rows[2], watch.rows[1])
    assert not same(watch.rows[3], watch.rows[2])
    assert all(bool(value.isfinite().all()) for value in trained.state_dict().values())


def test_a_skipped_discriminator_step_is_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, skip, watch = autoencoder(discriminator=True), SkipNonFinite(), Watch()
    poison(trained, {3}, "gradient", monkeypatch, inside="discriminator")
    trainer(tmp_path, 8, skip, watch).fit(trained, loader(pictures()))
    assert skip.skipped_steps == 1
    assert all(bool(value.isfinite().all()) for value in trained.state_dict().values())


def test_a_bad_batch_spoils_the_whole_step_of_accumulated_gradients(
    bare_shards: str, token_batches: list[TokenBatch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, skip, watch = masked(bare_shards), SkipNonFinite(), Watch()
    poison(trained, {2}, "loss", monkeypatch)
    trainer(tmp_path, 3, skip, watch, accumulate_grad_batches=2).fit(trained, loader(token_batches + token_batches[:2]))
    assert skip.skipped_steps == 1
    assert same(watch.rows[3], watch.rows[1])
    assert not same(watch.rows[5], watch.rows[3])


@pytest.mark.parametrize("kind", ["masked", "autoencoder"])
@pytest.mark.parametrize(("how", "sentence"), [("loss", "the loss is nan"), ("gradient", r"the gradient of \S+ has \d+ of \d+ values")])
def test_too_many_in_a_row_end_the_run_with_one_sentence(
    kind: str, how: str, sentence: str, bare_shards: str, token_batches: list[TokenBatch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: L.LightningModule = masked(bare_shards) if kind == "masked" else autoencoder()
    poison(trained, {0, 1, 3, 4, 5, 6, 7}, how, monkeypatch)
    run = trainer(tmp_path, 20, SkipNonFinite(most_in_a_row=3))
    with pytest.raises(FloatingPointError, match=f"stopped at step 6: 3 steps in a row were not finite, at the last one {sentence}"):
        run.fit(trained, loader(token_batches if kind == "masked" else pictures()))
    with pytest.raises(ValueError, match="at least 1"):
        SkipNonFinite(0)


def test_counting_goes_on_after_a_resume(
    bare_shards: str, token_batches: list[TokenBatch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        trained = masked(bare_shards)
        poison(trained, {1}, "loss", patch)
        trainer(tmp_path, 4, ModelCheckpoint(tmp_path, every_n_train_steps=4, filename="four")).fit(trained, loader(token_batches))
    skip = SkipNonFinite()
    trainer(tmp_path, 5, skip).fit(masked(bare_shards), loader(token_batches), ckpt_path=tmp_path / "four.ckpt")
    assert skip.skipped_steps == 1
