"""Text to speech, continuing recordings and editing them."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Unpack

from maskgen.decoding.decoder import StepCallback
from maskgen.decoding.settings import GenerationSettings
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.options import CallOptions, as_prompts, check_names, num_outputs, seeds_of, settings_from
from maskgen.pipelines.outputs import SpeechOutput
from maskgen.processors.speech import SpeechProcessor
from maskgen.processors.spoken import PreparedSpeech, SpeechRequest, SpokenProcessor


class TextToSpeechPipeline(Pipeline):
    """Speaks texts; continues a recording, or replaces a part of it.

    `TextToSpeechPipeline.from_pretrained("heart-16k")("Good morning.").audio[0].save("morning.wav")`
    """

    needs: ClassVar[frozenset[str]] = frozenset({"phones", "speaker", "audio"})
    speaks: ClassVar[bool] = True
    makes: ClassVar[str | None] = "audio"
    does: ClassVar[str] = "text to speech"
    default_model: ClassVar[str] = "heart-16k"

    @property
    def processor(self) -> SpokenProcessor:
        """Texts and recordings to cells and back."""
        assert self.durations is not None, "checked when the pipeline was made"
        return SpeechProcessor(self.tokenizers, self.durations)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seconds: float | None = None,
        speed: float = 1.0,
        speaker: str | None = None,
        audio: Any = None,
        span_s: Sequence[float] | None = None,
        audio_prompt: Any = None,
        audio_text: str | None = None,
        known: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> SpeechOutput:
        """Speak one text or several; long texts are split at sentences, spoken in one batch and joined.

        Args:
            prompt: English; phonemes of the tokenizer's alphabet between slashes.
            seconds: Length of the speech, without any recording; the pace follows. None takes the predicted length. With `span_s` the
                length of the new part.
            speed: Pace: 1 is the voice's own, 2 twice as fast; goes without `seconds` only.
            speaker: One of the model's speakers; the first if None.
            audio: Recording of at most 30 s that is continued and stands before the speech unchanged; with `span_s`, that is edited. A
                path, a Waveform, or (samples, sample_rate_hz).
            span_s: First and last second of `audio` that the prompt replaces. Every sample outside comes back unchanged (at the codec's
                rate); the new part begins and ends at frames of the codec and is cross-faded over 10 ms inside itself.
            audio_prompt: Recording of at most 30 s as context, not part of the output. A model trained on many voices takes up its voice;
                heart-16k, trained on one, does not.
            audio_text: What `audio` or `audio_prompt` says; helps.
            known: Further media that the model sees, by modality.
            options: Seeds, sampling and callbacks; see `CallOptions`. Take i of a prompt of n sentences has seed + i * n.

        Returns:
            SpeechOutput with `audio`, prompt after prompt, at the codec's rate. With `seconds` each has round(seconds * rate) samples,
            recordings not counted.

        Raises:
            TypeError: If an argument has another type or there is none of its name.
            ValueError: If the text has nothing to speak, or an argument is out of range or contradicts another.
        """
        check_names(TextToSpeechPipeline.__call__, options, CallOptions)
        given = {"seconds": seconds, "speed": speed, "speaker": speaker, "audio": audio, "span_s": span_s}
        given |= {"audio_prompt": audio_prompt, "audio_text": audio_text, "known": self.encoded(known or {})}
        return self._spoken(prompt, given, options)

    def _spoken(self, prompt: Any, given: Mapping[str, Any], options: Mapping[str, Any]) -> SpeechOutput:
        """Speak texts with the fields of `SpeechRequest` that a call gives.

        Raises:
            TypeError: If a length or pace is no number.
        """
        for name in ("seconds", "speed"):
            if given[name] is not None and not isinstance(given[name], (int, float)):
                raise TypeError(f"{name} must be a number, got {given[name]!r}")
        processor, settings = self.processor, settings_from(self.settings_of("audio"), options, len(self.space.of("audio")))
        with self._watched(options) as callback:
            plans = [processor.prepare(SpeechRequest(prompt=text, **given)) for text in as_prompts(prompt)]
            seeds = seeds_of(options, [len(plan.rows) for plan in plans], num_outputs(options))
            takes = [(plan, seed) for plan, mine in zip(plans, seeds, strict=True) for seed in mine]
            limits = options.get("batch_size", 32), options.get("batch_invariant")
            return speech_of(self, processor, takes, settings, callback, *limits)


def speech_of(
    pipeline: Pipeline,
    processor: SpokenProcessor,
    takes: Sequence[tuple[PreparedSpeech, int]],
    settings: GenerationSettings,
    callback: StepCallback | None = None,
    batch_size: int = 32,
    batch_invariant: bool | None = None,
) -> SpeechOutput:
    """Decode prepared takes with any model that has the modality "audio", all rows together, and join them to waveforms.

    Args:
        pipeline: Its model decodes.
        processor: What prepared the takes.
        takes: Each with its seed; takes of one request stand next to each other.
        settings: How to decode.
        callback: Called after every step.
        batch_size: Rows decoded at once.
        batch_invariant: See `CallOptions`.
    """
    rows = [row for plan, _ in takes for row in plan.rows]
    seeds = [seed + place for plan, seed in takes for place in plan.seeds]
    output = pipeline.generate(rows, "audio", seeds, settings, None, callback, batch_size, batch_invariant)
    media = iter(output.media)
    plans = list({id(plan): plan for plan, _ in takes}.values())
    return SpeechOutput(
        audio=[processor.finish(plan, list(islice(media, len(plan.rows))))[0] for plan, _ in takes],
        seeds=[seed for _, seed in takes],
        sentences=[list(plan.sentences) for plan in plans],
        phonemes=[processor.phonemes(plan) for plan in plans],
        left_out=[character for plan in plans for character in plan.left_out],
        steps=[settings.at(level).steps for level in range(processor.codec.num_levels)],
        elapsed_s=output.elapsed_s,
        generation=output,
    )
