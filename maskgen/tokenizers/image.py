"""Pictures as code grids: reading files safely, and the learned image tokenizer."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from maskgen.batch import UNKNOWN, Codes
from maskgen.bundle import load_bundle, save_bundle
from maskgen.checkpoint import read_checkpoint, weights
from maskgen.nets.image import ImageAutoencoder, ImageAutoencoderConfig
from maskgen.nets.quantize import BinaryQuantizer, FiniteScalarQuantizer, Quantizer, ResidualQuantizer, VectorQuantizer
from maskgen.pictures import read_picture, to_pictures, to_pixels, write_picture
from maskgen.space import Kind
from maskgen.tokenizers.base import Tokenizer

BUNDLE_KIND = "image_tokenizer"
QUANTIZERS: dict[str, type[Quantizer]] = {
    kind.__name__: kind for kind in (VectorQuantizer, FiniteScalarQuantizer, BinaryQuantizer, ResidualQuantizer)
}
"""Quantizers a bundle may name; nothing else is ever looked up."""


def build_network(config: Mapping[str, Any]) -> ImageAutoencoder:
    """An untrained autoencoder of the sizes in a bundle or checkpoint.

    Raises:
        ValueError: If the quantizer is unknown.
    """
    if config["quantizer"] not in QUANTIZERS:
        raise ValueError(f"no quantizer is called {config['quantizer']!r}; this maskgen has {', '.join(QUANTIZERS)}; update maskgen")
    quantizer = QUANTIZERS[config["quantizer"]](**config["quantizer_args"])
    return ImageAutoencoder(ImageAutoencoderConfig(**config["autoencoder"]), quantizer)


class ImageTokenizer(Tokenizer):
    """The learned image autoencoder as a tokenizer.

    Args:
        network: Trained encoder, quantizer and decoder.
        size: (width, height) of the pictures it was trained on; other multiples of `pixels_per_cell` work too.
        batch_size: Pictures encoded or decoded at once.
    """

    kind: ClassVar[Kind] = "image"

    def __init__(self, network: ImageAutoencoder, size: tuple[int, int], batch_size: int = 64) -> None:
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.size, self.batch_size = size, batch_size
        self.num_levels, self.codebook_size = network.quantizer.num_levels, network.quantizer.codebook_size
        self._fingerprint = ""

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "ImageTokenizer":
        """Read what `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        bundle = load_bundle(folder, BUNDLE_KIND)
        config = bundle.config
        network = build_network(config)
        network.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in bundle.tensors.items()})
        tokenizer = cls(network, tuple(config["size"]))
        tokenizer._fingerprint = bundle.fingerprint
        return tokenizer

    @classmethod
    def from_checkpoint(cls, path: Path | str, size: tuple[int, int]) -> "ImageTokenizer":
        """The tokenizer in a checkpoint of ImageAutoencoderModule.

        Args:
            path: Checkpoint that `maskgen fit` wrote.
            size: (width, height) of the training pictures.

        Raises:
            ValueError: If the checkpoint is missing, damaged or of another module.
        """
        checkpoint = read_checkpoint(path, BUNDLE_KIND)
        network = build_network(checkpoint["maskgen"])
        network.load_state_dict(weights(checkpoint, "network."))
        return cls(network, size)

    def coarser(self, num_levels: int) -> "ImageTokenizer":
        """The same tokenizer without its finest levels; codes of the levels that stay do not change.

        Raises:
            ValueError: If it has no residual levels to leave out.
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
    def pixels_per_cell(self) -> int:
        """Pixels a side that one cell stands for."""
        return self.network.config.pixels_per_cell

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the bundle it came from, or a hash of config and weights where it came from none."""
        if not self._fingerprint:
            digest = hashlib.sha256(json.dumps(self._config(), sort_keys=True).encode())
            for name, tensor in sorted(self.network.state_dict().items()):
                digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _config(self) -> dict[str, Any]:
        """What `from_bundle` needs beside the weights."""
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
        """Write a bundle and return its fingerprint.

        Args:
            folder: Made if missing.
            half: Store floating-point weights in half precision.
        """
        tensors = {name: t.half() if half and t.is_floating_point() else t for name, t in self.network.state_dict().items()}
        self._fingerprint = save_bundle(folder, BUNDLE_KIND, self._config(), tensors)
        return self._fingerprint

    def read(self, path: Path | str) -> Image.Image:
        """See `read_picture`."""
        return read_picture(path)

    def write(self, media: Image.Image, path: Path | str) -> None:
        """See `write_picture`."""
        write_picture(media, path)

    def encode(self, media: Sequence[Image.Image]) -> list[Codes]:
        """Codes [level, rows, columns] of each picture.

        Raises:
            ValueError: If a side is no multiple of `pixels_per_cell`.
        """
        for picture in media:
            if picture.width % self.pixels_per_cell or picture.height % self.pixels_per_cell:
                raise ValueError(
                    f"a picture has {picture.width} x {picture.height} pixels; both sides must be multiples of {self.pixels_per_cell}"
                )
        found: dict[int, Codes] = {}
        for size in sorted({picture.size for picture in media}):
            places = [place for place, picture in enumerate(media) if picture.size == size]
            for start in range(0, len(places), self.batch_size):
                part = places[start : start + self.batch_size]
                found.update(zip(part, self._encode_batch([media[place] for place in part]), strict=True))
        return [found[place] for place in range(len(media))]

    def decode(self, codes: Sequence[Codes]) -> list[Image.Image]:
        """Pictures of code grids [level, rows, columns]; fewer levels than `num_levels` give a coarser picture.

        Raises:
            ValueError: If a grid has another shape, unknown cells or codes out of range.
        """
        for grid in codes:
            if grid.ndim != 3 or not 1 <= grid.shape[0] <= self.num_levels:
                raise ValueError(f"image codes have shape {tuple(grid.shape)}, wanted [1 to {self.num_levels} levels, rows, columns]")
            if not bool(((grid >= 0) & (grid < self.codebook_size)).all()):
                raise ValueError(f"image codes must lie in [0, {self.codebook_size}), got {int(grid.min())} to {int(grid.max())}")
        found: dict[int, Image.Image] = {}
        for shape in sorted({tuple(grid.shape) for grid in codes}):
            places = [place for place, grid in enumerate(codes) if tuple(grid.shape) == shape]
            for start in range(0, len(places), self.batch_size):
                part = places[start : start + self.batch_size]
                found.update(zip(part, self._decode_batch(torch.stack([codes[place] for place in part])), strict=True))
        return [found[place] for place in range(len(codes))]

    @torch.no_grad()
    def preview(self, codes: Codes) -> Image.Image:
        """Picture of a grid that is partly unknown: levels without a known cell add nothing, cells unknown at the coarsest are grey."""
        known = codes != UNKNOWN
        levels = int(known.flatten(1).any(dim=1).sum())
        values = self.network.quantizer.lookup(codes[: max(levels, 1)].clamp(min=0).flatten(1)[None])
        picture = to_pictures(self.network.decode(values, (codes.shape[1], codes.shape[2])))[0]
        seen = Image.fromarray(known[0].byte().mul(255).numpy()).resize(picture.size, Image.Resampling.NEAREST)
        return Image.composite(picture, Image.new("RGB", picture.size, (200, 200, 200)), seen)

    @torch.no_grad()
    def _encode_batch(self, pictures: list[Image.Image]) -> list[Codes]:
        pixels = to_pixels(pictures).to(memory_format=torch.channels_last)
        codes = self.network.codes(pixels)
        return list(codes.unflatten(-1, self.network.grid(pixels)).cpu())

    @torch.no_grad()
    def _decode_batch(self, codes: Tensor) -> list[Image.Image]:
        grid = (codes.shape[-2], codes.shape[-1])
        return to_pictures(self.network.decode(self.network.quantizer.lookup(codes.flatten(2)), grid))
