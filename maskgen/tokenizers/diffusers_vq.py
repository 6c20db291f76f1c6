"""Pictures as codes of a VQModel of diffusers, the tokenizer of aMUSEd and Meissonic."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from maskgen.io.bundle import WEIGHTS_FILE, fingerprint_of, load_bundle, save_bundle
from maskgen.io.images import read_picture, to_pictures, to_pixels, write_picture
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image_batches import check_grids, check_sides, in_batches
from maskgen.tokens.batch import Codes
from maskgen.tokens.space import Kind

_BUNDLE_KIND = "diffusers_vq_tokenizer"


def _vq_model() -> Any:
    """The VQModel class of diffusers.

    Raises:
        ImportError: If diffusers is missing.
    """
    try:
        from diffusers import VQModel
    except ImportError as error:
        raise ImportError("this tokenizer needs diffusers: pip install maskgen[diffusers]") from error
    return VQModel


class DiffusersVQTokenizer(Tokenizer):
    """A VQModel of diffusers as a tokenizer, in float32.

    Args:
        model: The VQModel; it is frozen and put into evaluation mode.
        batch_size: Pictures encoded or decoded at once.

    Raises:
        ValueError: If the model is not for RGB pictures.
    """

    kind: ClassVar[Kind] = "image"
    num_levels = 1

    def __init__(self, model: Any, batch_size: int = 8) -> None:
        if (model.config.in_channels, model.config.out_channels) != (3, 3):
            raise ValueError(
                f"the VQModel has {model.config.in_channels} channels in and {model.config.out_channels} out, wanted 3 and 3 (RGB)"
            )
        # Without this switch diffusers takes the ids that `decode` is given for latents.
        model.register_to_config(lookup_from_codebook=True)
        self.model = model.float().eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.batch_size, self.codebook_size = batch_size, int(model.config.num_vq_embeddings)
        self._fingerprint = ""

    @classmethod
    def from_pretrained(cls, source: Path | str, subfolder: str = "", revision: str | None = None) -> "DiffusersVQTokenizer":
        """Read a model in the format of diffusers; only safetensors are read, and no code.

        Args:
            source: Folder with `config.json` and weights (never asks the network), or a hub id such as "amused/amused-256" (online).
            subfolder: Folder of the VQModel inside a whole pipeline, mostly "vqvae".
            revision: Branch, tag or commit of a hub id.

        Raises:
            ImportError: If diffusers is missing.
            ValueError: If there is no such model, it is of another class, damaged or incomplete.
        """
        model_class = _vq_model()
        local = Path(source).is_dir()
        if not local and (isinstance(source, Path) or source.count("/") != 1 or source.startswith((".", "/", "~"))):
            raise ValueError(f"{source} is no folder; give a folder with a diffusers VQModel, or a hub id like owner/name")
        place = {"subfolder": subfolder, "revision": revision, "local_files_only": local}
        try:
            found = model_class.load_config(str(source), **place).get("_class_name")
            if found != "VQModel":
                raise ValueError(
                    f"{source} holds a {found or 'config.json without a class'}, wanted a VQModel; in a pipeline it is a subfolder"
                )
            model, info = model_class.from_pretrained(
                str(source), use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True, **place
            )
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"no VQModel can be read from {source} ({reason}); give config.json and whole safetensors weights") from error
        # diffusers only warns here, and leaves those weights random.
        if lacking := [*info["missing_keys"], *info["mismatched_keys"]]:
            raise ValueError(f"the weights in {source} lack {len(lacking)} tensors, the first is {lacking[0]}; copy the model again")
        return cls(model)

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "DiffusersVQTokenizer":
        """Read what `save` wrote.

        Raises:
            ImportError: If diffusers is missing.
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        model_class = _vq_model()
        bundle = load_bundle(folder, _BUNDLE_KIND)
        model = model_class(**bundle.config)
        model.load_state_dict(bundle.tensors)
        tokenizer = cls(model)
        tokenizer._fingerprint = bundle.fingerprint
        return tokenizer

    @property
    def pixels_per_cell(self) -> int:
        """Pixels a side that one cell stands for: every encoder stage but the last halves the picture."""
        return int(2 ** (len(self.model.config.block_out_channels) - 1))

    @property
    def _at_once(self) -> int:
        """Pictures in one pass: one on a CPU, where a batch rounds otherwise on some processors."""
        return 1 if next(self.model.parameters()).device.type == "cpu" else self.batch_size

    @property
    def fingerprint(self) -> str:
        """Hash of config and weights; equals the bundle's."""
        if not self._fingerprint:
            from safetensors.torch import save

            digest = hashlib.sha256(save(self._tensors())).hexdigest()
            self._fingerprint = fingerprint_of(_BUNDLE_KIND, self._config(), {WEIGHTS_FILE: digest})
        return self._fingerprint

    def _config(self) -> dict[str, Any]:
        """Arguments of VQModel as plain data; diffusers' own notes (version, path) are left out, so that they move no fingerprint."""
        config = {name: value for name, value in self.model.config.items() if not name.startswith("_")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}

    def _tensors(self) -> dict[str, Tensor]:
        """Weights, laid out for safetensors."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        self._fingerprint = save_bundle(folder, _BUNDLE_KIND, self._config(), self._tensors())
        return self._fingerprint

    def read(self, path: Path | str) -> Image.Image:
        """See `read_picture`."""
        return read_picture(path)

    def write(self, media: Image.Image, path: Path | str) -> None:
        """See `write_picture`."""
        write_picture(media, path)

    def encode(self, media: Sequence[Image.Image]) -> list[Codes]:
        """Codes [1, rows, columns] of each picture.

        Raises:
            ValueError: If a side is no multiple of `pixels_per_cell`.
        """
        check_sides(media, self.pixels_per_cell)
        return in_batches(media, lambda picture: picture.size, self._at_once, self._encode_batch)

    def decode(self, codes: Sequence[Codes]) -> list[Image.Image]:
        """Pictures of code grids [1, rows, columns].

        Raises:
            ValueError: If a grid has another shape, unknown cells or codes out of range.
        """
        check_grids(codes, self.num_levels, self.codebook_size)
        return in_batches(codes, lambda grid: tuple(grid.shape), self._at_once, self._decode_batch)

    @torch.no_grad()
    def _encode_batch(self, pictures: list[Image.Image]) -> list[Codes]:
        latents = self.model.encode(to_pixels(pictures) * 2.0 - 1.0).latents
        _, _, (_, _, codes) = self.model.quantize(latents)
        return list(codes.reshape(len(pictures), 1, *latents.shape[-2:]))

    @torch.no_grad()
    def _decode_batch(self, codes: list[Codes]) -> list[Image.Image]:
        stacked = torch.cat(codes).long()
        shape = (*stacked.shape, self.model.quantize.vq_embed_dim)
        return to_pictures(self.model.decode(stacked, force_not_quantize=True, shape=shape).sample * 0.5 + 0.5)
