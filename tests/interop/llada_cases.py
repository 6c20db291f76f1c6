"""Tiny models of LLaDA's network for tests: the golden file, spaces, and folders laid out as those of the hub."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from maskgen.interop.llada_network import LLaDAConfig, LLaDANetwork
from maskgen.interop.sequences import ModelVocabulary, cell_after_cell
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
    vocabulary = ModelVocabulary(text_space(sizes.vocab_size), {"text": 0}, sizes.mask_id, sizes.vocab_size)
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


SIZES = {"d_model": 32, "n_heads": 4, "n_kv_heads": 4, "n_layers": 2, "mlp_hidden_size": 48, "block_type": "llama", "rope_theta": 500000.0}


def random_weights(vocab_size: int, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a tiny network under their published names."""
    config = LLaDAConfig.from_dict({**SIZES, "embedding_size": vocab_size, "mask_token_id": 0}, "a test")
    vocabulary = ModelVocabulary(text_space(vocab_size), {"text": 0}, 0, vocab_size)
    network = LLaDANetwork(config, vocabulary, cell_after_cell(vocabulary))
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(one.shape, generator=generator) / one.shape[-1] ** 0.5 for name, one in network.state_dict().items()}


def write_folder(folder: Path, vocab_size: int, dtype: torch.dtype = torch.float32, **config: object) -> dict[str, Tensor]:
    """A folder laid out as LLaDA's on the hub: config, two shards with their index, tokenizer with chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: one.to(dtype) for name, one in random_weights(vocab_size).items()}
    found = {**SIZES, "vocab_size": vocab_size, "embedding_size": vocab_size, "mask_token_id": SPECIALS["<|mdm_mask|>"], **config}
    (folder / "config.json").write_text(json.dumps(found))
    (folder / "tokenizer.json").write_text(chat_vocabulary())
    settings = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "chat_template": LLADA_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    names, places = sorted(weights), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name].contiguous() for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return weights


def write_llada(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A LLaDA of 320 ids, of which the tokenizer names 300."""
    return write_folder(folder, 320, dtype, model_type="llada", architectures=["LLaDAModelLM"])


def write_mmada(folder: Path) -> None:
    """An MMaDA: 300 ids of text, 128 of images, and the tokenizer of the golden file in a folder inside."""
    write_folder(folder, 440, model_type="mmada", architectures=["MMadaModelLM"])
    names = {"<system>": "<|soi|>", "</system>": "<|eoi|>", "<user>": "<|t2i|>", "</user>": "<|mmu|>"}
    text = (folder / "tokenizer.json").read_text()
    for ours, theirs in names.items():
        text = text.replace(json.dumps(ours), json.dumps(theirs))
    (folder / "tokenizer.json").write_text(text)
    weights, _, _ = golden("magvitv2")
    (folder / "magvitv2").mkdir()
    save_file(weights, folder / "magvitv2" / "pytorch_model.safetensors")
    (folder / "magvitv2" / "config.json").write_text(json.dumps({"_class_name": "MAGVITv2", "num_groups": 2}))


def write_lumina(folder: Path) -> None:
    """A Lumina-DiMOO: 300 ids of text and special tokens, 40 of images, and a VQModel inside."""
    from tests.tokenizers.test_contract import tiny_vq_model

    write_folder(folder, 340, model_type="llada", architectures=["LLaDAForMultiModalGeneration"])
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LuminaDiMOOPipeline", "vqvae": ["diffusers", "VQModel"]}))
    tiny_vq_model().save_pretrained(folder / "vqvae")
