"""aMUSEd: text to image and inpainting at 256 and 512 pixels, from the folder of its diffusers pipeline."""

from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import Family, LoadOptions, peek_json, read_json, write_json
from maskgen.interop.clip_prompts import ClipPrompts, Prompt, prompts_of, read_clip, write_clip_tokenizer
from maskgen.interop.grids import grid_of, grid_rows, in_row_order
from maskgen.interop.uvit import BoundUVit, before_last_layer, last_layer
from maskgen.interop.weights import load_exactly, weight_files
from maskgen.networks.published import PublishedConfig, PublishedNetwork
from maskgen.tokenizers.diffusers_vq import DiffusersVQTokenizer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.micro import MICRO, MicroConditions, micro_conditions
from maskgen.tokens.space import MASK, TokenSpace

PIPELINES = ("AmusedPipeline", "AmusedImg2ImgPipeline", "AmusedInpaintPipeline")
KEPT = 4
"""Groups of prompts whose keys, values and modulations are kept."""


class AmusedNetwork(PublishedNetwork):
    """aMUSEd's UVit2DModel over a token space of text, image and micro-conditions.

    A row has one image, of one size in a batch. Its text may be hidden or absent, which is the empty prompt, as under guidance. What a
    prompt alone decides (text features, keys, values and modulations) is computed once and kept.

    Args:
        transformer: UVit2DModel of diffusers.
        prompts: CLIP's text encoder.
        space: Token space with `text`, `image` and `micro`.
        pixels_per_cell: Of the VQ model; the size of the picture is a micro-condition.

    Source: aMUSEd, arXiv:2401.01808.
    """

    transformer: Any

    def __init__(self, transformer: Any, prompts: ClipPrompts, space: TokenSpace, pixels_per_cell: int) -> None:
        super().__init__()
        self.transformer: Any = transformer
        self.prompts, self.space, self.pixels_per_cell = prompts, space, pixels_per_cell
        self.text, self.image = space.of("text")[0], space.of("image")[0]
        self.config = PublishedConfig(int(transformer.config.in_channels))

    @property
    def embed(self) -> nn.Embedding:
        """The table of the codes, which tells device and precision."""
        found: nn.Embedding = self.transformer.embed.embeddings
        return found

    def forward(
        self, batch: TokenBatch, context: Bool[Tensor, "batch length"] | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every image cell, the input of `logits`; 0 at all other cells.

        Raises:
            ValueError: If a row has no whole image, or images differ in size.
        """
        if context is not None or window is not None:
            raise ValueError("aMUSEd sees whole pictures; leave windows and blind conditions off")
        grid = grid_of(batch, self.image.index)
        told = prompts_of(batch, self.text.index, self.text.offset)
        default = MicroConditions(width=self.pixels_per_cell * grid[1], height=self.pixels_per_cell * grid[0])
        ids = grid_rows(batch, self.image.index, grid)
        ids = torch.where(ids == MASK, self.transformer.config.vocab_size - 1, ids - self.image.offset)
        half = len(ids) // 2
        if len(ids) % 2 == 0 and torch.equal(ids[:half], ids[half:]):
            ids = ids[:half]  # two views of the same grids, as in guidance: they part where the prompt enters
        hidden = self._bound(told, micro_conditions(batch, self.space, default))(ids)
        states: Tensor = before_last_layer(self.transformer, hidden)
        return in_row_order(batch, self.image.index, rearrange(states, "b h w d -> b (h w) d"))

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the image's codes: affine in `hidden`, so guidance may mix hidden states.

        Raises:
            ValueError: If other ids are asked for: the model generates images alone.
        """
        if (offset, size) != (self.image.offset, self.image.size):
            raise ValueError("aMUSEd generates images alone; take image as the target")
        found: Tensor = last_layer(self.transformer, hidden)
        return found

    def _bound(self, told: list[Prompt], micro: Float[Tensor, "batch 5"]) -> BoundUVit:
        """The network for the prompts of a batch."""
        weight = self.embed.weight
        if self.training or torch.is_grad_enabled():  # weights may change
            self.kept.clear()
            return self._new(told, micro)
        key = tuple(told), tuple(micro.flatten().tolist()), weight.device, weight.dtype, weight.data_ptr()
        if key not in self.kept:
            if len(self.kept) >= KEPT:
                self.kept.pop(next(iter(self.kept)))
            self.kept[key] = self._new(told, micro)
        found: BoundUVit = self.kept[key]
        return found

    def _new(self, told: list[Prompt], micro: Float[Tensor, "batch 5"]) -> BoundUVit:
        """The network for the prompts of a batch, computed now."""
        states, pooled = self.prompts(told)
        return BoundUVit(self.transformer, states, pooled, micro.to(states.device))


def recognises(folder: Path) -> bool:
    """Whether a folder holds a pipeline of aMUSEd."""
    return peek_json(folder / "model_index.json").get("_class_name") in PIPELINES


def load(folder: Path, options: LoadOptions) -> Parts:
    """Read the folder of an aMUSEd pipeline.

    Raises:
        ImportError: If diffusers or transformers is missing.
        ValueError: If a part is missing, damaged or of another class.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("aMUSEd needs diffusers: pip install maskgen[diffusers]") from error
    uvit: Any = diffusers.UVit2DModel
    place = folder / "transformer"
    config = read_json(place / "config.json")
    if config.get("_class_name") != "UVit2DModel":
        raise ValueError(f"{place} holds a {config.get('_class_name')}, wanted a UVit2DModel; copy the whole folder of the model")
    prompts, text = read_clip(folder, dtype=options.dtype)
    image = DiffusersVQTokenizer.from_pretrained(folder, subfolder="vqvae")
    with torch.device("meta"):
        made = uvit.from_config(dict(config))
    load_exactly(made, weight_files(place), source=str(place), dtype=options.dtype, device=options.device)
    if image.codebook_size != made.config.codebook_size:
        raise ValueError(
            f"the network in {folder} knows {made.config.codebook_size} codes, its vqvae {image.codebook_size}; copy both again"
        )
    space = TokenSpace([text.modality("text"), image.modality("image"), MICRO])
    prompts.to(options.device)
    model = AmusedNetwork(made, prompts, space, image.pixels_per_cell)
    side = int(made.config.sample_size)
    return Parts(
        model=model,
        space=space,
        tokenizers={"text": text, "image": image},
        settings={"image": published_settings(peek_json(folder / "scheduler" / "scheduler_config.json"), steps=12, guidance_scale=10.0)},
        grids={"image": (side, side)},
        family=FAMILY.name,
    )


def published_settings(scheduler: Any, steps: int, guidance_scale: float) -> GenerationSettings:
    """How a pipeline with AmusedScheduler decodes.

    The scheduler ranks by log p + temperature x Gumbel noise; its temperature falls on a straight line from the first number to the
    second, or to 0.01 where only one is given. A MaskgenScheduler names its own sampler and options.

    Args:
        scheduler: Content of `scheduler_config.json`.
        steps: Default of the pipeline.
        guidance_scale: Default of the pipeline.
    """
    schedule = str(scheduler.get("masking_schedule") or "cosine")
    if scheduler.get("_class_name") == "MaskgenScheduler":
        return GenerationSettings(
            sampler=scheduler.get("sampler", "confidence"),
            sampler_options=scheduler.get("sampler_options") or {},
            steps=(steps,),
            schedule=schedule,
            guidance_scale=guidance_scale,
        )
    temperature = scheduler.get("temperature", (2, 0))
    pair = isinstance(temperature, list | tuple) and len(temperature) == 2
    first, last = temperature if pair else (temperature, None)
    if pair and last != 0:
        raise ValueError(f"the scheduler's temperatures are {first} to {last}, wanted a line to 0; give choice_temperature in the call")
    return GenerationSettings(
        sampler="confidence",
        sampler_options={"annealing": "linear" if pair else "amused"},
        steps=(steps,),
        choice_temperature=(float(first),),
        schedule=schedule,
        guidance_scale=guidance_scale,
    )


def export(parts: Parts, folder: Path) -> None:
    """Write the model as a folder that `diffusers.AmusedPipeline.from_pretrained` loads."""
    from diffusers import AmusedScheduler

    network, image = cast(AmusedNetwork, parts.model), cast(DiffusersVQTokenizer, parts.tokenizers["image"])
    scheduler: Any = AmusedScheduler
    folder.mkdir(parents=True, exist_ok=True)
    network.transformer.save_pretrained(folder / "transformer", safe_serialization=True)
    network.prompts.encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
    image.model.save_pretrained(folder / "vqvae", safe_serialization=True)
    scheduler(mask_token_id=network.transformer.config.vocab_size - 1).save_pretrained(folder / "scheduler")
    write_clip_tokenizer(parts.tokenizers["text"], network.prompts, folder / "tokenizer")
    write_json(
        folder / "model_index.json",
        {
            "_class_name": PIPELINES[0],
            "scheduler": ["diffusers", "AmusedScheduler"],
            "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "transformer": ["diffusers", "UVit2DModel"],
            "vqvae": ["diffusers", "VQModel"],
        },
    )


FAMILY = Family(
    name="aMUSEd",
    hub_ids={"amused/amused-256": 603.54 + 123.65 + 146.24, "amused/amused-512": 608.26 + 123.65 + 146.24},
    tokenizer_millions={"amused/amused-256": 146.24, "amused/amused-512": 146.24},
    download_gb={"amused/amused-256": 3.49, "amused/amused-512": 3.51},
    makes=("text to image", "inpaint"),
    code_licence="Apache-2.0",
    weights_licence="openrail++",
    recognises=recognises,
    load=load,
    export=export,
    source="arXiv:2401.01808",
)
