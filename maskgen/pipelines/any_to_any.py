"""Any direction between text, pictures and sound with one model: what is asked from what is known, by the shortest chain of decodes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image

from maskgen.decoding.decoder import StepCallback
from maskgen.decoding.settings import GenerationSettings
from maskgen.io.audio import Waveform
from maskgen.io.bundle import find_model
from maskgen.io.letterbox import letterbox, on_white
from maskgen.networks.durations import DurationPredictor
from maskgen.networks.towers import TowerTransformer
from maskgen.pipelines.base import GenerationOutput, Pipeline
from maskgen.pipelines.text_to_speech import SpeechOutput, Voice
from maskgen.scoring.forced_alignment import Listener
from maskgen.scoring.likelihood import Ranked
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.transcript import Transcript, TranscriptTokenizer
from maskgen.tokens.batch import UNKNOWN, Codes

DEFAULT_MODEL = "any-64"
Medium = Literal["text", "image", "speech"]
MEDIA: tuple[Medium, ...] = get_args(Medium)
DECODED = ("text", "transcript", "image", "audio")
SPECIALISTS_FILE = "specialists.json"
NEEDED = ("text", "image", "audio", "phones", "speaker", "transcript")


@dataclass(frozen=True)
class Specialists:
    """Models that do one direction better than the one that does all; None where there is none.

    Args:
        pictures: Draws texts.
        voice: Speaks texts.
    """

    pictures: Pipeline | None = None
    voice: Voice | None = None

    @property
    def pipelines(self) -> list[Pipeline]:
        """Those that there are, to place them on a machine."""
        return [one for one in (self.pictures, None if self.voice is None else self.voice.pipeline) if one is not None]

    @classmethod
    def beside(cls, folder: Path) -> "Specialists":
        """Those that a bundle's `specialists.json` names: {"image": "emoji-64", "speech": "heart-16k"}.

        Raises:
            ValueError: If the file is no such JSON, or a model is missing or damaged.
        """
        path = folder / SPECIALISTS_FILE
        if not path.is_file():
            return cls()
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            names = {key: str(name) for key, name in found.items()}
        except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
            raise ValueError(f"{path} is no JSON that maps image and speech to names of models ({error}); mend or remove it") from error
        if unknown := sorted(set(names) - {"image", "speech"}):
            raise ValueError(f"{path} names specialists for {', '.join(unknown)}; there can be some for image and speech")
        pictures = Pipeline.from_pretrained(names["image"]) if "image" in names else None
        return cls(pictures, Voice.from_pretrained(names["speech"]) if "speech" in names else None)


@dataclass
class AnyOutput:
    """What a call made; None where it was neither asked for nor needed on the way.

    Args:
        text: The caption or what was heard; the text itself where it was given alone.
        transcript: Words and their times, where a sound was given.
        image: The picture.
        speech: The speech.
        steps: What was decoded, in order, such as "image > text".
        outputs: Codes, trajectories and passes of each of those decodes.
        judging_passes: Model passes that chose among candidates.
    """

    text: str | None = None
    transcript: Transcript | None = None
    image: Image.Image | None = None
    speech: SpeechOutput | None = None
    steps: list[str] = field(default_factory=list)
    outputs: list[GenerationOutput] = field(default_factory=list)
    judging_passes: int = 0

    @property
    def passes(self) -> float:
        """Model passes of all decodes and of what chose among candidates."""
        return sum(sum(output.passes) for output in self.outputs) + self.judging_passes

    @property
    def elapsed_s(self) -> float:
        """Seconds in the model and the sampler."""
        return sum(output.elapsed_s for output in self.outputs)


class AnyToAny:
    """One pipeline over text, image, audio, phones, speaker and transcript.

    Speech is made from phonemes, so what is to be spoken becomes text first: a picture is spoken of by its caption. A picture of a sound
    is drawn from the words heard in it, or from its own cells. Every step is one decode of the same network with other known cells.

    Args:
        pipeline: Its modalities are those above.
        durations: How long each phoneme lasts.
        specialists: Models that draw and speak texts in its place.

    Raises:
        ValueError: If the pipeline lacks a modality.

    Source: generation in chains, 4M, arXiv:2312.06647.
    """

    def __init__(self, pipeline: Pipeline, durations: DurationPredictor, specialists: Specialists | None = None) -> None:
        names = [modality.name for modality in pipeline.space.modalities]
        if missing := [name for name in NEEDED if name not in names]:
            raise ValueError(
                f"this model cannot go every way: it has {', '.join(names)} and lacks {', '.join(missing)}; try {DEFAULT_MODEL}"
            )
        self.pipeline, self.voice = pipeline, Voice(pipeline, durations)
        pictures, scribe = pipeline.tokenizers["image"], pipeline.tokenizers["transcript"]
        assert isinstance(pictures, ImageTokenizer), "pictures have a tokenizer of their own"
        assert isinstance(scribe, TranscriptTokenizer), "transcripts have a tokenizer of their own"
        self.pictures, self.scribe, self.specialists = pictures, scribe, specialists or Specialists()

    @classmethod
    def from_pretrained(cls, name: Path | str = DEFAULT_MODEL, alone: bool = False) -> "AnyToAny":
        """Load a model by its folder or its shipped name, without network.

        Args:
            name: Folder or shipped name.
            alone: Leave out the specialists that its folder names: one network does all.

        Raises:
            ValueError: If it is missing or damaged, or lacks a modality.
        """
        folder = find_model(name)
        if not (folder / "durations").is_dir():
            raise ValueError(f"{folder} holds a model that cannot speak (no folder durations); {DEFAULT_MODEL} goes every way")
        specialists = Specialists() if alone else Specialists.beside(folder)
        return cls(Pipeline.from_pretrained(folder), DurationPredictor.from_bundle(folder / "durations"), specialists)

    def __call__(
        self,
        targets: Sequence[str],
        *,
        text: str | None = None,
        image: Image.Image | None = None,
        sound: Waveform | None = None,
        directly: bool = False,
        candidates: int = 1,
        seed: int = 0,
        settings: Mapping[str, GenerationSettings] | None = None,
        callback: StepCallback | None = None,
    ) -> AnyOutput:
        """Make the media asked for from the one medium given, or a picture from a sound and a text.

        Args:
            targets: Some of text, image, speech.
            text: What is to be shown or spoken; beside a sound of which a picture is drawn, what the sound does not say: "flat style".
            image: A picture; other sizes than the model's are letterboxed.
            sound: Speech of at most 30 s, any rate and channels.
            directly: Draw a sound from the cells of the sound, and of its transcript where they cross a bridge to pictures; not from the
                words heard in it, written as a text.
            candidates: Captions or transcripts that are decoded, by this seed and those after it; the one that the model itself finds
                likeliest is kept.
            seed: Of every decode; the same seed gives the same media.
            settings: "text", "transcript", "image" or "audio" to how it is decoded; otherwise as the model has it that decodes it.
            callback: Called after every step with the state of the decode.

        Raises:
            ValueError: If media are given that do not go together, nothing is asked for, the given is asked for, a sound cannot be used,
                a text is too long, settings are for something else, or there is to be no candidate.
        """
        if candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {candidates}")
        if unknown := sorted(set(settings or {}) - set(DECODED)):
            raise ValueError(f"there are settings for {', '.join(unknown)}; {', '.join(DECODED)} are decoded")
        given = [name for name, medium in (("text", text), ("image", image), ("speech", sound)) if medium is not None]
        _check(targets, given)
        beside = None if sound is None else text
        decode = _Decodes(self, AnyOutput(text if sound is None else None), seed, candidates, dict(settings or {}), callback)
        picture = None if image is None else self.pictures.encode([letterbox(on_white(image), self.pictures.size)])[0]
        heard = None if sound is None else self.voice.codes_of(sound)
        if picture is not None:
            decode.caption(picture)
        if heard is not None and ("text" in targets or "speech" in targets or not directly or self.crosses):
            decode.transcript(heard)
        if "image" in targets:
            decode.image(heard if directly else None, beside)
        if "speech" in targets:
            decode.speech(picture)
        return decode.made

    def which(self, sound: Waveform, texts: Sequence[str]) -> list[Ranked]:
        """Which of some texts is said in a sound, and when: candidates of a recogniser, commands, or one text that is to be aligned.

        Args:
            sound: Speech of at most 30 s, any rate and channels.
            texts: What may be said.

        Returns:
            The texts' places, likeliest first, with probabilities; `candidate["transcript"]` has the words and their times, None for a text
            that does not fit into the sound.

        Raises:
            ValueError: If the sound cannot be used, there is no text, one has no word, or none fits into the sound.
        """
        return Listener(self.pipeline.model, self.pipeline.space, self.scribe)(self.voice.codes_of(sound), texts)

    @property
    def crosses(self) -> bool:
        """Whether pictures see transcripts over a bridge."""
        network = self.pipeline.model
        return isinstance(network, TowerTransformer) and "transcript" in network.crossing_to("image")

    def decoder_of(self, target: str, directly: bool = False) -> Pipeline:
        """The pipeline that decodes one of text, transcript, image and audio, a specialist where there is one.

        Args:
            target: What is decoded.
            directly: Whether a picture is drawn from a sound itself, which specialists cannot.
        """
        if target == "image" and self.specialists.pictures is not None and not directly:
            return self.specialists.pictures
        if target == "audio" and self.specialists.voice is not None:
            return self.specialists.voice.pipeline
        return self.pipeline


@dataclass
class _Decodes:
    """The decodes of one call, each from what is known so far."""

    owner: AnyToAny
    made: AnyOutput
    seed: int
    candidates: int
    settings: dict[str, GenerationSettings]
    callback: StepCallback | None
    slots: Codes | None = None
    """Codes of the transcript."""

    def caption(self, picture: Codes) -> None:
        """A picture in words."""
        self.made.text, _ = self._likeliest("image > text", {"image": picture}, {}, "text")

    def transcript(self, heard: Codes) -> None:
        """What is said in a sound."""
        blank = torch.full((1, self.owner.scribe.slots(heard.shape[1])), UNKNOWN)
        self.made.transcript, self.slots = self._likeliest("speech > text", {"audio": heard}, {"transcript": blank}, "transcript")
        self.made.text = self.made.transcript.text

    def image(self, heard: Codes | None, beside: str | None) -> None:
        """A picture of a sound, with its transcript where that is seen, or of the text; and of what is said beside it."""
        decoder = self.owner.decoder_of("image", directly=heard is not None)
        said = {} if beside is None else decoder.text_codes(beside)
        if heard is None:
            step, known = "text > image", self._caption_codes(decoder, beside)
        else:
            step, known = "speech > image" if beside is None else "speech + text > image", {"audio": heard, **said}
            if self.owner.crosses and self.slots is not None:
                known["transcript"] = self.slots
        self._note(step, decoder.generate([known], "image", [self.seed], self.settings.get("image"), callback=self.callback))
        self.made.image = self.made.outputs[-1].media[0]

    def _caption_codes(self, decoder: Pipeline, beside: str | None) -> dict[str, Codes]:
        """The text so far as a caption, and what is said beside it.

        Raises:
            ValueError: If there are no words, or too many.
        """
        words = self._words("a picture")
        try:
            return decoder.text_codes(words if beside is None else f"{words}, {beside.strip()}")
        except ValueError as error:
            if self.made.transcript is None:
                raise
            raise ValueError(
                f"heard {len(words.split())} words, too long for a caption ({error}); take --directly or give a shorter sound"
            ) from error

    def speech(self, picture: Codes | None) -> None:
        """The text, spoken beside the picture it is of."""
        voice = self.owner.specialists.voice
        beside = None if picture is None or voice is not None else {"image": picture}
        spoken = (voice or self.owner.voice)(
            self._words("speech"), beside=beside, seed=self.seed, settings=self.settings.get("audio"), callback=self.callback
        )
        self.made.speech = spoken
        self._note("text > speech" if beside is None else "image + text > speech", spoken.generation)

    def _words(self, what: str) -> str:
        """The text so far.

        Raises:
            ValueError: If the model found no words in what was given.
        """
        if not self.made.text or not self.made.text.strip():
            raise ValueError(f"the model found no words in what was given, so there is nothing to make {what} of; try another --seed")
        return self.made.text

    def _likeliest(self, step: str, known: Mapping[str, Any], blank: Mapping[str, Codes], target: str) -> tuple[Any, Codes]:
        """The best of several decodes and its codes, by the bound on the likelihood of each, under the same masks."""
        pipeline, seeds = self.owner.pipeline, list(range(self.seed, self.seed + self.candidates))
        output = pipeline.generate([{**known, **blank}] * len(seeds), target, seeds, self.settings.get(target), callback=self.callback)
        self._note(step, output)
        if len(seeds) == 1:
            return output.media[0], output.codes[0]
        found = pipeline.classify(known, [{target: codes} for codes in output.codes], target)
        self.made.judging_passes += sum(one.score.model_calls for one in found)
        return output.media[found[0].place], output.codes[found[0].place]

    def _note(self, step: str, output: GenerationOutput) -> None:
        self.made.steps.append(step)
        self.made.outputs.append(output)


def _check(targets: Sequence[str], given: Sequence[str]) -> None:
    """Refuse calls that cannot be meant.

    Raises:
        ValueError: If media are given that do not go together, nothing or something unknown is asked for, or the given is asked for.
    """
    if len(given) != 1 and not (given == ["text", "speech"] and list(targets) == ["image"]):
        found = " and ".join(given) or "none"
        raise ValueError(
            f"give exactly one of a text, an image and a sound, got {found}; for a picture alone a text may stand beside a sound"
        )
    wrong = [name for name in targets if name not in MEDIA]
    if not targets or wrong or len(set(targets)) != len(targets):
        raise ValueError(f"ask for some of {', '.join(MEDIA)}, each once, got {', '.join(targets) or 'none'}")
    if given[0] in targets and given[0] != "speech":
        raise ValueError(f"{given[0]} is given and asked for; `maskgen generate {given[0]}` edits it")
