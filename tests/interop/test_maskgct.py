"""MaskGCT whole: from a folder laid out as the hub's to speech, and back to such a folder."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.maskgct import CODES, HOP, LEVELS, RATE, SEMANTIC_CODES, maskgct
from safetensors.torch import load_file, save_file

import maskgen
from maskgen.cli.main import main
from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop import families
from maskgen.interop.base import LoadOptions
from maskgen.interop.maskgct_config import PUBLISHED, acoustic_config, semantic_config
from maskgen.interop.maskgct_stages import AcousticStage, SemanticStage, StageConfig
from maskgen.io.audio import read_sound
from maskgen.sampling import names
from maskgen.sampling.draw import cooled
from maskgen.tokens.batch import UNKNOWN

pytest.importorskip("transformers", reason="needs transformers: pip install maskgen[codecs]")
FEW: dict[str, Any] = {
    "settings": GenerationSettings(steps=(2, 1), guidance_scale=2.0, guidance_rescale=0.75),
    "semantic_settings": GenerationSettings(steps=(2,), guidance_scale=2.0, guidance_rescale=0.75),
}
SAID = "/ɡ|ʊ|d|_|m|ɔː|ɹ|n|ɪ|ŋ/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("maskgct")
    maskgct(place)
    return place


@pytest.fixture(scope="module")
def voice(folder: Path) -> maskgen.ClonedSpeechPipeline:
    made = maskgen.TextToSpeechPipeline.from_pretrained(folder)
    assert isinstance(made, maskgen.ClonedSpeechPipeline)
    made.set_progress_bar_config(disable=True)
    return made


def recording(seconds: float = 0.4, rate_hz: int = 16_000) -> maskgen.Waveform:
    samples = np.random.default_rng(0).normal(size=(1, round(seconds * rate_hz))) * 0.1
    return maskgen.Waveform(samples=samples.astype(np.float32), sample_rate_hz=rate_hz)


def second_row(frames: int = 4) -> dict[str, torch.Tensor]:
    """A row of the second stage whose target is half known."""
    numbers = torch.arange(LEVELS * frames).view(LEVELS, frames)
    known = numbers % CODES
    known[:, 1:3] = UNKNOWN
    codes = {"heard": numbers[:1] % SEMANTIC_CODES, "semantic": numbers[1:2] % SEMANTIC_CODES}
    return {**codes, "voice": numbers % CODES, "audio": known}


def first_row(frames: int = 5) -> dict[str, torch.Tensor]:
    known = torch.arange(frames)[None] % SEMANTIC_CODES
    known[:, 1:3] = UNKNOWN
    return {"phonemes": torch.arange(7)[None], "heard": torch.arange(4)[None], "semantic": known}


@pytest.mark.parametrize("name", [name for name in names() if name not in ("critic", "frequency")])
# The samplers left out need a trained critic, or the attention of maskgen's own transformer.
def test_every_sampler_fills_the_blanks_and_keeps_what_was_known(voice: maskgen.ClonedSpeechPipeline, name: str) -> None:
    settings = GenerationSettings(sampler=name, steps=(2, 1), guidance_scale=2.0, guidance_rescale=0.5)
    for target, row, size in (("semantic", first_row(), SEMANTIC_CODES), ("audio", second_row(), CODES)):
        for codes in voice.generate([row, row], target, [1, 2], settings).codes:
            known = row[target]
            assert torch.equal(codes[known != UNKNOWN], known[known != UNKNOWN])
            assert int(codes.min()) >= 0
            assert int(codes.max()) < size


def test_a_call_speaks_as_many_seconds_as_asked_for(voice: maskgen.ClonedSpeechPipeline) -> None:
    given: dict[str, Any] = {"seconds": 0.2, "audio_prompt": recording(), "audio_text": SAID, **FEW}
    output = voice("Hello, world!", num_outputs=2, **given)
    assert [(wave.samples.shape, wave.sample_rate_hz) for wave in output.audio] == [((1, RATE // 5), RATE)] * 2
    assert (output.seeds, output.sentences, output.phonemes) == ([0, 1], [["Hello, world!"]], [["/h|ə|l|oʊ|,|w|ɜː|l|d|!/"]])
    assert [codes.shape for codes in output.generation.codes] == [(LEVELS, 10)] * 2
    assert output.model_calls_per_row == 2 * 2 + 2 * (2 + 1 + 1)  # both stages, two views a step
    again = voice("Hello, world!", seed=1, **given)
    assert np.array_equal(again.audio[0].samples, output.audio[1].samples)


def test_the_length_follows_the_pace_of_the_recording(voice: maskgen.ClonedSpeechPipeline) -> None:
    """As in the reference: the recording's length times phones of the text over phones of what it says, whole frames."""
    for speed, frames in ((1.0, 8), (2.0, 4)):
        output = voice("/h|ə|l|oʊ/", audio_prompt=recording(), audio_text=SAID, speed=speed, **FEW)
        assert output.audio[0].samples.shape == (1, frames * HOP)


