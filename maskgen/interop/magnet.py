"""MAGNeT: text to music and to sounds, from the PyTorch files of its authors and a T5."""

from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.audiocraft_codec import read_audiocraft_codec, write_audiocraft_codec
from maskgen.interop.audiocraft_config import WEIGHTS, Exported, read_exported, write_exported
from maskgen.interop.base import Family, LoadOptions
from maskgen.interop.clip_prompts import prompts_of
from maskgen.interop.magnet_network import MagnetConfig, MagnetTransformer, near_frames
from maskgen.interop.t5_prompts import T5Prompts, read_t5, write_t5
from maskgen.interop.weights import load_exactly
from maskgen.io.hub import local_folder
from maskgen.networks.published import PublishedConfig, PublishedNetwork
from maskgen.tokenizers.transformers_codec import TransformersCodecTokenizer
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import MASK, TokenSpace

TEXT, AUDIO = "text", "audio"
LM_FILE, CODEC_FILE = "state_dict.bin", "compression_state_dict.bin"
T5_NAME = "conditioners.description.t5.name"
STEPS, LATER_STEPS = 20, 10
"""Steps of the coarsest level, and of each finer one."""
WANTED = {"lm_model": "transformer_lm_magnet", "conditioners.description.model": "t5", "conditioners.description.t5.normalize_text": False}
"""What every published MAGNeT has at these values."""


