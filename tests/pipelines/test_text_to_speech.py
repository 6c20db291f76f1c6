"""A voice: exact lengths, sentences in one batch, prompts and edits that leave recordings alone, and errors that say what to do."""

import numpy as np
import pytest
import torch
from builders.media import recording
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.io.audio import Waveform
from maskgen.networks.durations import DurationConfig, DurationPredictor, whole_frames
from maskgen.pipelines.text_to_speech import TextToSpeechPipeline
from maskgen.tokens.batch import UNKNOWN

TEXT = "Hello there."


@pytest.mark.parametrize("seconds", [0.81, 1.0, 1.2345])
def test_seconds_are_kept_to_the_sample(voice: TextToSpeechPipeline, seconds: float) -> None:
    output = voice(f"{TEXT} And good bye.", seconds=seconds)
    assert len(output.sentences[0]) == 2
    assert output.audio[0].samples.shape == (1, round(seconds * 16_000))


def test_the_same_seed_gives_the_same_speech_alone_and_among_other_takes(voice: TextToSpeechPipeline) -> None:
    alone, several = voice(TEXT, seed=5), voice(TEXT, seed=4, num_outputs=3, batch_invariant=True)
    assert several.seeds == [4, 5, 6]
    assert np.array_equal(alone.audio[0].samples, several.audio[1].samples)
    assert not np.array_equal(several.audio[0].samples, several.audio[1].samples)


def test_speed_shortens(voice: TextToSpeechPipeline) -> None:
    slow, own, fast = (voice(TEXT, speed=speed).seconds for speed in (0.5, 1.0, 2.0))
    assert slow == pytest.approx(2 * own, rel=0.05)
    assert own == pytest.approx(2 * fast, rel=0.05)


def test_a_very_short_text_is_not_too_short_to_hear(voice: TextToSpeechPipeline) -> None:
    with torch.no_grad():
        bias = voice.durations.out.bias.clone()
        voice.durations.out.bias.fill_(-3.0)
    try:
        assert voice("a").seconds >= 0.3
    finally:
        with torch.no_grad():
            voice.durations.out.bias.copy_(bias)


def test_a_kept_prompt_comes_back_sample_by_sample_before_the_speech(voice: TextToSpeechPipeline) -> None:
    prompt = recording(0.77)
    output = voice(TEXT, audio=prompt, audio_text="Good morning.", seconds=1.0)
    assert output.audio[0].samples.shape[1] == prompt.samples.shape[1] + 16_000
    assert np.array_equal(output.audio[0].samples[:, : prompt.samples.shape[1]], prompt.samples)
    assert voice(TEXT, audio_prompt=prompt, seconds=1.0).audio[0].samples.shape == (1, 16_000)


def test_the_prompt_decides_what_is_said_and_the_speaker_too(voice: TextToSpeechPipeline) -> None:
    plain = voice(TEXT).audio[0].samples
    assert not np.array_equal(plain, voice(TEXT, audio_prompt=recording()).audio[0].samples)
    assert not np.array_equal(plain, voice(TEXT, speaker="michael").audio[0].samples)


@settings(deadline=None, max_examples=10)
@given(start=st.floats(0, 0.9), extent=st.floats(0.01, 1.0))
def test_an_edit_changes_nothing_outside_its_span(voice: TextToSpeechPipeline, start: float, extent: float) -> None:
    clip = recording(1.0)
    stop = min(1.0, start + extent)
    edited = voice("hi", audio=clip, span_s=(start, stop)).audio[0].samples
    first, last = int(start * 40) * 400, min(16_000, int(np.ceil(stop * 40 - 1e-9)) * 400)
    assert np.array_equal(edited[:, :first], clip.samples[:, :first])
    if last < 16_000:
        assert np.array_equal(edited[:, -(16_000 - last) :], clip.samples[:, last:])


def test_known_frames_are_not_touched_at_any_level(voice: TextToSpeechPipeline) -> None:
    clip = recording(1.0)
    codes = voice.processor.codec.encode([clip])[0]
    made = voice("hello you", audio=clip, span_s=(0.25, 0.5)).generation.codes[0]
    assert torch.equal(made[:, :10], codes[:, :10])
    assert torch.equal(made[:, -20:], codes[:, -20:])
    assert not bool((made == UNKNOWN).any())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": ""}, "the text is empty"),
        ({"prompt": "?!..."}, "nothing"),
        ({"prompt": "a" * 10_000}, "10000 characters"),
        ({"seconds": 0.0}, "seconds is 0"),
        ({"seconds": 1e9}, "are possible"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"speed": 0.0}, "speed must lie in"),
        ({"speed": 2.0, "seconds": 1.0}, "give one of them"),
        ({"speaker": "nobody"}, "there is no speaker"),
        ({"audio_text": "Hello."}, "audio_text needs audio"),
        ({"audio_prompt": recording(31.0)}, "at most 30 s"),
        ({"audio_prompt": Waveform(samples=np.zeros((1, 16_000), np.float32), sample_rate_hz=16_000)}, "is silent"),
        ({"audio_prompt": Waveform(samples=np.full((1, 160), np.nan, np.float32), sample_rate_hz=16_000)}, "NaN"),
        ({"num_outputs": 0}, "num_outputs must be at least 1"),
    ],
)
def test_bad_input_is_one_clear_sentence(voice: TextToSpeechPipeline, change: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        voice(**{"prompt": TEXT, **change})  # type: ignore[arg-type]


def test_prompts_of_other_rates_and_channels_are_taken(voice: TextToSpeechPipeline) -> None:
    for rate, channels in ((8_000, 1), (44_100, 2)):
        assert voice(TEXT, audio_prompt=recording(0.6, rate, channels), seconds=1.0).audio[0].samples.shape == (1, 16_000)


def test_characters_that_cannot_be_spoken_are_said(voice: TextToSpeechPipeline, caplog: pytest.LogCaptureFixture) -> None:
    output = voice("Hello 世界.")
    assert "世" in output.left_out
    assert "not spoken" in caplog.text


@given(frames=st.lists(st.floats(0.5, 40), min_size=1, max_size=30), stretch=st.floats(0.3, 3))
def test_whole_frames_sum_to_what_was_asked_and_none_is_too_long(frames: list[float], stretch: float) -> None:
    total = max(1, min(127 * len(frames), round(sum(frames) * stretch)))
    found = whole_frames(torch.tensor(frames), total)
    assert int(found.sum()) == total
    assert int(found.min()) >= 0
    assert int(found.max()) <= 128


def test_the_duration_of_a_phoneme_does_not_depend_on_padding() -> None:
    predictor = DurationPredictor(DurationConfig(dim=16, num_layers=2)).eval()
    ids = torch.randint(0, 50, (1, 9))
    padded, other = torch.nn.functional.pad(ids, (0, 6)), torch.nn.functional.pad(ids, (0, 6), value=7)
    valid = torch.arange(15)[None] < 9
    who = torch.tensor([0])
    first, second = (predictor(found, who, valid)[:, :9] for found in (padded, other))
    assert torch.equal(first, second)
    assert torch.allclose(first, predictor(ids, who, torch.ones(1, 9, dtype=torch.bool)), atol=1e-6)
