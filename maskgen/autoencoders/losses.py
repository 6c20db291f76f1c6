"""Losses of learned tokenizers: reconstruction, perceptual and adversarial; each is optional."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskgen.autoencoders.spectra import log_mel, stft


def pyramid_l1(
    found: Float[Tensor, "batch channels rows columns"], wanted: Float[Tensor, "batch channels rows columns"], levels: int
) -> Float[Tensor, ""]:
    """Mean absolute error over an image pyramid, so edges count at every scale.

    Args:
        found: Reconstruction.
        wanted: Original.
        levels: Number of scales; 1 is the plain mean absolute error.

    Returns:
        Mean over the scales of the mean absolute error, in units of the pixels.
    """
    total = torch.zeros((), device=found.device)
    for level in range(levels):
        total = total + (found - wanted).abs().mean()
        if level + 1 < levels:
            found, wanted = functional.avg_pool2d(found, 2), functional.avg_pool2d(wanted, 2)
    return total / levels


class FeatureLoss(nn.Module):
    """Distance between the features of a frozen network at several depths.

    Args:
        stages: The frozen network, cut into consecutive parts; features are compared after each.

    Source: perceptual losses, arXiv:1603.08155; features normalised over channels as in LPIPS, arXiv:1801.03924, without its linear heads.
    """

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "FeatureLoss":
        """Keep evaluation mode: a trainer switches every module, and batch statistics would change the frozen network."""
        super().train(False)
        return self

    def forward(self, found: Float[Tensor, "batch 3 rows columns"], wanted: Float[Tensor, "batch 3 rows columns"]) -> Float[Tensor, ""]:
        """Mean squared distance between the normalised features."""
        total, wanted = torch.zeros((), device=found.device), wanted.detach()
        for stage in self.stages:
            found, wanted = stage(found), stage(wanted)
            total = (
                total + (functional.normalize(found.float(), dim=1) - functional.normalize(wanted.float(), dim=1)).square().sum(1).mean()
            )
        return total / len(self.stages)


class TorchvisionFeatures(FeatureLoss):
    """Perceptual loss on a torchvision VGG-16, cut after its pooling layers.

    Args:
        weights: Path of a state dict saved as safetensors, or "random" for random weights (a weak perceptual loss, no download).

    Raises:
        ImportError: If torchvision is missing.
    """

    def __init__(self, weights: str) -> None:
        try:
            from torchvision.models import vgg16
        except ImportError as error:
            raise ImportError("the perceptual loss needs torchvision: pip install maskgen[perceptual]") from error
        network = vgg16(weights=None)
        if weights != "random":
            from safetensors.torch import load_file

            network.load_state_dict(load_file(weights))
        features = network.features
        super().__init__([features[:5], features[5:10], features[10:17], features[17:24]])


def discriminator_hinge(real: Tensor, fake: Tensor) -> Float[Tensor, ""]:
    """Hinge loss of a discriminator from its logits for real and reconstructed images. Source: arXiv:1705.02894."""
    return 0.5 * (functional.relu(1.0 - real.float()).mean() + functional.relu(1.0 + fake.float()).mean())


def generator_hinge(fake: Tensor) -> Float[Tensor, ""]:
    """Adversarial loss of the decoder against a hinge discriminator."""
    return -fake.float().mean()


def spectral_distance(
    found: Float[Tensor, "batch samples"], wanted: Float[Tensor, "batch samples"], windows: Sequence[int]
) -> Float[Tensor, ""]:
    """Spectral distance between two audio clips at several resolutions.

    Args:
        found: Reconstruction.
        wanted: Original.
        windows: Each window in samples; the hop is a quarter of it.

    Returns:
        Mean over the windows of: mean absolute difference of the log-magnitudes, plus the norm of the difference of the magnitudes over
        that of the original.

    Source: Parallel WaveGAN, arXiv:1910.11480 (multi-resolution STFT loss).
    """
    total = torch.zeros((), device=found.device)
    for window in windows:
        ours, theirs = (stft(wave, window, window // 4).abs().clamp(min=1e-5) for wave in (found, wanted))
        total = total + (ours.log() - theirs.log()).abs().mean() + (ours - theirs).norm() / theirs.norm().clamp(min=1e-3)
    return total / len(windows)


def mel_distance(
    found: Float[Tensor, "batch samples"], wanted: Float[Tensor, "batch samples"], sample_rate_hz: int, bands: int = 80
) -> Float[Tensor, ""]:
    """Mean absolute difference of the log-mel spectra, in nats (window 1024, hop 256)."""
    ours, theirs = (log_mel(wave, sample_rate_hz, 1024, 256, bands) for wave in (found, wanted))
    return (ours - theirs).abs().mean()
