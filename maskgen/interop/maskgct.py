"""MaskGCT: zero-shot text to speech in two stages."""

from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.maskgct_network import ACOUSTIC_STEPS, SEMANTIC_STEPS

GUIDANCE, RESCALE = 2.5, 0.75
"""What the authors call `cfg` and `rescale_cfg`; their guidance adds 2.5 (c - u) to c."""
SEMANTIC_TEMPERATURE, ACOUSTIC_TEMPERATURE, SINGLE_TEMPERATURE = 0.9, 1.5, 0.2
KEPT = 0.02
"""Share of the codes that may be drawn."""
OPTIONS = {"ranking": "share", "annealing": "lagged", "cooling": "lagged"}


def semantic_settings() -> GenerationSettings:
    """How MaskGCT decodes semantic codes."""
    return GenerationSettings(
        sampler_options=OPTIONS,
        steps=(SEMANTIC_STEPS,),
        temperature=(SEMANTIC_TEMPERATURE,),
        choice_temperature=(1.0,),
        top_k=164,
        schedule="cosine",
        guidance_scale=1 + GUIDANCE,
        guidance_rescale=RESCALE,
    )


def acoustic_settings() -> GenerationSettings:
    """How MaskGCT decodes acoustic codes: the last temperature is that of levels with a single step."""
    return semantic_settings().changed(
        steps=ACOUSTIC_STEPS, temperature=(ACOUSTIC_TEMPERATURE, ACOUSTIC_TEMPERATURE, SINGLE_TEMPERATURE), top_k=21
    )
