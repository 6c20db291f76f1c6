"""Halton-MaskGIT: classes of ImageNet to images of 256 and 384 pixels, from the pickles that its authors published."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskgen.autoencoders.llamagen import LlamaGenVQ, llamagen_config
from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import Family, LoadOptions
from maskgen.interop.halton_config import IMAGE, LABEL, HaltonConfig, halton_config
from maskgen.interop.halton_network import HaltonTransformer
from maskgen.interop.imagenet import imagenet_names
from maskgen.interop.weights import load_exactly, read_pickle
from maskgen.io.hub import hub_file
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.llamagen_vq import LlamaGenVQTokenizer

TRANSFORMERS, CODEC_FILE = "ImageNet_*.pth", "vq_ds16_c2i.pt"
"""Files of a transformer, and the file of the image tokenizer, which its authors published in a repository of its own."""
HUB_ID, CODEC_SOURCE = "llvictorll/Halton-MaskGIT", "FoundationVision/LlamaGen"
CODEC_MILLIONS = 71.88
VARIANTS = {"256_tiny": 23.03, "256_small": 69.39, "256_base": 142.22, "384_small": 69.56, "384_base": 142.47, "384_large": 479.99}
"""Published transformers, to their parameters in millions; those of the family are those of the last one and of the image tokenizer."""
STORED_BYTES = 12
"""Bytes a parameter in their files: float32, with two moments of the optimizer."""
UNUSED_BUFFER, UNUSED_SIZE = "quantize.codebook_used", 65536
"""A count of used codes in the tokenizer's training, without meaning afterwards."""
SIZES = {(384, 6): "tiny", (512, 12): "small", (768, 12): "base", (1024, 24): "large", (1152, 28): "xlarge"}
"""Width and blocks of the authors' sizes."""
HALTON_SETTINGS = GenerationSettings(
    sampler="halton",
    sampler_options={"roll": True, "sharpening": 1.2},
    schedule="arccosfloat32",
    steps=(32,),
    guidance_scale=3.0,
)
"""The authors' example: 32 steps, w = 2 in (1 + w) c - w u, logits times 1 to 1.2, every row's order rolled."""


def _recognises(folder: Path) -> bool:
    """Whether a folder holds a transformer of this family."""
    return any(folder.glob(TRANSFORMERS)) or ((folder / CODEC_FILE).is_file() and any(folder.glob("*.pth")))


def _load(folder: Path, options: LoadOptions) -> Parts:
    """Read a transformer and the tokenizer, which lies in the same folder or in the one above it.

    Raises:
        ValueError: If one of them is missing or damaged, or there are several transformers.
    """
    model = read_halton(_transformer_file(folder, options.variant), options)
    image = read_llamagen(_codec_file(folder, options), model.config)
    config = model.config
    label = AttributeTokenizer(LABEL, imagenet_names(config.num_classes), config.num_classes)
    return Parts(
        model=model,
        space=model.space,
        tokenizers={LABEL: label, IMAGE: image},
        settings={IMAGE: HALTON_SETTINGS},
        grids={IMAGE: (config.side, config.side)},
        family=FAMILY.name,
    )


def read_halton(path: Path, options: LoadOptions | None = None) -> HaltonTransformer:
    """Read a checkpoint of the authors' training; what it holds beside the weights (the optimizer's moments) stays on the disk.

    Raises:
        ValueError: If it is damaged, or its tensors are not those of a transformer of this family.
    """
    options = options or LoadOptions()
    state = _part(path, "model_state_dict")
    weights = {_published_name(name): tensor for name, tensor in state.items()}
    if "head.weight" in weights and "tok_emb.weight" in weights and not torch.equal(weights["head.weight"], weights["tok_emb.weight"]):
        raise ValueError(f"{path}: head.weight and tok_emb.weight differ, in this family they are one tensor; copy the file again")
    with torch.device("meta"):
        model = HaltonTransformer(halton_config({name: tensor.shape for name, tensor in weights.items()}))
    load_exactly(
        model, [path], source=str(path), rename=_published_name, dtype=options.dtype, device=options.device, part=_key("model_state_dict")
    )
    return model


def read_llamagen(path: Path, config: HaltonConfig | None = None) -> LlamaGenVQTokenizer:
    """Read the published image tokenizer of LlamaGen.

    Args:
        path: `vq_ds16_c2i.pt`.
        config: A transformer that must know its codes.

    Raises:
        ValueError: If it is damaged, or has another number of codes than the transformer.
    """
    state = _part(path, "model")
    with torch.device("meta"):
        network = LlamaGenVQ(llamagen_config({name: tensor.shape for name, tensor in state.items()}))
    load_exactly(network, [path], source=str(path), rename=lambda name: None if name == UNUSED_BUFFER else name, part=_key("model"))
    if config is not None and network.config.codebook_size != config.codebook_size:
        raise ValueError(
            f"{path} has {network.config.codebook_size} codes, the transformer knows {config.codebook_size}; give the tokenizer that it "
            "was trained with"
        )
    return LlamaGenVQTokenizer(network)


