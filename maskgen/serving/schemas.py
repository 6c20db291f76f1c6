"""Bodies of requests. What clients of OpenAI's API send and this server has no use for is ignored; `/v1/generate` refuses it."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MOST_LEVELS = 64


def _valid_text(text: str) -> str:
    """Refuse unpaired surrogates, which no text file can hold."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("the text holds half of a UTF-16 pair, which is no character; send valid Unicode")
    return text


def _numbers(value: Any) -> Any:
    """Numbers of a form: "12" or "12,8,4"."""
    return value.split(",") if isinstance(value, str) and "," in value else value


Text = Annotated[str, AfterValidator(_valid_text)]
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Whole = Annotated[int, Field(ge=0, le=10**6)]
PerLevel = Annotated[list[Finite], Field(min_length=1, max_length=MOST_LEVELS)]
Steps = Annotated[int, Field(ge=1, le=10**6)]
StepsPerLevel = Annotated[list[Steps], Field(min_length=1, max_length=MOST_LEVELS)]
Seed = Annotated[
    int, Field(ge=0, lt=2**62, description="seed of the first output, output i has seed + i; drawn and named in the answer if left out")
]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False, le=1e6)]
Base64 = Annotated[Text, Field(description="a file as base64, or a data: URL that holds it; other URLs are refused")]
ImageFormat = Literal["png", "jpeg", "webp"]
AudioFormat = Literal["wav", "flac", "mp3", "ogg", "opus", "pcm"]


