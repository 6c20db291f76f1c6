"""Tiny models in folders laid out as those of the hub: parts that several published families share."""

import json
import string
from pathlib import Path
from typing import Any

import torch
from torch import nn

WORDS = [*"!#,.-0123456789", *string.ascii_lowercase]
CLIP_LENGTH = 16


def scrambled(model: Any, seed: int = 0) -> Any:
    """The model with every weight random, also those that start at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            centre = float("norm" in name and name.endswith("weight"))
            weight.copy_(noise * weight.shape[-1] ** -0.5 if weight.ndim >= 2 else noise * 0.3 + centre)
    return model.eval().requires_grad_(False)


def clip_tokenizer(folder: Path) -> Any:
    """A CLIPTokenizer that knows single letters, written as transformers writes it."""
    from transformers import CLIPTokenizer

    vocabulary = {
        word: number for number, word in enumerate([*WORDS, *(f"{word}</w>" for word in WORDS), "<|startoftext|>", "<|endoftext|>"])
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    made: Any = CLIPTokenizer
    words = made(vocab=vocabulary, merges=[], model_max_length=CLIP_LENGTH, pad_token="!")
    words.save_pretrained(folder)
    return words


def clip_encoder(folder: Path, width: int, projection: int, words: Any) -> Any:
    """A CLIPTextModelWithProjection with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    sizes = {"vocab_size": len(words), "hidden_size": width, "intermediate_size": 24, "projection_dim": projection}
    config = CLIPTextConfig(
        **sizes,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=CLIP_LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    encoder = scrambled(CLIPTextModelWithProjection(config))
    encoder.save_pretrained(folder, safe_serialization=True)
    return encoder


def vq_model(folder: Path, codes: int, stages: int = 2) -> Any:
    """A VQModel of aMUSEd's kind: 2 ** (stages - 1) pixels a cell."""
    from diffusers import VQModel

    torch.manual_seed(0)
    model = VQModel(
        block_out_channels=(8,) * stages,
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        layers_per_block=1,
        latent_channels=4,
        num_vq_embeddings=codes,
        vq_embed_dim=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    ).eval()
    nn.init.normal_(model.quantize.embedding.weight, std=0.7)
    model.save_pretrained(folder, safe_serialization=True)
    return model


AMUSED_CODES, AMUSED_SIDE = 24, 4


def uvit() -> Any:
    """A small UVit2DModel with random weights."""
    from diffusers import UVit2DModel

    sizes = {
        "hidden_size": 32,
        "in_channels": 16,
        "block_out_channels": 24,
        "block_num_heads": 2,
        "num_hidden_layers": 2,
        "sample_size": AMUSED_SIDE,
    }
    sizes |= {"num_attention_heads": 4, "intermediate_size": 40, "encoder_hidden_size": 20, "cond_embed_dim": 12}
    sizes |= {
        "micro_cond_encode_dim": 8,
        "micro_cond_embed_dim": 5 * 8,
        "vocab_size": AMUSED_CODES + 8,
        "codebook_size": AMUSED_CODES,
        "num_res_blocks": 1,
    }
    return scrambled(UVit2DModel(**sizes))


def amused(place: Path) -> Path:
    """A whole pipeline of aMUSEd, as its hub folder is laid out."""
    from diffusers import AmusedScheduler

    words = clip_tokenizer(place / "tokenizer")
    clip_encoder(place / "text_encoder", 20, 12, words)
    uvit().save_pretrained(place / "transformer", safe_serialization=True)
    vq_model(place / "vqvae", AMUSED_CODES)
    AmusedScheduler(mask_token_id=AMUSED_CODES + 7).save_pretrained(place / "scheduler")
    classes = {
        "transformer": ["diffusers", "UVit2DModel"],
        "vqvae": ["diffusers", "VQModel"],
        "scheduler": ["diffusers", "AmusedScheduler"],
    }
    classes |= {"tokenizer": ["transformers", "CLIPTokenizer"], "text_encoder": ["transformers", "CLIPTextModelWithProjection"]}
    (place / "model_index.json").write_text(json.dumps({"_class_name": "AmusedPipeline", "_diffusers_version": "0.25.0", **classes}))
    return place


def higgs_codec() -> Any:
    """A HiggsAudioV2TokenizerModel with random weights: 16 kHz, 320 samples a frame, 4 levels of 16 codes."""
    from transformers import HiggsAudioV2TokenizerConfig, HiggsAudioV2TokenizerModel

    acoustic = {"model_type": "dac", "encoder_hidden_size": 4, "decoder_hidden_size": 32, "hidden_size": 8}
    acoustic |= {"downsampling_ratios": [8, 5, 4, 2], "upsampling_ratios": [8, 5, 4, 2], "codebook_size": 16, "n_codebooks": 1}
    hubert = {"model_type": "hubert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    hubert |= {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0}
    sizes = {"sample_rate": 16_000, "semantic_sample_rate": 16_000, "codebook_size": 16, "codebook_dim": 6, "target_bandwidths": [0.4, 0.8]}
    config: Any = HiggsAudioV2TokenizerConfig
    torch.manual_seed(0)
    model = HiggsAudioV2TokenizerModel(config(**sizes, acoustic_model_config=acoustic, semantic_model_config=hubert)).eval()
    with torch.no_grad():
        for quantizer in model.quantizer.quantizers:
            quantizer.codebook.embed.normal_(std=0.5)
            quantizer.project_in.weight.mul_(40)
        for module in (*model.acoustic_encoder.modules(), *model.acoustic_decoder.modules()):
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    return model.requires_grad_(False)


SPOKEN_TOKENS = (
    "<|denoise|>",
    "<|lang_start|>",
    "<|lang_end|>",
    "<|instruct_start|>",
    "<|instruct_end|>",
    "<|text_start|>",
    "<|text_end|>",
)


def byte_vocabulary(folder: Path, specials: tuple[str, ...]) -> None:
    """A tokenizer.json that knows single bytes, and special tokens behind them."""
    from tokenizers.decoders import ByteLevel as Decoded
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    from tokenizers import AddedToken, Tokenizer

    words = Tokenizer(BPE(vocab={one: number for number, one in enumerate(sorted(ByteLevel.alphabet()))}, merges=[]))
    words.pre_tokenizer, words.decoder = ByteLevel(add_prefix_space=False), Decoded()  # type: ignore[assignment]
    words.add_special_tokens([AddedToken(one, special=True) for one in specials])
    folder.mkdir(parents=True, exist_ok=True)
    words.save(str(folder / "tokenizer.json"))


def omnivoice(folder: Path) -> None:
    """OmniVoice with random weights, as its hub folder is laid out; its text tokenizer knows single bytes."""
    from safetensors.torch import save_file

    from maskgen.interop.omnivoice_network import OmniVoiceNetwork
    from maskgen.tokens.space import Modality, TokenSpace

    byte_vocabulary(folder, SPOKEN_TOKENS)
    trunk = {"model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    trunk |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 270}
    config = {"model_type": "omnivoice", "audio_vocab_size": 17, "audio_mask_id": 16, "num_audio_codebook": 4, "llm_config": trunk}
    (folder / "config.json").write_text(json.dumps(config))
    space = TokenSpace(
        [
            Modality(name="prompt", kind="text", num_levels=1, codebook_size=270),
            Modality(name="audio", kind="audio", num_levels=4, codebook_size=16),
        ]
    )
    save_file(scrambled(OmniVoiceNetwork(config, space)).state_dict(), folder / "model.safetensors")
    higgs_codec().save_pretrained(folder / "audio_tokenizer", safe_serialization=True)
