"""The official client of OpenAI's API against a real server: images, edits, speech, transcripts, streams."""

import base64
import io
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
from builders.media import recording
from builders.served import Running
from PIL import Image

from maskgen.io.limits import MediaLimits
from maskgen.serving.media import audio_bytes, image_bytes, recording_from
from maskgen.serving.served import Catalogue

PROMPT = "a red heart, flat style"
SENTENCES = "Good morning. It is late. Good night."
MODELS = dict[str, Any]


def image_of(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


def picture(mode: str = "RGB") -> Image.Image:
    channels = np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    made = Image.fromarray(channels)
    if mode == "RGBA":
        made.putalpha(Image.fromarray(np.where(np.arange(32)[None] < 16, 0, 255).repeat(32, 0).astype(np.uint8)))
    return made


def upload(made: Image.Image, name: str = "picture.png") -> tuple[str, bytes]:
    return name, image_bytes(made, "png")


def same(left: Image.Image, right: Image.Image) -> bool:
    return left.size == right.size and left.tobytes() == right.tobytes()


def test_models_are_listed_with_what_they_can_do(server: Running) -> None:
    found = {one.id: one for one in server.client.models.list()}
    assert list(found) == ["pictures", "voice", "both"]
    assert found["voice"].model_extra["voices"] == ["heart", "michael"]
    assert found["both"].model_extra["tasks"] == ["draw", "generate", "speak", "transcribe"]
    assert server.client.models.retrieve("pictures").id == "pictures"


def test_images_are_those_of_the_pipeline(server: Running, models: MODELS) -> None:
    answer = server.client.images.generate(model="pictures", prompt=PROMPT, n=2, extra_body={"seed": 3, "sampler": "halton"})
    own = models["pictures"](PROMPT, seed=3, num_outputs=2, sampler="halton").images
    assert all(same(image_of(one.b64_json), image) for one, image in zip(answer.data, own, strict=True))
    assert [one.model_extra["seed"] for one in answer.data] == [3, 4]
    assert (answer.size, answer.model_extra["model"]) == ("32x32", "pictures")


def test_an_image_without_a_seed_names_the_one_that_was_drawn(server: Running, models: MODELS) -> None:
    one = server.client.images.generate(prompt=PROMPT, output_format="webp").data[0]
    again = server.client.images.generate(prompt=PROMPT, output_format="webp", extra_body={"seed": one.model_extra["seed"]}).data[0]
    assert one.b64_json == again.b64_json
    assert base64.b64decode(one.b64_json)[8:12] == b"WEBP"


@pytest.mark.parametrize("model", ["pictures", "both"])
def test_a_stream_of_an_image_shows_previews_and_ends_with_the_same_image(server: Running, model: str) -> None:
    events = list(
        server.client.images.generate(
            model=model, prompt=PROMPT, stream=True, partial_images=2, extra_body={"seed": 1, "progress": True, "num_inference_steps": 4}
        )
    )
    kinds = [event.type.removeprefix("image_generation.") for event in events]
    assert kinds.count("partial_image") == 2
    assert kinds.count("progress") == 6
    assert kinds[-1] == "completed"
    whole = server.client.images.generate(model=model, prompt=PROMPT, extra_body={"seed": 1, "num_inference_steps": 4})
    assert events[-1].b64_json == whole.data[0].b64_json
    first = image_of(next(event.b64_json for event in events if event.type.endswith("partial_image")))
    assert (200, 200, 200) in first.get_flattened_data()


def test_edits_by_mask_strength_and_outpainting(server: Running, models: MODELS) -> None:
    white = Image.new("L", (32, 32))
    white.paste(255, (0, 0, 16, 32))
    edit = server.client.images.edit
    mask = edit(image=upload(picture()), prompt=PROMPT, extra_body={"seed": 5}, mask=upload(picture("RGBA")))
    own = models["pictures"](PROMPT, image=picture(), mask_image=white, seed=5).images[0]
    assert same(image_of(mask.data[0].b64_json), own)
    holes = edit(image=upload(picture("RGBA")), prompt=PROMPT, extra_body={"seed": 5})
    assert same(image_of(holes.data[0].b64_json).crop((16, 0, 32, 32)), picture().crop((16, 0, 32, 32)))
    varied = edit(image=[upload(picture())], prompt=PROMPT, extra_body={"seed": 5})
    assert same(image_of(varied.data[0].b64_json), models["pictures"](PROMPT, image=picture(), strength=0.5, seed=5).images[0])
    wide = edit(image=upload(picture()), prompt=PROMPT, extra_body={"seed": 5, "outpaint": "0,0,16,0"})
    assert image_of(wide.data[0].b64_json).size == (48, 32)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "opus"])
