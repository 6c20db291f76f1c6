"""Trainings that end in order: stop signals, and exceptions in a validation."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from builders.training import Watch, autoencoder, copied, loader, masked, pictures, same, trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from maskgen.io.checkpoint import load_verified
from maskgen.tokens.batch import TokenBatch
from maskgen.training.modules.masked import MaskedTokenModule
from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO


class Raise(L.Callback):
    """Raises in a validation, at a given hook."""

    def __init__(self, hook: str, raised: BaseException) -> None:
        def stop(*args: Any, **kwargs: Any) -> None:
            raise raised

        setattr(self, hook, stop)


@pytest.mark.parametrize("before", [True, False], ids=["before the average", "after the average"])
@pytest.mark.parametrize(
    "hook", ["on_validation_start", "on_validation_epoch_start", "on_validation_batch_end", "on_validation_epoch_end", "on_validation_end"]
)
def test_an_exception_in_a_validation_saves_averaged_and_trained_weights_in_their_places(
    hook: str, before: bool, bare_shards: str, token_batches: list[TokenBatch], tmp_path: Path
) -> None:
    trained, average = masked(bare_shards), EMAWeightAveraging(decay=0.5)
    watch, failing = Watch(average), Raise(hook, RuntimeError("planted"))
    keep = ModelCheckpoint(tmp_path, filename="last", save_on_exception=True, every_n_train_steps=1000)
    order = [failing, average] if before else [average, failing]
    with pytest.raises(RuntimeError, match="planted"):
        trainer(tmp_path, 9, *order, watch, keep, val_check_interval=4).fit(trained, loader(token_batches), loader(token_batches[:1]))
    checkpoint, (weights, _, averaged) = load_verified(tmp_path / "last.ckpt"), watch.rows[3]
    assert same(checkpoint["current_model_state"], weights)
    assert same(checkpoint["state_dict"], {name[7:]: value for name, value in averaged.items() if name.startswith("module.")})
    assert not same(checkpoint["state_dict"], checkpoint["current_model_state"])
    assert same(trained.state_dict(), weights)


class Signalled(L.Callback):
    """Sends this process signals at a step, in the step itself or in the validation after it."""

    def __init__(self, step: int, *signals: signal.Signals, hook: str = "on_before_optimizer_step") -> None:
        self.step, self.signals = step, signals
        setattr(self, hook, self._send)

    def _send(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            for number in self.signals:
                os.kill(os.getpid(), number)


def forked(run: Callable[[], object], said: Path) -> int:
    """Exit code of a child that pays for no import; what it said goes to a file."""
    child = os.fork()
    if not child:
        code: Any = 99
        try:
            with said.open("wb") as handle:
                os.dup2(handle.fileno(), 2)
            run()
            code = 0
        except SystemExit as stop:
            code = stop.code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("hook", ["on_before_optimizer_step", "on_validation_batch_start"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_signal_saves_and_the_resumed_run_ends_as_an_unbroken_one(
    number: signal.Signals, code: int, hook: str, bare_shards: str, token_batches: list[TokenBatch], tmp_path: Path
) -> None:
    """Stopped in a step, and in the first of two batches of a validation; both at the end of an epoch, where the order of data is whole."""

    def run(folder: Path, *callbacks: L.Callback, resume: str | None = None) -> tuple[MaskedTokenModule, Any]:
        trained, average = masked(bare_shards), EMAWeightAveraging(decay=0.5)
        keep = ModelCheckpoint(folder, save_last=True, every_n_train_steps=3)
        made = trainer(folder, 12, *callbacks, average, keep, check_val_every_n_epoch=1)
        made.fit(trained, loader(token_batches), loader(token_batches[:2]), ckpt_path=resume)
        assert made.global_step == 12
        return trained, copied(average._average_model.state_dict()) if average._average_model else None

    whole, averaged = run(tmp_path / "whole")
    # A signal in the forward pass of step 8 (counted 7 before it is done), or in the validation after it.
    stop = Signalled(7 if hook == "on_before_optimizer_step" else 8, number, hook=hook)
    assert forked(lambda: run(tmp_path / "cut", stop), tmp_path / "said") == code
    assert load_verified(tmp_path / "cut" / "last.ckpt")["global_step"] == 8
    assert b"finishing the step" in (tmp_path / "said").read_bytes()
    resumed, again = run(tmp_path / "cut", resume="last")
    assert same(resumed.state_dict(), whole.state_dict())
    assert same(again, averaged)


def test_a_second_ctrl_c_leaves_at_once(bare_shards: str, token_batches: list[TokenBatch], tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1000)
    stop = Signalled(5, signal.SIGINT, signal.SIGINT)
    assert forked(lambda: trainer(tmp_path, 9, stop, keep).fit(masked(bare_shards), loader(token_batches)), tmp_path / "said") == 130
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_second_sigterm_changes_nothing(tmp_path: Path) -> None:
    stop = Signalled(2, signal.SIGTERM, signal.SIGTERM)
    assert forked(lambda: trainer(tmp_path, 9, stop).fit(autoencoder(), loader(pictures())), tmp_path / "said") == 143
    assert load_verified(tmp_path / "last.ckpt")["global_step"] == 3


def test_a_stop_during_accumulation_waits_for_the_optimizer(bare_shards: str, token_batches: list[TokenBatch], tmp_path: Path) -> None:
    def run() -> None:
        stop = Signalled(1, signal.SIGTERM, hook="on_train_batch_start")
        trainer(tmp_path, 9, stop, accumulate_grad_batches=2).fit(masked(bare_shards), loader(token_batches))

    assert forked(run, tmp_path / "said") == 143
    assert load_verified(tmp_path / "last.ckpt")["global_step"] == 2


def test_a_stop_leaves_the_last_checkpoint_of_another_run_alone(bare_shards: str, token_batches: list[TokenBatch], tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint({"global_step": 77}, tmp_path / "last.ckpt")
    keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1000)
    stop = Signalled(1, signal.SIGTERM)
    assert forked(lambda: trainer(tmp_path, 9, stop, keep).fit(masked(bare_shards), loader(token_batches)), tmp_path / "said") == 143
    assert load_verified(tmp_path / "last.ckpt")["global_step"] == 77
    assert load_verified(tmp_path / "last-v1.ckpt")["global_step"] == 2


def test_signals_are_given_back_after_a_training(bare_shards: str, token_batches: list[TokenBatch], tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    trainer(tmp_path, 2).fit(masked(bare_shards), loader(token_batches))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    with pytest.raises(RuntimeError, match="planted"):
        trainer(tmp_path, 2, Raise("on_train_batch_end", RuntimeError("planted"))).fit(masked(bare_shards), loader(token_batches))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_start_clears_up_after_a_killed_run(bare_shards: str, token_batches: list[TokenBatch], tmp_path: Path) -> None:
    stale = tmp_path / f".last.ckpt.{os.getpid()}.tmp"
    stale.touch()
    trainer(tmp_path, 1, ModelCheckpoint(tmp_path, every_n_train_steps=1000)).fit(masked(bare_shards), loader(token_batches))
    assert not stale.exists()
