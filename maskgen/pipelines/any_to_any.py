"""Any-to-any generation between text, images and audio with one model, by the shortest chain of decodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Unpack

import torch

from maskgen.decoding.decoder import StepCallback
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.towers import TowerTransformer
from maskgen.pipelines.any_request import DECODED, check_request
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.options import DECODE_NAMES, CallOptions, as_prompts, check_names, num_outputs, seeds_of, settings_from
from maskgen.pipelines.outputs import AnyToAnyOutput, GenerationOutput
from maskgen.pipelines.text_to_speech import TextToSpeechPipeline, speech_of
from maskgen.processors.base import required
from maskgen.processors.image import letterboxed
from maskgen.processors.media import as_audio
from maskgen.processors.speech import SpeechProcessor
from maskgen.processors.spoken import SpeechRequest
from maskgen.processors.text import told_codes, with_holes
from maskgen.scoring.forced_alignment import ForcedAligner
from maskgen.scoring.ranking import Ranked
from maskgen.tokenizers.transcript import TranscriptTokenizer
from maskgen.tokens.batch import UNKNOWN, Codes


class AnyToAnyPipeline(Pipeline):
    """One model over text, images and audio: captions, transcripts, images and speech from each other.

    Speech is generated from phonemes, so what is spoken becomes text first: an image is described by its caption. An image of a recording
    is drawn from the words heard in it, or from the recording's own cells. Every step is one decode of the same network with other known
    cells; where the model's folder names specialists, they draw and speak texts in its place.

    `pipeline(image=picture, target="text").text`, `pipeline(audio=clip, target=["text", "image"]).images`

    Source: generation in chains, 4M, arXiv:2312.06647.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"text", "image", "audio", "phones", "speaker", "transcript"})
    speaks: ClassVar[bool] = True
    does: ClassVar[str] = "any-to-any generation"
    default_model: ClassVar[str] = "any-64"

    @property
    def scribe(self) -> TranscriptTokenizer:
        """Tokenizer of transcripts."""
        return required(self.tokenizers, "transcript", TranscriptTokenizer)

    @property
    def speech(self) -> SpeechProcessor:
        """Texts and recordings to cells and back."""
        assert self.durations is not None, "checked when the pipeline was made"
        return SpeechProcessor(self.tokenizers, self.durations)

    def __call__(
        self,
        prompt: str | None = None,
        *,
        target: str | Sequence[str],
        image: Any = None,
        audio: Any = None,
        source: Literal["words", "audio"] = "words",
        candidates: int = 1,
        **options: Unpack[CallOptions],
    ) -> AnyToAnyOutput:
        """Generate the media asked for from the one medium given, or an image from a recording and a text.

        Args:
            prompt: Text to draw or to speak; with `audio`, what the recording does not say of the image: "flat style"; for the target
                "text" a text with holes, "a [2] heart".
            target: "text", "image" or "audio" (speech), or a list of them.
            image: An image in any form that `TextToImagePipeline` takes; other sizes than the model's are letterboxed.
            audio: Speech of at most 30 s in any form that `TextToSpeechPipeline` takes.
            source: What an image of a recording is drawn from: the "words" heard in it, as a caption; or the "audio" cells themselves, and
                the transcript's where a bridge lets images see them.
            candidates: Captions or transcripts that are decoded, from the output's seed on; the one that the model finds likeliest is kept.
            options: Seeds, sampling and callbacks; see `CallOptions`. Sampling arguments are for the one target asked for.

        Raises:
            TypeError: If an argument has another type or there is none of its name.
            ValueError: If media are given that don't go together, nothing is asked for, the given is asked for, the audio cannot be used, a
                text is too long, or settings are for something that is not decoded.
        """
        check_names(AnyToAnyPipeline.__call__, options, CallOptions)
        if prompt is not None and not isinstance(prompt, str):
            raise TypeError(f"prompt must be one text, got {prompt!r:.80}; call again for the next one")
        if isinstance(candidates, bool) or not isinstance(candidates, int) or candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {candidates!r}")
        if source not in ("words", "audio"):
            raise ValueError(f'source must be "words" or "audio", got {source!r}')
        targets = as_prompts(target, "target")
        check_request(targets, prompt, image, audio, source)
        settings = self._settings(options, targets, audio is not None, source)
        output = AnyToAnyOutput(seeds=seeds_of(options, [1], num_outputs(options))[0])
        seen = None if image is None else letterboxed(image, self.tokenizers["image"], self.grids.get("image"))
        picture = None if seen is None else self.encoded({"image": seen})["image"]
        heard = None if audio is None else self.speech.codes_of(as_audio(audio))
        with self._watched(options) as callback:
            for seed in output.seeds:
                chain = _Chain(self, seed, candidates, settings, callback, options.get("batch_invariant"))
                chain.run(targets, prompt, picture, heard, source == "audio")
                chain.add_to(output)
        return output

    def align(self, audio: Any, texts: Sequence[str]) -> list[Ranked]:
        """Forced alignment: score candidate transcripts against a recording and time their words.

        Args:
            audio: Speech of at most 30 s, in any form that a call takes.
            texts: Candidate transcripts: hypotheses of a recogniser, commands, or one text whose words are to be timed.

        Returns:
            The candidates, likeliest first, with probabilities; `candidate["transcript"]` has the words and their times, None for a text
            that does not fit into the recording.

        Raises:
            ValueError: If the audio cannot be used, there is no text, one has no word, or none fits into the recording.
        """
        codes = self.speech.codes_of(as_audio(audio))
        return ForcedAligner(self.model, self.space, self.scribe)(codes, as_prompts(texts, "texts") if texts else [])

    @property
    def crosses(self) -> bool:
        """Whether images see transcripts over a bridge."""
        return isinstance(self.model, TowerTransformer) and "transcript" in self.model.crossing_to("image")

    def decoder_of(self, decoded: str, from_audio: bool = False) -> Pipeline:
        """The pipeline that decodes one of text, transcript, image and audio, a specialist where there is one.

        Args:
            decoded: What is decoded.
            from_audio: Whether an image is drawn from the cells of a recording, which specialists cannot see.
        """
        specialist = self.specialists.get(decoded)
        return self if specialist is None or (decoded == "image" and from_audio) else specialist

    def _settings(self, options: Mapping[str, Any], targets: Sequence[str], hears: bool, source: str) -> dict[str, GenerationSettings]:
        """Settings of what the call changes.

        Raises:
            TypeError: If settings are of another type.
            ValueError: If they are for something that is not decoded, or sampling arguments stand beside several targets.
        """
        given = options.get("settings")
        several = dict(given) if isinstance(given, Mapping) else {}
        if unknown := sorted(set(several) - set(DECODED)):
            raise ValueError(f"there are settings for {', '.join(unknown)}; {', '.join(DECODED)} are decoded")
        changed = [name for name in DECODE_NAMES if options.get(name) is not None]
        if given is not None and not isinstance(given, Mapping):
            changed.append("settings")
        if not changed:
            return several
        if len(targets) > 1:
            raise ValueError(
                f"{changed[0]} is for one target; ask for {' and '.join(targets)} one after the other, or give settings for each"
            )
        decoded = "transcript" if targets[0] == "text" and hears else targets[0]
        start = several.get(decoded) or self.decoder_of(decoded, source == "audio").settings_of(decoded)
        rest = {name: value for name, value in options.items() if name != "settings" or not isinstance(given, Mapping)}
        return {**several, decoded: settings_from(start, rest, len(self.space.of(decoded)))}


