"""Training the image autoencoder: each loss on its switch, and it learns."""

import dataclasses
from typing import Any

import lightning as L
import pytest
import torch
from builders.command_line import refused
from torch import Tensor, nn
from torch.utils.data import DataLoader

from maskgen.autoencoders.image import ImageAutoencoderConfig, PatchDiscriminator
from maskgen.autoencoders.losses import FeatureLoss
from maskgen.autoencoders.quantizers import ResidualQuantizer
from maskgen.cli.main import main
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.training.modules.image_autoencoder import ImageAutoencoderModule

CONFIG = ImageAutoencoderConfig(patch=4, encoder_channels=[16, 16], decoder_channels=[16, 16, 16], encoder_blocks=1, decoder_blocks=1)


def planted() -> Tensor:
    """Eight pictures, each of one colour per quarter."""
    colours = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(colours, scale_factor=16)


def module(**options: Any) -> ImageAutoencoderModule:
    torch.manual_seed(0)
    return ImageAutoencoderModule(CONFIG, ResidualQuantizer(2, 4, 16, level_dropout=0.0), **{"warmup_steps": 0, "lr": 5e-3, **options})


def fit(trained: ImageAutoencoderModule, steps: int, tmp_path: Any, **options: Any) -> L.Trainer:
    loader: DataLoader[Tensor] = DataLoader([*planted()], batch_size=8)  # type: ignore[arg-type]
    options = {"logger": False, "enable_checkpointing": False, **options}
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, **options
    )
    trainer.fit(trained, loader, loader)
    return trainer


