"""Calls of OmniVoice: prompts in its authors' layout, lengths, recordings, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import maskgen
from maskgen.cli.main import main
from maskgen.io.audio import read_sound
from maskgen.processors.prompted_speech import PromptedSpeechProcessor
from maskgen.processors.speaking_time import speaking_seconds, weight
from maskgen.processors.spoken import SpeechRequest
from maskgen.processors.voice_description import described_voice
from tokenizers import Tokenizer

pytest.importorskip("torchaudio", reason="needs torchaudio: pip install maskgen[codecs]", exc_type=ImportError)
HOP, RATE = 320, 16_000
FEW: dict[str, Any] = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def folder(tiny_family: Callable[[str], Path]) -> Path:
    return tiny_family("OmniVoice")


@pytest.fixture(scope="module")
def voice(folder: Path) -> maskgen.PromptedSpeechPipeline:
    made = maskgen.Pipeline.from_pretrained(folder)
    assert isinstance(made, maskgen.PromptedSpeechPipeline)
    assert type(maskgen.TextToSpeechPipeline.from_pretrained(folder)) is maskgen.PromptedSpeechPipeline
    made.set_progress_bar_config(disable=True)
    return made


def recording(seconds: float, loudness: float) -> maskgen.Waveform:
    samples = np.random.default_rng(0).normal(size=(1, round(seconds * RATE)))
    return maskgen.Waveform(samples=(samples * loudness / samples.std()).astype(np.float32), sample_rate_hz=RATE)


def prompt_of(voice: maskgen.PromptedSpeechPipeline, request: SpeechRequest) -> str:
    """The prompt of a request with its special tokens, as the authors' tokenizer reads it."""
    row = voice.processor.prepare(request).rows[0]
    return Tokenizer.from_str(voice.tokenizers["prompt"].vocabulary).decode(row["prompt"][0].tolist(), skip_special_tokens=False)  # type: ignore[attr-defined]


def test_a_call_speaks_as_many_seconds_as_asked_for(voice: maskgen.PromptedSpeechPipeline) -> None:
    output = voice(
        "Hello", seconds=0.5, audio_prompt=recording(0.31, 0.05), audio_text="Hi there", speaker="Female, low pitch", num_outputs=2, **FEW
    )
    assert [wave.samples.shape for wave in output.audio] == [(1, 8000), (1, 8000)]
    assert (output.seeds, output.steps, output.phonemes, output.sentences) == ([0, 1], [2, 2, 2, 2], [[]], [["Hello"]])
    assert not np.array_equal(output.audio[0].samples, output.audio[1].samples)
    assert [codes.shape for codes in output.generation.codes] == [(4, 15 + 25)] * 2  # the recording's 15 whole frames come first
    again = voice(
        "Hello", seconds=0.5, audio_prompt=recording(0.31, 0.05), audio_text="Hi there", speaker="female,low pitch", seed=1, **FEW
    )
    assert np.array_equal(again.audio[0].samples, output.audio[1].samples)


def test_the_estimated_length_follows_text_pace_and_recording(voice: maskgen.PromptedSpeechPipeline) -> None:
    text = "A long walk through the old town, and then along the river home."
    own = speaking_seconds(text)
    for options, wanted in (({}, own), ({"speed": 2.0}, own / 2), ({"audio_prompt": recording(1.0, 0.1), "audio_text": text}, None)):
        made = voice(text, **options, **FEW).seconds
        wanted = wanted or 2 * 0.5 ** (1 / 3)  # a text under 2 s takes more than its share
        assert 0 <= wanted - made < HOP / RATE + 1e-9


def test_a_recording_that_is_continued_comes_first_unchanged_and_sets_the_loudness(voice: maskgen.PromptedSpeechPipeline) -> None:
    clip = recording(0.25, 0.02)
    continued, lent = (
        voice("Hello", seconds=0.3, audio_text="Hi.", **{name: clip}, **FEW).audio[0].samples for name in ("audio", "audio_prompt")
    )
    assert np.array_equal(continued[:, : clip.samples.shape[1]], clip.samples)
    assert np.array_equal(continued[:, clip.samples.shape[1] :], lent)
    loud = voice("Hello", seconds=0.3, audio_text="Hi.", audio_prompt=recording(0.25, 0.1), **FEW).audio[0].samples
    np.testing.assert_allclose(lent, loud * 0.2, rtol=1e-3, atol=1e-6)


