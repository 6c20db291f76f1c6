"""Image tokenizer based on the VQ-GAN of LlamaGen, as used by Halton-MaskGIT and UniDisc."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from maskgen.autoencoders.llamagen import LlamaGenConfig, LlamaGenVQ
from maskgen.io.bundle import WEIGHTS_FILE, fingerprint_of, load_bundle, save_bundle
from maskgen.io.fitting import fitted
from maskgen.io.images import to_pictures, to_pixels
from maskgen.io.schema import Items, Whole, record_of
from maskgen.tokenizers.grid_images import GridImageTokenizer
from maskgen.tokens.batch import Codes

_BUNDLE_KIND = "llamagen_vq_tokenizer"
LLAMAGEN_SCHEMA = record_of(
    LlamaGenConfig,
    codebook_size=Whole(1, 2**20),
    codebook_dim=Whole(1, 4096),
    latent_channels=Whole(1, 4096),
    channels=Whole(1, 4096),
    multipliers=Items(Whole(1, 64), least=1, most=8),
    num_groups=Whole(1, 4096),
)


class LlamaGenVQTokenizer(GridImageTokenizer):
    """Image tokenizer based on the VQ-GAN of LlamaGen, in float32. Every cell has one code.

    Args:
        network: The VQ-GAN. It is frozen and set to evaluation mode.
        batch_size: Images encoded or decoded at once on a GPU; one at a time on a CPU, where a batch rounds differently.
    """

    num_levels = 1

    def __init__(self, network: LlamaGenVQ, batch_size: int = 8) -> None:
        self.network = network.float().eval().requires_grad_(False)
        self.batch_size, self.codebook_size = batch_size, network.config.codebook_size
        self._fingerprint = ""

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "LlamaGenVQTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        bundle = load_bundle(folder, _BUNDLE_KIND, LLAMAGEN_SCHEMA)
        network = fitted(lambda: LlamaGenVQ(LlamaGenConfig(**bundle.config)), bundle.tensors, str(folder))
        network.load_state_dict(bundle.tensors)
        tokenizer = cls(network)
        tokenizer._fingerprint = bundle.fingerprint
        return tokenizer

    def to(self, device: torch.device | str) -> None:
        """Move the network to a device. Codes and images stay on the CPU."""
        self.network.to(device)

    @property
    def pixels_per_cell(self) -> int:
        """Side length of a cell in pixels."""
        side: int = self.network.config.pixels_per_cell
        return side

    @property
    def fingerprint(self) -> str:
        """Hash of config and weights, equal to the bundle's fingerprint."""
        if not self._fingerprint:
            from safetensors.torch import save

            digest = hashlib.sha256(save(self._tensors())).hexdigest()
            self._fingerprint = fingerprint_of(_BUNDLE_KIND, self._config(), {WEIGHTS_FILE: digest})
        return self._fingerprint

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        self._fingerprint = save_bundle(folder, _BUNDLE_KIND, self._config(), self._tensors())
        return self._fingerprint

    def _config(self) -> dict[str, Any]:
        """Arguments of `LlamaGenConfig` as plain data."""
        config = asdict(self.network.config)
        return {**config, "multipliers": list(config["multipliers"])}

    def _tensors(self) -> dict[str, Tensor]:
        """The weights as contiguous tensors for safetensors."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.network.quant_conv.weight.device
        return device

    @property
    def images_per_call(self) -> int:
        """Images per call of the network."""
        return 1 if self._device.type == "cpu" else self.batch_size

    @torch.no_grad()
    def _encode_batch(self, pictures: list[Image.Image]) -> list[Codes]:
        return list(self.network.encode(to_pixels(pictures).to(self._device) * 2 - 1)[:, None].cpu())

    @torch.no_grad()
    def _decode_batch(self, codes: list[Codes]) -> list[Image.Image]:
        return to_pictures(self.network.decode(torch.cat(codes).long().to(self._device)) / 2 + 0.5)