class Decoding(BaseModel):
    """How a target is decoded; what is left out stays as the model's bundle has it."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    seed: Seed | None = None
    num_inference_steps: Annotated[Steps | StepsPerLevel | None, BeforeValidator(_numbers)] = Field(
        None, description="decode steps of the coarsest level, or one number a level"
    )
    guidance_scale: Finite | None = Field(None, description="1 is off")
    guidance_schedule: Text | None = None
    temperature: Annotated[Finite | PerLevel | None, BeforeValidator(_numbers)] = Field(None, description="0 takes the likeliest code")
    choice_temperature: Annotated[Finite | PerLevel | None, BeforeValidator(_numbers)] = None
    top_k: Whole | None = None
    top_p: Finite | None = None
    sampler: Text | None = Field(None, description="name of a sampler, such as halton", examples=["halton"])


class ImageGenerationRequest(Decoding):
    """`POST /v1/images/generations`."""

    prompt: Text = Field(examples=["a red heart, flat style"])
    model: Text | None = Field(None, description="a name of GET /v1/models; the first that draws if left out")
    n: Annotated[int, Field(ge=1, le=10**6)] = 1
    size: Text | None = Field(None, description="WIDTHxHEIGHT in pixels, or auto for the model's own", examples=["auto"])
    response_format: Text | None = Field(None, description="b64_json; url is refused, because nothing is stored")
    output_format: ImageFormat = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] = Field(90, description="quality of JPEG and WebP")
    negative_prompt: Text | None = None
    stream: bool = False
    partial_images: Annotated[int, Field(ge=0, le=1000)] = Field(0, description="previews of the first image in a stream")
    progress: bool = Field(False, description="events image_generation.progress in a stream, one a decode step")


class ImageEditFields(ImageGenerationRequest):
    """Text fields of `POST /v1/images/edits`; the files are `image`, and `mask` or `mask_image`."""

    prompt: Text = Field("", examples=["a red heart, flat style"])
    strength: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="share of random cells that are regenerated")
    outpaint: Annotated[list[Whole], Field(min_length=4, max_length=4), BeforeValidator(_numbers)] | None = Field(
        None, description="pixels to add: left,top,right,bottom", examples=["0,0,32,0"]
    )


class SpeechCreation(Decoding):
    """`POST /v1/audio/speech`."""

    input: Text = Field(examples=["Good morning."])
    model: Text | None = Field(None, description="a name of GET /v1/models; the first that speaks if left out")
    voice: Any = Field(None, description="a speaker of the model; names of OpenAI's voices take its first one")
    response_format: AudioFormat = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    instructions: Any = Field(None, description="ignored")
    stream_format: Literal["audio", "sse"] | None = Field(
        None, description="sentence by sentence as bytes or as events; left out, the whole file is sent at once"
    )
    seconds: Seconds | None = Field(None, description="length of the speech; the pace follows")
    language: Text | None = None


class TranscriptionFields(Decoding):
    """Text fields of `POST /v1/audio/transcriptions`; the recording is the file `file`."""

    model: Text | None = Field(None, description="a name of GET /v1/models; the first that transcribes if left out")
    response_format: Literal["json", "verbose_json", "text", "srt", "vtt"] = "json"
    language: Text | None = Field(None, description="comes back in verbose_json; a model hears the language that it was trained on")
    prompt: Any = Field(None, description="ignored")
    timestamp_granularities: list[Literal["word", "segment"]] = Field(["word", "segment"], description="of verbose_json")
    candidates: Annotated[int, Field(ge=1, le=10**6)] = Field(1, description="transcripts to decode; the likeliest is kept")
    stream: bool = False


class WordTimes(BaseModel):
    """A transcript as a known medium."""

    model_config = ConfigDict(extra="forbid")

    words: Annotated[list[Text], Field(max_length=10_000)]
    starts_s: Annotated[list[Annotated[float, Field(ge=0, le=1e6)]], Field(max_length=10_000)]
    seconds: Seconds


class KnownMedium(BaseModel):
    """One known medium; exactly one field is given."""

    model_config = ConfigDict(extra="forbid")

    text: Text | None = Field(None, description="for texts, phonemes and attributes")
    image: Base64 | None = None
    audio: Base64 | None = None
    transcript: WordTimes | None = None
    codes: list[Any] | None = Field(None, description="codes [level, *grid]; -1 is unknown")


class GenerateRequest(Decoding):
    """`POST /v1/generate`: the words of a pipeline's call, with files as base64.

    With `known`, any known media give any target: a mapping of modality to its medium, and cells of the target may be known too.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: Text | None = Field(None, description="a name of GET /v1/models; the first of the server if left out")
    target: Text | list[Text] = Field(description="what is generated: text, image, audio, or a list of them", examples=["image"])
    prompt: Text | None = Field(None, examples=["a red heart, flat style"])
    image: Base64 | None = None
    audio: Base64 | None = None
    known: dict[str, KnownMedium] | None = Field(None, examples=[None])
    mask_image: Base64 | None = None
    strength: Annotated[float, Field(ge=0, le=1)] | None = None
    outpaint: Annotated[list[Whole], Field(min_length=4, max_length=4)] | None = None
    negative_prompt: Text | None = None
    label: Text | int | None = None
    width: Whole | None = None
    height: Whole | None = None
    seconds: Seconds | None = None
    speed: Annotated[float, Field(ge=0.25, le=4.0)] | None = None
    speaker: Text | None = None
    language: Text | None = None
    span_s: Annotated[list[Annotated[float, Field(ge=0, le=1e6)]], Field(min_length=2, max_length=2)] | None = None
    audio_prompt: Base64 | None = None
    audio_text: Text | None = None
    length: Annotated[int, Field(ge=1, le=10**6)] | None = None
    source: Literal["words", "audio"] | None = None
    candidates: Annotated[int, Field(ge=1, le=10**6)] | None = None
    num_outputs: Annotated[int, Field(ge=1, le=10**6)] = 1
    image_format: ImageFormat = "png"
    audio_format: AudioFormat = "wav"
    return_codes: bool = Field(False, description="with the codes of each output")
    stream: bool = Field(False, description="answer with server-sent events: progress, previews, then the whole answer")
    previews: Annotated[int, Field(ge=0, le=1000)] = Field(4, description="previews of the first image in a stream")
