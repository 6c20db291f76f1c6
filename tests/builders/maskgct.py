"""MaskGCT with random weights, as its hub folder is laid out, with the files that its authors keep elsewhere."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from builders.hub_folders import scrambled

CODES, SEMANTIC_CODES, LEVELS, WIDTH = 24, 30, 3, 16
HOP, RATE = 480, 24_000
PHONES = [*",.?!_", "h", "ə", "l", "oʊ", "w", "ɜː", "d", "iː", "t", "s", "ɪ", "ð", "aɪ", "ɡ", "ʊ", "m", "ɔː", "ɹ", "n", "ŋ", "ɔːɹ"]


def maskgct_sizes() -> dict[str, Any]:
    """Section `model` of the configuration."""
    stage = {"hidden_size": 24, "num_layers": 1, "num_heads": 2, "cfg_scale": 0.15, "cond_codebook_size": SEMANTIC_CODES}
    vocos = {"vocos_dim": 8, "vocos_intermediate_dim": 12, "vocos_num_layers": 1}
    encoder = {"d_model": 2, "up_ratios": [3, 4, 5, 8], "out_channels": 6, "use_tanh": False}
    decoder = {"in_channel": 6, "num_quantizers": LEVELS, "codebook_size": CODES, "codebook_dim": 4, "quantizer_type": "fvq"}
    decoder |= {"use_l2_normlize": True, "use_vocos": True, **vocos, "n_fft": 2 * HOP, "hop_size": HOP, "padding": "same"}
    return {
        "t2s_model": stage,
        "s2a_model": {
            "s2a_1layer": {"num_quantizer": 1, "codebook_size": CODES, **stage},
            "s2a_full": {"num_quantizer": LEVELS, "codebook_size": CODES, **stage},
        },
        "semantic_codec": {"codebook_size": SEMANTIC_CODES, "hidden_size": WIDTH, "codebook_dim": 4, **vocos},
        "acoustic_codec": {"encoder": encoder, "decoder": decoder},
    }


def maskgct(folder: Path) -> None:
    """A whole folder."""
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    from maskgen.autoencoders.amphion import AcousticCodec, SemanticCodec
    from maskgen.interop.maskgct_config import acoustic_config, semantic_config
    from maskgen.interop.maskgct_stages import AcousticStage, SemanticStage, StageConfig

    sizes = maskgct_sizes()

    def written(place: str, module: Any, seed: int, **more: torch.Tensor) -> None:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        save_file({**scrambled(module, seed).state_dict(), **more}, folder / place)

    first, second = StageConfig.from_published(sizes["t2s_model"], "tiny"), sizes["s2a_model"]
    written("t2s_model/model.safetensors", SemanticStage(first), 1)
    coarse, fine = (AcousticStage(StageConfig.from_published(second[name], "tiny")) for name in ("s2a_1layer", "s2a_full"))
    written("s2a_model/s2a_model_1layer/model.safetensors", coarse, 2, **{"diff_estimator.embed_tokens.weight": torch.zeros(0, 256)})
    written("s2a_model/s2a_model_full/model.safetensors", fine, 3)
    written("semantic_codec/model.safetensors", SemanticCodec(semantic_config(sizes["semantic_codec"], "tiny")), 4)
    codec = AcousticCodec(acoustic_config(sizes["acoustic_codec"], "tiny"))
    written("acoustic_codec/model.safetensors", codec.encoder, 5)
    written("acoustic_codec/model_1.safetensors", codec.decoder, 6)
    made: Any = Wav2Vec2BertConfig
    config = made(
        hidden_size=WIDTH,
        num_hidden_layers=17,
        num_attention_heads=2,
        intermediate_size=16,
        left_max_position_embeddings=4,
        right_max_position_embeddings=2,
        conv_depthwise_kernel_size=3,
    )
    scrambled(Wav2Vec2BertModel(config), 7).save_pretrained(folder / "w2v-bert-2.0", safe_serialization=True)
    bank = {"feature_extractor_type": "SeamlessM4TFeatureExtractor", "feature_size": 80, "num_mel_bins": 80, "sampling_rate": 16_000}
    (folder / "w2v-bert-2.0" / "preprocessor_config.json").write_text(json.dumps({**bank, "stride": 2, "padding_value": 1}))
    (folder / "maskgct.json").write_text(json.dumps({"model": sizes}))
    (folder / "vocab.json").write_text(json.dumps({"vocab": {phone: place for place, phone in enumerate(PHONES)}}))
    torch.save({"mean": torch.linspace(-1, 1, WIDTH), "var": torch.linspace(0.5, 2, WIDTH)}, folder / "wav2vec2bert_stats.pt")
