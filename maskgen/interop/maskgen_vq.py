"""MaskGen-VQ: text to images of 256 pixels through 128 codes, from the folders of its authors and a CLIP text encoder."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.autoencoders.titok_sizes import published_config, vq_config
from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import Family, LoadOptions, read_json, write_json, write_tensors
from maskgen.interop.clip_prompts import prompts_of, read_clip, write_clip_tokenizer
from maskgen.interop.grids import in_row_order
from maskgen.interop.maskgen_network import MaskGenConfig, MaskGenTransformer
from maskgen.interop.tatitok import TextAwareTokenizer
from maskgen.interop.titok_folders import contents, tensor_shapes, text_encoder_of, tokenizer_of
from maskgen.interop.titok_network import rows_of_codes
from maskgen.interop.weights import load_exactly
from maskgen.networks.published import PublishedConfig, PublishedNetwork
from maskgen.tokenizers.titok import MODEL_FILE, read_titok, tensors_of
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.micro import MICRO, MicroConditions, micro_conditions
from maskgen.tokens.space import MASK, TokenSpace

TEXT_ENCODER, PAD = "text_encoder", 0
"""Folder of CLIP, and the id with which open_clip fills texts; transformers' own tokenizer of the same CLIP takes another."""
SCORE = 6.5
"""Aesthetic score that the authors ask for."""


