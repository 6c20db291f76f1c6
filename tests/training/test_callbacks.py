"""The sample sheet: written, reproducible, from the averaged weights, and loud when samples collapse."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from builders.masked_training import batches, module, trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from PIL import Image

from maskgen.tokens.batch import TokenBatch
from maskgen.training.callbacks import SampleSheet, perplexity
from maskgen.training.modules.masked import MaskedTokenModule


def sheet(tiny_bundle: Path, folder: Path) -> SampleSheet:
    places = {"text_tokenizer": str(tiny_bundle / "tokenizers" / "text"), "image_tokenizer": str(tiny_bundle / "tokenizers" / "image")}
    return SampleSheet(["a red heart", "a"], folder=str(folder), variants=3, steps=[2, 1], **places)


def test_perplexity_counts_codes_in_even_use() -> None:
    assert perplexity(torch.arange(16), 16) == pytest.approx(16)
    assert perplexity(torch.zeros(9, dtype=torch.long), 16) == pytest.approx(1)
    assert perplexity(torch.tensor([0, 0, 5, 5]), 16) == pytest.approx(2)


def test_a_sheet_is_written_at_every_validation_but_the_sanity_check(
    shards: str, batch: TokenBatch, tiny_bundle: Path, tmp_path: Path
) -> None:
    run = trainer(4, tmp_path, sheet(tiny_bundle, tmp_path / "samples"), val_check_interval=2, check_val_every_n_epoch=None)
    run.fit(module(shards), batches(batch, batch), [batches(batch, batch), batches(batch)])
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step-000002.png", "step-000004.png"]
    assert Image.open(tmp_path / "samples" / "step-000002.png").size == (3 * 36 + 4, 2 * 36 + 4)


def test_variants_of_a_prompt_have_their_seeds_and_come_again(shards: str, tiny_bundle: Path, tmp_path: Path) -> None:
    made = sheet(tiny_bundle, tmp_path)
    trained = module(shards).eval()
    first, second = made.sample(trained), made.sample(trained)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))
    assert len({tuple(codes.flatten().tolist()) for codes in first[:3]}) == 3


@pytest.mark.parametrize("sheet_first", [True, False])
def test_it_draws_with_the_averaged_weights_whatever_the_order_of_callbacks(
    shards: str, batch: TokenBatch, tiny_bundle: Path, tmp_path: Path, sheet_first: bool
) -> None:
    seen: list[torch.Tensor] = []
    drawing = sheet(tiny_bundle, tmp_path)
    real = drawing.sample

    def recorded(trained: MaskedTokenModule) -> Any:
        seen.append(trained.model.norm.weight.clone())
        return real(trained)

    drawing.sample = recorded  # type: ignore[method-assign]
    average = EMAWeightAveraging(decay=0.9)
    trained = module(shards, lr=1e-2)
    callbacks: list[L.Callback] = [drawing, average] if sheet_first else [average, drawing]
    trainer(4, tmp_path, *callbacks, val_check_interval=4, check_val_every_n_epoch=None, num_sanity_val_steps=0).fit(
        trained, batches(batch, batch, batch, batch), batches(batch)
    )
    assert torch.equal(seen[0], trained.model.norm.weight)  # at its end a training takes the average over


def test_collapsed_samples_raise_the_alarm(
    shards: str, batch: TokenBatch, tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskgen.training.callbacks.LEAST_PERPLEXITY_SHARE", 0.1)
    drawing = sheet(tiny_bundle, tmp_path)
    run = trainer(1, tmp_path, drawing, num_sanity_val_steps=0)
    with caplog.at_level(logging.WARNING, "maskgen"):
        run.fit(module(shards), batches(batch), batches(batch))
        assert "collapsed" not in caplog.text
        drawing.sample = lambda trained: [torch.full((2, 4, 4), 3)] * 6  # type: ignore[method-assign]
        run = trainer(1, tmp_path, drawing, num_sanity_val_steps=0)
        run.fit(module(shards), batches(batch), batches(batch))
    assert caplog.text.count("may have collapsed") == 2
    assert "1.0 codes of level 1" in caplog.text