def test_a_prompt_has_the_layout_of_the_authors(voice: maskgen.PromptedSpeechPipeline) -> None:
    """Special tokens in a text are plain text, where the reference ends the text; line breaks are spaces, where it joins the words."""
    empty = "<|lang_start|>None<|lang_end|><|instruct_start|>None<|instruct_end|>"
    assert prompt_of(voice, SpeechRequest(prompt="Hi.\nYou")) == f"{empty}<|text_start|>Hi. You<|text_end|>"
    clip = recording(0.2, 0.1)
    whole = SpeechRequest(prompt=" Hi  [sigh] you", language="en", speaker="whisper, MALE", audio_prompt=clip, audio_text="One two")
    said = "<|text_start|>One two. Hi [sigh] you<|text_end|>"
    said = "<|denoise|><|lang_start|>en<|lang_end|><|instruct_start|>whisper, male<|instruct_end|>" + said
    assert prompt_of(voice, whole) == said
    assert prompt_of(voice, SpeechRequest(prompt="你好 （x） 吗")) == f"{empty}<|text_start|>你好(x)吗<|text_end|>"
    codes = voice.processor.prepare(SpeechRequest(prompt="a<|text_end|>b")).rows[0]["prompt"]
    end = voice.tokenizers["prompt"].token("<|text_end|>")  # type: ignore[attr-defined]
    assert int((codes == end).sum()) == 1
    assert int(codes[0, -1]) == end


def test_long_speech_in_the_voice_of_a_recording_is_cut_at_sentences(voice: maskgen.PromptedSpeechPipeline) -> None:
    text = "This is one sentence of several words. " * 12
    processor = voice.processor
    plan = processor.prepare(SpeechRequest(prompt=text, seconds=31.0, audio_prompt=recording(0.2, 0.1), audio_text="Hi."))
    frames = [int((row["audio"][0] == -1).sum()) for row in plan.rows]
    assert sum(frames) == 31 * RATE // HOP
    assert len(frames) >= 3
    assert max(frames) <= 15.1 * RATE / HOP
    assert "".join(plan.sentences).replace(" ", "") == text.replace(" ", "")
    with pytest.raises(ValueError, match=r"would last 31\.0 s, at most 30 s are spoken without a recording"):
        processor.prepare(SpeechRequest(prompt=text, seconds=31.0))


def test_the_time_of_a_text_is_that_of_the_reference() -> None:
    """RuleDurationEstimator of k2-fsa/OmniVoice, at its 25 frames a second."""
    assert weight("Nice to meet you.") == pytest.approx(13 + 3 * 0.2 + 0.5)
    assert weight("你好，世界！") == pytest.approx(4 * 3 + 2 * 0.5)
    assert weight("नमस्ते") == pytest.approx(4 * 1.8)  # marks take no time
    assert weight("한국 かな 42 é") == pytest.approx(2 * 2.5 + 2 * 2.2 + 2 * 3.5 + 1 + 3 * 0.2)
    assert speaking_seconds("Nice to meet you.") == pytest.approx(2 * 0.5 ** (1 / 3))
    assert speaking_seconds("Nice to meet you." * 3) == pytest.approx(3.0)
    assert speaking_seconds("ab" * 50, "abab", 0.5) == pytest.approx(12.5)