def _export(parts: Parts, folder: Path) -> None:
    """Write a model as its authors' training does, so that their code loads it: two PyTorch files.

    Raises:
        ValueError: If the model is not of this family.
    """
    model, image = parts.model, parts.tokenizers.get(IMAGE)
    if not isinstance(model, HaltonTransformer) or not isinstance(image, LlamaGenVQTokenizer):
        raise ValueError(f"this model is a {type(model).__name__}, wanted a HaltonTransformer with LlamaGen's image tokenizer")
    config = model.config
    size = SIZES.get((config.dim, config.num_layers), "custom")
    state = {name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()}
    state["head.weight"] = state["tok_emb.weight"]
    checkpoint = {"iter": 0, "global_epoch": 0, "model_state_dict": state, "optimizer_state_dict": None}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, folder / f"ImageNet_{image.pixels_per_cell * config.side}_{size}.pth")
    codec = {name: tensor.detach().cpu().contiguous() for name, tensor in image.network.state_dict().items()}
    torch.save({"model": {**codec, UNUSED_BUFFER: torch.zeros(UNUSED_SIZE)}}, folder / CODEC_FILE)


def _key(name: str) -> Callable[[Any], Mapping[str, Tensor]]:
    """The tensors under one key of what a file holds."""
    return lambda content: content[name]


def _part(path: Path, key: str) -> Mapping[str, Tensor]:
    """The tensors under one key of a PyTorch file.

    Raises:
        ValueError: If there are none.
    """
    content = read_pickle(path)
    found = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping) or not all(isinstance(one, Tensor) for one in found.values()):
        raise ValueError(f"{path} has no mapping of names to tensors under {key!r}, as this family's files do; copy the file again")
    return found


def _published_name(name: str) -> str:
    """A name without what training on several GPUs and compiling put before it."""
    return name.replace("module.", "").replace("_orig_mod.", "")


def _hub_files(variant: str) -> tuple[str, ...]:
    """The file of a published transformer."""
    if variant not in VARIANTS:
        raise ValueError(f"{HUB_ID} has several models; choose one with variant: {', '.join(VARIANTS)}")
    return (f"ImageNet_{variant}.pth",)


def _transformer_file(folder: Path, variant: str) -> Path:
    """The one checkpoint of a transformer.

    Raises:
        ValueError: If there is none, or several and the variant does not tell.
    """
    every = sorted(folder.glob(TRANSFORMERS)) or sorted(folder.glob("*.pth"))
    found = [path for path in every if variant in path.name]
    if len(found) != 1:
        names = ", ".join(path.name for path in every)
        raise ValueError(f"{folder} has the transformers {names}; choose one with variant, a part of its name, got {variant!r}")
    return found[0]


def _codec_file(folder: Path, options: LoadOptions) -> Path:
    """The file of the image tokenizer.

    Raises:
        ValueError: If it is in neither folder.
        OSError: If it has to be downloaded and the hub cannot be reached.
    """
    places = [folder / CODEC_FILE, folder.parent / CODEC_FILE]
    if found := next((path for path in places if path.is_file()), None):
        return found
    if options.from_hub:
        about = "the image tokenizer of Halton-MaskGIT"
        return hub_file(CODEC_SOURCE, CODEC_FILE, local_files_only=options.local_files_only, about=about)
    raise ValueError(
        f"{folder} lacks the image tokenizer {CODEC_FILE}; get it from {CODEC_SOURCE} on the hub, and put it there or one above"
    )


FAMILY = Family(
    name="Halton-MaskGIT",
    hub_ids={HUB_ID: 551.9},
    variants={name: millions + CODEC_MILLIONS for name, millions in VARIANTS.items()},
    tokenizer_millions={HUB_ID: CODEC_MILLIONS},
    download_gb={name: (millions * STORED_BYTES + CODEC_MILLIONS * 4) / 1000 for name, millions in VARIANTS.items()},
    makes=("class to image", "inpaint"),
    code_licence="MIT",
    weights_licence="MIT",
    recognises=_recognises,
    load=_load,
    export=_export,
    hub_files=_hub_files,
    source="arXiv:2503.17076",
)