def test_a_recording_that_is_continued_comes_first_unchanged(voice: maskgen.ClonedSpeechPipeline) -> None:
    clip = recording(0.4, RATE)
    continued, lent = (voice("/h|ə|l|oʊ/", audio_text=SAID, **{name: clip}, **FEW).audio[0].samples for name in ("audio", "audio_prompt"))
    assert np.array_equal(continued[:, : clip.samples.shape[1]], clip.samples)
    assert np.array_equal(continued[:, clip.samples.shape[1] :], lent)


def test_long_speech_is_spoken_in_parts(voice: maskgen.ClonedSpeechPipeline) -> None:
    text = "We do not go home now. " * 14
    request: Any = {"prompt": text, "audio_prompt": recording(), "audio_text": SAID, "seconds": 31.0}
    from maskgen.processors.spoken import SpeechRequest

    plan = voice.processor.prepare(SpeechRequest(**request))
    frames = [row["semantic"].shape[1] for row in plan.rows]
    assert sum(frames) == 31 * 50
    assert 3 <= len(frames) <= 5
    assert max(frames) <= 15.1 * 50
    assert "".join(plan.sentences).replace(" ", "") == text.replace(" ", "")


def test_semantic_codes_are_generated_without_a_recording_too(voice: maskgen.ClonedSpeechPipeline) -> None:
    rows = [{"phonemes": torch.arange(9)[None], "semantic": torch.full((1, 6), UNKNOWN)}]
    settings = GenerationSettings(steps=(3,), guidance_scale=2.0, null="alone")
    output = voice.generate(rows, "semantic", [0], settings)
    assert output.codes[0].shape == (1, 6)
    assert output.media[0].shape == (6, 16)  # features of the speech encoder: semantic codes hold no voice


def test_a_model_is_written_as_the_authors_folder(voice: maskgen.ClonedSpeechPipeline, folder: Path, tmp_path: Path) -> None:
    voice.save_pretrained(tmp_path)
    for path in folder.rglob("*.safetensors"):
        wanted, found = load_file(path), load_file(tmp_path / path.relative_to(folder))
        found.pop("diff_estimator.embed_tokens.weight", None)
        wanted.pop("diff_estimator.embed_tokens.weight", None)
        assert wanted.keys() == found.keys()
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    # The authors' class of the second stage has an empty table, which strict loading wants.
    assert load_file(tmp_path / "s2a_model/s2a_model_full/model.safetensors")["diff_estimator.embed_tokens.weight"].shape == (0, 256)
    again = maskgen.Pipeline.from_pretrained(tmp_path)
    assert {name: one.fingerprint for name, one in again.tokenizers.items()} == {
        name: one.fingerprint for name, one in voice.tokenizers.items()
    }
    for target, row in (("semantic", first_row()), ("audio", second_row())):
        assert torch.equal(again.generate([row], target, [0]).codes[0], voice.generate([row], target, [0]).codes[0])


def test_the_published_settings_are_those_of_the_reference(voice: maskgen.ClonedSpeechPipeline) -> None:
    first, second = voice.settings["semantic"], voice.settings["audio"]
    assert (first.steps, first.temperature, first.choice_temperature, first.guidance_scale) == ((25,), (0.9,), (1.0,), 3.5)
    assert (second.steps, second.temperature, second.guidance_rescale) == ((25, 10, 1), (1.5, 1.5, 0.2), 0.75)
    assert [second.at(level).steps for level in range(12)] == [25, 10, *[1] * 10]
    assert GenerationSettings.from_dict(json.loads(json.dumps(second.to_dict()))) == second
    assert [cooled(step, 25, "lagged") for step in (0, 12, 24)] == pytest.approx([1.0, 13 / 25, 0.0])
    assert cooled(0, 1, "lagged") == 1.0  # a single step draws at 0.2


def test_the_licence_is_said_once(
    voice: maskgen.ClonedSpeechPipeline, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "_said", set())
    parts = Parts(**{name: one for name, one in voice.components.items() if name != "specialists"})
    with caplog.at_level(logging.WARNING):
        found = families.published_family(folder)
        assert found is not None
        quick = dataclasses.replace(found, load=lambda *_: parts)
        families.load_family(quick, folder, LoadOptions())
        families.load_family(quick, folder, LoadOptions())
    assert [record.message for record in caplog.records if "licensed" in record.message] == [
        "the weights of MaskGCT are licensed CC-BY-NC-4.0: no commercial use"
    ]


def test_half_precision_reaches_the_stages_and_not_the_codecs(folder: Path) -> None:
    made = maskgen.Pipeline.from_pretrained(folder, dtype="bfloat16")
    assert {tensor.dtype for tensor in made.model.state_dict().values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in made.tokenizers["semantic"].network.state_dict().values()} == {torch.float32}  # type: ignore[attr-defined]
    for target, row in (("semantic", first_row()), ("audio", second_row())):
        assert made.generate([row], target, [0]).codes[0].shape == row[target].shape


