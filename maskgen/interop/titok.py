"""TiTok: classes of ImageNet to images of 256 pixels through 32 to 128 codes, from the folders of its authors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from maskgen.autoencoders.titok_sizes import published_config
from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import Family, LoadOptions, read_json, write_json, write_tensors
from maskgen.interop.imagenet import imagenet_names
from maskgen.interop.titok_folders import contents, tensor_shapes, tokenizer_of
from maskgen.interop.titok_network import IMAGE, LABEL, TiTokNetwork
from maskgen.interop.titok_networks import TiTokGeneratorConfig
from maskgen.interop.weights import load_exactly
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.titok import MODEL_FILE, TiTokTokenizer, tensors_of

NAMES = {
    "ViT": (
        "model.embeddings.word_embeddings.weight",
        "model.embeddings.position_embeddings.weight",
        "model.lm_head.weight",
        "model.encoder.layer.0.intermediate.dense.weight",
        r"model\.encoder\.layer\.\d+\.intermediate\.dense\.weight",
    ),
    "UViT": (
        "embeddings.weight",
        "pos_embed",
        "lm_head.weight",
        "mid_block.mlp.fc1.weight",
        r"(in|out)_blocks\.\d+\.norm1\.weight",
    ),
}
"""Tensors that tell the sizes: ids, places, head, feed-forward network, and one of each block but the middle one."""
HEADS = 16
"""Attention heads of a generator whose configuration gives none; all published ones have as many."""


def _recognises(folder: Path) -> bool:
    """Whether a folder holds a generator of TiTok, or its tokenizer alone."""
    return contents(folder) in ("ViT", "UViT", "tokenizer")


def _load(folder: Path, options: LoadOptions) -> Parts:
    """Read a generator and its tokenizer.

    Raises:
        ValueError: If one of them is missing or damaged, or they don't go together.
    """
    if contents(folder) == "tokenizer":
        raise ValueError(
            f"{folder} holds a tokenizer of TiTok's, which generates nothing; give a generator's folder, or load it with load_tokenizer"
        )
    published = read_json(folder / "config.json")
    with torch.device("meta"):
        model = TiTokNetwork(generator_sizes(folder, published), published)
    load_exactly(model.generator, [folder / MODEL_FILE], source=str(folder), dtype=options.dtype, device=options.device)
    place = tokenizer_of(folder, options.local_files_only)
    image = TiTokTokenizer.from_pretrained(place)
    wanted = model.sizes.num_tokens, model.sizes.codebook_size
    if (*image.grid, image.codebook_size) != wanted:
        raise ValueError(
            f"the generator in {folder} draws {wanted[0]} of {wanted[1]} codes, the tokenizer in {place} has {image.grid[0]} of "
            f"{image.codebook_size}; give the one that it was trained with"
        )
    count = model.sizes.num_classes
    return Parts(
        model=model,
        space=model.space,
        tokenizers={LABEL: AttributeTokenizer(LABEL, imagenet_names(count), count), IMAGE: image},
        settings={IMAGE: published_sampling(_generator(published))},
        grids={IMAGE: image.grid},
        family=FAMILY.name,
    )


def _generator(published: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part `model.generator` of a published configuration; empty if there is none."""
    model = published.get("model")
    found = model.get("generator") if isinstance(model, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def generator_sizes(folder: Path, published: Mapping[str, Any]) -> TiTokGeneratorConfig:
    """Sizes of a generator from the shapes of its weights; its attention heads are in its configuration.

    Raises:
        ValueError: If a tensor is missing that tells a size.
    """
    shapes, kind = tensor_shapes(folder), "ViT" if contents(folder) == "ViT" else "UViT"
    table, places, head, feed, block = NAMES[kind]
    try:
        codes, dim = shapes[head]
        return TiTokGeneratorConfig(
            kind=kind,  # type: ignore[arg-type]
            num_tokens=shapes[places][-2] - 1,
            codebook_size=codes,
            num_classes=shapes[table][0] - codes - 2,
            dim=dim,
            num_layers=sum(bool(re.fullmatch(block, name)) for name in shapes),
            num_heads=int(_generator(published).get("num_attention_heads", HEADS)),
            feed_dim=shapes[feed][0],
        )
    except KeyError as error:
        raise ValueError(f"{folder} lacks {error.args[0]}, so it is no generator of TiTok's; copy the whole folder") from error


def published_sampling(told: Mapping[str, Any]) -> GenerationSettings:
    """How the authors sample a generator for their measurements.

    Codes are drawn from logits at a temperature that falls to 0, and cells ranked by the drawn code's logit with as much Gumbel noise; both
    are softened by the division of the logits (`softmax_temperature_annealing`). With s of the authors, guidance is c + s (c - u), which is
    scale 1 + s here, but for power-cosine, which is u + s (c - u).

    Args:
        told: The part `model.generator` of the published configuration.

    Raises:
        ValueError: If it asks for another guidance.
    """
    noise, scale = float(told.get("randomize_temperature", 9.5)), float(told.get("guidance_scale", 4.5))
    decay = str(told.get("guidance_decay", "linear"))
    schedules = {"linear": "linear", "constant": "constant", "power-cosine": "cosine"}
    if decay not in schedules:
        raise ValueError(f"the configuration asks for guidance_decay {decay!r}, wanted one of {', '.join(schedules)}")
    return GenerationSettings(
        sampler="confidence",
        sampler_options={"cooling": "softened", "annealing": "softened", "ranking": "logit"},
        steps=(int(told.get("num_steps", 8)),),
        temperature=(noise,),
        choice_temperature=(noise,),
        schedule="arccos",
        guidance_scale=scale if decay == "power-cosine" else 1 + scale,
        guidance_schedule=schedules[decay],
    )


def _export(parts: Parts, folder: Path) -> None:
    """Write the generator as its authors' classes load it, and its tokenizer, likewise, to the folder `tokenizer` inside."""
    model, image = cast(TiTokNetwork, parts.model), cast(TiTokTokenizer, parts.tokenizers[IMAGE])
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.generator.state_dict().items()}
    write_tensors(folder / MODEL_FILE, weights)
    write_json(folder / "config.json", model.published)
    write_tensors(folder / "tokenizer" / MODEL_FILE, tensors_of(image.network))
    write_json(folder / "tokenizer" / "config.json", published_config(image.network.config))


FAMILY = Family(
    name="TiTok",
    hub_ids={
        "yucornetto/generator_titok_l32_imagenet": 177.2 + 641.1,
        "yucornetto/generator_titok_b64_imagenet": 177.2 + 204.8,
        "yucornetto/generator_titok_s128_imagenet": 295.0 + 83.7,
    },
    tokenizer_millions={
        "yucornetto/generator_titok_l32_imagenet": 641.1,
        "yucornetto/generator_titok_b64_imagenet": 204.8,
        "yucornetto/generator_titok_s128_imagenet": 83.7,
    },
    download_gb={"yucornetto/generator_titok_l32_imagenet": 3.27},
    makes=("class to image",),
    code_licence="Apache-2.0",
    weights_licence="Apache-2.0",
    recognises=_recognises,
    load=_load,
    export=_export,
    source="arXiv:2406.07550",
)
