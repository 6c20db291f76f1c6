"""Image tokenizer based on a VQModel of diffusers, as used by aMUSEd and Meissonic."""

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from maskgen.io.bundle import WEIGHTS_FILE, fingerprint_of, load_bundle, save_bundle
from maskgen.io.fitting import fitted, refusing
from maskgen.io.images import to_pictures, to_pixels
from maskgen.tokenizers.grid_images import GridImageTokenizer
from maskgen.tokens.batch import Codes

_BUNDLE_KIND = "diffusers_vq_tokenizer"
logger = logging.getLogger(__name__)

ValueRange = tuple[float, float]
"""Pixel values of black and white for a VQModel."""
SIGNED: ValueRange = (-1.0, 1.0)
"""Range of the VQModels of latent diffusion and VQ-Diffusion (diffusers: `LDMPipeline` and `VQDiffusionPipeline`, `image / 2 + 0.5`)."""
UNSIGNED: ValueRange = (0.0, 1.0)
"""Range of aMUSEd's VQModel and of models that reuse it (diffusers: `AmusedPipeline`, `VaeImageProcessor(do_normalize=False)`)."""
PIPELINE_RANGES: dict[str, ValueRange] = {
    "AmusedPipeline": UNSIGNED,
    "AmusedImg2ImgPipeline": UNSIGNED,
    "AmusedInpaintPipeline": UNSIGNED,
    "LuminaDiMOOPipeline": UNSIGNED,
    "LDMPipeline": SIGNED,
    "LDMSuperResolutionPipeline": SIGNED,
    "VQDiffusionPipeline": SIGNED,
}
"""Range of the VQModel for each pipeline class named in `model_index.json`."""
_PIPELINE_FILE = "model_index.json"
_AMUSED_SCHEDULER = "AmusedScheduler"


def _vq_model() -> Any:
    """Import the VQModel class of diffusers.

    Raises:
        ImportError: If diffusers is not installed.
    """
    try:
        from diffusers import VQModel
    except ImportError as error:
        raise ImportError("this tokenizer needs diffusers: pip install maskgen[diffusers]") from error
    return VQModel