class MaskGenNetwork(PublishedNetwork):
    """MaskGen's transformer over a token space of text, image and micro-conditions.

    A row has one image of the trained length. Hidden or absent text is the empty prompt. Of the micro-conditions only the aesthetic score
    is read.

    Args:
        transformer: The network.
        prompts: CLIP's text encoder: prompts to states and pooled embeddings.
        space: Token space with `text`, `image` and `micro`.
        published: The published configuration, kept for export.
        score: Aesthetic score of rows that are told none.

    Source: MaskGen, arXiv:2501.07730. Differs: the authors' `generate` ignores the score that it is given; here it counts.
    """

    def __init__(
        self, transformer: MaskGenTransformer, prompts: nn.Module, space: TokenSpace, published: Any = None, score: float = SCORE
    ) -> None:
        super().__init__()
        self.transformer, self.prompts, self.space, self.score = transformer, prompts, space, score
        self.published = dict(published or {})
        self.text, self.image = space.of("text")[0], space.of("image")[0]
        self.config = PublishedConfig(transformer.config.dim)

    @property
    def embed(self) -> nn.Embedding:
        """The embedding of the codes, which tells device and precision."""
        return self.transformer.embeddings

    def forward(
        self, batch: TokenBatch, context: Bool[Tensor, "batch length"] | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every image cell, the input of `logits`; 0 at all other cells.

        Raises:
            ValueError: If a row has not one image of the trained length.
        """
        if context is not None or window is not None:
            raise ValueError("MaskGen sees whole images; leave windows and blind conditions off")
        sizes = self.transformer.config
        ids = rows_of_codes(batch, self.image.index, sizes.num_tokens)
        ids = torch.where(ids == MASK, sizes.codebook_size, ids - self.image.offset)
        states, pooled = self.prompts(prompts_of(batch, self.text.index, self.text.offset))
        default = MicroConditions(width=0, height=0, aesthetic=self.score)
        score = micro_conditions(batch, self.space, default)[:, 4]
        return in_row_order(batch, self.image.index, self.transformer(ids, states, pooled, score))

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the image's codes: linear in `hidden`, so guidance may mix hidden states.

        Raises:
            ValueError: If other ids are asked for: the model generates images alone.
        """
        if (offset, size) != (self.image.offset, self.image.size):
            raise ValueError("MaskGen generates images alone; take image as the target")
        return self.transformer.logits(hidden)


def _recognises(folder: Path) -> bool:
    """Whether a folder holds a generator of MaskGen."""
    return contents(folder) in ("MaskGen", "MaskGen-KL")


def _load(folder: Path, options: LoadOptions) -> Parts:
    """Read a generator, its tokenizer and CLIP's text encoder.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If one of them is missing or damaged, or they don't go together.
    """
    if contents(folder) == "MaskGen-KL":
        raise ValueError(f"{folder} holds MaskGen-KL, which draws continuous latents and not codes; give a generator_maskgen_vq")
    published = read_json(folder / "config.json")
    with torch.device("meta"):
        transformer = MaskGenTransformer(maskgen_sizes(folder, published))
    load_exactly(transformer, [folder / MODEL_FILE], source=str(folder), dtype=options.dtype, device=options.device)
    place, clip = tokenizer_of(folder, options.local_files_only), text_encoder_of(folder, options.local_files_only)
    codec = read_titok(place)
    prompts, text = read_clip(clip.parent, clip.name, clip.name, dtype=options.dtype)
    prompts.pad = PAD
    prompts.to(options.device)
    image, sizes = TextAwareTokenizer(codec, prompts), transformer.config
    found = (codec.config.num_tokens, codec.config.codebook_size, codec.config.text_dim, codec.config.text_length)
    wanted = (sizes.num_tokens, sizes.codebook_size, sizes.text_dim, prompts.length)
    if found != wanted:
        raise ValueError(
            f"the tokenizer in {place} has {found[0]} of {found[1]} codes and reads {found[3]} text states of {found[2]} numbers, the "
            f"generator and CLIP have {wanted[0]} of {wanted[1]}, {wanted[3]} and {wanted[2]}; give those that go together"
        )
    told = _section(published)
    space = TokenSpace([text.modality("text"), image.modality("image"), MICRO])
    return Parts(
        model=MaskGenNetwork(transformer, prompts, space, published, float(told.get("sample_aesthetic_score", 6.0))),
        space=space,
        tokenizers={"text": text, "image": image},
        settings={"image": maskgen_sampling(told)},
        grids={"image": image.grid},
        family=FAMILY.name,
    )


def _section(published: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part `model.maskgen` of a published configuration."""
    found = published["model"].get("maskgen")
    return found if isinstance(found, Mapping) else {}


def maskgen_sizes(folder: Path, published: Mapping[str, Any]) -> MaskGenConfig:
    """Sizes of a generator from the shapes of its weights and its configuration.

    Raises:
        ValueError: If something is missing that tells a size.
    """
    shapes, told = tensor_shapes(folder), vq_config(published, str(folder))
    try:
        dim, text_dim = shapes["text_embed_proj.weight"]
        return MaskGenConfig(
            num_tokens=shapes["pos_embed"][1],
            codebook_size=int(told["codebook_size"]),
            num_ids=shapes["embeddings.weight"][0],
            dim=dim,
            num_layers=sum(bool(re.fullmatch(r"blocks\.\d+\.norm1\.linear\.weight", name)) for name in shapes),
            num_heads=int(_section(published)["decoder_num_heads"]),
            text_dim=text_dim,
            score_dim=shapes["cond_pooled_proj.weight"][1] - text_dim,
        )
    except KeyError as error:
        raise ValueError(f"{folder} lacks {error.args[0]}, so it is no generator of MaskGen's; copy the whole folder") from error


def maskgen_sampling(told: Mapping[str, Any]) -> GenerationSettings:
    """How the authors sample: see `maskgen.interop.titok.published_sampling`; guidance follows the progress after each step.

    Args:
        told: The part `model.maskgen` of the published configuration.
    """
    noise = float(told.get("temperature", 1.5))
    return GenerationSettings(
        sampler="confidence",
        sampler_options={"cooling": "softened", "annealing": "softened", "ranking": "logit"},
        steps=(int(told.get("num_iter", 16)),),
        temperature=(noise,),
        choice_temperature=(noise,),
        schedule="arccos",
        guidance_scale=1 + float(told.get("cfg", 12.0)),
        guidance_schedule="cosine_ahead",
    )


def _export(parts: Parts, folder: Path) -> None:
    """Write the generator as its authors' class loads it, its tokenizer to `tokenizer` and CLIP to `text_encoder` inside."""
    model, image = cast(MaskGenNetwork, parts.model), cast(TextAwareTokenizer, parts.tokenizers["image"])
    prompts: Any = model.prompts
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.transformer.state_dict().items()}
    write_tensors(folder / MODEL_FILE, weights)
    write_json(folder / "config.json", model.published)
    write_tensors(folder / "tokenizer" / MODEL_FILE, tensors_of(image.network))
    write_json(folder / "tokenizer" / "config.json", published_config(image.network.config))
    prompts.encoder.save_pretrained(folder / TEXT_ENCODER, safe_serialization=True)
    write_clip_tokenizer(parts.tokenizers["text"], prompts, folder / TEXT_ENCODER)


FAMILY = Family(
    name="MaskGen",
    hub_ids={
        "turkeyju/generator_maskgen_vq_l": 613.7 - 9.4 + 391.1 + 123.7,
        "turkeyju/generator_maskgen_vq_xl": 1188.4 - 11.8 + 391.1 + 123.7,
    },
    tokenizer_millions={"turkeyju/generator_maskgen_vq_l": 391.1, "turkeyju/generator_maskgen_vq_xl": 391.1},
    makes=("text to image",),
    code_licence="Apache-2.0",
    weights_licence="Apache-2.0",
    recognises=_recognises,
    load=_load,
    export=_export,
    source="arXiv:2501.07730",
)
