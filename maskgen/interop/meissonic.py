"""Meissonic and Monetico: text to image and inpainting at 1024 and 512 pixels, from the folder of the authors' pipeline."""

from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.decoding.parts import Parts
from maskgen.interop.amused import published_settings
from maskgen.interop.base import Family, LoadOptions, peek_json, read_json, write_json, write_tensors
from maskgen.interop.clip_prompts import ClipPrompts, prompts_of, read_clip, write_clip_tokenizer
from maskgen.interop.grids import grid_of, grid_rows, in_row_order
from maskgen.interop.meissonic_network import MeissonicConfig, MeissonicTransformer
from maskgen.interop.weights import load_exactly, weight_files
from maskgen.io.schema import Items, Whole, record_of
from maskgen.masking.counts import masked_after
from maskgen.masking.schedule import MaskSchedule, schedule_by_name
from maskgen.networks.published import PublishedConfig, PublishedNetwork
from maskgen.tokenizers.diffusers_vq import UNSIGNED, DiffusersVQTokenizer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.micro import MICRO, MicroConditions, micro_conditions
from maskgen.tokens.space import MASK, TokenSpace

STEPS, GUIDANCE_SCALE = 48, 9.0
"""Defaults of the authors' pipeline."""
SIDES = {True: 64, False: 32}
"""Rows and columns of the published models: 1024 pixels with down-sampling, 512 without."""
CLASS, OWN_KEYS = "Transformer2DModel", frozenset({"axes_dims_rope", "codebook_size", "num_single_layers"})
"""Class of the transformer, and keys of its configuration that diffusers' class of that name lacks."""
CONFIG_SCHEMA = record_of(
    MeissonicConfig,
    **{name: Whole(1, 2**20) for name in ("attention_head_dim", "num_attention_heads", "joint_attention_dim", "pooled_projection_dim")},
    **{name: Whole(0, 1000) for name in ("num_layers", "num_single_layers")},
    **{name: Whole(1, 2**24) for name in ("codebook_size", "vocab_size")},
    axes_dims_rope=Items(Whole(1, 2**20)),
)