class MagnetNetwork(PublishedNetwork):
    """MAGNeT's transformer over a token space of text and audio.

    A row has one sound of at most the trained length. Text may be hidden or absent, which is the null condition that the model was trained
    on. T5 states are computed once a prompt and kept.

    Args:
        lm: The published transformer.
        prompts: T5's encoder.
        space: Token space with `text` and `audio`.
        longest: Frames that the model was trained on.
        files: YAML of the model and of its codec, kept for export.

    Raises:
        ValueError: If levels or codes of the space are not the transformer's.

    Source: MAGNeT, arXiv:2401.04577. Differs: a text that is shorter than another one of its batch is padded with words that nobody sees;
    in the reference they are zeros that take attention, so a row depends on its neighbours. Any number of frames up to the trained one
    goes; the reference takes that one alone, without what spans of 3 leave of it.
    """

    adapted = r"(?!prompts\.).*\.(out_proj|linear1|linear2)"

    def __init__(
        self, lm: MagnetTransformer, prompts: nn.Module, space: TokenSpace, longest: int, files: tuple[str, str] = ("", "")
    ) -> None:
        super().__init__()
        self.lm, self.prompts, self.longest, self.files = lm, prompts, longest, files
        self.text, self.codes, config = space.of(TEXT)[0], space.of(AUDIO), lm.config
        found = len(self.codes), self.codes[0].size
        if found != (config.num_levels, config.codebook_size):
            raise ValueError(
                f"the transformer has {config.num_levels} levels of {config.codebook_size} codes, its codec {found[0]} of {found[1]}; "
                "copy the whole folder of the model"
            )
        self.config = PublishedConfig(config.dim)

    @property
    def embed(self) -> nn.Embedding:
        """The table of the coarsest level, which tells device and precision."""
        found: nn.Embedding = self.lm.emb[0]  # type: ignore[assignment]
        return found

    def forward(
        self, batch: TokenBatch, context: Bool[Tensor, "batch length"] | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every visible audio cell, the input of `logits`; 0 at all other cells.

        Args:
            batch: Rows of cells.
            context: Must be None.
            window: Frames to either side that a frame sees, of each row; 0 is all.

        Raises:
            ValueError: If a row has several samples, or a sound beyond the trained length.
        """
        if context is not None or bool(batch.document.any()):
            raise ValueError("MAGNeT reads one sample a row and has no blind condition; pack samples apart")
        cells = batch.cells(self.codes[0].index)
        counts = cells.sum(dim=1)
        order = cells.long().argsort(dim=1, descending=True, stable=True)[:, : max(1, int(counts.max()))]
        inside = torch.arange(order.shape[1], device=order.device) < counts[:, None]
        time = batch.coords[..., 0].gather(1, order).masked_fill(~inside, 0)
        if int(time.max()) >= self.longest:
            raise ValueError(
                f"a row has {int(time.max()) + 1} frames of audio, this model was trained on {self.longest}; ask for a shorter sound"
            )
        shared = torch.take_along_dim(batch.ids[..., : len(self.codes)], order[..., None], 1)
        offsets = torch.tensor([one.offset for one in self.codes], device=shared.device)
        ids = torch.where((shared == MASK) | ~inside[..., None], self.lm.config.codebook_size, shared - offsets)
        states, said = self.prompts(prompts_of(batch, self.text.index, self.text.offset))
        words = self.lm.words(states.to(self.embed.weight.dtype), said)
        told = said.clone()
        told[:, 0] = True  # a row without text sees one word that is 0, which adds nothing
        hidden: Tensor = self.lm(ids, time, words, near_frames(inside, time, window), told)
        found = hidden.new_zeros(*cells.shape, hidden.shape[-1])
        found[cells] = hidden[inside]
        return found

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the codes of one level: linear in `hidden`, so guidance may mix hidden states.

        Raises:
            ValueError: If other ids are asked for: the model generates audio alone.
        """
        level = next((one.level for one in self.codes if (one.offset, one.size) == (offset, size)), None)
        if level is None:
            raise ValueError("MAGNeT generates audio alone; take audio as the target")
        found: Tensor = self.lm.linears[level](hidden)
        return found


def magnet_settings(levels: int, context: int, span: int, effects: bool) -> GenerationSettings:
    """How MAGNeT decodes: level after level, spans of neighbours, temperature and guidance falling over the steps of each level.

    Args:
        levels: Levels of the codes.
        context: Frames to either side that a cell of a finer level sees; 0 for all.
        span: Cells of a span.
        effects: Whether the model makes sound effects, for which the authors chose other numbers than for music.
    """
    return GenerationSettings(
        sampler="spans",
        sampler_options={"span": span, "counts": "before", "ranking": "tempered", "cooling": "floored"},
        steps=(STEPS, *[LATER_STEPS] * (levels - 1)),
        temperature=(3.5 if effects else 3.0,),
        top_p=0.8 if effects else 0.9,
        guidance_scale=20.0 if effects else 10.0,
        guidance_schedule="falling",
        window=(0, *[context] * (levels - 1)),
    )


def _recognises(folder: Path) -> bool:
    """Whether a folder holds a model that audiocraft exported; which one is in its pickle, and `load` says so."""
    return (folder / LM_FILE).is_file() and (folder / CODEC_FILE).is_file()


def _load(folder: Path, options: LoadOptions) -> Parts:
    """Read a MAGNeT, its codec, and the T5 that lies in a folder inside or beside it, or on the hub.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If a part is missing or damaged, or the folder holds another model of audiocraft.
    """
    exported = read_exported(folder / LM_FILE)
    for name, wanted in WANTED.items():
        if exported.get(name, wanted) != wanted or "lm_model" not in exported.config:
            raise ValueError(
                f"{folder / LM_FILE} has {name} {exported.get(name)!r}, wanted {wanted!r}; maskgen runs MAGNeT of audiocraft alone"
            )
    audio, codec_yaml = read_audiocraft_codec(folder / CODEC_FILE)
    prompts, text = read_t5(_t5_folder(folder, str(exported.get(T5_NAME, "t5-base")), options), options.dtype)
    config = MagnetConfig.from_dict(exported.section("transformer_lm"), prompts.width, str(folder / LM_FILE))
    with torch.device("meta"):
        lm = MagnetTransformer(config)
    load_exactly(lm, [folder / LM_FILE], source=str(folder), dtype=options.dtype, device=options.device, part=_weights)
    space = TokenSpace([text.modality(TEXT), audio.modality(AUDIO)])
    longest = round(_number(exported, "dataset.segment_duration") * audio.frames_per_s)
    network = MagnetNetwork(lm, prompts.to(options.device), space, longest, (exported.text, codec_yaml))
    context, span = (int(_number(exported, name)) for name in ("transformer_lm.subcodes_context", "masking.span_len"))
    settings = magnet_settings(config.num_levels, max(context, 0), span, effects=exported.get("solver") == "audio_magnet")
    return Parts(
        model=network,
        space=space,
        tokenizers={TEXT: text, AUDIO: audio},
        settings={AUDIO: settings},
        grids={AUDIO: (longest,)},
        family=FAMILY.name,
    )


def _weights(content: Any) -> Any:
    """The tensors in what an exported file holds."""
    return content[WEIGHTS]


def _number(exported: Exported, name: str) -> float:
    """A number of the configuration.

    Raises:
        ValueError: If there is none.
    """
    found = exported.get(name)
    if not isinstance(found, int | float) or isinstance(found, bool) or not -1 <= found <= 3600:
        raise ValueError(f"{exported.path} gives {found!r} for {name}, wanted a number up to 3600; copy the model again")
    return float(found)


def _t5_folder(folder: Path, name: str, options: LoadOptions) -> Path:
    """The folder of the T5 that a model was trained with.

    Raises:
        ValueError: If it is neither inside nor beside the model's folder, and the model is not one of the hub.
    """
    last = name.rsplit("/", 1)[-1]
    for place in (folder / last, folder.parent / last):
        if (place / "config.json").is_file():
            return place
    hub_id = name if "/" in name else f"google-t5/{name}"
    if options.from_hub:
        return local_folder(hub_id, local_files_only=options.local_files_only, about="the text encoder of MAGNeT")
    raise ValueError(f"{folder} lacks the text encoder; put the files of {hub_id} into a folder {last} inside it or beside it")


def _export(parts: Parts, folder: Path) -> None:
    """Write the model as audiocraft exports it, so that its code loads it, and T5 in a folder inside."""
    network = cast(MagnetNetwork, parts.model)
    codec, text = cast(TransformersCodecTokenizer, parts.tokenizers[AUDIO]), cast(TransformersTextTokenizer, parts.tokenizers[TEXT])
    model_yaml, codec_yaml = network.files
    write_exported(folder / LM_FILE, network.lm.state_dict(), model_yaml)
    write_audiocraft_codec(codec, codec_yaml, folder / CODEC_FILE)
    name = str(read_exported(folder / LM_FILE).get(T5_NAME, "t5-base")).rsplit("/", 1)[-1]
    write_t5(cast(T5Prompts, network.prompts), text, folder / name)


def _hub_files(variant: str) -> tuple[str, ...]:
    """The files that the authors publish; there are no variants in a repository.

    Raises:
        ValueError: If one is asked for.
    """
    if variant:
        raise ValueError(f"MAGNeT's repositories have no variants, got {variant!r}; leave variant out")
    return (LM_FILE, CODEC_FILE)


FAMILY = Family(
    name="MAGNeT",
    hub_ids={
        **{f"facebook/magnet-small-{one}secs": 420.37 + 109.63 + 58.99 for one in (10, 30)},
        **{f"facebook/magnet-medium-{one}secs": 1838.74 + 109.63 + 58.99 for one in (10, 30)},
        "facebook/audio-magnet-small": 420.63 + 334.94 + 57.87,
        "facebook/audio-magnet-medium": 1839.13 + 334.94 + 57.87,
    },
    tokenizer_millions={
        **{f"facebook/magnet-{size}-{one}secs": 58.99 for size in ("small", "medium") for one in (10, 30)},
        **{f"facebook/audio-magnet-{size}": 57.87 for size in ("small", "medium")},
    },
    makes=("text to music", "text to sound"),
    code_licence="MIT",
    weights_licence="CC-BY-NC-4.0",
    non_commercial=True,
    recognises=_recognises,
    load=_load,
    export=_export,
    hub_files=_hub_files,
    source="arXiv:2401.04577",
)
