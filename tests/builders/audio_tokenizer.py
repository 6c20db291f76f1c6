"""A small audio tokenizer with random weights."""

import torch

from maskgen.autoencoders.audio import AudioAutoencoder, AudioAutoencoderConfig
from maskgen.autoencoders.quantizers import ResidualQuantizer
from maskgen.tokenizers.audio import AudioTokenizer


def tiny_audio_tokenizer() -> AudioTokenizer:
    """3 levels of 20 codes; the weights come from the global generator and are large enough that codes vary."""
    config = AudioAutoencoderConfig(encoder_dim=16, encoder_layers=2, decoder_dim=16, decoder_layers=2, mel_bands=20)
    network = AudioAutoencoder(config, ResidualQuantizer(3, 8, 20))
    with torch.no_grad():
        network.encoder.out.weight.mul_(6.0)
    return AudioTokenizer(network)
