"""Tokenizer for maskgen's own learned image autoencoder."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from maskgen.autoencoders.image import ImageAutoencoder, ImageAutoencoderConfig, channels_last
from maskgen.autoencoders.quantizers import BinaryQuantizer, FiniteScalarQuantizer, Quantizer, ResidualQuantizer, VectorQuantizer
from maskgen.io.bundle import load_bundle, save_bundle
from maskgen.io.checkpoint import read_checkpoint, weights
from maskgen.io.fitting import fitted
from maskgen.io.images import to_pictures, to_pixels
from maskgen.io.schema import Items, Record, Text, Whole, record_of
from maskgen.tokenizers.grid_images import GridImageTokenizer
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.space import MOST_CODES, MOST_LEVELS

_BUNDLE_KIND = "image_tokenizer"
QUANTIZERS: dict[str, type[Quantizer]] = {
    kind.__name__: kind for kind in (VectorQuantizer, FiniteScalarQuantizer, BinaryQuantizer, ResidualQuantizer)
}
"""Quantizers that a bundle may name; any other name is rejected."""


_STAGES = {
    "patch": Whole(1, 256),
    "encoder_channels": Items(Whole(1, 65_536), least=1, most=16),
    "decoder_channels": Items(Whole(1, 65_536), least=1, most=16),
    "encoder_blocks": Whole(0, 1024),
    "decoder_blocks": Whole(0, 1024),
}
QUANTIZER_SCHEMA = {
    "quantizer": Text(),
    "quantizer_args": Record(
        {},
        {
            "dim": Whole(1, 1024),
            "num_levels": Whole(1, MOST_LEVELS),
            "codebook_size": Whole(1, MOST_CODES),
            "levels": Items(Whole(2, 65_536), least=1, most=64),
        },
    ),
}
"""Schema entries of a quantizer in a bundle: its name and arguments."""
SIZE_SCHEMA = Items(Whole(1, 65_536), least=2, most=2)
IMAGE_SCHEMA = Record({"autoencoder": record_of(ImageAutoencoderConfig, **_STAGES), **QUANTIZER_SCHEMA, "size": SIZE_SCHEMA})


def build_image_network(config: Mapping[str, Any]) -> ImageAutoencoder:
    """Build an untrained autoencoder from the config in a bundle or checkpoint.

    Raises:
        ValueError: If the quantizer is unknown.
    """
    if config["quantizer"] not in QUANTIZERS:
        raise ValueError(f"no quantizer is called {config['quantizer']!r}; this maskgen has {', '.join(QUANTIZERS)}; update maskgen")
    quantizer = QUANTIZERS[config["quantizer"]](**config["quantizer_args"])
    return ImageAutoencoder(ImageAutoencoderConfig(**config["autoencoder"]), quantizer)


def image_codes_fingerprint(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Hash everything that determines the codes of an image: sizes and weights of encoder and quantizer."""
    sizes = {name: value for name, value in config["autoencoder"].items() if not name.startswith("decoder")}
    plain = [_BUNDLE_KIND, sizes, config["quantizer"], config["quantizer_args"]]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        if not name.startswith("decoder."):
            value = tensor.float() if tensor.is_floating_point() else tensor
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class ImageTokenizer(GridImageTokenizer):
    """Image tokenizer based on maskgen's learned image autoencoder.

    Args:
        network: Trained encoder, quantizer and decoder.
        size: (width, height) of the training images. Other multiples of `pixels_per_cell` work too.
        batch_size: Images encoded or decoded at once.
    """

    def __init__(self, network: ImageAutoencoder, size: tuple[int, int], batch_size: int = 64) -> None:
        self.network = channels_last(network.eval().requires_grad_(False))
        self.size, self.batch_size = size, batch_size
        self.num_levels, self.codebook_size = network.quantizer.num_levels, network.quantizer.codebook_size
        self._fingerprint = ""

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "ImageTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        bundle = load_bundle(folder, _BUNDLE_KIND, IMAGE_SCHEMA)
        config = bundle.config
        network = fitted(lambda: build_image_network(config), bundle.tensors, str(folder))
        network.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in bundle.tensors.items()})
        return cls(network, tuple(config["size"]))

    @classmethod
    def from_checkpoint(cls, path: Path | str, size: tuple[int, int] | None = None) -> "ImageTokenizer":
        """Load the tokenizer from a checkpoint of ImageAutoencoderModule.

        Args:
            path: Checkpoint that `maskgen fit` wrote.
            size: (width, height) of the training images, for checkpoints of earlier versions, which don't hold it.

        Raises:
            ValueError: If the checkpoint is missing, damaged or of another module, or `size` is missing or another than the checkpoint's.
        """
        checkpoint = read_checkpoint(path, _BUNDLE_KIND)
        made, found = checkpoint["maskgen"], weights(checkpoint, "network.")
        Record({"autoencoder": IMAGE_SCHEMA.needed["autoencoder"], **QUANTIZER_SCHEMA}, {"kind": Text(), "size": SIZE_SCHEMA}).check(
            made, str(path)
        )
        trained = tuple(made["size"]) if "size" in made else size
        if trained is None:
            raise ValueError(f"the checkpoint {path} doesn't hold the size of its training images; give size, their width and height")
        if size not in (None, trained):
            raise ValueError(
                f"the training images of {path} have {trained[0]} x {trained[1]} pixels, size says {size[0]} x {size[1]}; leave it out"
            )
        network = fitted(lambda: build_image_network(made), found, str(path))
        network.load_state_dict(found)
        return cls(network, trained)

    def coarser(self, num_levels: int) -> "ImageTokenizer":
        """Return this tokenizer without its finest levels. The codes of the remaining levels don't change.

        Raises:
            ValueError: If it has no residual levels to remove.
        """
        quantizer = self.network.quantizer
        if not isinstance(quantizer, ResidualQuantizer) or not 1 <= num_levels <= quantizer.num_levels:
            raise ValueError(
                f"{num_levels} levels were asked for, this {type(quantizer).__name__} has {quantizer.num_levels}; ask for fewer of several"
            )
        network = copy.deepcopy(self.network)
        network.quantizer = quantizer.prefix(num_levels)
        return ImageTokenizer(network, self.size, self.batch_size)

    @property
    def device(self) -> torch.device:
        """Device that the network runs on."""
        device: torch.device = next(self.network.parameters()).device
        return device

    def to(self, device: torch.device | str) -> None:
        """Move the network to a device. Codes are still returned on the CPU."""
        self.network.to(device)

    @property
    def images_per_call(self) -> int:
        """Most images per call of the network."""
        return self.batch_size

    @property
    def pixels_per_cell(self) -> int:
        """Side length of a cell in pixels."""
        pixels: int = self.network.config.pixels_per_cell
        return pixels

    @property
    def fingerprint(self) -> str:
        """Hash of encoder and quantizer, which determine the codes. Training the decoder further doesn't change it."""
        if not self._fingerprint:
            self._fingerprint = image_codes_fingerprint(self._config(), self.network.state_dict())
        return self._fingerprint

    def _config(self) -> dict[str, Any]:
        """Return the config that `from_bundle` needs in addition to the weights."""
        quantizer = self.network.quantizer
        return {
            "autoencoder": {
                name: list(v) if isinstance(v, (list, tuple)) else v for name, v in dataclasses.asdict(self.network.config).items()
            },
            "quantizer": type(quantizer).__name__,
            "quantizer_args": quantizer.args,
            "size": list(self.size),
        }

    def save(self, folder: Path | str, half: bool = False) -> str:
        """Write a bundle and return the fingerprint of the saved tokenizer.

        Args:
            folder: Created if missing.
            half: Store floating-point weights in half precision, which changes the fingerprint.
        """
        tensors = {name: t.half() if half and t.is_floating_point() else t for name, t in self.network.state_dict().items()}
        save_bundle(folder, _BUNDLE_KIND, self._config(), tensors)
        return image_codes_fingerprint(self._config(), tensors)

    @torch.no_grad()
    def preview(self, codes: Codes) -> Image.Image:
        """Decode a partly unknown grid to an image. Unknown levels add nothing to a cell; cells unknown at the coarsest level are grey."""
        known = codes != UNKNOWN
        flat, depth = codes.clamp(min=0).flatten(1)[None], known.long().cumprod(dim=0).sum(dim=0).flatten()
        values = torch.zeros(1, flat.shape[-1], self.network.quantizer.dim)
        for level in range(len(codes)):
            values = torch.where((depth > level)[:, None], self.network.quantizer.lookup(flat[:, : level + 1]), values)
        picture = to_pictures(self.network.decode(values, (codes.shape[1], codes.shape[2])))[0]
        seen = Image.fromarray(known[0].byte().mul(255).numpy()).resize(picture.size, Image.Resampling.NEAREST)
        return Image.composite(picture, Image.new("RGB", picture.size, (200, 200, 200)), seen)

    @torch.no_grad()
    def _encode_batch(self, pictures: list[Image.Image]) -> list[Codes]:
        pixels = to_pixels(pictures).to(device=self.device, memory_format=torch.channels_last)
        codes = self.network.codes(pixels)
        return list(codes.reshape(*codes.shape[:2], *self.network.grid(pixels)).cpu())

    @torch.no_grad()
    def _decode_batch(self, codes: list[Codes]) -> list[Image.Image]:
        grid = (codes[0].shape[-2], codes[0].shape[-1])
        return to_pictures(self.network.decode(self.network.quantizer.lookup(torch.stack(codes).flatten(2).to(self.device)), grid))
