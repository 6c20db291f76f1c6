"""Tiny text encoders of transformers in folders, with random weights and a tokenizer of words."""

from pathlib import Path

import torch
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from tokenizers import Tokenizer as Engine

WORDS = [
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "red",
    "blue",
    "green",
    "yellow",
    "heart",
    "square",
    "circle",
    "star",
    "flat",
    "3d",
    "noto",
    "style",
]


def tiny_encoder(folder: Path, family: str = "bert", seed: int = 0) -> Path:
    """A folder as `save_pretrained` writes it: "bert", "t5" or "clip" (with both of its halves)."""
    import transformers

    sizes = {"vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "bert":
            model = transformers.BertModel(transformers.BertConfig(**sizes, max_position_embeddings=16))
        elif family == "t5":
            model = transformers.T5Model(
                transformers.T5Config(vocab_size=len(WORDS), d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
            )
        else:
            ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 16}
            seen = {name: sizes[name] for name in sizes if name != "vocab_size"} | {"image_size": 8, "patch_size": 4}
            model = transformers.CLIPModel(transformers.CLIPConfig(text_config={**sizes, **ends}, vision_config=seen, projection_dim=8))
    model.save_pretrained(folder)
    engine = Engine(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    engine.pre_tokenizer = Whitespace()
    engine.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    engine.save(str(folder / "tokenizer.json"))
    return folder
