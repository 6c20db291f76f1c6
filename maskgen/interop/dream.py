"""Dream: text by masking with a Qwen2 that sees both ways, loaded from the folders of its authors."""

from pathlib import Path

import torch

from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import Family, LoadOptions, peek_json, read_json
from maskgen.interop.dream_network import DreamConfig, DreamNetwork
from maskgen.interop.llada import CONFIG, SMALL_FILES, architectures
from maskgen.interop.llada_text import SETTINGS_FILE, read_text_tokenizer
from maskgen.interop.qwen_vocabulary import MERGES, WORDS
from maskgen.interop.sequences import Layout, ModelVocabulary, cell_after_cell
from maskgen.interop.weights import load_exactly, weight_files
from maskgen.io.files import write_atomic
from maskgen.tokens.space import TokenSpace

ANSWER_TOKENS = 512
FIRST_IMAGE = "<|image_0|>"
"""Token of the first image code in a vocabulary of Omni-Diffusion."""
DREAM_FILES = (*SMALL_FILES, WORDS, MERGES, "added_tokens.json")
"""Files that describe a model and its tokenizer."""


def dream_settings(
    tokens: int = ANSWER_TOKENS, temperature: float = 0.2, top_p: float = 0.95, ranking: str = "entropy"
) -> GenerationSettings:
    """How Dream writes: one token a step on average, the surest first.

    The authors recommend temperature 0.2 for Dream, and 0.1 with 768 tokens for Dream-Coder.

    Args:
        tokens: Steps, as many as there are tokens.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Share of probability that may be drawn.
        ranking: The published sampler: "entropy", "origin" (any order), "maskgit_plus" or "topk_margin".

    Source: Dream, arXiv:2508.15487.
    """
    samplers = {
        "entropy": ("entropy", {"annealing": "constant", "distribution": "drawn"}),
        "origin": ("ancestral", {}),
        "maskgit_plus": ("confidence", {"annealing": "constant", "ranking": "drawn"}),
        "topk_margin": ("margin", {"annealing": "constant", "distribution": "drawn"}),
    }
    name, options = samplers[ranking]
    return GenerationSettings(
        sampler=name,
        sampler_options=options,
        steps=(tokens,),
        temperature=(temperature,),
        choice_temperature=(0.0,),
        top_p=top_p,
        schedule="shareofrest",
        null="masked",
    )


def read_dream_network(
    folder: Path, config: DreamConfig, vocabulary: ModelVocabulary, layout: Layout, options: LoadOptions, skipped: tuple[str, ...] = ()
) -> DreamNetwork:
    """The network with the weights of a folder, read tensor by tensor into the precision and onto the device that is asked for.

    Args:
        folder: Folder of the model.
        config: Sizes.
        vocabulary: Which ids are the codes of which modality.
        layout: How rows become sequences.
        options: Precision and device.
        skipped: Beginnings of the names of tensors that are not read.

    Raises:
        ValueError: If a tensor is missing, unknown or has another shape.
    """
    with torch.device("meta"):
        network = DreamNetwork(config, vocabulary, layout)

    def rename(name: str) -> str | None:
        return None if name.startswith(skipped) else name

    files = weight_files(folder, "model")
    load_exactly(network, files, dtype=options.dtype, device=options.device, source=str(folder), rename=rename if skipped else str)
    network.files = {name: (folder / name).read_text(encoding="utf-8") for name in DREAM_FILES if (folder / name).is_file()}
    return network


def write_dream_network(network: DreamNetwork, folder: Path) -> None:
    """Write the weights in shards with their index, and the small files that lay beside them.

    Args:
        network: Perhaps trained further; written in the precision that it has.
        folder: Made if missing.
    """
    from huggingface_hub import save_torch_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(network.state_dict(), folder, filename_pattern="model{suffix}.safetensors", max_shard_size="5GB")
    for name, content in network.files.items():
        write_atomic(folder / name, content.encode())


def _recognises(folder: Path) -> bool:
    """Whether a folder holds a Dream."""
    config = peek_json(folder / CONFIG)
    known = config.get("model_type") == "Dream" and "DreamModel" in (architectures(config) or ("DreamModel",))
    return known and not has_image_codes(folder)


def has_image_codes(folder: Path) -> bool:
    """Whether the vocabulary of a folder names codes of images, as that of Omni-Diffusion does."""
    added = peek_json(folder / SETTINGS_FILE).get("added_tokens_decoder")
    named = {one.get("content") for one in added.values() if isinstance(one, dict)} if isinstance(added, dict) else set()
    return FIRST_IMAGE in named or FIRST_IMAGE in peek_json(folder / "added_tokens.json")


def _load(folder: Path, options: LoadOptions) -> Parts:
    """Read a folder of Dream: config.json, safetensors, the tokenizer's files.

    Raises:
        ValueError: If a file is missing, damaged or of another network.
    """
    config = DreamConfig.from_dict(read_json(folder / CONFIG), str(folder / CONFIG))
    tokenizer = read_text_tokenizer(folder, config.vocab_size)
    space = TokenSpace([tokenizer.modality("text")])
    vocabulary = ModelVocabulary(space, {"text": 0}, config.mask_id, config.vocab_size)
    return Parts(
        model=read_dream_network(folder, config, vocabulary, cell_after_cell(vocabulary), options),
        space=space,
        tokenizers={"text": tokenizer},
        settings={"text": dream_settings()},
        grids={"text": (ANSWER_TOKENS,)},
        family=FAMILY.name,
    )


def _export(parts: Parts, folder: Path) -> None:
    """Write the model as a folder that the authors' code loads."""
    assert isinstance(parts.model, DreamNetwork), "a Dream has Dream's network"
    write_dream_network(parts.model, folder)


FAMILY = Family(
    name="Dream",
    hub_ids={
        "Dream-org/Dream-v0-Instruct-7B": 7615.62,
        "Dream-org/Dream-v0-Base-7B": 7615.62,
        "Dream-org/Dream-Coder-v0-Instruct-7B": 7615.62,
        "Dream-org/Dream-Coder-v0-Base-7B": 7615.62,
    },
    download_gb={"Dream-org/Dream-v0-Instruct-7B": 15.2, "Dream-org/Dream-v0-Base-7B": 15.2},
    makes=("text",),
    code_licence="Apache-2.0",
    weights_licence="Apache-2.0",
    recognises=_recognises,
    load=_load,
    export=_export,
    source="arXiv:2508.15487",
)
