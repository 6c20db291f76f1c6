"""Tiny models of Dream's network for tests: the golden file, and folders laid out as those of the hub."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from maskgen.interop.dream_network import DreamConfig, DreamNetwork
from maskgen.interop.sequences import ModelVocabulary, cell_after_cell
from maskgen.tokenizers.text import train_bpe
from tests.interop.llada_cases import golden, text_space

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-06,
}
WORDS = 288
"""Codes of the tiny vocabulary before the added tokens."""
ADDED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>")
DREAM_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\n' + 'You are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""A template that writes what Dream's does."""


def tiny_network(config: DreamConfig) -> DreamNetwork:
    """A network over text of all ids."""
    vocabulary = ModelVocabulary(text_space(config.vocab_size), {"text": 0}, config.mask_id, config.vocab_size)
    return DreamNetwork(config, vocabulary, cell_after_cell(vocabulary)).eval().requires_grad_(False)


def golden_dream() -> tuple[DreamNetwork, dict[str, Tensor]]:
    """The network of the golden file, and its inputs and outputs."""
    weights, given, config = golden("dream")
    network = tiny_network(DreamConfig.from_dict(config, "the golden file"))
    network.load_state_dict(weights)
    return network, given


@cache
def words_and_merges() -> tuple[dict[str, int], list[str]]:
    """A small byte-level vocabulary in its older form."""
    model = json.loads(train_bpe(["a red heart, flat style, on the table, near the tall tree"] * 3, WORDS, lowercase=False).vocabulary)[
        "model"
    ]
    return model["vocab"], [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]


def write_words(folder: Path, added: tuple[str, ...] = ADDED) -> dict[str, int]:
    """Tokenizer files as Dream publishes them, without a tokenizer.json; the numbers of the added tokens."""
    words, merges = words_and_merges()
    numbers = {text: len(words) + number for number, text in enumerate(added)}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    decoder = {str(number): {"content": text, "special": text[2:7] not in ("audio", "image")} for text, number in numbers.items()}
    settings = {"added_tokens_decoder": decoder, "eos_token": "<|endoftext|>", "chat_template": DREAM_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "DreamTokenizer"}))
    return numbers


def write_dream(folder: Path, dtype: torch.dtype = torch.float32, **config: Any) -> dict[str, Tensor]:
    """A folder laid out as Dream's on the hub: config, two shards with their index, the tokenizer's older files."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = write_words(folder, config.pop("added", ADDED))
    found = {
        "model_type": "Dream",
        "architectures": ["DreamModel"],
        **SIZES,
        "vocab_size": 304,
        "mask_token_id": numbers["<|mask|>"],
        **config,
    }
    (folder / "config.json").write_text(json.dumps(found))
    generator = torch.Generator().manual_seed(0)
    shapes = {name: one.shape for name, one in tiny_network(DreamConfig.from_dict(found, "a test")).state_dict().items()}
    weights = {name: (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).to(dtype) for name, shape in shapes.items()}
    names, places = sorted(weights), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return weights
