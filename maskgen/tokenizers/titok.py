"""Image tokenizer of TiTok: an image becomes one short row of codes, which stand for no places in it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from maskgen.autoencoders.maskgit_vqgan import PixelDecoderConfig
from maskgen.autoencoders.titok import TiTok, TiTokConfig, TowerSize
from maskgen.autoencoders.titok_sizes import titok_sizes
from maskgen.io.bundle import WEIGHTS_FILE, fingerprint_of, load_bundle, save_bundle
from maskgen.io.fitting import fitted
from maskgen.io.images import read_picture, to_pictures, to_pixels, write_picture
from maskgen.io.schema import Items, Maybe, Whole, record_of
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image_batches import in_batches
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.space import Kind

_BUNDLE_KIND = "titok_tokenizer"
_SIZE = Whole(1, 65_536)
_TOWER = record_of(TowerSize, dim=_SIZE, num_layers=Whole(1, 1024), num_heads=_SIZE, patch=Whole(1, 256), grid=Whole(1, 256))
_PIXELS = record_of(
    PixelDecoderConfig,
    **dict.fromkeys(("codes", "latent_dim", "channels", "blocks", "groups"), _SIZE),
    multipliers=Items(Whole(1, 64), least=1, most=16),
)
SCHEMA = record_of(
    TiTokConfig,
    **dict.fromkeys(("num_tokens", "codebook_size", "token_size"), _SIZE),
    **dict.fromkeys(("text_length", "text_dim"), Whole(0, 65_536)),
    encoder=_TOWER,
    decoder=_TOWER,
    pixels=Maybe(_PIXELS),
)
MODEL_FILE, LATENTS = "model.safetensors", "latent_tokens"
USAGE_COUNTS = "quantize.embed_prob"
"""Tensor of some published files that only training reads."""


class TiTokTokenizer(Tokenizer):
    """Image tokenizer around TiTok, for square images of one size; codes have the shape [1, tokens].

    Args:
        network: The autoencoder. Keep its weights in float32: rounded vectors change codes.
        batch_size: Images encoded or decoded at once on a GPU; on a CPU it is always one.

    Raises:
        ValueError: If the decoder needs a text.
    """

    kind: ClassVar[Kind] = "image"
    num_levels = 1

    def __init__(self, network: TiTok, batch_size: int = 16) -> None:
        if network.config.text_length:
            raise ValueError("this is a TA-TiTok tokenizer, whose decoder needs a text; load it together with a MaskGen model")
        self.network, self.batch_size = network.eval().requires_grad_(False), batch_size
        self.codebook_size = network.config.codebook_size
        self._fingerprint = ""

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "TiTokTokenizer":
        """Load a folder of TiTok's project, such as a copy of `yucornetto/tokenizer_titok_l32_imagenet`.

        Raises:
            ValueError: If a file is missing or damaged, or the weights are not those of such a tokenizer.
        """
        return cls(read_titok(Path(folder)))

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "TiTokTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        bundle = load_bundle(folder, _BUNDLE_KIND, SCHEMA)
        network = fitted(lambda: TiTok(config_of(bundle.config)), bundle.tensors, str(folder))
        network.load_state_dict(bundle.tensors)
        return cls(network)

    def to(self, device: torch.device | str) -> None:
        """Move the network to a device. Codes and images stay on the CPU."""
        self.network.to(device)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of every image."""
        return self.network.config.side, self.network.config.side

    @property
    def grid(self) -> tuple[int]:
        """Shape of the codes of every image."""
        return (self.network.config.num_tokens,)

    @property
    def fingerprint(self) -> str:
        """Hash of config and weights, equal to the bundle's fingerprint."""
        if not self._fingerprint:
            digest = hashlib.sha256(save(tensors_of(self.network))).hexdigest()
            self._fingerprint = fingerprint_of(_BUNDLE_KIND, plain_config(self.network.config), {WEIGHTS_FILE: digest})
        return self._fingerprint

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        self._fingerprint = save_bundle(folder, _BUNDLE_KIND, plain_config(self.network.config), tensors_of(self.network))
        return self._fingerprint

    def read(self, path: Path | str) -> Image.Image:
        """Read an image file; see `read_picture`."""
        return read_picture(path)

    def write(self, media: Image.Image, path: Path | str) -> None:
        """Write an image file; see `write_picture`."""
        write_picture(media, path)

    def encode(self, media: Sequence[Image.Image]) -> list[Codes]:
        """Encode each image as codes of shape [1, tokens].

        Raises:
            ValueError: If an image has another size than `size`.
        """
        return encode_images(self.network, media, self.batch_size)

    def decode(self, codes: Sequence[Codes]) -> list[Image.Image]:
        """Decode codes [1, tokens] to images.

        Raises:
            ValueError: If codes have another shape, are unknown or out of range.
        """
        check_rows(self.network.config, codes)
        return in_batches(codes, lambda grid: tuple(grid.shape), at_once(self.network, self.batch_size), self._decode_batch)

    @torch.no_grad()
    def _decode_batch(self, codes: list[Codes]) -> list[Image.Image]:
        return to_pictures(self.network.decode(torch.cat(codes).long().to(self.network.latent_tokens.device)))


