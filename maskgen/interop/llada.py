"""LLaDA: text by masking with a bidirectional Llama, loaded from the folders of its authors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import Family, LoadOptions, peek_json, read_json
from maskgen.interop.llada_network import LLaDAConfig, LLaDANetwork
from maskgen.interop.llada_text import SETTINGS_FILE, TEMPLATE_FILE, read_text_tokenizer
from maskgen.interop.sequences import Layout, ModelVocabulary, cell_after_cell
from maskgen.interop.weights import load_exactly, weight_files
from maskgen.io.files import write_atomic
from maskgen.tokenizers.text import VOCABULARY_FILE
from maskgen.tokens.space import TokenSpace

CONFIG = "config.json"
ANSWER_TOKENS = 128
SMALL_FILES = (
    *(CONFIG, "generation_config.json", "args.json", VOCABULARY_FILE, SETTINGS_FILE, "special_tokens_map.json", TEMPLATE_FILE),
    "model_index.json",
)
"""Files that describe a model and its tokenizer."""


def answering(block_size: int, steps: int, temperature: float = 0.0) -> GenerationSettings:
    """How LLaDA writes: blocks from left to right, in each the surest codes first, as many at every step.

    Guidance leads away from the same text with the prompt masked.

    Args:
        block_size: Tokens of a block.
        steps: Steps over all blocks.
        temperature: Divides the logits; 0 takes the likeliest token.
    """
    return GenerationSettings(
        sampler="blocks",
        sampler_options={"block_size": block_size},
        schedule="even",
        steps=(steps,),
        temperature=(temperature,),
        choice_temperature=(0.0,),  # the surest codes are kept, without noise in the ranking
        null="masked",
    )


def read_network(folder: Path, config: LLaDAConfig, vocabulary: ModelVocabulary, layout: Layout, options: LoadOptions) -> LLaDANetwork:
    """The network with the weights of a folder, read tensor by tensor into the precision and onto the device that is asked for.

    Raises:
        ValueError: If a tensor is missing, unknown or has another shape.
    """
    with torch.device("meta"):
        network = LLaDANetwork(config, vocabulary, layout)
    load_exactly(network, weight_files(folder, "model"), dtype=options.dtype, device=options.device, source=str(folder))
    network.files = {name: (folder / name).read_text(encoding="utf-8") for name in SMALL_FILES if (folder / name).is_file()}
    return network


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names that a config.json gives."""
    found = config.get("architectures")
    return tuple(found) if isinstance(found, list) else ()


def _recognises(folder: Path) -> bool:
    """Whether a folder holds a LLaDA."""
    config = peek_json(folder / CONFIG)
    return config.get("model_type") == "llada" and "LLaDAModelLM" in (architectures(config) or ("LLaDAModelLM",)) and not _other(folder)


def _other(folder: Path) -> bool:
    """Whether a folder of LLaDA's network is a pipeline of more parts."""
    return (folder / "model_index.json").is_file()


def _load(folder: Path, options: LoadOptions) -> Parts:
    """Read a folder of LLaDA: config.json, safetensors, tokenizer.json and tokenizer_config.json.

    Raises:
        ValueError: If a file is missing, damaged or of another network.
    """
    config = LLaDAConfig.from_dict(read_json(folder / CONFIG), str(folder / CONFIG))
    tokenizer = read_text_tokenizer(folder, config.vocab_size)
    space = TokenSpace([tokenizer.modality("text")])
    vocabulary = ModelVocabulary(space, {"text": 0}, config.mask_id, config.vocab_size)
    return Parts(
        model=read_network(folder, config, vocabulary, cell_after_cell(vocabulary), options),
        space=space,
        tokenizers={"text": tokenizer},
        settings={"text": answering(block_size=32, steps=128)},
        grids={"text": (ANSWER_TOKENS,)},
        family=FAMILY.name,
    )


def write_network(network: LLaDANetwork, folder: Path) -> None:
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


def _export(parts: Parts, folder: Path) -> None:
    """Write the model as a folder that the authors' code loads."""
    assert isinstance(parts.model, LLaDANetwork), "a LLaDA has LLaDA's network"
    write_network(parts.model, folder)


FAMILY = Family(
    name="LLaDA",
    hub_ids={"GSAI-ML/LLaDA-8B-Instruct": 8015.58, "GSAI-ML/LLaDA-8B-Base": 8015.58, "GSAI-ML/LLaDA-1.5": 8015.58},
    makes=("text",),
    code_licence="MIT",
    weights_licence="MIT",
    recognises=_recognises,
    load=_load,
    export=_export,
    source="arXiv:2502.09992",
)
