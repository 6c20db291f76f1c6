"""A tiny MAGNeT in a folder laid out as the hub's, with a codec of the package encodec, whose names audiocraft kept."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from builders.hub_folders import byte_vocabulary, scrambled
from maskgen.interop.magnet_network import MagnetConfig, MagnetTransformer
from maskgen.tokenizers.encodec import _parts

LEVELS, CODES, HOP, RATE, SECONDS = 3, 16, 96, 4800, 1
FRAMES = SECONDS * RATE // HOP
CODEC_YAML = f"""
compression_model: encodec
sample_rate: {RATE}
channels: 1
encodec:
  {{autoencoder: seanet, quantizer: rvq, sample_rate: '${{sample_rate}}', channels: '${{channels}}', causal: false, renormalize: false}}
seanet:
  dimension: 8
  channels: ${{channels}}
  causal: ${{encodec.causal}}
  n_filters: 2
  n_residual_layers: 1
  ratios: [12, 8]
  activation: ELU
  activation_params: {{alpha: 1.0}}
  norm: weight_norm
  kernel_size: 7
  residual_kernel_size: 3
  last_kernel_size: 7
  dilation_base: 2
  pad_mode: constant
  true_skip: true
  compress: 2
  lstm: 1
  disable_norm_outer_blocks: 0
  decoder: {{trim_right_ratio: 1.0, final_activation: null}}
  encoder: {{}}
rvq: {{n_q: {LEVELS}, bins: {CODES}, q_dropout: false}}
"""
LM_YAML = f"""
lm_model: transformer_lm_magnet
solver: magnet
dataset: {{segment_duration: {SECONDS}}}
masking: {{span_len: 3}}
conditioners: {{description: {{model: t5, t5: {{name: t5-base, normalize_text: false}}}}}}
transformer_lm: {{dim: 16, num_heads: 2, num_layers: 2, hidden_scale: 2, n_q: {LEVELS}, card: {CODES}, norm_first: true, bias_ff: false,
  bias_attn: false, bias_proj: false, activation: gelu, causal: false, positional_embedding: sin, norm: layer_norm, subcodes_context: 5,
  memory_efficient: true, layer_scale: null}}
"""


def published_codec() -> Any:
    """EnCodec of the package encodec with random weights, in the sizes of `CODEC_YAML`."""
    modules, quantization = _parts()
    torch.manual_seed(0)
    size: dict[str, Any] = {"dimension": 8, "n_filters": 2, "ratios": [12, 8], "lstm": 1, "causal": False, "norm": "weight_norm"}
    size |= {"pad_mode": "constant", "true_skip": True}
    model: Any = nn.Module()
    model.encoder, model.decoder = modules.SEANetEncoder(**size), modules.SEANetDecoder(**size)
    model.quantizer = quantization.ResidualVectorQuantizer(dimension=8, n_q=LEVELS, bins=CODES)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                module.weight_g.mul_(3)
        for layer in model.quantizer.vq.layers:
            layer._codebook.embed.normal_(std=0.5)
            layer._codebook.inited.fill_(1)
    return model.eval()


def magnet_files(folder: Path, lm_yaml: str = LM_YAML, codec_yaml: str = CODEC_YAML) -> None:
    """MAGNeT's two PyTorch files."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = MagnetConfig(dim=16, num_heads=2, num_layers=2, hidden_dim=32, num_levels=LEVELS, codebook_size=CODES, text_dim=12)
    lm = {name: tensor.half() for name, tensor in scrambled(MagnetTransformer(sizes)).state_dict().items()}
    torch.save({"best_state": lm, "xp.cfg": lm_yaml, "version": "1.2.0", "exported": True}, folder / "state_dict.bin")
    codec = {"best_state": published_codec().state_dict(), "xp.cfg": codec_yaml, "version": "1.2.0", "exported": True}
    torch.save(codec, folder / "compression_state_dict.bin")


def magnet(folder: Path) -> None:
    """MAGNeT's two PyTorch files, and T5 in a folder inside."""
    from transformers import T5Config, T5EncoderModel

    magnet_files(folder)
    config = T5Config(d_model=12, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=262, eos_token_id=257)
    scrambled(T5EncoderModel(config)).save_pretrained(folder / "t5-base", safe_serialization=True)
    byte_vocabulary(folder / "t5-base", ("<pad>", "</s>"))
