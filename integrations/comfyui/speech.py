"""The nodes that speak."""

from collections.abc import Mapping
from typing import Any, ClassVar

from maskgen import ClonedSpeechPipeline, PromptedSpeechPipeline, TextToAudioPipeline, TextToSpeechPipeline

from .inputs import CATEGORY, MODEL_INPUT, SEED_INPUT, SETTINGS_INPUT, call_options, given, refuse_other, text_input
from .media import as_audio_batch, waveform_of_audio

SECONDS = {"default": 0.0, "min": 0.0, "max": 600.0, "step": 0.01}
SPEAKERS = (TextToSpeechPipeline, ClonedSpeechPipeline, PromptedSpeechPipeline, TextToAudioPipeline)


class MaskgenSpeech:
    """Speaks a text, or continues a recording."""

    RETURN_TYPES = ("AUDIO",)
    RETURN_NAMES = ("audio",)
    FUNCTION = "speak"
    CATEGORY = CATEGORY
    DESCRIPTION = "Speaks a text; continues a recording where one is given. With a text-to-audio model it makes the sound of a description."
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = ("The audio at the model's rate.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"pipeline": MODEL_INPUT, "prompt": text_input("What is said."), "seed": SEED_INPUT},
            "optional": {
                "seconds": ("FLOAT", {**SECONDS, "tooltip": "Length of the speech; 0 is the length that the model predicts."}),
                "speed": (
                    "FLOAT",
                    {"default": 1.0, "min": 0.1, "max": 10.0, "step": 0.05, "tooltip": "2 is twice as fast; without `seconds`."},
                ),
                "speaker": text_input("One of the model's speakers; the first one if empty.", multiline=False),
                "audio": ("AUDIO", {"tooltip": "A recording of at most 30 s that is continued."}),
                "voice": ("AUDIO", {"tooltip": "A recording of at most 30 s as a voice prompt."}),
                "recorded_text": text_input("What `audio` or `voice` says; helps."),
                "settings": SETTINGS_INPUT,
            },
        }

    def speak(
        self,
        pipeline: Any,
        prompt: str,
        seed: int,
        seconds: float = 0.0,
        speed: float = 1.0,
        speaker: str = "",
        audio: Mapping[str, Any] | None = None,
        voice: Mapping[str, Any] | None = None,
        recorded_text: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Any]]:
        """The audio.

        Raises:
            TypeError: If the model is for something else, or knows nothing of an input that is set.
            ValueError: If the text has nothing to speak, or an input is out of range.
        """
        refuse_other(pipeline, SPEAKERS, "maskgen Speech", "speech or audio")
        asked = given(
            seconds=seconds,
            speed=None if speed == 1 else speed,
            speaker=speaker.strip(),
            audio=None if audio is None else waveform_of_audio(audio),
            audio_prompt=None if voice is None else waveform_of_audio(voice, "voice"),
            audio_text=recorded_text.strip(),
        )
        return (as_audio_batch(pipeline(prompt, **asked, **call_options(pipeline, seed, settings)).audio[0]),)


class MaskgenEditSpeech:
    """Replaces a part of a recording."""

    RETURN_TYPES = ("AUDIO",)
    RETURN_NAMES = ("audio",)
    FUNCTION = "edit"
    CATEGORY = CATEGORY
    DESCRIPTION = "Replaces the part of a recording between two times by other words."
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = ("The recording at the model's rate; samples outside of the part are unchanged.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipeline": MODEL_INPUT,
                "audio": ("AUDIO", {"tooltip": "A recording of at most 30 s."}),
                "prompt": text_input("What is said in the part instead."),
                "start_s": ("FLOAT", {**SECONDS, "tooltip": "Where the part begins, in seconds."}),
                "end_s": ("FLOAT", {**SECONDS, "default": 1.0, "tooltip": "Where the part ends, in seconds."}),
                "seed": SEED_INPUT,
            },
            "optional": {
                "seconds": ("FLOAT", {**SECONDS, "tooltip": "Length of the new part; 0 is the length that the model predicts."}),
                "recorded_text": text_input("What the recording says; helps."),
                "settings": SETTINGS_INPUT,
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, start_s: float | None = None, end_s: float | None = None) -> bool | str:
        """True, or what is wrong with the times; those that come over a link are not known yet."""
        if start_s is None or end_s is None or start_s < end_s:
            return True
        return f"start_s must lie before end_s, got {start_s:g} and {end_s:g}"

    def edit(
        self,
        pipeline: Any,
        audio: Mapping[str, Any],
        prompt: str,
        start_s: float,
        end_s: float,
        seed: int,
        seconds: float = 0.0,
        recorded_text: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Any]]:
        """The edited recording.

        Raises:
            TypeError: If the model is for something else.
            ValueError: If the times lie outside of the recording, or the text has nothing to speak.
        """
        refuse_other(pipeline, (TextToSpeechPipeline,), "maskgen Edit Speech", "text to speech")
        asked = given(seconds=seconds, audio_text=recorded_text.strip())
        asked |= {"audio": waveform_of_audio(audio), "span_s": (start_s, end_s)}
        return (as_audio_batch(pipeline(prompt, **asked, **call_options(pipeline, seed, settings)).audio[0]),)
