"""Text to speech with voices that read a written prompt: any language, described voices, voices of recordings."""

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

from maskgen.pipelines.options import CallOptions, check_names
from maskgen.pipelines.outputs import SpeechOutput
from maskgen.pipelines.text_to_speech import TextToSpeechPipeline
from maskgen.processors.prompted_speech import PromptedSpeechProcessor


class PromptedSpeechPipeline(TextToSpeechPipeline):
    """Speaks texts with OmniVoice: in the voice of a recording, in a described voice, or in any.

    `maskgen.Pipeline.from_pretrained("k2-fsa/OmniVoice")("Good morning.", speaker="female, british accent").audio[0].save("morning.wav")`
    """

    needs: ClassVar[frozenset[str]] = frozenset({"prompt", "audio"})
    speaks: ClassVar[bool] = False
    default_model: ClassVar[str] = "k2-fsa/OmniVoice"

    @property
    def processor(self) -> PromptedSpeechProcessor:
        """Texts and recordings to cells and back."""
        return PromptedSpeechProcessor(self.tokenizers)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seconds: float | None = None,
        speed: float = 1.0,
        speaker: str | None = None,
        language: str | None = None,
        audio: Any = None,
        span_s: Sequence[float] | None = None,
        audio_prompt: Any = None,
        audio_text: str | None = None,
        known: Any = None,
        **options: Unpack[CallOptions],
    ) -> SpeechOutput:
        """Speak one text or several. Speech of more than 30 s needs a recording and is spoken in parts of about 15 s, in one batch.

        Args:
            prompt: Text in any language; sounds without words in brackets, such as [laughter] and [sigh].
            seconds: Length of the speech, without any recording; of the new part with `span_s`. None takes an estimate from the text, at
                the pace of the recording where `audio_text` says what it says.
            speed: Pace: 2 is twice as fast as the estimate; goes without `seconds` only.
            speaker: Description of the voice, such as "female, young adult, low pitch, british accent"; None for any.
            language: Code of the language, such as "en"; None leaves it to the model.
            audio: Recording of at most 30 s that is continued and stands before the speech unchanged; with `span_s`, that is edited.
            span_s: First and last second of `audio` that the prompt replaces. Every sample outside comes back unchanged (at the codec's
                rate); the new part begins and ends at frames of the codec and is cross-faded over 10 ms inside itself. The model was
                trained to continue speech; that it edits follows from its seeing known cells anywhere.
            audio_prompt: Recording of at most 30 s whose voice the speech takes up, without being part of it.
            audio_text: What `audio` or `audio_prompt` says; helps much. With `span_s`, with "..." where the new words go.
            known: Must be None: this voice sees no other media.
            options: Seeds, sampling and callbacks; see `CallOptions`.

        Returns:
            SpeechOutput as of `TextToSpeechPipeline`, without phonemes. Speech after a recording is as loud as it.

        Raises:
            TypeError: If an argument has another type or there is none of its name.
            ValueError: If the text is empty, or an argument is out of range or contradicts another.
        """
        check_names(PromptedSpeechPipeline.__call__, options, CallOptions)
        if known:
            raise ValueError(f"this voice sees no other media; leave known out, got {', '.join(known)}")
        given = {"seconds": seconds, "speed": speed, "speaker": speaker, "language": language, "audio": audio, "span_s": span_s}
        return self._spoken(prompt, {**given, "audio_prompt": audio_prompt, "audio_text": audio_text}, options)