def read_titok(folder: Path) -> TiTok:
    """The autoencoder in a folder of TiTok's project, in float32.

    Raises:
        ValueError: If a file is missing or damaged, or the weights are not those of such a tokenizer.
    """
    path = folder / MODEL_FILE
    for needed in (path, folder / "config.json"):
        if not needed.is_file():
            raise ValueError(f"{needed} is missing; copy the whole folder of the tokenizer")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(path)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder} is damaged ({error}); copy the tokenizer again") from error
    tensors = {name: tensor.float() for name, tensor in tensors.items() if name != USAGE_COUNTS}
    sizes = titok_sizes(
        {name: tuple(one.shape) for name, one in tensors.items()}, config if isinstance(config, Mapping) else {}, str(folder)
    )
    network = fitted(lambda: TiTok(sizes), tensors, str(path))
    network.load_state_dict(tensors)
    return network


def is_titok(folder: Path) -> bool:
    """Whether a folder holds a tokenizer of TiTok's project; its config.json alone does not tell it from a generator of the project."""
    return LATENTS in tensor_names(folder / MODEL_FILE)


def tensor_names(path: Path) -> set[str]:
    """Names of the tensors in a safetensors file; empty if there is none that can be read."""
    try:
        with safe_open(path, framework="pt") as opened:
            return set(opened.keys())
    except (SafetensorError, OSError):
        return set()


def encode_images(network: TiTok, media: Sequence[Image.Image], batch_size: int) -> list[Codes]:
    """Codes [1, tokens] of images.

    Raises:
        ValueError: If an image has another size than the network's.
    """
    side = network.config.side

    @torch.no_grad()
    def run(pictures: list[Image.Image]) -> list[Codes]:
        return list(network.encode(to_pixels(pictures).to(network.latent_tokens.device))[:, None].cpu())

    for picture in media:
        if picture.size != (side, side):
            raise ValueError(f"a picture has {picture.width} x {picture.height} pixels, this tokenizer takes {side} x {side}; resize it")
    return in_batches(media, lambda picture: picture.size, at_once(network, batch_size), run)


def at_once(network: TiTok, batch_size: int) -> int:
    """Images per call: one on a CPU, because batching changes rounding on some processors."""
    return 1 if network.latent_tokens.device.type == "cpu" else batch_size


def check_rows(config: TiTokConfig, codes: Sequence[Codes]) -> None:
    """Raise unless every item is a row of codes [1, tokens].

    Raises:
        ValueError: If codes have another shape, are unknown or out of range.
    """
    for grid in codes:
        if tuple(grid.shape) != (1, config.num_tokens):
            raise ValueError(f"image codes have shape {tuple(grid.shape)}, wanted [1, {config.num_tokens}]")
        if not bool(((grid >= 0) & (grid < config.codebook_size)).all()):
            found = f"{int(grid.min())} to {int(grid.max())}"
            raise ValueError(f"image codes must lie in [0, {config.codebook_size}), got {found} ({UNKNOWN} is an unknown cell)")


def config_of(plain: Mapping[str, Any]) -> TiTokConfig:
    """Sizes from the configuration of a bundle."""
    pixels = plain.get("pixels")
    parts: dict[str, Any] = {name: TowerSize(**plain[name]) for name in ("encoder", "decoder")}
    parts["pixels"] = None if pixels is None else PixelDecoderConfig(**{**pixels, "multipliers": tuple(pixels["multipliers"])})
    return TiTokConfig(**{**plain, **parts})


def plain_config(config: TiTokConfig) -> dict[str, Any]:
    """The sizes as plain data."""
    found = dataclasses.asdict(config)
    if config.pixels is not None:
        found["pixels"]["multipliers"] = list(config.pixels.multipliers)
    return found


def tensors_of(network: TiTok) -> dict[str, Tensor]:
    """The weights as contiguous tensors for safetensors."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
