"""The network behind the perceptual loss: it learns its attributes, and its bundle scores a picture against another."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from maskgen.autoencoders.perceptual import FeatureNet, LearnedFeatures, save_features
from maskgen.data.loading.labelled_images import LabelledImages, class_names
from maskgen.training.modules.perceptual import ImageFeaturesModule

SAMPLE = "data/emoji/sample"


def planted() -> list[tuple[Tensor, Tensor]]:
    """Pictures of 4 colours, 16 of each; the class is the colour, the second attribute is unknown everywhere."""
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    targets = torch.arange(64) % 4
    noise = 0.1 * torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pixels = colours[targets][:, :, None, None] + noise
    return [(picture, torch.tensor([target, -100 if target else 0])) for picture, target in zip(pixels, targets, strict=True)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> ImageFeaturesModule:
    torch.manual_seed(0)
    module = ImageFeaturesModule({"colour": 4, "other": 2}, channels=[16, 16], max_steps=30, warmup_steps=2, shift=1)
    loader: DataLoader[Any] = DataLoader(planted(), batch_size=32, shuffle=True)  # type: ignore[arg-type]
    trainer = L.Trainer(max_steps=30, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(module, loader, DataLoader(planted(), batch_size=32))  # type: ignore[arg-type]
    return module.eval()


def test_it_learns_the_planted_classes(trained: ImageFeaturesModule) -> None:
    pixels = torch.stack([picture for picture, _ in planted()])
    targets = torch.stack([target for _, target in planted()])
    with torch.no_grad():
        assert (trained.network(pixels)["colour"].argmax(-1) == targets[:, 0]).all()


def test_a_class_unknown_to_training_costs_nothing(trained: ImageFeaturesModule) -> None:
    pixels = torch.rand(2, 3, 16, 16)
    known, unknown = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 1], [1, -100]])
    assert trained.losses(pixels, known)["colour"] == trained.losses(pixels, unknown)["colour"]
    alone = trained.losses(pixels[:1], known[:1])["other"]
    torch.testing.assert_close(trained.losses(pixels, unknown)["other"], alone)


def test_the_bundle_gives_the_same_features_and_grows_with_the_damage(trained: ImageFeaturesModule, tmp_path: Path) -> None:
    save_features(trained.network, tmp_path / "features")
    loss = LearnedFeatures(str(tmp_path / "features"))
    picture = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    blurred = torch.nn.functional.avg_pool2d(picture, 3, 1, 1)
    assert loss(picture, picture) == 0
    assert 0 < loss(0.7 * picture + 0.3 * blurred, picture) < loss(blurred, picture)
    found, wanted = loss.stages[0](picture), trained.network.stages[1](trained.network.stages[0](picture))
    torch.testing.assert_close(found, wanted, rtol=5e-3, atol=5e-3)
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_a_network_without_stage_or_attribute_is_refused() -> None:
    with pytest.raises(ValueError, match="a stage and an attribute"):
        FeatureNet([], {"colour": 4})
    with pytest.raises(ValueError, match="a stage and an attribute"):
        FeatureNet([16], {})


def test_classes_come_from_the_training_split_alone() -> None:
    data = LabelledImages(SAMPLE, ["base", "tone"], batch_size=4, validation_rows=8)
    data.setup("fit")
    names = class_names(data.rows["train"].meta, ["base", "tone"])
    for rows in data.rows.values():
        for row, (base, tone) in zip(rows.meta, rows.targets, strict=True):
            assert base == (names["base"].index(row["base"]) if row["base"] in names["base"] else -100)
            assert tone == (names["tone"].index(row["tone"]) if row["tone"] in names["tone"] else -100)
    pixels, targets = next(iter(data.train_dataloader()))
    assert pixels.shape == (4, 3, 64, 64)
    assert targets.shape == (4, 2)


def test_an_attribute_that_rows_lack_is_named() -> None:
    with pytest.raises(ValueError, match="attribute 'colour' is not in every row"):
        LabelledImages(SAMPLE, ["colour"]).setup("fit")
