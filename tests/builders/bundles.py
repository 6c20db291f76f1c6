"""Small bundles, and bundles with other settings."""

from pathlib import Path
from typing import Any

import torch

from builders.any_to_any import NARROW
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokens.space import TokenSpace


def speakers(folder: Path, sizes: TransformerConfig = NARROW, name: str = "speaker") -> Path:
    """A saved pipeline over one attribute of two values."""
    tokenizer = AttributeTokenizer(name, ["heart", "michael"])
    space = TokenSpace([tokenizer.modality(name)])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = MaskTransformer(sizes, space.size, 1)
    Pipeline(model, space, {name: tokenizer}, {name: GenerationSettings(steps=(1,))}, {name: (1,)}).save_pretrained(folder, half=True)
    return folder


def decoded_as(bundle: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a bundle with other image settings."""
    pipeline = Pipeline.from_pretrained(bundle)
    pipeline.settings["image"] = pipeline.settings["image"].changed(**changes)
    pipeline.save_pretrained(folder)
    return folder
