"""MAGNeT whole: from a folder laid out as the hub's to music, continuations and edits, and back to such a folder."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.magnet import CODEC_YAML, CODES, FRAMES, HOP, LEVELS, LM_YAML, RATE, magnet, magnet_files, published_codec

import maskgen
from maskgen.cli.main import main
from maskgen.decoding.guidance import FallingGuidance
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.families import families
from maskgen.io.audio import read_sound
from maskgen.sampling import names
from maskgen.tokens.batch import UNKNOWN

pytest.importorskip("transformers", reason="needs transformers: pip install maskgen[codecs]")
pytest.importorskip("encodec", reason="needs encodec: pip install maskgen[codecs]", exc_type=ImportError)
FEW: dict[str, Any] = {"num_inference_steps": [2, 1, 1]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("magnet") / "model"
    magnet(place)
    return place


@pytest.fixture(scope="module")
def pipe(folder: Path) -> maskgen.TextToAudioPipeline:
    made = maskgen.Pipeline.from_pretrained(folder)
    assert isinstance(made, maskgen.TextToAudioPipeline)
    made.set_progress_bar_config(disable=True)
    return made


def recording(seconds: float) -> maskgen.Waveform:
    samples = np.random.default_rng(0).normal(size=(1, round(seconds * RATE))) * 0.1
    return maskgen.Waveform(samples=samples.astype(np.float32), sample_rate_hz=RATE)


def test_a_prompt_becomes_audio_of_the_length_asked_for(pipe: maskgen.TextToAudioPipeline) -> None:
    made = pipe(["a calm piano", "rain"], seconds=0.33, num_outputs=2, **FEW)
    assert [(wave.samples.shape, wave.sample_rate_hz) for wave in made.audio] == [((1, 1584), RATE)] * 4
    assert made.seeds == [0, 1, 0, 1]
    assert [codes.shape for codes in made.generation.codes] == [(LEVELS, 17)] * 4
    assert repr(made).startswith("AudioOutput(4 waveforms of 0.33 s, seeds [0, 1, 0, ...]")
    assert not torch.equal(made.generation.codes[0], made.generation.codes[2])
    alone = pipe("rain", seconds=0.33, seed=1, **FEW)
    assert torch.equal(alone.generation.codes[0], made.generation.codes[3])


def test_without_a_length_audio_is_as_long_as_the_model_was_trained_and_no_frame_is_cut_off(pipe: maskgen.TextToAudioPipeline) -> None:
    """The reference cuts its 50 frames to 48, which spans of 3 divide."""
    made = pipe("a calm piano", **FEW)
    assert FRAMES % 3 == 2
    assert made.generation.codes[0].shape == (LEVELS, FRAMES)
    assert made.audio[0].samples.shape == (1, FRAMES * HOP)


def test_published_defaults(pipe: maskgen.TextToAudioPipeline, folder: Path, tmp_path: Path) -> None:
    settings = pipe.settings_of("audio")
    assert (settings.steps, settings.temperature, settings.top_p, settings.guidance_scale) == ((20, 10, 10), (3.0,), 0.9, 10.0)
    assert [settings.window_at(level) for level in range(3)] == [0, 5, 5]
    assert settings.at(2).temperature_at.__self__.steps == 10  # type: ignore[attr-defined]
    assert settings == GenerationSettings.from_dict(settings.to_dict())
    (tmp_path / "t5-base").symlink_to(folder / "t5-base")  # a T5 beside the folder is found too
    magnet_files(tmp_path / "effects", LM_YAML.replace("solver: magnet", "solver: audio_magnet"))
    effects = maskgen.Pipeline.from_pretrained(tmp_path / "effects").settings_of("audio")
    assert (effects.temperature, effects.top_p, effects.guidance_scale) == ((3.5,), 0.8, 20.0)


def test_guidance_falls_from_its_scale_to_none_at_every_level(pipe: maskgen.TextToAudioPipeline) -> None:
    """mask_p * 10 + (1 - mask_p) with mask_p = cos(pi / 2 * k / (N - 1)); the last step of a level needs no second pass."""
    scales = [FallingGuidance(10.0, 10).scale(step / 10) for step in range(10)]
    shares = torch.cos(torch.linspace(0, 1, 10, dtype=torch.float64) * torch.pi / 2)
    torch.testing.assert_close(torch.tensor(scales, dtype=torch.float64), shares * 10 + (1 - shares))
    assert scales[-1] == 1
    assert FallingGuidance(10.0, 1).scale(0.0) == 10
    assert pipe("rain", seconds=0.2, num_inference_steps=[4, 3, 1]).generation.model_calls == [2 * 4 - 1 + 2 * 3 - 1 + 2]
    assert pipe("rain", seconds=0.2, guidance_scale=1.0, num_inference_steps=[4, 3, 1]).generation.model_calls == [8]


def test_an_empty_prompt_is_the_null_condition_and_a_negative_one_takes_its_place(pipe: maskgen.TextToAudioPipeline) -> None:
    options: dict[str, Any] = {"seconds": 0.2, "guidance_schedule": "constant", **FEW}
    nothing = pipe("", guidance_scale=1.0, **options).generation.codes[0]
    assert torch.equal(pipe("rain", guidance_scale=0.0, **options).generation.codes[0], nothing)
    rain = pipe("rain", guidance_scale=1.0, **options).generation.codes[0]
    assert torch.equal(pipe("a piano", negative_prompt="rain", guidance_scale=0.0, **options).generation.codes[0], rain)
    assert not torch.equal(rain, nothing)


@pytest.mark.parametrize("name", [name for name in names() if name not in ("critic", "frequency")])
# The samplers left out need a trained critic, or the attention of maskgen's own transformer.
def test_every_sampler_fills_the_blanks_and_keeps_what_was_known(pipe: maskgen.TextToAudioPipeline, name: str) -> None:
    settings = GenerationSettings(sampler=name, steps=(2,), guidance_scale=2.0, window=(0, 5))
    known = torch.arange(LEVELS * 8).view(LEVELS, 8) % CODES
    known[:, 3:7] = UNKNOWN
    row = {"text": pipe.tokenizers["text"].encode(["rain"])[0], "audio": known}
    for codes in pipe.generate([row, row], "audio", [1, 2], settings).codes:
        assert torch.equal(codes[known != UNKNOWN], known[known != UNKNOWN])
        assert int(codes.min()) >= 0
        assert int(codes.max()) < CODES


def test_a_recording_is_continued_or_edited_and_its_samples_stay(pipe: maskgen.TextToAudioPipeline) -> None:
    clip = recording(0.41)
    more = pipe("rain", audio=clip, seconds=0.25, **FEW)
    assert more.audio[0].samples.shape == (1, 1968 + 1200)
    assert np.array_equal(more.audio[0].samples[:, :1968], clip.samples)
    assert more.generation.codes[0].shape == (LEVELS, 20 + 13)
    known = pipe.tokenizers["audio"].encode([maskgen.Waveform(samples=clip.samples[:, :1920], sample_rate_hz=RATE)])[0]
    assert torch.equal(more.generation.codes[0][:, :20], known)
    assert pipe("rain", audio=clip, **FEW).generation.codes[0].shape == (LEVELS, FRAMES)
    edited = pipe("rain", audio=clip, span_s=(0.1, 0.2), **FEW).audio[0].samples
    assert edited.shape == clip.samples.shape
    assert np.array_equal(edited[:, :480], clip.samples[:, :480])
    assert np.array_equal(edited[:, 960:], clip.samples[:, 960:])
    assert not np.array_equal(edited, clip.samples)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"seconds": 1.5}, ValueError, r"1\.50 s are asked for, this model makes up to 1 s in all"),
        ({"seconds": 0.9, "audio": recording(0.2)}, ValueError, r"0\.90 s behind 0\.20 s of recording are asked for"),
        ({"seconds": -1.0}, ValueError, "seconds must be a positive number"),
        ({"audio": recording(1.2)}, ValueError, r"the recording lasts 1\.20 s, at most 1 s are taken"),
        ({"span_s": (0.0, 1.0)}, ValueError, "span_s needs audio"),
        ({"span_s": (0.0, 1.0), "audio": recording(0.5)}, ValueError, r"the span 0 to 1 s does not lie in the recording of 0\.50 s"),
        ({"span_s": (0.1,), "audio": recording(0.5)}, TypeError, "span_s must be"),
        ({"negative_prompt": ["a", "b"]}, ValueError, "negative_prompt has 2 texts for 1 prompts"),
        ({"speaker": "anna"}, TypeError, "TextToAudioPipeline takes no argument 'speaker'"),
    ],
)
def test_what_is_out_of_range_is_refused(
    pipe: maskgen.TextToAudioPipeline, options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        pipe("rain", **options)


def test_the_codec_is_that_of_the_authors_package_sample_for_sample(pipe: maskgen.TextToAudioPipeline) -> None:
    """Codes and waves of the package encodec, whose modules and names audiocraft kept."""
    theirs, ours, clip = published_codec(), pipe.tokenizers["audio"], recording(0.4)
    with torch.no_grad():
        latents = theirs.encoder(torch.from_numpy(clip.samples)[None])
        codes = theirs.quantizer.vq.encode(latents, n_q=LEVELS)[:, 0]
        wave = theirs.decoder(theirs.quantizer.decode(codes[:, None]))[0]
    assert len(codes.unique()) > 4
    assert torch.equal(ours.encode([clip])[0], codes)
    np.testing.assert_allclose(ours.decode([codes])[0].samples, wave.clamp(-1, 1).numpy(), atol=1e-6)


def test_what_is_saved_has_the_authors_names_and_loads_alike(pipe: maskgen.TextToAudioPipeline, folder: Path, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    for name in ("state_dict.bin", "compression_state_dict.bin"):
        wanted, found = (torch.load(place / name, weights_only=True) for place in (folder, tmp_path))
        assert found["xp.cfg"] == wanted["xp.cfg"]
        assert {key: one.shape for key, one in found["best_state"].items()} == {key: one.shape for key, one in wanted["best_state"].items()}
        assert all(torch.equal(one, wanted["best_state"][key].to(one.dtype)) for key, one in found["best_state"].items())
    published_codec().load_state_dict(torch.load(tmp_path / "compression_state_dict.bin", weights_only=True)["best_state"])
    again = maskgen.Pipeline.from_pretrained(tmp_path)
    assert again.family == "MAGNeT"
    assert again.tokenizers["text"].fingerprint == pipe.tokenizers["text"].fingerprint
    assert torch.equal(again("rain", seconds=0.2, **FEW).generation.codes[0], pipe("rain", seconds=0.2, **FEW).generation.codes[0])


def test_half_precision_reaches_the_transformer_and_not_the_codec(folder: Path) -> None:
    made = maskgen.Pipeline.from_pretrained(folder, dtype="bfloat16")
    assert made.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in made.tokenizers["audio"].network.parameters()} == {torch.float32}  # type: ignore[attr-defined]
    assert made.generate([{"audio": torch.full((LEVELS, 6), UNKNOWN)}], "audio", [0]).codes[0].shape == (LEVELS, 6)


def test_damaged_and_foreign_folders_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t5-base").symlink_to(folder / "t5-base")

    def refused(sentence: str, lm_yaml: str = LM_YAML, codec_yaml: str = CODEC_YAML) -> None:
        magnet_files(tmp_path, lm_yaml, codec_yaml)
        with pytest.raises(ValueError, match=sentence):
            maskgen.Pipeline.from_pretrained(tmp_path)

    refused("lm_model 'transformer_lm', wanted 'transformer_lm_magnet'", LM_YAML.replace("transformer_lm_magnet", "transformer_lm"))
    refused("has bias_ff True", LM_YAML.replace("bias_ff: false", "bias_ff: true"))
    refused("gives 'two' for n_q", LM_YAML.replace(f"n_q: {LEVELS}", "n_q: two"))
    refused("lack emb.3.weight", LM_YAML.replace(f"n_q: {LEVELS}", "n_q: 4"))
    refused("do not fit its configuration", codec_yaml=CODEC_YAML.replace("n_filters: 2", "n_filters: 999999"))
    refused("references in a circle", codec_yaml=CODEC_YAML.replace("sample_rate: 4800", "sample_rate: ${encodec.sample_rate}"))
    refused("that is no plain YAML", "!!python/object/apply:os.system ['true']")
    magnet_files(tmp_path)
    (tmp_path / "t5-base").unlink()
    with pytest.raises(ValueError, match="put the files of google-t5/t5-base into a folder t5-base"):
        maskgen.Pipeline.from_pretrained(tmp_path)
    (tmp_path / "state_dict.bin").write_bytes(pickle.dumps({"best_state": print}))
    with pytest.raises(ValueError, match="could run code"):
        maskgen.Pipeline.from_pretrained(tmp_path)


def test_rows_beyond_the_trained_length_are_refused_by_the_network_too(pipe: maskgen.TextToAudioPipeline) -> None:
    with pytest.raises(ValueError, match="a row has 51 frames of audio, this model was trained on 50"):
        pipe.generate([{"audio": torch.full((LEVELS, FRAMES + 1), UNKNOWN)}], "audio", [0])


def test_the_licence_forbids_commercial_use_and_small_models_have_the_published_size() -> None:
    family = next(one for one in families() if one.name == "MAGNeT")
    assert (family.non_commercial, family.weights_licence) == (True, "CC-BY-NC-4.0")
    assert family.hub_files is not None
    assert family.hub_files("") == ("state_dict.bin", "compression_state_dict.bin")
    with pytest.raises(ValueError, match="no variants"):
        family.hub_files("large")


def test_the_command_line_writes_audio_and_refuses_other_models(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "made.wav"
    given = ["generate", "audio", "rain", "--seconds", "0.2", "--out", str(made), "--num-inference-steps", "2,1,1"]
    main([*given, "--model", str(folder)])
    assert read_sound(made).samples.shape == (1, 960)
    with pytest.raises(SystemExit) as stopped:
        main([*given, "--model", "emoji-64"])
    assert stopped.value.code == 2
    assert "is no model for text to audio" in capsys.readouterr().err