def test_packed_weights_give_the_same_codes(voice: maskgen.ClonedSpeechPipeline) -> None:
    made = maskgen.ClonedSpeechPipeline(**voice.components)
    made.set_progress_bar_config(disable=True)
    made.enable_packed_weights()
    settings = GenerationSettings(steps=(2, 1), temperature=(0.0,), guidance_scale=2.0)
    for target, row in (("semantic", first_row()), ("audio", second_row())):
        found = made.generate([row], target, [0], settings).codes[0]
        assert torch.equal(found, voice.generate([row], target, [0], settings).codes[0])


def test_a_damaged_folder_is_told_apart(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    path = place / "t2s_model" / "model.safetensors"
    tensors = load_file(path)
    wrong = {name: tensor[:5] if name == "to_logit.bias" else tensor for name, tensor in tensors.items() if "down_proj" not in name}
    save_file({**wrong, "more": torch.zeros(2)}, path)
    sentence = (
        r"lack .*diff_estimator.layers.0.mlp.down_proj.weight \[24, 96\].*unknown tensors more \[2\].*to_logit.bias is \[5\], wanted \[30\]"
    )
    with pytest.raises(ValueError, match=sentence):
        maskgen.Pipeline.from_pretrained(place)
    torch.save({"mean": torch.zeros(16), "var": torch.zeros(16)}, place / "wav2vec2bert_stats.pt")
    with pytest.raises(ValueError, match=r"wav2vec2bert_stats\.pt has a var that is not positive"):
        maskgen.Pipeline.from_pretrained(place)
    (place / "w2v-bert-2.0" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"lacks the speech encoder .* copy facebook/w2v-bert-2.0 to"):
        maskgen.Pipeline.from_pretrained(place)
    (place / "vocab.json").unlink()
    (place / "wav2vec2bert_stats.pt").unlink()
    with pytest.raises(ValueError, match=r"copy models/tts/maskgct of .*/vocab.json and .*/wav2vec2bert_stats.pt into it"):
        maskgen.Pipeline.from_pretrained(place)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"audio_prompt": None}, "needs one recording"),
        ({"audio": 1}, "needs one recording"),
        ({"audio_text": None}, "needs audio_text"),
        ({"speaker": "female"}, "can't be described; leave speaker out"),
        ({"span_s": (0.0, 0.1)}, "continues recordings and does not edit them"),
        ({"seconds": 1.0, "speed": 2.0}, "seconds and speed both decide"),
        ({"seconds": -1.0}, "seconds must be a positive number"),
        ({"speed": 9.0}, "speed must lie in"),
        ({"language": "zh"}, "texts in 'zh' are not turned into phones here, only in en, fr, de; give phones"),
        ({"known": {"image": 1}}, "sees no other media"),
        ({"prompt": "/h|zz/"}, "'zz' is no phone of this model"),
        ({"prompt": " "}, "the text is empty"),
    ],
)
def test_what_contradicts_or_is_out_of_range_is_refused(
    voice: maskgen.ClonedSpeechPipeline, options: dict[str, Any], sentence: str
) -> None:
    given: dict[str, Any] = {"prompt": "Hello", "audio_prompt": recording(), "audio_text": "Good morning.", **options}
    with pytest.raises(ValueError, match=sentence):
        voice(given.pop("prompt"), **given)


def test_the_command_line_speaks(folder: Path, tmp_path: Path) -> None:
    made, clip = tmp_path / "made.wav", tmp_path / "clip.wav"
    maskgen.Waveform.save(recording(), clip)
    given = ["generate", "speech", "/h|ə|l|oʊ/", "--seconds", "0.1", "--language", "en", "--out", str(made), "--model", str(folder)]
    main([*given, "--audio-prompt", str(clip), "--audio-text", SAID, "--num-inference-steps", "2"])
    assert read_sound(made).samples.shape == (1, RATE // 10)


def test_the_published_sizes_have_the_published_number_of_values() -> None:
    """Millions of values: 746.40, 330.35 and 353.44 in the stages, 44.29 in the semantic codec; the acoustic one below."""
    second = PUBLISHED["s2a_model"]
    with torch.device("meta"):
        stages = [
            SemanticStage(StageConfig.from_published(PUBLISHED["t2s_model"], "published")),
            *(AcousticStage(StageConfig.from_published(second[name], "published")) for name in ("s2a_1layer", "s2a_full")),
        ]
        from maskgen.autoencoders.amphion import AcousticCodec, SemanticCodec

        codec = AcousticCodec(acoustic_config(PUBLISHED["acoustic_codec"], "published"))
        networks = [*stages, SemanticCodec(semantic_config(PUBLISHED["semantic_codec"], "published")), codec.encoder, codec.decoder]
    tensors = [one.state_dict() for one in networks]
    assert [len(one) for one in tensors] == [191, 192, 225, 239, 119, 363]  # the second stage without its empty table
    counts = [round(sum(tensor.numel() for tensor in one.values()) / 1e6, 2) for one in tensors]
    assert counts == [746.40, 330.35, 353.44, 44.29, 42.54, 128.20]
    family = next(one for one in families.families() if one.name == "MaskGCT")
    assert family.hub_ids["amphion/MaskGCT"] == pytest.approx(sum(counts))
    assert (family.weights_licence, family.non_commercial) == ("CC-BY-NC-4.0", True)
