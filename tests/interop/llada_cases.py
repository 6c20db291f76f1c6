"""Tiny models of LLaDA's network for tests: the golden file, spaces, and folders laid out as those of the hub."""

import json
from functools import cache
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from maskgen.interop.llada_network import LLaDAConfig, LLaDANetwork
from maskgen.interop.sequences import Vocabulary, cell_after_cell
from maskgen.tokenizers.text import train_bpe
from maskgen.tokens.space import Modality, TokenSpace
from tokenizers import AddedToken
from tokenizers import Tokenizer as Engine

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


LLADA_TEMPLATE = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.first %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""A template that writes what LLaDA's does."""
SPECIALS = {
    name: 288 + number
    for number, name in enumerate(
        [
            *("<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
            *("<system>", "</system>", "<user>", "</user>", "<uncondition>", "<spare>"),
        ]
    )
}
"""Special tokens of the tiny vocabulary and their codes, behind 288 codes of text."""


@cache
def chat_vocabulary() -> str:
    """Content of a small tokenizer.json with special tokens: 300 codes."""
    engine = Engine.from_str(train_bpe(["a red heart, flat style, on the table, near the tall tree"] * 3, 288, lowercase=False).vocabulary)
    engine.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    return str(engine.to_str())
