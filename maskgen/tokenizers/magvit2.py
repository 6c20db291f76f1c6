"""Image tokenizer of Show-o, MMaDA and Omni-Diffusion: MAGVIT-v2's autoencoder, whose codes are the signs of its latents."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from maskgen.autoencoders.magvit2 import Magvit2, Magvit2Config
from maskgen.io.bundle import WEIGHTS_FILE, fingerprint_of, load_bundle, save_bundle
from maskgen.io.files import write_atomic
from maskgen.io.fitting import fitted
from maskgen.io.images import to_pictures, to_pixels
from maskgen.io.schema import Items, Whole, record_of
from maskgen.tokenizers.grid_images import GridImageTokenizer
from maskgen.tokens.batch import Codes

_BUNDLE_KIND = "magvit2_tokenizer"
_SIZES = Items(Whole(1, 64), least=1, most=16)
SCHEMA = record_of(
    Magvit2Config,
    channels=Whole(1, 65_536),
    bits=Whole(1, 24),
    groups=Whole(1, 65_536),
    **{f"{part}_{what}": _SIZES for part in ("encoder", "decoder") for what in ("multipliers", "blocks")},
)
CLASS_NAME, WEIGHT_FILES = "MAGVITv2", ("pytorch_model.safetensors", "model.safetensors", "diffusion_pytorch_model.safetensors")


class Magvit2Tokenizer(GridImageTokenizer):
    """Image tokenizer around MAGVIT-v2's autoencoder, 16 pixels a cell at its published size.

    Args:
        network: The autoencoder. Keep its weights in float32: rounded latents change codes.
        batch_size: Images encoded or decoded at once on a GPU; on a CPU it is always one.
    """

    def __init__(self, network: Magvit2, batch_size: int = 16) -> None:
        self.network, self.batch_size = network.eval().requires_grad_(False), batch_size
        self.num_levels, self.codebook_size = 1, 2**network.config.bits
        self._fingerprint = ""

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "Magvit2Tokenizer":
        """Load a folder of Show-o's project, such as a copy of `showlab/magvitv2`.

        Its config.json holds no sizes, so they are read from the shapes of the weights; norms have 32 groups unless it gives `num_groups`.

        Raises:
            ValueError: If a file is missing or damaged, or the weights are not those of such an autoencoder.
        """
        folder = Path(folder)
        path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
        if path is None:
            raise ValueError(f"{folder} has none of {', '.join(WEIGHT_FILES)}; copy the whole tokenizer")
        try:
            tensors = load_file(path)
            config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if (folder / "config.json").is_file() else {}
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{folder} is damaged ({error}); copy the tokenizer again") from error
        sizes = sizes_of(tensors, int(config.get("num_groups", 32)), str(path))
        network = fitted(lambda: Magvit2(sizes), tensors, str(path))
        network.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()})
        return cls(network)

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "Magvit2Tokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        bundle = load_bundle(folder, _BUNDLE_KIND, SCHEMA)
        config: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in bundle.config.items()}
        network = fitted(lambda: Magvit2(Magvit2Config(**config)), bundle.tensors, str(folder))
        network.load_state_dict(bundle.tensors)
        return cls(network)

    def to(self, device: torch.device | str) -> None:
        """Move the network to a device. Codes and images stay on the CPU."""
        self.network.to(device)

    @property
    def pixels_per_cell(self) -> int:
        """Side length of a cell in pixels."""
        return self.network.config.pixels_per_cell

    @property
    def images_per_call(self) -> int:
        """Images per call: one on a CPU, because batching changes rounding on some processors."""
        return 1 if next(self.network.parameters()).device.type == "cpu" else self.batch_size

    @property
    def fingerprint(self) -> str:
        """Hash of config and weights, equal to the bundle's fingerprint."""
        if not self._fingerprint:
            digest = hashlib.sha256(save(self._tensors())).hexdigest()
            self._fingerprint = fingerprint_of(_BUNDLE_KIND, self._config(), {WEIGHTS_FILE: digest})
        return self._fingerprint

    def _config(self) -> dict[str, Any]:
        """The sizes as plain data."""
        sizes = dataclasses.asdict(self.network.config)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in sizes.items()}

    def _tensors(self) -> dict[str, Tensor]:
        """The weights as contiguous tensors for safetensors."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        self._fingerprint = save_bundle(folder, _BUNDLE_KIND, self._config(), self._tensors())
        return self._fingerprint

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the folder that `from_pretrained` reads, with the names of Show-o's project."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        write_atomic(place / WEIGHT_FILES[0], save(self._tensors(), {"format": "pt"}))
        config = {"_class_name": CLASS_NAME, "num_groups": self.network.config.groups}
        write_atomic(place / "config.json", f"{json.dumps(config, indent=2)}\n".encode())

    @torch.no_grad()
    def _encode_batch(self, pictures: list[Image.Image]) -> list[Codes]:
        pixels = to_pixels(pictures).to(next(self.network.parameters()).device)
        return list(self.network.encode(pixels * 2 - 1)[:, None].cpu())

    @torch.no_grad()
    def _decode_batch(self, codes: list[Codes]) -> list[Image.Image]:
        stacked = torch.cat(codes).long().to(next(self.network.parameters()).device)
        return to_pictures(self.network.decode(stacked) / 2 + 0.5)


def sizes_of(tensors: Mapping[str, Tensor], groups: int, source: str) -> Magvit2Config:
    """The sizes of an autoencoder from the shapes of its weights.

    Args:
        tensors: Weights by published name.
        groups: Groups of the norms, which no shape tells.
        source: Where the weights come from, for errors.

    Raises:
        ValueError: If the weights are not those of such an autoencoder.
    """

    def width(name: str) -> int:
        if name not in tensors or tensors[name].ndim < 1:
            raise ValueError(f"{source} has no {name}, so it is no MAGVIT-v2 autoencoder; give a copy of showlab/magvitv2")
        return int(tensors[name].shape[0])

    channels = width("encoder.conv_in.weight")
    sizes: dict[str, tuple[int, ...]] = {}
    for part, place in (("encoder", "down"), ("decoder", "up")):
        pattern = re.compile(rf"{part}\.{place}\.(\d+)\.block\.(\d+)\.conv1\.weight")
        blocks: dict[int, int] = {}
        for found in filter(None, map(pattern.fullmatch, tensors)):
            blocks[int(found[1])] = max(blocks.get(int(found[1]), 0), int(found[2]) + 1)
        numbers = range(len(blocks))
        if list(numbers) != sorted(blocks) or not blocks:
            raise ValueError(f"{source} has blocks of the resolutions {sorted(blocks)} in its {part}, wanted 0, 1, ...; copy it again")
        sizes[f"{part}_blocks"] = tuple(blocks[number] for number in numbers)
        sizes[f"{part}_multipliers"] = tuple(width(f"{part}.{place}.{number}.block.0.conv1.weight") // channels for number in numbers)
    return Magvit2Config(channels=channels, bits=width("encoder.conv_out.weight"), groups=groups, **sizes)