class Recorder(L.Callback):
    """Keeps what was logged after each batch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")})


def test_a_few_steps_reduce_the_error_and_the_checkpoint_becomes_a_tokenizer(tmp_path: Any) -> None:
    trained, recorder = module(max_steps=60), Recorder()
    trainer = fit(trained, 60, tmp_path, callbacks=[recorder])
    losses = [row["train/reconstruction"] for row in recorder.rows]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert {"val/l1", "val/psnr_db", "val/code_perplexity_level0", "val/code_perplexity_level1"} <= set(trainer.callback_metrics)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    tokenizer = ImageTokenizer.from_checkpoint(tmp_path / "last.ckpt")
    trained.eval()
    assert torch.equal(tokenizer.network.codes(planted()), trained.network.codes(planted()))


def test_an_exported_tokenizer_has_the_size_of_its_training_images(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    trained = module(max_steps=2)
    wide = planted().repeat(1, 1, 1, 2)
    loader: DataLoader[Tensor] = DataLoader([*wide], batch_size=8)  # type: ignore[arg-type]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}
    trainer = L.Trainer(max_steps=1, accelerator="cpu", default_root_dir=tmp_path, limit_val_batches=0, **quiet)
    trainer.fit(trained, loader)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    size = (wide.shape[3], wide.shape[2])
    main(["export", "image-tokenizer", str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "bundle")])
    assert ImageTokenizer.from_bundle(tmp_path / "bundle").size == size
    said = refused(capsys, "export", "image-tokenizer", tmp_path / "last.ckpt", "--out", tmp_path / "other", "--size", "64,64")
    assert f"{size[0]} x {size[1]} pixels, size says 64 x 64" in said
    old = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del old["maskgen"]["size"]
    torch.save(old, tmp_path / "old.ckpt")
    said = refused(capsys, "export", "image-tokenizer", tmp_path / "old.ckpt", "--out", tmp_path / "other")
    assert "doesn't hold the size" in said
    assert ImageTokenizer.from_checkpoint(tmp_path / "old.ckpt", (128, 64)).size == (128, 64)


def _first_update(**options: Any) -> dict[str, Tensor]:
    """Weights after one step from the same start."""
    trained = module(max_steps=100, **options)
    trained.log = trained.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign,assignment]
    trained.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign,assignment]
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(trained.network.parameters(), lr=0.1)
    trained._autoencoder_step(planted(), optimizer, adversarial=trained.discriminator is not None)
    return {name: value.clone() for name, value in trained.network.state_dict().items()}


@pytest.mark.parametrize(
    "options",
    [
        {"perceptual": FeatureLoss([nn.Conv2d(3, 8, 3), nn.ReLU()]), "perceptual_weight": 1.0},
        {"discriminator": PatchDiscriminator(16, 2), "adversarial_weight": 1.0},
        {"pyramid_levels": 1},
    ],
    ids=["perceptual", "adversarial", "pyramid"],
)
def test_each_loss_changes_the_update_when_it_is_switched_on(options: dict[str, Any]) -> None:
    plain, again, changed = _first_update(), _first_update(), _first_update(**options)
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert any(not torch.equal(plain[name], changed[name]) for name in plain if name.startswith("decoder"))


def test_a_weight_of_zero_is_the_loss_switched_off() -> None:
    plain = _first_update()
    off = _first_update(perceptual=FeatureLoss([nn.Conv2d(3, 8, 3)]), perceptual_weight=0.0)
    assert all(torch.allclose(plain[name], off[name], atol=1e-6) for name in plain)


def test_the_perceptual_network_is_never_trained(tmp_path: Any) -> None:
    features = FeatureLoss([nn.Conv2d(3, 8, 3)])
    before = {name: value.clone() for name, value in features.state_dict().items()}
    fit(module(max_steps=3, perceptual=features), 3, tmp_path)
    assert all(torch.equal(value, features.state_dict()[name]) for name, value in before.items())


def test_the_discriminator_sets_in_at_its_step(tmp_path: Any) -> None:
    discriminator, recorder = PatchDiscriminator(16, 2), Recorder()
    before = [parameter.clone() for parameter in discriminator.parameters()]
    fit(module(max_steps=50, discriminator=discriminator, adversarial_from=3), 3, tmp_path, callbacks=[recorder])
    assert all("train/adversarial" not in row for row in recorder.rows)
    assert all(torch.equal(old, new) for old, new in zip(before, discriminator.parameters(), strict=True))
    recorder = Recorder()
    fit(module(max_steps=50, discriminator=discriminator, adversarial_from=3), 3 + 2 * 2, tmp_path, callbacks=[recorder])
    assert ["train/adversarial" in row for row in recorder.rows] == [False, False, False, True, True]
    assert any(not torch.equal(old, new) for old, new in zip(before, discriminator.parameters(), strict=True))


def test_a_decoder_trained_on_alone_keeps_every_code_and_the_fingerprint(tmp_path: Any) -> None:
    first = module(max_steps=20)
    fit(first, 20, tmp_path)
    ImageTokenizer(first.network, (32, 32)).save(tmp_path / "bundle")
    start = ImageTokenizer.from_bundle(tmp_path / "bundle")
    for decoder in ([16, 16, 16], [32, 16, 16]):
        config = dataclasses.replace(CONFIG, decoder_channels=decoder)
        second = ImageAutoencoderModule(
            config, ResidualQuantizer(2, 4, 16), max_steps=40, warmup_steps=0, lr=5e-3, start=str(tmp_path / "bundle"), decoder_only=True
        )
        recorder = Recorder()
        trainer = fit(second, 40, tmp_path, callbacks=[recorder])
        losses = [row["train/reconstruction"] for row in recorder.rows]
        assert sum(losses[-5:]) < sum(losses[:5])
        trainer.save_checkpoint(tmp_path / "second.ckpt")
        tokenizer = ImageTokenizer.from_checkpoint(tmp_path / "second.ckpt", (32, 32))
        assert tokenizer.fingerprint == start.fingerprint
        assert torch.equal(tokenizer.network.codes(planted()), start.network.codes(planted()))


def test_a_start_that_does_not_fit_is_refused(tmp_path: Any) -> None:
    ImageTokenizer(module().network, (32, 32)).save(tmp_path / "bundle")
    with pytest.raises(ValueError, match="another encoder or quantizer"):
        ImageAutoencoderModule(CONFIG, ResidualQuantizer(3, 4, 16), start=str(tmp_path / "bundle"))
    with pytest.raises(ValueError, match="give start: its bundle"):
        module(decoder_only=True)
