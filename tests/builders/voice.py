"""An untrained voice of small real parts."""

from pathlib import Path

import torch

from builders.audio_tokenizer import tiny_audio_tokenizer
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.durations import DurationConfig, DurationPredictor
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.pipelines.text_to_speech import TextToSpeechPipeline
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.phonemes import PhonemeTokenizer
from maskgen.tokens.space import TokenSpace

PHONES = Path(__file__).parents[2] / "tokenizers/phones-en/bundle"


def tiny_voice() -> TextToSpeechPipeline:
    """A voice of two speakers; the global generator starts at 0 and goes on."""
    torch.manual_seed(0)
    audio = tiny_audio_tokenizer()
    tokenizers = {
        "phones": PhonemeTokenizer.from_bundle(PHONES),
        "speaker": AttributeTokenizer("speaker", ["heart", "michael"]),
        "audio": audio,
    }
    space = TokenSpace([tokenizer.modality(name) for name, tokenizer in tokenizers.items()])
    sizes = TransformerConfig(dim=32, num_layers=2, num_heads=2, tie_head=True, rope_split=(1, 0, 0))
    model = MaskTransformer(sizes, space.size, len(space.modalities))
    with torch.no_grad():
        model.embed.weight.mul_(20.0)
    decode = {"audio": GenerationSettings(steps=(3, 2, 1))}
    return TextToSpeechPipeline(model, space, tokenizers, decode, durations=DurationPredictor(DurationConfig(dim=16, num_layers=1)).eval())
