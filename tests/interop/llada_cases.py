"""Tiny models of LLaDA's network for tests: the golden file, spaces, and folders laid out as those of the hub."""

import json
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from maskgen.interop.llada_network import LLaDAConfig, LLaDANetwork
from maskgen.interop.sequences import Vocabulary, cell_after_cell
from maskgen.tokens.space import Modality, TokenSpace

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, object]]:
    """Weights, inputs and outputs, and configuration of a golden file."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    parts = [{key.removeprefix(f"{part}/"): value for key, value in tensors.items() if key.startswith(part)} for part in ("weights", "io")]
    return parts[0], parts[1], config


def text_space(size: int) -> TokenSpace:
    return TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=size)])


def golden_network() -> tuple[LLaDANetwork, dict[str, Tensor]]:
    """The network of the golden file, and its inputs and outputs."""
    weights, given, config = golden("llada")
    sizes = LLaDAConfig.from_dict(config, "the golden file")
    vocabulary = Vocabulary(text_space(sizes.vocab_size), {"text": 0}, sizes.mask_id, sizes.vocab_size)
    network = LLaDANetwork(sizes, vocabulary, cell_after_cell(vocabulary)).eval().requires_grad_(False)
    network.load_state_dict(weights)
    return network, given
