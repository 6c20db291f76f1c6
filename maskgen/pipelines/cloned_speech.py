"""Text to speech in the voice of a recording, with models of two stages."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Unpack

from maskgen.decoding.settings import GenerationSettings
from maskgen.pipelines.options import CallOptions, as_prompts, check_names, num_outputs, seeds_of, settings_from
from maskgen.pipelines.outputs import SpeechOutput
from maskgen.pipelines.text_to_speech import TextToSpeechPipeline, speech_of
from maskgen.processors.cloned_speech import ClonedSpeechProcessor
from maskgen.processors.spoken import SpeechRequest

SHARED = ("num_inference_steps", "guidance_scale", "guidance_schedule", "sampler")
"""Options that count for both stages."""


class ClonedSpeechPipeline(TextToSpeechPipeline):
    """Speaks texts with MaskGCT in the voice of a recording: semantic codes from phones, then acoustic codes from semantic codes.

    `voice = maskgen.Pipeline.from_pretrained("MaskGCT")` on a folder of the model, then
    `voice("Good morning.", audio_prompt="clip.wav", audio_text="What the clip says.").audio[0].save("morning.wav")`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"phonemes", "heard", "semantic", "voice", "audio"})
    speaks: ClassVar[bool] = False
    default_model: ClassVar[str] = "amphion/MaskGCT"

    @property
    def processor(self) -> ClonedSpeechProcessor:
        """Texts and recordings to cells and back."""
        return ClonedSpeechProcessor(self.tokenizers)

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
        semantic_settings: GenerationSettings | None = None,
        **options: Unpack[CallOptions],
    ) -> SpeechOutput:
        """Speak one text or several. Speech of more than 30 s is spoken in parts of about 15 s, in one batch.

        Args:
            prompt: The text, or phones of the model between slashes: `/h|ə|l|oʊ/`.
            seconds: Length of the speech, without any recording. None takes the pace of the recording.
            speed: Pace: 2 is twice as fast as the recording; goes without `seconds` only.
            speaker: Must be None: the voice is that of the recording.
            language: "en", "fr" or "de", of text and recording; None is English. Other languages are given as phones.
            audio: Recording of at most 30 s that is continued and stands before the speech unchanged.
            span_s: Must be None: this voice does not edit.
            audio_prompt: Recording of at most 30 s whose voice the speech takes up, without being part of it.
            audio_text: What the recording says; needed.
            known: Must be None: this voice sees no other media.
            semantic_settings: How semantic codes are decoded; the model's own if None.
            options: Seeds, sampling and callbacks; see `CallOptions`. `num_inference_steps` as one number, `guidance_scale`,
                `guidance_schedule` and `sampler` count for both stages, all others that decode for acoustic codes alone.

        Returns:
            SpeechOutput as of `TextToSpeechPipeline`; its `generation` has the acoustic codes and the model calls of both stages.

        Raises:
            TypeError: If an argument has another type or there is none of its name.
            ValueError: If there is no recording or not what it says, the text has nothing to speak, or an argument is out of range or
                contradicts another.
        """
        check_names(ClonedSpeechPipeline.__call__, options, CallOptions)
        if known:
            raise ValueError(f"this voice sees no other media; leave known out, got {', '.join(known)}")
        given = {"seconds": seconds, "speed": speed, "speaker": speaker, "language": language, "audio": audio, "span_s": span_s}
        given |= {"audio_prompt": audio_prompt, "audio_text": audio_text}
        return self._two_stages(prompt, given, options, semantic_settings)

    def _two_stages(
        self, prompt: Any, given: Mapping[str, Any], options: Mapping[str, Any], semantic: GenerationSettings | None
    ) -> SpeechOutput:
        """Semantic codes of all rows, then acoustic codes of all rows.

        Raises:
            TypeError: If a length or pace is no number.
        """
        for name in ("seconds", "speed"):
            if given[name] is not None and not isinstance(given[name], (int, float)):
                raise TypeError(f"{name} must be a number, got {given[name]!r}")
        processor = self.processor
        second = settings_from(self.settings_of("audio"), options, len(self.space.of("audio")))
        shared = {name: value for name, value in options.items() if name in SHARED and not isinstance(value, (list, tuple))}
        first = settings_from(semantic or self.settings_of("semantic"), shared, 1)
        with self._watched(options) as callback:
            plans = [processor.prepare(SpeechRequest(prompt=text, **given)) for text in as_prompts(prompt)]
            seeds = seeds_of(options, [len(plan.rows) for plan in plans], num_outputs(options))
            takes = [(plan, seed) for plan, mine in zip(plans, seeds, strict=True) for seed in mine]
            limits = options.get("batch_size", 32), options.get("batch_invariant")
            rows, starts = [row for plan, _ in takes for row in plan.rows], [seed + place for plan, seed in takes for place in plan.seeds]
            said = self.generate(rows, "semantic", starts, first, None, callback, *limits)
            codes = iter(said.codes)
            spoken = [(processor.second_stage(plan, [next(codes) for _ in plan.rows]), seed) for plan, seed in takes]
            output = speech_of(self, processor, spoken, second, callback, *limits)
        made = output.generation
        calls = [one + other for one, other in zip(said.model_calls, made.model_calls, strict=True)]
        return replace(
            output,
            sentences=[list(plan.sentences) for plan in plans],
            phonemes=[processor.phonemes(plan) for plan in plans],
            elapsed_s=said.elapsed_s + made.elapsed_s,
            generation=replace(made, model_calls=calls, elapsed_s=said.elapsed_s + made.elapsed_s),
        )
