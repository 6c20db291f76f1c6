"""`POST /v1/generate`: calls and the core of pipelines, streams of their steps, and what is refused."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from builders.media import recording
from builders.served import Running
from PIL import Image

from maskgen.io.limits import MediaLimits
from maskgen.serving.media import audio_bytes, base64_text, image_bytes, recording_from

PROMPT = "a red heart, flat style"
MODELS = dict[str, Any]


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def made(server: Running, **fields: Any) -> list[dict[str, Any]]:
    """Outputs of a request that must succeed."""
    status, answer = server.post("/v1/generate", fields)
    assert status == 200, answer
    return answer["outputs"]


def refused(server: Running, **fields: Any) -> str:
    """The sentence of a request that must fail."""
    status, answer = server.post("/v1/generate", fields)
    assert status == 400, answer
    sentence = answer["error"]["message"]
    assert sentence.count("\n") == 0
    return str(sentence)


def image_of(output: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(output["image"]["base64"])))


def test_the_call_of_an_image_pipeline(server: Running, models: MODELS) -> None:
    outputs = made(server, target="image", prompt=PROMPT, seed=1, num_outputs=2, return_codes=True, num_inference_steps=[2, 1])
    own = models["pictures"](PROMPT, seed=1, num_outputs=2, num_inference_steps=[2, 1])
    assert [image_of(one).tobytes() for one in outputs] == [one.tobytes() for one in own.images]
    assert [one["codes"] for one in outputs] == [codes.tolist() for codes in own.codes]
    assert [one["seed"] for one in outputs] == [1, 2]


def test_an_edit_takes_files_as_base64_or_data_urls(server: Running, models: MODELS) -> None:
    content = base64_text(image_bytes(picture(), "png"))
    own = models["pictures"](PROMPT, image=picture(), strength=0.4, seed=2).images[0]
    for sent in (content, f"data:image/png;base64,{content}"):
        assert image_of(made(server, target="image", prompt=PROMPT, image=sent, strength=0.4, seed=2)[0]).tobytes() == own.tobytes()


def test_any_to_any_gives_several_media_of_one(server: Running, models: MODELS) -> None:
    content = base64_text(audio_bytes(recording(0.5), "wav"))
    output = made(server, model="both", target=["text", "image"], audio=content, seed=3, source="audio")[0]
    own = models["both"](audio=recording(0.5), target=["text", "image"], seed=3, source="audio")
    assert (output["text"], image_of(output).tobytes()) == (own.text, own.images[0].tobytes())
    assert [word["start"] for word in output["transcript"]["words"]] == [round(one, 3) for one in own.transcript.starts_s]


def test_speech_of_the_seconds_asked_for(server: Running) -> None:
    output = made(server, model="voice", target="audio", prompt="Good morning.", seconds=1.25, seed=0, audio_format="flac")[0]
    wave = recording_from(base64.b64decode(output["audio"]["base64"]), MediaLimits(), "audio")
    assert wave.samples.shape[1] == 20_000
    assert output["audio"]["seconds"] == 1.25


def test_any_known_media_give_any_target(server: Running, models: MODELS) -> None:
    """The core: media and codes as they are known, and cells of the target among them."""
    own = models["both"]
    cells = [[[-1, 3, -1, 1]] * 4, [[-1, 2, -1, -1]] * 4]
    known = {"text": {"text": "a red heart"}, "image": {"codes": cells}}
    output = made(server, model="both", target="image", known=known, seed=4, return_codes=True)[0]
    codes = np.array(output["codes"])
    assert (codes[np.array(cells) >= 0] == np.array(cells)[np.array(cells) >= 0]).all()
    assert codes.min() >= 0
    words = {"words": ["a", "heart"], "starts_s": [0.0, 0.2], "seconds": 0.5}
    for target, media in (
        ("text", {"image": {"image": base64_text(image_bytes(picture(), "png"))}, "speaker": {"text": "heart"}}),
        ("image", {"transcript": {"transcript": words}, "phones": {"text": "a heart"}}),
        ("transcript", {"audio": {"audio": base64_text(audio_bytes(recording(0.5), "flac"))}, "transcript": {"codes": [[-1] * 10]}}),
    ):
        output = made(server, model="both", target=target, known=media, seed=5)[0]
        assert {"text", "image", "transcript"} & set(output)
    text = {"text": {"text": "a red heart"}}
    again = own.generate([{"text": "a red heart"}], "image", [4]).media[0]
    assert image_of(made(server, model="both", target="image", known=text, seed=4)[0]).tobytes() == again.tobytes()


def test_a_stream_tells_steps_and_previews_before_the_answer(server: Running) -> None:
    body = {"model": "both", "target": ["image", "audio"], "prompt": PROMPT, "seed": 1, "stream": True, "previews": 1}
    status, content = server.call("POST", "/v1/generate", json.dumps(body).encode(), {"Content-Type": "application/json"})
    events = [json.loads(part.partition(b"data: ")[2]) for part in content.split(b"\n\n") if part]
    assert status == 200
    assert [one["modality"] for one in events if one["type"] == "progress"] == ["image"] * 5 + ["audio"] * 6
    assert [one["index"] for one in events if one["type"] == "preview"] == [0]
    del body["stream"], body["previews"]
    assert events[-1]["outputs"] == made(server, **body)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"target": "image"}, "the prompt is empty"),
        ({"target": "audio", "prompt": PROMPT}, "this model generates image and not audio"),
        ({"target": "image", "prompt": PROMPT, "num_outputs": 5}, "num_outputs is 5, this server takes at most 4"),
        ({"target": "image", "prompt": PROMPT, "num_inference_steps": [3, 13]}, "num_inference_steps is 13, this server takes at most 12"),
        ({"target": "image", "prompt": PROMPT, "sampler": "nothing"}, "no sampler is called 'nothing'"),
        ({"target": "image", "prompt": "\ud800"}, "prompt: the text holds half of a UTF-16 pair"),
        ({"target": "image", "prompt": PROMPT, "steps": 3}, "steps: Extra inputs are not permitted"),
        ({"target": "image", "prompt": PROMPT, "image": "http://127.0.0.1/a.png"}, "image is a URL, and this server fetches none"),
        ({"target": "image", "prompt": PROMPT, "image": "file:///etc/passwd"}, "image is a URL, and this server fetches none"),
        ({"target": "image", "prompt": PROMPT, "image": "/etc/passwd"}, "image is no base64 text"),
        ({"target": "image", "known": {"image": {"text": "/etc/passwd"}}}, "known.image must be an image or codes"),
        ({"target": "image", "known": {"sound": {"text": "a"}}}, "this token space has no modality 'sound'"),
        ({"target": "image", "known": {"text": {}}}, "known.text must hold exactly one of"),
        ({"target": "image", "known": {"image": {"codes": [[1, 2], [3]]}}}, "must be nested lists of whole numbers"),
        ({"target": "image", "known": {"image": {"codes": [[[99]], [[1]]]}}}, "known.image has no cell to generate"),
        ({"target": "image", "known": {"image": {"codes": [[[99, -1]], [[1, -1]]]}}}, r"codes of 'image' must lie in \[0, 16\)"),
        ({"target": "audio", "model": "voice"}, "the prompt is missing"),
        ({"target": "audio", "model": "voice", "prompt": "a", "strength": 0.5}, "takes no argument 'strength'"),
        ({"target": "audio", "model": "voice", "prompt": "a", "seconds": 100}, "seconds is 100, this server takes at most 60"),
        ({"target": ["text", "text"], "model": "both", "prompt": PROMPT}, "target must be one medium or several, each once"),
    ],
)
def test_requests_that_cannot_be_used_get_a_sentence(server: Running, fields: dict[str, Any], sentence: str) -> None:
    import re

    assert re.search(sentence, refused(server, **fields))
