"""aMUSEd in our decode loop: the UVit2DModel of diffusers as a LogitsFn, its prompts as features beside the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.decoding.guidance import GuidanceSchedule, is_off, mixed
from maskgen.interop.uvit import BoundUVit, before_last_layer, last_layer
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.micro import MicroConditions
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, Segment, TokenSpace


def read_uvit(source: Path | str, subfolder: str = "", revision: str | None = None, local_files_only: bool = False) -> Any:
    """Read a UVit2DModel in the format of diffusers, for inference; only safetensors are read, and no code.

    Args:
        source: Folder with `config.json` and weights (never asks the network), or a hub id such as "amused/amused-256" (online).
        subfolder: Folder of the network inside a whole pipeline, mostly "transformer".
        revision: Branch, tag or commit of a hub id.
        local_files_only: Take a hub id from the cache alone and ask no server.

    Raises:
        ImportError: If diffusers is missing.
        ValueError: If no whole model can be read.
    """
    try:
        from diffusers import UVit2DModel
    except ImportError as error:
        raise ImportError("aMUSEd's network needs diffusers: pip install maskgen[diffusers]") from error
    place = {"subfolder": subfolder, "revision": revision, "local_files_only": local_files_only or Path(source).is_dir()}
    try:
        read: Any = UVit2DModel.from_pretrained  # without types
        model, info = read(str(source), use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True, **place)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"no UVit2DModel can be read from {source} ({reason}); give config.json and whole safetensors weights") from error
    if lacking := [*info["missing_keys"], *info["mismatched_keys"]]:
        raise ValueError(f"the weights in {source} lack {len(lacking)} tensors, the first is {lacking[0]}; copy the model again")
    return model.eval().requires_grad_(False)


def amused_space(codebook_size: int = 8192) -> TokenSpace:
    """The one modality that such a model knows; prompts are features and need no ids."""
    return TokenSpace([Modality(name="image", kind="image", num_levels=1, codebook_size=codebook_size)])


def blank_grids(space: TokenSpace, rows: int, grid: tuple[int, int]) -> TokenBatch:
    """Rows of which every cell is unknown."""
    return pack([{"image": torch.full((1, *grid), UNKNOWN)}] * rows, space)


@dataclass(frozen=True)
class Prompts:
    """What the model is told of each row.

    Args:
        states: The text encoder's hidden states before its last layer, one a word piece.
        pooled: Its projected text embedding.
    """

    states: Float[Tensor, "batch words width"]
    pooled: Float[Tensor, "batch dim"]

    def __post_init__(self) -> None:
        if len(self.states) != len(self.pooled):
            raise ValueError(f"every row needs hidden states and a pooled embedding, got {len(self.states)} and {len(self.pooled)} rows")

    def __len__(self) -> int:
        return len(self.states)

    def below(self, other: "Prompts") -> "Prompts":
        """These rows below those of the other."""
        return Prompts(torch.cat([other.states, self.states]), torch.cat([other.pooled, self.pooled]))


@torch.no_grad()
def read_prompts(tokenizer: Any, encoder: Any, texts: Sequence[str]) -> Prompts:
    """Features of texts as aMUSEd was trained on them; the empty text is what guidance leads away from.

    Args:
        tokenizer: CLIPTokenizer of transformers.
        encoder: CLIPTextModelWithProjection of transformers.
        texts: One a row.
    """
    pieces = tokenizer(list(texts), return_tensors="pt", padding="max_length", truncation=True, max_length=tokenizer.model_max_length)
    found = encoder(pieces.input_ids.to(encoder.device), return_dict=True, output_hidden_states=True)
    return Prompts(found.hidden_states[-2], found.text_embeds)


def amused_logits(
    model: Any, prompts: Prompts, micro: MicroConditions, guidance: GuidanceSchedule | None = None, negative: Prompts | None = None
) -> LogitsFn:
    """The LogitsFn of a UVit2DModel for given prompts; its logits are those of the model's own forward, up to rounding.

    Both views go through the network as one batch, unconditional first. What the prompts alone decide is computed at the first call
    and kept, the head runs at the chosen cells only, and in float32 the views are mixed before its last layer, which is affine.

    Args:
        model: UVit2DModel in evaluation mode.
        prompts: One a row of the batch that is decoded.
        micro: Micro-conditioning of all rows.
        guidance: Guidance scale over progress; None never guides. aMUSEd takes 10 throughout.
        negative: What guidance leads away from, one a row: mostly features of the empty text.

    Returns:
        A function for batches of `len(prompts)` rows of whole grids of one size. It raises ValueError for any other batch.

    Raises:
        ValueError: If guidance has nothing to lead away from, or `negative` has other rows.
    """
    if guidance is not None and (negative is None or len(negative) != len(prompts)):
        found = "none" if negative is None else f"{len(negative)}"
        raise ValueError(f"guidance needs negative features for each of the {len(prompts)} rows, got {found}; encode the empty text")

    @cache
    def bound(views: int) -> BoundUVit:
        told = prompts.below(negative) if views == 2 and negative is not None else prompts
        return BoundUVit(model, told.states, told.pooled, micro.repeated(len(told)).to(told.states.device))

    @torch.no_grad()
    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        _check(batch, len(prompts), segment, model.config.codebook_size)
        scale = 1.0 if guidance is None else _scale(guidance, batch, cells, progress)
        views = 1 if is_off(scale) else 2
        hidden = bound(views)(_ids(batch, segment, model.config.vocab_size - 1))
        hidden = before_last_layer(model, rearrange(hidden, "(v b) h w d -> v b (h w) d", v=views)[:, cells])
        if views == 2 and hidden.dtype == torch.float32:
            hidden = mixed(hidden[1], hidden[0], scale)[None]
        found = last_layer(model, hidden)
        return found[0] if len(found) == 1 else mixed(found[1], found[0], scale)

    return logits_fn


def _scale(
    guidance: GuidanceSchedule, batch: TokenBatch, cells: Bool[Tensor, "batch length"], progress: float
) -> float | Float[Tensor, "cells 1"]:
    """Guidance scale of the step, or of each chosen cell where rows differ."""
    scale = guidance.scale(progress, (batch.ids[..., 0] == MASK).float().mean(dim=1))
    return scale[cells.nonzero()[:, 0], None] if isinstance(scale, Tensor) else scale


def _check(batch: TokenBatch, rows: int, segment: Segment, codebook_size: int) -> None:
    """Raises ValueError for a batch that the model does not know."""
    if len(batch) != rows:
        raise ValueError(f"there are prompts for {rows} rows, the batch has {len(batch)}; give one prompt a row")
    if segment.size != codebook_size:
        raise ValueError(f"the model knows {codebook_size} codes, the space {segment.size}; use amused_space({codebook_size})")
    height, width = _grid(batch)
    if height * width != batch.ids.shape[1] or not batch.cells(segment.index).all() or not (batch.coords == batch.coords[:1]).all():
        raise ValueError("aMUSEd's convolutions need whole grids of one size in a batch and nothing else; decode other sizes apart")


def _grid(batch: TokenBatch) -> tuple[int, int]:
    """Rows and columns of the largest grid."""
    _, height, width = (batch.coords.amax(dim=(0, 1)) + 1).tolist()
    return height, width


def _ids(batch: TokenBatch, segment: Segment, mask_id: int) -> Int[Tensor, "batch height width"]:
    """The model's own ids: codes from 0, then a mask id at the end of its vocabulary."""
    ids = batch.ids[..., 0]
    return rearrange(torch.where(ids == MASK, mask_id, ids - segment.offset), "b (h w) -> b h w", h=_grid(batch)[0])