class DiffusersVQTokenizer(GridImageTokenizer):
    """Image tokenizer based on a VQModel of diffusers, in float32.

    Args:
        model: The VQModel. It is frozen and set to evaluation mode.
        batch_size: Images encoded or decoded at once.
        value_range: Pixel values of black and white for the model: (-1, 1), or (0, 1) for aMUSEd's.

    Raises:
        ValueError: If the model isn't for RGB images, or the range is invalid.
    """

    num_levels = 1

    def __init__(self, model: Any, batch_size: int = 8, value_range: Sequence[int | float] = SIGNED) -> None:
        if (model.config.in_channels, model.config.out_channels) != (3, 3):
            raise ValueError(
                f"the VQModel has {model.config.in_channels} channels in and {model.config.out_channels} out, wanted 3 and 3 (RGB)"
            )
        self.value_range = _checked_range(value_range)
        # Without this setting, diffusers treats the ids passed to `decode` as latents.
        model.register_to_config(lookup_from_codebook=True)
        self.model = model.float().eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.batch_size, self.codebook_size = batch_size, int(model.config.num_vq_embeddings)
        self._fingerprint = ""

    @classmethod
    def from_pretrained(
        cls,
        source: Path | str,
        subfolder: str = "",
        revision: str | None = None,
        value_range: Sequence[int | float] | None = None,
        local_files_only: bool = False,
    ) -> "DiffusersVQTokenizer":
        """Load a model in the format of diffusers. Weights are read from safetensors only, and no code is run.

        Args:
            source: Folder with `config.json` and weights (never accesses the network), or a hub id such as "amused/amused-256" (online).
            subfolder: Folder of the VQModel inside a pipeline, usually "vqvae".
            revision: Branch, tag or commit of a hub id.
            value_range: Pixel values of black and white, for example (0, 1). None reads the range from the `model_index.json` of the
                model's pipeline, or from two config options that only aMUSEd's models set. If neither is present, it is (-1, 1),
                with a warning.
            local_files_only: Take a hub id from the cache alone and ask no server.

        Raises:
            ImportError: If diffusers is not installed.
            ValueError: If there is no such model, it has another class, is damaged or incomplete, or the range is invalid.
        """
        model_class = _vq_model()
        local = Path(source).is_dir()
        if not local and (isinstance(source, Path) or source.count("/") != 1 or source.startswith((".", "/", "~"))):
            raise ValueError(f"{source} is no folder; give a folder with a diffusers VQModel, or a hub id like owner/name")
        wanted = None if value_range is None else _checked_range(value_range)
        place = {"subfolder": subfolder, "revision": revision, "local_files_only": local or local_files_only}
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
        # diffusers only warns here and leaves those weights random.
        if lacking := [*info["missing_keys"], *info["mismatched_keys"]]:
            raise ValueError(f"the weights in {source} lack {len(lacking)} tensors, the first is {lacking[0]}; copy the model again")
        return cls(model, value_range=wanted or _found_range(source, place, model.config))

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "DiffusersVQTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ImportError: If diffusers is not installed.
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        model_class = _vq_model()
        bundle = load_bundle(folder, _BUNDLE_KIND)
        config = dict(bundle.config)
        value_range = _checked_range(config.pop("value_range", SIGNED))
        model = fitted(lambda: model_class(**config), bundle.tensors, str(folder))
        model.load_state_dict(bundle.tensors)
        with refusing(str(folder)):
            tokenizer = cls(model, value_range=value_range)
        tokenizer._fingerprint = bundle.fingerprint
        return tokenizer

    @property
    def network(self) -> Any:
        """The VQModel, under the name that other tokenizers give their network."""
        return self.model

    def to(self, device: torch.device | str) -> None:
        """Move the model to a device. Codes and images stay on the CPU."""
        self.model.to(device)

    @property
    def pixels_per_cell(self) -> int:
        """Side length of a cell in pixels. Every encoder stage but the last halves the image."""
        return int(2 ** (len(self.model.config.block_out_channels) - 1))

    @property
    def images_per_call(self) -> int:
        """Images per model call: one on a CPU, because batching changes rounding on some processors."""
        return 1 if next(self.model.parameters()).device.type == "cpu" else self.batch_size

    @property
    def fingerprint(self) -> str:
        """Hash of config and weights, equal to the bundle's fingerprint."""
        if not self._fingerprint:
            from safetensors.torch import save

            digest = hashlib.sha256(save(self._tensors())).hexdigest()
            self._fingerprint = fingerprint_of(_BUNDLE_KIND, self._config(), {WEIGHTS_FILE: digest})
        return self._fingerprint

    def _config(self) -> dict[str, Any]:
        """Return the arguments of VQModel as plain data, and the range if it isn't (-1, 1).

        To keep the fingerprint stable, diffusers' metadata (version, path) and the range (-1, 1), which older bundles imply, are omitted.
        """
        config = {name: value for name, value in self.model.config.items() if not name.startswith("_")}
        if self.value_range != SIGNED:
            config["value_range"] = self.value_range
        return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}

    def _tensors(self) -> dict[str, Tensor]:
        """Return the weights as contiguous tensors for safetensors."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        self._fingerprint = save_bundle(folder, _BUNDLE_KIND, self._config(), self._tensors())
        return self._fingerprint

    @torch.no_grad()
    def _encode_batch(self, pictures: list[Image.Image]) -> list[Codes]:
        black, white = self.value_range
        pixels = to_pixels(pictures).to(next(self.model.parameters()).device)
        latents = self.model.encode(pixels * (white - black) + black).latents
        _, _, (_, _, codes) = self.model.quantize(latents)
        return list(codes.reshape(len(pictures), 1, *latents.shape[-2:]).cpu())

    @torch.no_grad()
    def _decode_batch(self, codes: list[Codes]) -> list[Image.Image]:
        stacked = torch.cat(codes).long().to(next(self.model.parameters()).device)
        shape = (*stacked.shape, self.model.quantize.vq_embed_dim)
        black, white = self.value_range
        shown = self.model.decode(stacked, force_not_quantize=True, shape=shape).sample
        return to_pictures(shown * (1.0 / (white - black)) - black / (white - black))


def _checked_range(value_range: Any) -> ValueRange:
    """Validate the range and return it as two floats.

    Raises:
        ValueError: If it isn't a pair of finite numbers in ascending order.
    """
    numbers = isinstance(value_range, Sequence) and all(isinstance(value, int | float) and math.isfinite(value) for value in value_range)
    if not numbers or len(value_range) != 2 or not value_range[0] < value_range[1]:
        raise ValueError(f"value_range is {value_range!r}, wanted two numbers, black then white, such as (-1, 1) or (0, 1)")
    return float(value_range[0]), float(value_range[1])


def _found_range(source: Path | str, place: Mapping[str, Any], config: Any) -> ValueRange:
    """Return the range that a VQModel's pipeline implies, or else the one that the model's own config implies."""
    if found := _range_of_pipeline(_pipeline_record(source, place)):
        return found
    if config.lookup_from_codebook and not config.mid_block_add_attention:  # options added to diffusers for aMUSEd
        return UNSIGNED
    logger.warning("nothing in %s says which values its VQModel works on, so (-1, 1) is taken; give value_range if it is another", source)
    return SIGNED


def _pipeline_record(source: Path | str, place: Mapping[str, Any]) -> Any:
    """Read the `model_index.json` of the pipeline that a VQModel belongs to; None if there is none.

    Raises:
        ValueError: If the file isn't valid JSON.
    """
    if Path(source).is_dir():
        folder = Path(source).resolve()
        path = next((place / _PIPELINE_FILE for place in (folder, folder.parent) if (place / _PIPELINE_FILE).is_file()), None)
    else:
        path = _hub_file(str(source), place["revision"], place["local_files_only"]) if place["subfolder"] else None
    try:
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON; copy the pipeline again, or give value_range and the folder alone") from error


def _hub_file(name: str, revision: str | None, local_files_only: bool) -> Path | None:
    """Download the `model_index.json` of a hub id; None if the repository has none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(name, _PIPELINE_FILE, revision=revision, local_files_only=local_files_only))
    except EntryNotFoundError:
        return None


def _range_of_pipeline(record: Any) -> ValueRange | None:
    """Return the range that a pipeline's class or scheduler implies; None for an unknown pipeline.

    Meissonic, Monetico and Muddit have their own classes but use aMUSEd's scheduler and VQModel.
    """
    if not isinstance(record, dict):
        return None
    parts = [part for value in record.values() if isinstance(value, list) for part in value]
    known = PIPELINE_RANGES.get(str(record.get("_class_name")))
    return known or (UNSIGNED if _AMUSED_SCHEDULER in parts else None)
