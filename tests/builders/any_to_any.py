"""An untrained any-to-any bundle of small real parts."""

from pathlib import Path

import torch

from builders.audio_tokenizer import tiny_audio_tokenizer
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.auto import new_network
from maskgen.networks.bridges import Bridge, Translation
from maskgen.networks.durations import DurationConfig, DurationPredictor
from maskgen.networks.tower_config import Tower, TowersConfig
from maskgen.networks.transformer import TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.phonemes import PhonemeTokenizer
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokenizers.transcript import TranscriptTokenizer
from maskgen.tokens.space import TokenSpace

PHONES = Path(__file__).parents[2] / "tokenizers/phones-en/bundle"
SIZES = TransformerConfig(dim=32, num_layers=2, num_heads=2, tie_head=True)
NARROW = TransformerConfig(dim=24, num_layers=2, num_heads=2, head_width=16, tie_head=True)
TOWERS = TowersConfig(
    towers={
        "pictures": Tower(modalities=["text", "image"], transformer=SIZES),
        "speech": Tower(modalities=["audio", "phones", "speaker", "transcript"], transformer=NARROW),
    }
)
BRIDGED = TowersConfig(towers=TOWERS.towers, bridges={"pictures": Bridge(modalities=["transcript"], hidden_dim=8)})


def write_any(folder: Path, text: TextTokenizer, image: ImageTokenizer, sizes: TransformerConfig | TowersConfig = SIZES) -> Path:
    """A saved pipeline over text, image, audio, phones, speaker and transcript, and its durations."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizers = {
            "text": text,
            "image": image,
            "audio": tiny_audio_tokenizer(),
            "phones": PhonemeTokenizer.from_bundle(PHONES),
            "speaker": AttributeTokenizer("speaker", ["heart", "michael"]),
            "transcript": TranscriptTokenizer(text),
        }
        space = TokenSpace([tokenizer.modality(name) for name, tokenizer in tokenizers.items()])
        model = new_network(sizes, space)
        with torch.no_grad():
            for table in [one for one in model.modules() if isinstance(one, torch.nn.Embedding) and one.num_embeddings > 10]:
                table.weight.mul_(20.0)
            for translation in [one for one in model.modules() if isinstance(one, Translation)]:
                translation.presence.bias.fill_(1.0)
        durations = DurationPredictor(DurationConfig(dim=16, num_layers=1)).eval()
    settings = {
        "text": GenerationSettings(steps=(3,)),
        "image": GenerationSettings(steps=(3, 2), guidance_scale=1.5),
        "audio": GenerationSettings(steps=(3, 2, 1)),
        "transcript": GenerationSettings(steps=(2,)),
    }
    grids = {"image": (4, 4), "text": (6,)}
    Pipeline(model, space, tokenizers, settings, grids, durations=durations).save_pretrained(folder, half=True)
    return folder
