"""Known media in, media out: one class a task, and the door that finds the right one."""

from maskgen.pipelines.any_to_any import AnyToAnyPipeline
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.cloned_speech import ClonedSpeechPipeline
from maskgen.pipelines.prompted_speech import PromptedSpeechPipeline
from maskgen.pipelines.text_generation import TextGenerationPipeline
from maskgen.pipelines.text_to_audio import TextToAudioPipeline
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.pipelines.text_to_speech import TextToSpeechPipeline

__all__ = [
    "AnyToAnyPipeline",
    "ClonedSpeechPipeline",
    "Pipeline",
    "PromptedSpeechPipeline",
    "TextGenerationPipeline",
    "TextToAudioPipeline",
    "TextToImagePipeline",
    "TextToSpeechPipeline",
]