def test_speech_in_every_format(server: Running, models: MODELS, kind: str) -> None:
    answer = server.client.audio.speech.create(
        model="voice", voice="alloy", input="Good morning.", response_format=kind, extra_body={"seed": 2, "num_inference_steps": 2}
    )
    wave = recording_from(answer.read(), MediaLimits(), "the answer")
    own = models["voice"]("Good morning.", seed=2, num_inference_steps=2).audio[0]
    assert wave.seconds == pytest.approx(own.seconds, abs=0.1)
    if kind in ("wav", "flac"):
        assert np.abs(wave.samples - own.samples).max() <= 1 / 2**15
    assert answer.response.headers["x-seed"] == "2"


@pytest.mark.parametrize("model", ["voice", "both"])
def test_streamed_speech_comes_sentence_by_sentence_and_is_the_whole(server: Running, model: str) -> None:
    given = {"model": model, "voice": "heart", "input": SENTENCES}
    whole = server.client.audio.speech.create(**given, response_format="pcm", extra_body={"seed": 4}).read()
    with server.client.audio.speech.with_streaming_response.create(
        **given, response_format="pcm", stream_format="audio", extra_body={"seed": 4}
    ) as answer:
        assert float(answer.headers["x-time-to-first-audio-ms"]) > 0
        assert answer.read() == whole
    with server.client.audio.speech.with_streaming_response.create(
        **given, response_format="wav", stream_format="sse", extra_body={"seed": 4}
    ) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("event:")]
    assert lines == ["event: speech.audio.delta"] * 3 + ["event: speech.audio.done"]


def test_a_streamed_wav_file_can_be_read(server: Running) -> None:
    with server.client.audio.speech.with_streaming_response.create(
        model="voice", voice="michael", input=SENTENCES, response_format="wav", stream_format="audio", extra_body={"seed": 4}
    ) as answer:
        content = answer.read()
    samples, rate = soundfile.read(io.BytesIO(content))
    assert (rate, content[:4]) == (16_000, b"RIFF")
    assert len(samples) == (len(content) - 44) // 2


@pytest.mark.parametrize("kind", ["json", "verbose_json", "text", "srt", "vtt"])
def test_transcripts_in_every_format(server: Running, models: MODELS, kind: Any) -> None:
    clip = recording(0.5)
    answer = server.client.audio.transcriptions.create(
        model="both", file=("clip.wav", audio_bytes(clip, "wav")), response_format=kind, extra_body={"seed": 6}
    )
    own = models["both"](audio=clip, target="text", seed=6).transcript
    assert own.words
    if kind in ("json", "verbose_json"):
        assert answer.text == own.text
    elif kind == "text":
        assert answer.strip() == own.text.strip()
    else:
        assert answer.count(" --> ") >= 1
    if kind == "verbose_json":
        assert [word.start for word in answer.words] == [round(one, 3) for one in own.starts_s]
        assert answer.duration == own.seconds


def test_a_streamed_transcript(server: Running) -> None:
    events = list(
        server.client.audio.transcriptions.create(
            model="both", file=("clip.flac", audio_bytes(recording(0.5), "flac")), stream=True, extra_body={"seed": 6}
        )
    )
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert events[0].delta == events[1].text


def test_what_the_client_is_told_of_its_mistakes(server: Running) -> None:
    client = server.client
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-image-1'; this server has pictures, voice, both"):
        client.images.generate(model="gpt-image-1", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match="the model voice cannot draw; pictures, both can"):
        client.images.generate(model="voice", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match="there are no URLs"):
        client.images.generate(prompt=PROMPT, response_format="url")
    with pytest.raises(openai.BadRequestError, match="there is no speaker 'nobody'; there are heart, michael"):
        client.audio.speech.create(model="voice", voice="nobody", input="Good morning.")
    with pytest.raises(openai.BadRequestError, match=r"input has 401 characters, this server takes at most 400"):
        client.audio.speech.create(model="voice", voice="heart", input="a" * 401)


def test_two_models_of_one_name_are_refused(server: Running) -> None:
    first = next(iter(server.catalogue.models.values()))
    with pytest.raises(ValueError, match="of different names, got pictures, pictures"):
        Catalogue([first, first])
