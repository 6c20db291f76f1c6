"""How the authors of 4M decode each modality, as our settings."""

from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.fourm_model import FourMDomain

TOP_P = 0.8
STEPS = {"tok_rgb": 25, "tok_clip": 50}
START = {"tok_clip": 5.0, "tok_dinov2": 0.01, "tok_imagebind": 0.01, "tok_dinov2_global": 0.01, "tok_imagebind_global": 0.01}
"""Temperature of the first step, where it is not 3; at 0.01 it does not fall."""
TEXT_TEMPERATURES = {"caption": 0.3, "det": 0.3, "sam_instance": 0.01}
TEXT_CELLS = {"caption": 64, "det": 64, "human_poses": 275, "sam_instance": 256, "color_palette": 23, "metadata": 40}
"""Cells of a sequence that is not given; the authors write up to 256 of a caption and stop at its end."""
MOST_CELLS = 512


def fourm_settings(domain: FourMDomain) -> GenerationSettings:
    """How a modality is decoded from others than a picture, as the authors' demo does.

    Texts are written code by code. Images of 224 pixels are filled in random order, as many cells at every step, at a temperature that
    falls to 0.5; those of 448 pixels, the most likely codes first. The share `top_p` is that of the logits at temperature 1. From a picture
    the authors take one step at temperature 0.01 instead.

    Args:
        domain: The modality.

    Source: 4M, arXiv:2312.06647 (`DEFAULTS_X2RGB`, `DEFAULTS_SR` of its code). Differs: a row has its own order, there all rows of a batch
    share one; no defaults are published for the `_global` ones, which are decoded as the maps of their features.
    """
    if domain.shape == "sequence":
        return GenerationSettings(
            sampler="blocks",
            sampler_options={"block_size": 1, "cut_first": True},
            steps=(MOST_CELLS,),
            temperature=(TEXT_TEMPERATURES.get(domain.name, 0.1),),
            top_p=TOP_P,
        )
    kind, _, pixels = domain.name.partition("@")
    if pixels == "448":
        return GenerationSettings(
            sampler="confidence", steps=(8,), choice_temperature=(0.0,), schedule="raisedcosine", top_p=TOP_P, guidance_scale=2.0
        )
    start = START.get(kind, 3.0)
    return GenerationSettings(
        sampler="random_order",
        sampler_options={"cooling": "onex" if start > 0.5 else "none", "cut_first": True},
        schedule="even",
        steps=(STEPS.get(kind, 8),),
        temperature=(start,),
        top_p=TOP_P,
        guidance_scale=3.0 if kind == "tok_clip" else 2.0,
    )
