"""Text to music and to other sounds, continuing recordings and editing them."""

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.options import CallOptions, as_prompts, check_names, num_outputs, seeds_of, settings_from
from maskgen.pipelines.outputs import AudioOutput
from maskgen.processors.sound import SoundProcessor, SoundRequest


class TextToAudioPipeline(Pipeline):
    """Makes the audio that texts describe; continues a recording, or generates a part of it anew.

    `maskgen.Pipeline.from_pretrained("facebook/magnet-small-10secs")("a calm piano").audio[0].save("piano.wav")`
    """

    needs: ClassVar[frozenset[str]] = frozenset({"text", "audio"})
    makes: ClassVar[str | None] = "audio"
    does: ClassVar[str] = "text to audio"
    default_model: ClassVar[str] = "facebook/magnet-small-10secs"

    @property
    def processor(self) -> SoundProcessor:
        """Texts and recordings to cells and back.

        Raises:
            ValueError: If the model does not say how many frames it was trained on.
        """
        if len(self.grids.get("audio", ())) != 1:
            raise ValueError("the model has no default length of audio; set grids['audio'] to the frames that it was trained on, as (500,)")
        return SoundProcessor(self.tokenizers, self.grids["audio"][0])

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seconds: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        audio: Any = None,
        span_s: Sequence[float] | None = None,
        **options: Unpack[CallOptions],
    ) -> AudioOutput:
        """Make audio from one text or several.

        Args:
            prompt: What the audio sounds like, such as "a calm piano"; an empty text asks for any.
            seconds: Length of what is generated; None takes the length that the model was trained on, less that of `audio`.
            negative_prompt: What guidance leads away from, one text or one a prompt.
            audio: Recording that is continued and stands before the rest unchanged; with `span_s`, that is edited. A path, a Waveform, or
                (samples, sample_rate_hz). Recording and continuation together are at most as long as the model was trained on.
            span_s: First and last second of `audio` that are generated anew. Every sample outside comes back unchanged (at the codec's
                rate); the new part begins and ends at frames of the codec and is cross-faded over 10 ms inside itself.
            options: Seeds, sampling and callbacks; see `CallOptions`.

        Returns:
            AudioOutput with `audio`, prompt after prompt. With `seconds`, round(seconds * rate) samples were generated for each.

        Raises:
            TypeError: If an argument has another type or there is none of its name.
            ValueError: If an argument is out of range or contradicts another.
        """
        check_names(TextToAudioPipeline.__call__, options, CallOptions)
        prompts = as_prompts(prompt)
        negatives = None if negative_prompt is None else as_prompts(negative_prompt, "negative_prompt")
        if negatives is not None and len(negatives) not in (1, len(prompts)):
            raise ValueError(f"negative_prompt has {len(negatives)} texts for {len(prompts)} prompts; give one text, or one a prompt")
        request = SoundRequest(
            prompts=prompts,
            seeds=seeds_of(options, [1] * len(prompts), num_outputs(options)),
            negative_prompts=None if negatives is None else negatives * (len(prompts) // len(negatives)),
            seconds=seconds,
            audio=audio,
            span_s=span_s,
        )
        processor, settings = self.processor, settings_from(self.settings_of("audio"), options, len(self.space.of("audio")))
        with self._watched(options) as callback:
            plan = processor.prepare(request)
            limits = options.get("batch_size", 32), options.get("batch_invariant")
            output = self.generate(plan.rows, "audio", plan.seeds, settings, plan.negative, callback, *limits)
        return AudioOutput(processor.finish(plan, output.media), output.seeds, output)