@dataclass
class _Chain:
    """The decodes of one output, each from what is known so far."""

    owner: AnyToAnyPipeline
    seed: int
    candidates: int
    settings: Mapping[str, GenerationSettings]
    callback: StepCallback | None
    batch_invariant: bool | None

    def run(self, targets: Sequence[str], prompt: str | None, picture: Codes | None, heard: Codes | None, from_audio: bool) -> None:
        """Decode what is asked for, and what it needs on the way."""
        self.made = AnyToAnyOutput()
        self.slots: Codes | None = None
        self.text = prompt if heard is None else None
        if "text" in targets and prompt is not None:
            self._holes(prompt, picture)
        elif picture is not None:
            self.text, _ = self._likeliest("image > text", {"image": picture}, {}, "text")
        if heard is not None and ("text" in targets or "audio" in targets or not from_audio or self.owner.crosses):
            self._transcribe(heard)
        if "image" in targets:
            self._draw(heard if from_audio else None, None if heard is None else prompt)
        if "audio" in targets:
            self._speak(picture)
        if self.text is not None:
            self.made.texts.append(self.text)

    def add_to(self, output: AnyToAnyOutput) -> None:
        """Append what this output made."""
        for name in ("texts", "transcripts", "images", "speech", "generations"):
            getattr(output, name).extend(getattr(self.made, name))
        output.judging_calls += self.made.judging_calls
        output.steps = output.steps or self.made.steps

    def _holes(self, prompt: str, picture: Codes | None) -> None:
        """A text with its holes filled, given an image or nothing."""
        owner = self.owner
        known = {} if picture is None else {"image": picture}
        step = "text > text" if picture is None else "image + text > text"
        self.text, _ = self._likeliest(step, known, {"text": with_holes(prompt, owner.tokenizers["text"])}, "text")

    def _transcribe(self, heard: Codes) -> None:
        """What is said in a recording."""
        blank = torch.full((1, self.owner.scribe.slots(heard.shape[1])), UNKNOWN)
        transcript, self.slots = self._likeliest("audio > text", {"audio": heard}, {"transcript": blank}, "transcript")
        self.made.transcripts.append(transcript)
        self.text = transcript.text

    def _draw(self, heard: Codes | None, style: str | None) -> None:
        """An image of the text, or of a recording's cells with its transcript where images see it; and of what the prompt adds."""
        decoder = self.owner.decoder_of("image", from_audio=heard is not None)
        added = {} if style is None else told_codes(decoder.tokenizers, style)
        if heard is None:
            step, known = "text > image", self._caption(decoder, style)
        else:
            step, known = "audio > image" if style is None else "audio + text > image", {"audio": heard, **added}
            if self.owner.crosses and self.slots is not None:
                known["transcript"] = self.slots
        settings = self.settings.get("image")
        output = decoder.generate([known], "image", [self.seed], settings, None, self.callback, batch_invariant=self.batch_invariant)
        self._note(step, output)
        self.made.images.append(output.media[0])

    def _caption(self, decoder: Pipeline, style: str | None) -> dict[str, Codes]:
        """The text so far as a caption, and what the prompt adds.

        Raises:
            ValueError: If there are no words, or too many.
        """
        words = self._words("an image")
        try:
            return told_codes(decoder.tokenizers, words if style is None else f"{words}, {style.strip()}")
        except ValueError as error:
            if not self.made.transcripts:
                raise
            raise ValueError(
                f"heard {len(words.split())} words, too long for a caption ({error}); "
                'draw from the audio itself (source="audio", --source audio), or give a shorter recording'
            ) from error

    def _speak(self, picture: Codes | None) -> None:
        """The text, spoken with the image that it describes in view."""
        voice = self.owner.specialists.get("audio")
        seen = {} if picture is None or voice is not None else {"image": picture}
        speaker, processor = self.owner, self.owner.speech
        if isinstance(voice, TextToSpeechPipeline):
            speaker, processor = voice, voice.processor  # type: ignore[assignment]
        plan = processor.prepare(SpeechRequest(prompt=self._words("speech"), known=seen))
        settings = self.settings.get("audio") or speaker.settings_of("audio")
        spoken = speech_of(speaker, processor, [(plan, self.seed)], settings, self.callback, batch_invariant=self.batch_invariant)
        self.made.speech.append(spoken)
        self._note("image + text > audio" if seen else "text > audio", spoken.generation)

    def _words(self, what: str) -> str:
        """The text so far.

        Raises:
            ValueError: If the model found no words in what was given.
        """
        if not self.text or not self.text.strip():
            raise ValueError(f"the model found no words in what was given, so there is nothing to make {what} of; try another seed")
        return self.text

    def _likeliest(self, step: str, known: Mapping[str, Any], blank: Mapping[str, Codes], target: str) -> tuple[Any, Codes]:
        """The best of several decodes and its codes, by the bound on the likelihood of each, under the same masks."""
        seeds = list(range(self.seed, self.seed + self.candidates))
        rows = [{**known, **blank}] * len(seeds)
        settings, invariant = self.settings.get(target), self.batch_invariant
        output = self.owner.generate(rows, target, seeds, settings, None, self.callback, batch_invariant=invariant)
        self._note(step, output)
        if len(seeds) == 1:
            return output.media[0], output.codes[0]
        ranking = self.owner.classify(known, [{target: codes} for codes in output.codes], target)
        self.made.judging_calls += sum(one.score.model_calls for one in ranking)
        return output.media[ranking[0].place], output.codes[ranking[0].place]

    def _note(self, step: str, output: GenerationOutput) -> None:
        self.made.steps.append(step)
        self.made.generations.append(output)