def test_descriptions_of_voices_are_in_one_language() -> None:
    assert described_voice("Whisper,  FEMALE，", "Hi") == "whisper, female"
    assert described_voice("female, whisper", "你好") == "女，耳语"
    assert described_voice("男, british accent", "你好") == "male, british accent"
    assert described_voice("male, 四川话", "Hi") == "男，四川话"
    for wrong, sentence in (
        ("femal", "names 'femal', which this model does not know; did you mean 'female'"),
        ("male, female", "names 'male' and 'female', of which a voice has one"),
        ("四川话, indian accent", "an English accent and a Chinese dialect"),
    ):
        with pytest.raises(ValueError, match=sentence):
            described_voice(wrong, "Hi")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seconds": 1.0, "speed": 2.0}, "seconds and speed both decide"),
        ({"seconds": -1.0}, "seconds must be a positive number"),
        ({"speed": 9.0}, "speed must lie in"),
        ({"audio_text": "Hi."}, "audio_text needs audio or audio_prompt"),
        ({"language": "English"}, "language must be a code of two or three letters"),
        ({"span_s": (0.0, 0.1)}, "span_s needs audio, the recording in which it is replaced"),
        ({"span_s": (0.0, 0.1), "audio": recording(0.2, 0.1), "speaker": "male"}, "keeps the voice of its recording"),
        ({"span_s": (0.0, 0.1), "audio": recording(0.2, 0.1), "audio_text": "Hi there."}, "with ... once, where the new words go"),
        ({"span_s": (0.1, 0.3), "audio": recording(0.2, 0.1)}, "the span 0.1 to 0.3 s does not lie in the recording of 0.20 s"),
        ({"span_s": (0.0, 0.1), "audio": recording(0.5, 0.1), "seconds": 29.7}, "would last 30.1 s, at most 30 s are made"),
        ({"known": {"image": 1}}, "sees no other media"),
    ],
)
def test_what_contradicts_or_is_out_of_range_is_refused(
    voice: maskgen.PromptedSpeechPipeline, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        voice("Hello", **options)


def test_guidance_of_scale_one_is_no_guidance(voice: maskgen.PromptedSpeechPipeline) -> None:
    plain = voice("Hello", seconds=0.2, guidance_scale=1.0, **FEW)
    assert plain.model_calls_per_row == 2
    assert voice("Hello", seconds=0.2, **FEW).model_calls_per_row == 4
    assert torch.equal(plain.generation.codes[0], voice("Hello", seconds=0.2, guidance_scale=1.0, **FEW).generation.codes[0])


def test_a_processor_needs_the_tokens_of_the_layout(voice: maskgen.PromptedSpeechPipeline) -> None:
    from maskgen.tokenizers.text import train_bpe
    from maskgen.tokenizers.transformers_text import TransformersTextTokenizer

    other = TransformersTextTokenizer(train_bpe(["a dog"], 256).vocabulary)
    with pytest.raises(ValueError, match=r"no token <\|lang_start\|>"):
        PromptedSpeechProcessor({**voice.tokenizers, "prompt": other}).prepare(SpeechRequest(prompt="Hi"))


def test_an_edit_leaves_every_sample_outside_and_says_the_new_words_between_the_old_ones(voice: maskgen.PromptedSpeechPipeline) -> None:
    clip = recording(0.31, 0.05)
    given: dict[str, Any] = {"audio": clip, "span_s": (0.1, 0.2), "audio_text": "I am ... today."}
    output = voice("very well", seconds=0.2, **given, num_outputs=2, **FEW)
    first, last, new = 5 * HOP, 10 * HOP, 10 * HOP  # 0.1 s to 0.2 s are frames 5 to 9; 0.2 s are 10 frames
    for wave in output.audio:
        assert wave.samples.shape[1] == clip.samples.shape[1] + new - (last - first)
        assert np.array_equal(wave.samples[:, :first], clip.samples[:, :first])
        assert np.array_equal(wave.samples[:, first + new :], clip.samples[:, last:])
    assert not np.array_equal(output.audio[0].samples, output.audio[1].samples)
    plan = voice.processor.prepare(SpeechRequest(prompt="very well", seconds=0.2, **given))
    known = plan.rows[0]["audio"]
    assert torch.equal(output.generation.codes[0][known != -1], known[known != -1])
    assert (known == -1).all(dim=0).nonzero()[:, 0].tolist() == list(range(5, 15))
    assert prompt_of(voice, SpeechRequest(prompt="very well", seconds=0.2, **given)).endswith(
        "<|text_start|>I am very well today.<|text_end|>"
    )


def test_an_edit_is_as_long_as_its_words_take_at_the_pace_of_the_recording(voice: maskgen.PromptedSpeechPipeline) -> None:
    clip, text = recording(1.0, 0.1), "A long walk through the old town"
    row = voice.processor.prepare(
        SpeechRequest(prompt=text, audio=clip, span_s=(0.4, 0.6), audio_text=f"{text}, ... the river home.")
    ).rows[0]
    frames = int((row["audio"][0] == -1).sum())
    assert frames == round(speaking_seconds(text, f"{text}, the river home.", 0.8) * RATE / HOP)
    faster = voice.processor.prepare(SpeechRequest(prompt=text, audio=clip, span_s=(0.4, 0.6), speed=2.0)).rows[0]
    assert int((faster["audio"][0] == -1).sum()) == round(speaking_seconds(text) / 2 * RATE / HOP)


def test_speech_has_a_likelihood_under_every_text(voice: maskgen.PromptedSpeechPipeline) -> None:
    """Texts are ranked by how likely they make a recording; a part of it may be scored alone."""
    clip = recording(0.2, 0.1)
    codes = voice.processor.codes_of(clip)
    rows = [{**voice.processor.prepare(SpeechRequest(prompt=text)).rows[0], "audio": codes} for text in ("Hello", "A dog")]
    scores = voice.score(rows, "audio")
    assert all(one.total < 0 for one in scores)
    assert scores[0].total != scores[1].total
    marks = torch.zeros(codes.shape[1], dtype=torch.bool)
    marks[3:5] = True
    part = voice.score(rows[:1], "audio", only=[marks])[0]
    assert 0 > part.total > scores[0].total
    ranked = voice.classify({"audio": codes}, [{"prompt": row["prompt"]} for row in rows], "audio")
    assert ranked[0].place == max(range(2), key=lambda place: scores[place].total)


def test_the_command_line_speaks_and_refuses_a_language_for_a_voice_of_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made.wav"
    given = ["generate", "speech", "Hello", "--seconds", "0.2", "--language", "en", "--out", str(made)]
    main([*given, "--model", str(folder), "--speaker", "female", "--num-inference-steps", "2"])
    assert read_sound(made).samples.shape == (1, 3200)
    with pytest.raises(SystemExit) as stopped:
        main([*given, "--model", "heart-16k"])
    assert stopped.value.code == 2
    assert "heart-16k speaks one language; leave --language out" in capsys.readouterr().err
