"""MDLM: text by masked diffusion with a small transformer, loaded from the folders of its authors."""

from pathlib import Path

import torch
from torch import Tensor

from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import Family, LoadOptions, peek_json, read_json, write_json, write_tensors
from maskgen.interop.llada import CONFIG, SMALL_FILES, architectures
from maskgen.interop.mdlm_network import MDLMConfig, MDLMNetwork, rotary_frequencies
from maskgen.interop.weights import load_exactly, weight_files
from maskgen.io.files import write_atomic
from maskgen.io.hub import local_folder
from maskgen.networks.backbone import read_vocabulary
from maskgen.tokenizers.text import VOCABULARY_FILE
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from maskgen.tokens.space import TokenSpace

TOKENIZER = "openai-community/gpt2"
"""The text tokenizer, which the authors do not publish again."""
TRUNK, FREQUENCIES = "backbone.", "rotary_emb.inv_freq"
TABLE, OUR_TABLE = "backbone.vocab_embed.embedding", "backbone.vocab_embed.weight"
STEPS = 1000


def our_mdlm_name(name: str) -> str | None:
    """The name of a published tensor in `MDLMNetwork`; None for the rotary frequencies, which are computed."""
    whole = name if name.startswith(TRUNK) else f"{TRUNK}{name}"
    if whole == f"{TRUNK}{FREQUENCIES}":
        return None
    return OUR_TABLE if whole == TABLE else whole


def published_mdlm_tensors(network: MDLMNetwork) -> dict[str, Tensor]:
    """All tensors of a network under their published names."""
    found = {TABLE if name == OUR_TABLE else name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    return {**found, f"{TRUNK}{FREQUENCIES}": rotary_frequencies(network.sizes)}


def mdlm_settings(steps: int = STEPS) -> GenerationSettings:
    """How MDLM writes: every masked token tosses its own coin, and what is left at time 1e-5 takes its likeliest code.

    Args:
        steps: Steps of the diffusion; the last decision is one more.
    """
    return GenerationSettings(sampler="ancestral", sampler_options={"until": 1e-5}, steps=(steps + 1,), null="masked")


def _recognises(folder: Path) -> bool:
    """Whether a folder holds an MDLM."""
    config = peek_json(folder / CONFIG)
    return config.get("model_type") == "mdlm" or "MDLM" in architectures(config)


def _text_tokenizer(folder: Path, size: int, options: LoadOptions) -> TransformersTextTokenizer:
    """GPT-2's tokenizer from the folder itself, a folder `gpt2` inside or beside it, or the hub. No token ends a text.

    Raises:
        ValueError: If there is none, or it has more codes than the model.
    """
    places = [folder, folder / "gpt2", folder.parent / "gpt2"]
    place = next((one for one in places if (one / VOCABULARY_FILE).is_file()), None)
    if place is None and options.from_hub:
        place = local_folder(TOKENIZER, local_files_only=options.local_files_only, about="the tokenizer of MDLM")
    found = None if place is None else read_vocabulary(str(place))
    if found is None:
        raise ValueError(f"{folder} has no {VOCABULARY_FILE}; copy that of {TOKENIZER} into it")
    return TransformersTextTokenizer(found.text, None, size)


def _load(folder: Path, options: LoadOptions) -> Parts:
    """Read a folder of MDLM: config.json, the weights and GPT-2's tokenizer.

    Raises:
        ValueError: If a file is missing, damaged or of another network.
    """
    config = MDLMConfig.from_dict(read_json(folder / CONFIG), str(folder / CONFIG))
    text = _text_tokenizer(folder, config.mask_id, options)
    space = TokenSpace([text.modality("text")])
    with torch.device("meta"):
        network = MDLMNetwork(config, space)
    files = weight_files(folder, "model")
    load_exactly(network, files, dtype=options.dtype, device=options.device, source=str(folder), rename=our_mdlm_name)
    network.files = {name: (folder / name).read_text(encoding="utf-8") for name in SMALL_FILES if (folder / name).is_file()}
    return Parts(
        model=network,
        space=space,
        tokenizers={"text": text},
        settings={"text": mdlm_settings()},
        grids={"text": (config.length,)},
        family=FAMILY.name,
    )


def _export(parts: Parts, folder: Path) -> None:
    """Write the model as a folder that the authors' code loads, with its tokenizer."""
    network, text = parts.model, parts.tokenizers["text"]
    assert isinstance(network, MDLMNetwork), "an MDLM has MDLM's network"
    assert isinstance(text, TransformersTextTokenizer), "an MDLM has GPT-2's tokenizer"
    write_tensors(folder / "model.safetensors", published_mdlm_tensors(network))
    for name, content in network.files.items():
        write_atomic(folder / name, content.encode())
    write_atomic(folder / VOCABULARY_FILE, text.vocabulary.encode())
    if "tokenizer_config.json" not in network.files:
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2TokenizerFast"})


FAMILY = Family(
    name="MDLM",
    hub_ids={"kuleshov-group/mdlm-owt": 169.63, "kuleshov-group/mdlm-no_flashattn-fp32-owt": 169.63},
    download_gb={"kuleshov-group/mdlm-owt": 0.68},
    makes=("text",),
    code_licence="Apache-2.0",
    weights_licence="Apache-2.0",
    recognises=_recognises,
    load=_load,
    export=_export,
    source="arXiv:2406.07524",
)