class MeissonicNetwork(PublishedNetwork):
    """Meissonic's transformer over a token space of text, image and micro-conditions.

    A row has one image, of one size in a batch. Its text may be hidden or absent, which is the empty prompt. Text features are computed
    once and kept.

    Args:
        transformer: The published transformer.
        prompts: CLIP's text encoder.
        space: Token space with `text`, `image` and `micro`.
        pixels_per_cell: Of the VQ model; the size of the picture is a micro-condition.
        mask_id: The transformer's id of an unknown code.
        schedule: Mask schedule that relates the masked share of a picture to the time.
        steps: Steps of a whole decode, the unit of the time.

    Source: Meissonic, arXiv:2410.08261. Differs: the time of each row is read off its share of masked cells, as in training, on the scale
    of `steps` steps. A new picture in so many steps gets the times of the reference, and an edit or any other sampler has a time too. In
    the reference the time is the number of steps left, so the same picture has another time with another number of steps.
    """

    def __init__(
        self,
        transformer: MeissonicTransformer,
        prompts: ClipPrompts,
        space: TokenSpace,
        pixels_per_cell: int,
        mask_id: int,
        schedule: MaskSchedule,
        steps: int = STEPS,
    ) -> None:
        super().__init__()
        self.transformer, self.prompts, self.space = transformer, prompts, space
        self.pixels_per_cell, self.mask_id, self.schedule, self.steps = pixels_per_cell, mask_id, schedule, steps
        self.text, self.image = space.of("text")[0], space.of("image")[0]
        self.config = PublishedConfig(transformer.config.dim)

    @property
    def embed(self) -> nn.Embedding:
        """The table of the codes, which tells device and precision."""
        return self.transformer.embed.embeddings

    def forward(
        self, batch: TokenBatch, context: Bool[Tensor, "batch length"] | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every image cell, the input of `logits`; 0 at all other cells.

        Raises:
            ValueError: If a row has no whole image, images differ in size, or their sides don't suit the network.
        """
        if context is not None or window is not None:
            raise ValueError("Meissonic sees whole pictures; leave windows and blind conditions off")
        rows, columns = grid = grid_of(batch, self.image.index)
        ids = grid_rows(batch, self.image.index, grid)
        masked = (ids == MASK).flatten(1).sum(dim=1)
        states, pooled = self.prompts(prompts_of(batch, self.text.index, self.text.offset))
        default = MicroConditions(width=self.pixels_per_cell * columns, height=self.pixels_per_cell * rows)
        hidden = self.transformer(
            torch.where(ids == MASK, self.mask_id, ids - self.image.offset),
            states,
            pooled,
            micro_conditions(batch, self.space, default),
            steps_left(masked, rows * columns, self.schedule, self.steps),
        )
        return in_row_order(batch, self.image.index, rearrange(hidden, "b h w d -> b (h w) d"))

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the image's codes: linear in `hidden`, so guidance may mix hidden states.

        Raises:
            ValueError: If other ids are asked for: the model generates images alone.
        """
        if (offset, size) != (self.image.offset, self.image.size):
            raise ValueError("Meissonic generates images alone; take image as the target")
        return self.transformer.mlm_layer.logits(hidden)


def steps_left(masked: Int[Tensor, " batch"], total: int, schedule: MaskSchedule, steps: int) -> Float[Tensor, " batch"]:
    """Steps that are left after the one that sees so many masked cells, in a decode of a whole picture.

    Args:
        masked: Masked cells of each row.
        total: Cells of a picture.
        schedule: Mask schedule of the decode.
        steps: Its steps.
    """
    counts = torch.tensor(_counts(total, schedule, steps), device=masked.device)
    done = (counts > masked[:, None]).sum(dim=1).clamp(max=steps - 1)
    return (steps - 1 - done).float()


@lru_cache(maxsize=64)
def _counts(total: int, schedule: MaskSchedule, steps: int) -> tuple[int, ...]:
    """Masked cells before each step of a decode."""
    return (total, *(int(masked_after(schedule, step, steps, torch.tensor([total]))) for step in range(steps - 1)))


def recognises_meissonic(folder: Path) -> bool:
    """Whether a folder holds a pipeline of Meissonic; its `model_index.json` names no class that only such a pipeline has."""
    config = peek_json(folder / "transformer" / "config.json")
    return config.get("_class_name") == CLASS and set(config) >= OWN_KEYS


def read_meissonic_config(path: Path) -> MeissonicConfig:
    """Size of a published transformer, from its `config.json`.

    Raises:
        ValueError: If a value is of another type or out of range, or asks for what no published model has.
    """
    found = read_json(path)
    if found.get("guidance_embeds") or found.get("patch_size", 1) != 1:
        raise ValueError(f"{path} asks for guidance_embeds or a patch_size, which no published Meissonic has; copy the model again")
    known = {name: found[name] for name in (field.name for field in fields(MeissonicConfig)) if name in found}
    CONFIG_SCHEMA.check(known, str(path))
    try:
        return MeissonicConfig(**{**known, "axes_dims_rope": tuple(known.get("axes_dims_rope", (16, 56, 56)))})
    except ValueError as error:
        raise ValueError(f"{path}: {error}; copy the model again") from error


def load_meissonic(folder: Path, options: LoadOptions) -> Parts:
    """Read the folder of a Meissonic pipeline.

    Raises:
        ImportError: If diffusers or transformers is missing.
        ValueError: If a part is missing, damaged or of another class.
    """
    place = folder / "transformer"
    config, scheduler = read_meissonic_config(place / "config.json"), read_json(folder / "scheduler" / "scheduler_config.json")
    mask_id = scheduler.get("mask_token_id", config.vocab_size - 1)
    if not isinstance(mask_id, int) or not config.codebook_size <= mask_id < config.vocab_size:
        raise ValueError(
            f"mask_token_id of the scheduler in {folder} is {mask_id!r}, wanted an id behind the codes, "
            f"{config.codebook_size} to {config.vocab_size - 1}; copy the model again"
        )
    prompts, text = read_clip(folder, dtype=options.dtype)
    image = DiffusersVQTokenizer.from_pretrained(folder, subfolder="vqvae", value_range=UNSIGNED)
    if image.codebook_size != config.codebook_size:
        raise ValueError(
            f"the transformer in {folder} knows {config.codebook_size} codes, its vqvae {image.codebook_size}; copy both again"
        )
    sizes = prompts.encoder.config
    if (sizes.hidden_size, sizes.projection_dim) != (config.joint_attention_dim, config.pooled_projection_dim):
        raise ValueError(
            f"the text encoder in {folder} has widths {sizes.hidden_size} and {sizes.projection_dim}, the transformer wants "
            f"{config.joint_attention_dim} and {config.pooled_projection_dim}; copy both again"
        )
    with torch.device("meta"):
        transformer = MeissonicTransformer(config)
    load_exactly(transformer, weight_files(place), source=str(place), dtype=options.dtype, device=options.device)
    space = TokenSpace([text.modality("text"), image.modality("image"), MICRO])
    settings = published_settings(scheduler, steps=STEPS, guidance_scale=GUIDANCE_SCALE)
    assert settings.schedule is not None, "published_settings names it"
    schedule = schedule_by_name(settings.schedule)
    side = SIDES[config.downsample]
    return Parts(
        model=MeissonicNetwork(transformer, prompts.to(options.device), space, image.pixels_per_cell, mask_id, schedule),
        space=space,
        tokenizers={"text": text, "image": image},
        settings={"image": settings},
        grids={"image": (side, side)},
        family=FAMILY.name,
    )


def export_meissonic(parts: Parts, folder: Path) -> None:
    """Write the model in the layout of its hub folder, for the authors' classes."""
    network, image = parts.model, cast(DiffusersVQTokenizer, parts.tokenizers["image"])
    assert isinstance(network, MeissonicNetwork), "load_meissonic made it"
    config, place = network.transformer.config, folder / "transformer"
    sizes = {field.name: getattr(config, field.name) for field in fields(MeissonicConfig)}
    fixed = {"in_channels": 64, "patch_size": 1, "guidance_embeds": False}
    write_json(place / "config.json", {"_class_name": CLASS, **sizes, "axes_dims_rope": list(config.axes_dims_rope), **fixed})
    tensors = {name: tensor.contiguous().cpu() for name, tensor in network.transformer.state_dict().items()}
    write_tensors(place / "diffusion_pytorch_model.safetensors", tensors)
    network.prompts.encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
    image.model.save_pretrained(folder / "vqvae", safe_serialization=True)
    schedule = parts.settings["image"].schedule or "cosine"
    scheduler = {"_class_name": "AmusedScheduler", "mask_token_id": network.mask_id, "masking_schedule": schedule}
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_clip_tokenizer(parts.tokenizers["text"], network.prompts, folder / "tokenizer")
    classes = {
        "scheduler": ["diffusers", "AmusedScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "transformer": ["diffusers", CLASS],
        "vqvae": ["diffusers", "VQModel"],
    }
    write_json(folder / "model_index.json", {"_class_name": "Pipeline", **classes})


FAMILY = Family(
    name="Meissonic",
    hub_ids={"MeissonFlow/Meissonic": 1006.95 + 354.03 + 146.24, "Collov-Labs/Monetico": 998.56 + 354.03 + 146.24},
    tokenizer_millions={"MeissonFlow/Meissonic": 146.24, "Collov-Labs/Monetico": 146.24},
    download_gb={"MeissonFlow/Meissonic": 6.03},
    makes=("text to image", "inpaint"),
    code_licence="Apache-2.0",
    weights_licence="Apache-2.0",
    recognises=recognises_meissonic,
    load=load_meissonic,
    export=export_meissonic,
    source="arXiv:2410.08261",
)
