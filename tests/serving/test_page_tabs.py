"""The functions under the tabs of the web page, with tiny models: what they show is what a pipeline gives, and errors are sentences."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from builders.media import png_of, recording
from builders.page import service_of
from PIL import Image

from maskgen.io.audio import Waveform, sixteen_bits
from maskgen.pipelines.base import Pipeline
from maskgen.serving.engine import EngineLimits
from maskgen.serving.service import Service

gr = pytest.importorskip("gradio", reason="the page needs gradio: pip install maskgen[demo]")
PROMPT = "a red heart, flat style"
FIXED = (3, False)
"""A seed that is not drawn."""
PLAIN = (*FIXED, 12, 1.0, 1.0, "model's own")
"""Values of the shared controls."""


@pytest.fixture(scope="module")
def service(models: dict[str, Pipeline]) -> Iterator[Service]:
    with service_of(models) as found:
        yield found


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    soundfile.write(path, recording(1.0).samples.T, 16_000)
    return path


def all_of(updates: AsyncIterator[Any]) -> list[Any]:
    """Every update of a tab."""

    async def collected() -> list[Any]:
        return [update async for update in updates]

    return asyncio.run(collected())


def refusal(updates: AsyncIterator[Any]) -> str:
    """The message that a tab ends with."""
    with pytest.raises(gr.Error) as found:
        all_of(updates)
    return str(found.value.message)


def controls(pipeline: Any, modality: str, **changed: Any) -> tuple[Any, ...]:
    """Values of the shared controls as a model has them, but for some."""
    settings = pipeline.settings_of(modality)
    own = {
        "steps": settings.steps[0],
        "guidance": settings.guidance_scale,
        "temperature": settings.temperature[0],
        "sampler": "model's own",
    }
    return (*FIXED, *{**own, **changed}.values())


def test_pictures_are_those_of_the_pipeline_and_are_shown_as_they_come(service: Service, models: dict[str, Any]) -> None:
    from maskgen.serving.page.draw_tab import DrawTab

    tab = DrawTab(service, list(service.catalogue.models.values()))
    found = all_of(tab.draw("pictures", PROMPT, "blue", 2, *controls(models["pictures"], "image", sampler="halton")))
    own = models["pictures"](PROMPT, negative_prompt="blue", seed=3, num_outputs=2, sampler="halton").images
    assert [one.tobytes() for one, _ in found[-1][1]] == [one.tobytes() for one in own]
    assert [caption for _, caption in found[-1][1]] == ["seed 3", "seed 4"]
    assert found[0][2] == 3
    live = [update[0] for update in found[:-1]]
    assert any("data:image/webp" in one for one in live)
    assert 'aria-valuenow="100"' in live[-1]
    assert "2 pictures of 32 x 32 pixels" in found[-1][0]


def test_a_mask_keeps_every_pixel_outside_it(service: Service, models: dict[str, Any], picture: Path) -> None:
    from maskgen.serving.page.edit_tab import PAINT, VARY, WIDEN, EditTab

    tab = EditTab(service, [service.catalogue.models["pictures"]])
    value = asyncio.run(tab.shown("pictures", str(picture)))
    assert (value["rows"], value["columns"], len(value["cells"])) == (4, 4, 16)
    value["cells"] = "0110" + "0" * 12
    rest = (PROMPT, "", 1, *controls(models["pictures"], "image"))
    sides = (0, 0, 8, 0)
    made = all_of(tab.edit("pictures", str(picture), PAINT, value, *sides, 0.5, *rest))[-1][1][0][0]
    before, after = np.asarray(Image.open(picture)), np.asarray(made)
    outside = np.ones((32, 32), bool)
    outside[:8, 8:24] = False
    assert (before == after)[outside].all()
    assert not (before == after)[~outside].all()
    assert all_of(tab.edit("pictures", str(picture), WIDEN, None, *sides, 0.5, *rest))[-1][1][0][0].size == (40, 32)
    varied = models["pictures"](PROMPT, image=Image.open(picture), strength=0.25, seed=3).images[0]
    assert all_of(tab.edit("pictures", str(picture), VARY, None, *sides, 0.25, *rest))[-1][1][0][0].tobytes() == varied.tobytes()
    for painted in (None, {"cells": "01"}, {"cells": "2" * 16}, {"cells": 5}):
        assert "another picture or model" in refusal(tab.edit("pictures", str(picture), PAINT, painted, *sides, 0.5, *rest))
    assert "no cell is marked" in refusal(tab.edit("pictures", str(picture), PAINT, {"cells": "0" * 16}, *sides, 0.5, *rest))
    assert "the pixels to add is 640" in refusal(tab.edit("pictures", str(picture), WIDEN, None, 640, 0, 0, 0, 0.5, *rest))
    assert "upload or record one" in refusal(tab.edit("pictures", None, VARY, None, *sides, 0.5, *rest))


def test_uploads_pass_the_checks_of_the_server(service: Service, tmp_path: Path) -> None:
    from maskgen.serving.page.edit_tab import EditTab
    from maskgen.serving.page.speech_tab import SpeechTab

    tab, voice = EditTab(service, [service.catalogue.models["pictures"]]), SpeechTab(service, [service.catalogue.models["voice"]])
    for name, content, said in (
        ("bomb.png", png_of(6_000, 6_000), "pixels"),
        ("cut.png", png_of(16, 16)[:-30], "cannot be used as a picture"),
        ("text.png", b"no picture <b>", "cannot be used as a picture"),
        ("large.png", bytes(2**20 + 1), "more than 1048576 bytes"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(gr.Error, match=said):
            asyncio.run(tab.shown("pictures", str(tmp_path / name)))
    with pytest.raises(gr.Error, match="cannot be used as a recording"):
        asyncio.run(voice.spanned(str(tmp_path / "text.png")))


def test_speech_and_the_edit_of_a_span(service: Service, models: dict[str, Any], speech: Path) -> None:
    from maskgen.serving.page.speech_tab import SpeechTab

    tab = SpeechTab(service, [service.catalogue.models["voice"]])
    rest = controls(models["voice"], "audio")
    rate, samples = all_of(tab.speak("voice", "Good morning.", "michael", 1.5, 0, None, "", *rest))[-1][1]
    own = models["voice"]("Good morning.", speaker="michael", speed=1.5, seed=3).audio[0]
    assert rate == own.sample_rate_hz
    assert np.array_equal(samples, sixteen_bits(own).T)
    assert len(all_of(tab.speak("voice", "Good morning.", None, 1, 0.5, str(speech), "noise", *rest))[-1][1][1]) == round(0.5 * rate)
    span = asyncio.run(tab.spanned(str(speech)))
    assert (span["seconds"], span["start"], span["end"]) == (1.0, 0.25, 0.75)
    edited = all_of(tab.edit("voice", str(speech), {**span, "start": 0.5}, "late", *rest))[-1][1][1]
    wave = Waveform(samples=soundfile.read(speech, always_2d=True, dtype="float32")[0].T, sample_rate_hz=16_000)
    kept = models["voice"].processor.fitted(wave)
    before = round(0.4 * rate)
    assert np.array_equal(edited[:before], sixteen_bits(Waveform(samples=kept, sample_rate_hz=rate)).T[:before])
    for wrong in (
        None,
        {},
        {"start": 0.5, "end": 0.5},
        {"start": -1, "end": 0.5},
        {"start": "0", "end": 1},
        {"start": float("nan"), "end": 1},
    ):
        assert "no span is chosen" in refusal(tab.edit("voice", str(speech), wrong, "late", *rest))


def test_each_medium_gives_the_others(service: Service, picture: Path, speech: Path) -> None:
    from maskgen.serving.page.any_tab import PICTURE, RECORDING, TEXT, AnyTab

    tab = AnyTab(service, [service.catalogue.models["both"]])
    _, _, image, audio, _ = all_of(tab.others("both", TEXT, PROMPT, None, None, *reversed(FIXED), 1))[-1]
    assert image.size == (32, 32)
    assert len(audio[1]) > 0
    assert all_of(tab.others("both", PICTURE, "", str(picture), None, *reversed(FIXED), 1))[-1][1] is not None
    heard = all_of(tab.others("both", RECORDING, "", None, str(speech), *reversed(FIXED), 2))
    assert "audio to text" in heard[-1][0]
    assert "the text is empty" in refusal(tab.others("both", TEXT, " ", None, None, *reversed(FIXED), 1))
    assert "the recording is missing" in refusal(tab.others("both", RECORDING, "", None, None, *reversed(FIXED), 1))
    assert "candidates is 99" in refusal(tab.others("both", TEXT, PROMPT, None, None, *reversed(FIXED), 99))


@pytest.mark.parametrize("choice", ["pictures: picture", "both: picture", "voice: speech", "both: speech"])
def test_a_decode_is_inspected(service: Service, choice: str) -> None:
    from maskgen.serving.page.inspect_tab import InspectTab

    models = service.catalogue.models
    tab = InspectTab(service, [models["pictures"], models["both"]], [models["voice"], models["both"]])
    settings = tab.settings_of(choice)
    values = (*FIXED, settings.steps[0], settings.guidance_scale, settings.temperature[0], "model's own")
    text = "Good morning." if choice.endswith("speech") else PROMPT
    said, image, audio, seen, table, _ = all_of(tab.inspect(choice, text, *values))[-1]
    assert (image["visible"], audio["visible"]) == (choice.endswith("picture"), choice.endswith("speech"))
    assert f"{len(table)} steps over" in said
    assert ("mg-strip" in seen) == choice.endswith("picture")
    assert "choose one of" in refusal(tab.inspect("nothing", text, *values))


def test_values_that_no_control_sends_are_refused(service: Service, models: dict[str, Any]) -> None:
    from maskgen.serving.page.draw_tab import DrawTab

    tab = DrawTab(service, list(service.catalogue.models.values()))
    for changed, said in (
        ({"steps": 999}, "num_inference_steps is 999, this server takes at most 12"),
        ({"steps": float("nan")}, "num_inference_steps"),
        ({"guidance": float("inf")}, "guidance_scale"),
        ({"sampler": "<b>"}, "no sampler is called &#x27;&lt;b&gt;&#x27;"),
    ):
        assert said in refusal(tab.draw("pictures", PROMPT, "", 1, *controls(models["pictures"], "image", **changed)))
    plain = controls(models["pictures"], "image")
    assert "the number of pictures is 99" in refusal(tab.draw("pictures", PROMPT, "", 99, *plain))
    assert "the prompt has 401 characters" in refusal(tab.draw("pictures", "a" * 401, "", 1, *plain))
    assert "there is no model" in refusal(tab.draw("others", PROMPT, "", 1, *plain))
    assert "the prompt is empty" in refusal(tab.draw("pictures", " ", "", 1, *plain))


def test_a_person_who_leaves_frees_the_place_and_a_full_queue_is_said(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from maskgen.serving.page.draw_tab import DrawTab
    from maskgen.serving.page.following import telling
    from maskgen.serving.work import Job

    step = Job.step

    def slow_step(job: Any, state: Any) -> Any:
        time.sleep(0.05)
        return step(job, state)

    monkeypatch.setattr(Job, "step", slow_step)
    values = ("pictures", PROMPT, "", 4, *controls(models["pictures"], "image", steps=12))
    with service_of({"pictures": models["pictures"]}, engine=EngineLimits(max_running=1, max_waiting=0)) as service:
        tab = DrawTab(service, list(service.catalogue.models.values()))
        stats = service.catalogue.models["pictures"].engine.stats

        async def left() -> list[Any]:
            first = tab.draw(*values)
            await anext(first)
            await anext(first)
            shown: list[Any] = []

            async def refused() -> None:
                async for update in telling(tab.draw)(*values):
                    shown.append(update)

            with pytest.raises(gr.Error, match="the queue of this model is full"):
                await refused()
            await first.aclose()
            return shown

        assert 'role="alert"' in asyncio.run(left())[-1][0]
        until_s = time.monotonic() + 10
        while stats.running and time.monotonic() < until_s:
            time.sleep(0.01)
        assert (stats.running, stats.cancelled) == (0, 1)
        assert len(all_of(tab.draw(*values))[-1][1]) == 4


def test_controls_show_what_the_chosen_model_has(service: Service) -> None:
    from maskgen.serving.page.blocks import page_blocks

    def labels(names: list[str]) -> tuple[list[str], list[str]]:
        chosen = {name: model for name, model in service.catalogue.models.items() if name in names}
        catalogue = type(service.catalogue)(list(chosen.values()))
        blocks = page_blocks(Service(catalogue, service.limits, service.metrics))
        parts = list(blocks.blocks.values())
        return [one.label for one in parts if isinstance(one, gr.Tab)], [one.label for one in parts if isinstance(one, gr.Dropdown)]

    assert labels(["pictures"])[0] == ["Text to image", "Edit", "Inspect"]
    assert labels(["voice"])[0] == ["Speech", "Inspect"]
    tabs, choices = labels(["pictures", "voice", "both"])
    assert tabs == ["Text to image", "Edit", "Speech", "Any to any", "Inspect"]
    assert choices.count("Voice") == 1


def test_audio_of_the_page_is_a_file_that_players_take(service: Service) -> None:
    from maskgen.serving.page.speech_tab import playable

    rate, samples = playable(recording(0.1, channels=2))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    assert (rate, samples.shape, samples.dtype) == (16_000, (1600, 2), np.int16)
