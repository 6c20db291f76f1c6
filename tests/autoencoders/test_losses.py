"""Losses of learned tokenizers: closed forms, zeros where nothing differs, and what stays frozen."""

import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from maskgen.autoencoders.losses import FeatureLoss, TorchvisionFeatures, discriminator_hinge, generator_hinge, pyramid_l1


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pair() -> tuple[Tensor, Tensor]:
    return torch.rand(2, 3, 16, 24), torch.rand(2, 3, 16, 24)


def feature_loss() -> FeatureLoss:
    return FeatureLoss([nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()), nn.Conv2d(8, 6, 3)])


# Reconstruction


def test_a_pyramid_of_one_level_is_the_mean_absolute_error() -> None:
    found, wanted = pair()
    assert torch.allclose(pyramid_l1(found, wanted, 1), functional.l1_loss(found, wanted))


def test_a_pyramid_is_the_mean_over_block_averages() -> None:
    found, wanted = pair()
    error = (found - wanted).view(2, 3, 4, 4, 6, 4)
    halves = (found - wanted).view(2, 3, 8, 2, 12, 2).mean((3, 5)).abs().mean()
    naive = ((found - wanted).abs().mean() + halves + error.mean((3, 5)).abs().mean()) / 3
    assert torch.allclose(pyramid_l1(found, wanted, 3), naive)


def test_a_constant_shift_counts_the_same_at_every_scale() -> None:
    wanted = torch.rand(1, 3, 16, 16)
    for levels in (1, 2, 4):
        assert float(pyramid_l1(wanted + 0.25, wanted, levels)) == pytest.approx(0.25)


@pytest.mark.parametrize("levels", [1, 3])
def test_identical_pictures_have_no_pyramid_loss(levels: int) -> None:
    found, _ = pair()
    assert float(pyramid_l1(found, found.clone(), levels)) == 0.0


# Adversarial


def test_the_hinge_of_the_discriminator_equals_the_closed_form() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0])
    assert float(discriminator_hinge(real, fake)) == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1) / 2))
    assert float(discriminator_hinge(torch.full((4,), 1.0), torch.full((4,), -1.0))) == 0.0


def test_the_hinge_of_the_generator_is_minus_the_mean_verdict() -> None:
    assert float(generator_hinge(torch.tensor([1.0, -4.0]))) == pytest.approx(1.5)
    assert generator_hinge(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32


# Perceptual


def test_identical_pictures_have_no_feature_loss_and_others_do() -> None:
    found, wanted = pair()
    loss = feature_loss()
    assert float(loss(found, found.clone())) == 0.0
    assert float(loss(found, wanted)) > 0.01


def test_the_feature_loss_equals_a_naive_loop() -> None:
    found, wanted = pair()
    loss = feature_loss()
    naive, first, second = 0.0, found, wanted
    for stage in loss.stages:
        first, second = stage(first), stage(second)
        unit = [one / one.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12) for one in (first, second)]
        naive += float((unit[0] - unit[1]).square().sum(1).mean()) / 2
    assert float(loss(found, wanted)) == pytest.approx(naive, rel=1e-5)


def test_the_gradient_reaches_the_reconstruction_alone() -> None:
    found, wanted = (one.requires_grad_() for one in pair())
    loss = feature_loss()
    loss(found, wanted).backward()
    assert bool(found.grad.abs().sum() > 0)
    assert wanted.grad is None
    assert all(tensor.grad is None for tensor in loss.parameters())


def test_the_network_stays_frozen_in_a_module_that_trains() -> None:
    loss = feature_loss()
    before = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    nn.ModuleList([loss]).train()
    loss(*pair())
    assert not any(module.training for module in loss.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in loss.state_dict().items())


def test_without_torchvision_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ImportError, match=r"torchvision: pip install maskgen\[perceptual\]"):
        TorchvisionFeatures("random")


def test_a_random_vgg_tells_pictures_apart() -> None:
    pytest.importorskip("torchvision", reason="torchvision is no dependency yet; the perceptual loss is an extra")
    loss, (found, wanted) = TorchvisionFeatures("random"), pair()
    assert float(loss(found, found.clone())) == 0.0
    assert float(loss(found, wanted)) > 0.0
