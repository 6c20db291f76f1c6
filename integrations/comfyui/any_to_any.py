"""The node that turns text, images and audio into each other."""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from maskgen import AnyToAnyPipeline

from .inputs import CATEGORY, MODEL_INPUT, PREVIEWS_INPUT, SEED_INPUT, SETTINGS_INPUT, call_options, given, refuse_other, text_input
from .media import as_audio_batch, as_image_batch, images_of, waveform_of_audio

TARGETS = {
    "text": ("text",),
    "image": ("image",),
    "audio": ("audio",),
    "text + image": ("text", "image"),
    "text + audio": ("text", "audio"),
    "image + audio": ("image", "audio"),
}


class MaskgenAnyToAny:
    """Text, an image or audio from one of the others."""

    RETURN_TYPES = ("STRING", "IMAGE", "AUDIO")
    RETURN_NAMES = ("text", "image", "audio")
    FUNCTION = "make"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Makes text, an image or speech from the one medium that is given: captions, transcripts, pictures of what is said, speech."
    )
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = (
        "Caption or transcript; nodes behind it do not run where none was made.",
        "Image; nodes behind it do not run where none was made.",
        "Speech; nodes behind it do not run where none was made.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipeline": MODEL_INPUT,
                "target": ([*TARGETS], {"tooltip": "What is made."}),
                "seed": SEED_INPUT,
            },
            "optional": {
                "prompt": text_input("A text to draw or to speak, or one with holes such as [2] for the target text."),
                "image": ("IMAGE", {"tooltip": "One image to describe."}),
                "audio": ("AUDIO", {"tooltip": "Speech of at most 30 s."}),
                "source": (["words", "audio"], {"tooltip": "An image of a recording is drawn from its words, or from its sound."}),
                "candidates": ("INT", {"default": 1, "min": 1, "max": 64, "tooltip": "Texts that are tried; the likeliest is kept."}),
                "settings": SETTINGS_INPUT,
                "previews": PREVIEWS_INPUT,
            },
        }

    def make(
        self,
        pipeline: Any,
        target: str,
        seed: int,
        prompt: str = "",
        image: Tensor | None = None,
        audio: Mapping[str, Any] | None = None,
        source: str = "words",
        candidates: int = 1,
        settings: Mapping[str, Any] | None = None,
        previews: int = 0,
    ) -> tuple[Any, Any, Any]:
        """Text, image and audio; ComfyUI's ExecutionBlocker in place of what was not asked for.

        Raises:
            TypeError: If the model is for something else.
            ValueError: If media are given that don't go together, or the given is asked for.
        """
        refuse_other(pipeline, (AnyToAnyPipeline,), "maskgen Any to Any", "any-to-any generation")
        pictures = [] if image is None else images_of(image)
        if len(pictures) > 1:
            raise ValueError(f"image holds {len(pictures)} images; give one")
        asked = given(
            prompt=prompt.strip(),
            image=pictures[0] if pictures else None,
            audio=None if audio is None else waveform_of_audio(audio),
        )
        decoder_of = functools.partial(pipeline.decoder_of, from_audio=source == "audio")
        options = call_options(pipeline, seed, settings, previews, decoder_of)
        output = pipeline(target=TARGETS[target], source=source, candidates=candidates, **asked, **options)
        return (
            output.text if "text" in TARGETS[target] else _nothing(),
            as_image_batch(output.images[:1]) if output.images else _nothing(),
            as_audio_batch(output.audio[0]) if output.audio else _nothing(),
        )


def _nothing() -> Any:
    """What keeps the nodes behind an output from running; None in versions of ComfyUI that know no such thing."""
    try:
        from comfy_execution.graph import ExecutionBlocker
    except ImportError:
        return None
    return ExecutionBlocker(None)
