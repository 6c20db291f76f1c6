"""maskgen: masked generative transformers over text, image and audio tokens."""

from typing import TYPE_CHECKING, Any

from maskgen.version import __version__

if TYPE_CHECKING:
    from maskgen.decoding.settings import GenerationSettings
    from maskgen.io.audio import Waveform
    from maskgen.pipelines.any_to_any import AnyToAnyPipeline
    from maskgen.pipelines.base import Pipeline
    from maskgen.pipelines.cloned_speech import ClonedSpeechPipeline
    from maskgen.pipelines.outputs import AnyToAnyOutput, AudioOutput, GenerationOutput, SpeechOutput, TextOutput
    from maskgen.pipelines.prompted_speech import PromptedSpeechPipeline
    from maskgen.pipelines.text_generation import TextGenerationPipeline
    from maskgen.pipelines.text_to_audio import TextToAudioPipeline
    from maskgen.pipelines.text_to_image import TextToImagePipeline
    from maskgen.pipelines.text_to_speech import TextToSpeechPipeline

__all__ = [
    "AnyToAnyOutput",
    "AnyToAnyPipeline",
    "AudioOutput",
    "ClonedSpeechPipeline",
    "GenerationOutput",
    "GenerationSettings",
    "Pipeline",
    "PromptedSpeechPipeline",
    "SpeechOutput",
    "TextGenerationPipeline",
    "TextOutput",
    "TextToAudioPipeline",
    "TextToImagePipeline",
    "TextToSpeechPipeline",
    "Waveform",
    "__version__",
]
_PLACES = {
    "AnyToAnyOutput": "pipelines.outputs",
    "AnyToAnyPipeline": "pipelines.any_to_any",
    "AudioOutput": "pipelines.outputs",
    "ClonedSpeechPipeline": "pipelines.cloned_speech",
    "GenerationOutput": "pipelines.outputs",
    "GenerationSettings": "decoding.settings",
    "Pipeline": "pipelines.base",
    "PromptedSpeechPipeline": "pipelines.prompted_speech",
    "SpeechOutput": "pipelines.outputs",
    "TextGenerationPipeline": "pipelines.text_generation",
    "TextOutput": "pipelines.outputs",
    "TextToAudioPipeline": "pipelines.text_to_audio",
    "TextToImagePipeline": "pipelines.text_to_image",
    "TextToSpeechPipeline": "pipelines.text_to_speech",
    "Waveform": "io.audio",
}
"""Module of each public name: they are imported at first use, so that `import maskgen` is fast and needs no torch."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'maskgen' has no attribute {name!r}; it has {', '.join(__all__)}")
    import importlib

    return getattr(importlib.import_module(f"maskgen.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
