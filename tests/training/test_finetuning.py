"""From a folder to a model of one's own: pictures and a voice, a kill in between, and one sentence for everything that is wrong."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.command_line import refused
from builders.media import recording
from PIL import Image

from maskgen.cli.main import main
from maskgen.data.corpora.recordings import fitted_frames, voiced_part
from maskgen.data.shards.format import read_split
from maskgen.data.shards.manifest import read_index
from maskgen.io.audio import Waveform, write_sound
from maskgen.io.bundle import load_bundle, read_bundle_record
from maskgen.io.limits import BadMedia
from maskgen.networks.lora import load_adapter
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.text_to_speech import TextToSpeechPipeline
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.training.finetune_folder import with_value, work_folder
from maskgen.training.modules.masked import MaskedTokenModule

QUICK = ("--steps", "2", "--batch-size", "2", "--checkpoint-steps", "1", "--held-out", "0")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four tiny pictures with captions, one held out."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(draw.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a red heart number {number}, blueprint style")
    (folder / "3.json").write_text(json.dumps({"split": "validation"}))
    return folder


def weights_of(folder: Path) -> str:
    found: str = read_bundle_record(folder)["files"]["weights.safetensors"]
    return found


def run(folder: Path, model: Path | str, out: Path, *more: str) -> None:
    main(["finetune", str(folder), "--model", str(model), "--out", str(out), *QUICK, *more])


@pytest.mark.parametrize("kind", [(), ("--lora", "2")], ids=["full", "lora"])
def test_a_folder_of_pictures_becomes_a_model_that_draws(
    kind: tuple[str, ...], pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind:
        pytest.importorskip("peft")
    base, out = weights_of(tiny_bundle), tmp_path / "mine"
    run(pictures, tiny_bundle, out, *kind)
    said = capsys.readouterr().out
    assert "held-out loss: image level0" in said
    assert f"--model {out}" in said
    assert read_index(work_folder(out) / "tokens").counts == {"train": 3, "validation": 1}
    assert weights_of(tiny_bundle) == base != weights_of(out)
    ours, theirs = Pipeline.from_pretrained(out), Pipeline.from_pretrained(tiny_bundle)
    assert (ours.settings, ours.grids, ours.space) == (theirs.settings, theirs.grids, theirs.space)
    main(["generate", "image", "a red heart, blueprint style", "--model", str(out), "--out", str(tmp_path / "heart.png")])
    assert Image.open(tmp_path / "heart.png").size == (32, 32)
    first = weights_of(out)
    capsys.readouterr()
    run(pictures, tiny_bundle, out, *kind)  # it is done already, and ends with the same model
    assert weights_of(out) == first
    assert "nothing was left to train: an earlier run on the same files did all 2 steps" in capsys.readouterr().out
    if kind:
        main(["merge-adapter", str(out / "adapter"), "--out", str(tmp_path / "again")])
        assert weights_of(tmp_path / "again") == first


@pytest.mark.parametrize("kind", [(), ("--lora", "2")], ids=["full", "lora"])
def test_a_run_that_was_cut_goes_on_and_ends_as_one_that_was_not(
    kind: tuple[str, ...],
    pictures: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kind:
        pytest.importorskip("peft")
    run(pictures, tiny_bundle, tmp_path / "whole", *kind, "--steps", "4")
    step, seen = MaskedTokenModule.training_step, list[int]()

    def cut(module: MaskedTokenModule, *args: Any) -> Any:
        seen.append(module.global_step)
        if len(seen) == 3:
            raise RuntimeError("cut")
        return step(module, *args)

    monkeypatch.setattr(MaskedTokenModule, "training_step", cut)
    with pytest.raises(RuntimeError, match="cut"):
        run(pictures, tiny_bundle, tmp_path / "cut", *kind, "--steps", "4")
    run(pictures, tiny_bundle, tmp_path / "cut", *kind, "--steps", "4")
    assert seen == [0, 1, 2, 2, 3]
    assert "(2 of 4 steps; an earlier run did the others)" in capsys.readouterr().out
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


def test_another_run_in_the_same_place_is_refused_until_it_is_restarted(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(pictures, tiny_bundle, tmp_path / "mine")
    capsys.readouterr()
    arguments = ("finetune", pictures, "--model", tiny_bundle, "--out", tmp_path / "mine", *QUICK, "--lr", "0.5")
    assert "lr was 0.0003, it is 0.5 now; give another --out, or --restart" in refused(capsys, *arguments)
    main([str(part) for part in (*arguments, "--restart")])
    shutil.rmtree(work_folder(tmp_path / "mine"))
    assert "holds a model already" in refused(capsys, *arguments)


def test_files_that_have_changed_are_refused_until_it_is_restarted_and_then_learned(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    run(pictures, tiny_bundle, out)
    first, tokens = weights_of(out), read_index(work_folder(out) / "tokens")
    for path in pictures.iterdir():
        path.touch()
    run(pictures, tiny_bundle, out)
    text, times = pictures / "1.txt", (pictures / "1.txt").stat()
    text.write_text(text.read_text().replace("red", "tan"))
    os.utime(text, ns=(times.st_atime_ns, times.st_mtime_ns))
    capsys.readouterr()
    arguments = ("finetune", pictures, "--model", tiny_bundle, "--out", out, *QUICK)
    assert "have changed since" in refused(capsys, *arguments)
    assert (weights_of(out), read_index(work_folder(out) / "tokens")) == (first, tokens), "nothing was touched"
    main([str(part) for part in (*arguments, "--restart")])
    assert "trained " in capsys.readouterr().out
    assert weights_of(out) != first


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere",), "nowhere is no folder"),
        (("empty",), "empty holds no samples"),
        (("texts",), "texts holds texts alone, and emoji-64 is no published model that writes texts; give pictures or sounds"),
        (("bare",), "none of the 1 pictures in bare has a text; put a .txt of the same name beside each"),
        (("pictures", "--lora", "0"), "--lora must be at least 1, got 0"),
        (("pictures", "--lora", "-3"), "--lora must be at least 1, got -3"),
        (("pictures", "--steps", "0"), "--steps must be at least 1, got 0"),
        (("pictures", "--alpha", "2"), "--alpha scales an adapter"),
        (("pictures", "--held-out", "1"), "held_out must lie in [0, 0.9], got 1"),
        (("pictures", "--lr", "nan"), "lr must lie in [0, 1)"),
        (("pictures", "--model", "none-such"), "there is no model 'none-such'"),
        (("pictures", "--model", "heart-16k"), "heart-16k has no picture tokenizer: its modalities are phones, speaker, audio"),
        (("pictures", "--model", "empty"), "no bundle in empty: bundle.json is missing"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    arguments: tuple[str, ...], sentence: str, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(pictures.parent)
    for name in ("empty", "texts", "bare"):
        Path(name).mkdir()
    Path("texts/a.txt").write_text("a caption")
    Image.new("RGB", (9, 9)).save("bare/a.png")
    assert sentence in refused(capsys, "finetune", *arguments, "--out", "mine")
    assert not Path("mine").exists()
    assert not Path("mine.work/checkpoints").exists()


def test_a_checkpoint_of_an_adapter_is_no_model(
    pictures: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    run(pictures, tiny_bundle, tmp_path / "mine", "--lora", "2")
    (last,) = work_folder(tmp_path / "mine").rglob("last.ckpt")
    parts = [f"--tokenizer={name}={tmp_path / 'mine/tokenizers' / name}" for name in ("text", "image")]
    assert "holds a low-rank adapter that is still being trained" in refused(
        capsys, "export", "model", last, *parts, "--out", tmp_path / "other"
    )


def test_bad_adapters_are_refused(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no bundle in" in refused(capsys, "merge-adapter", tmp_path, "--out", tmp_path / "mine")
    assert "wanted 'lora_adapter'" in refused(capsys, "merge-adapter", tiny_bundle, "--out", tmp_path / "mine")


def clip(silence_s: float, voice_s: float) -> Waveform:
    """Noise between two stretches of silence."""
    quiet = np.zeros((1, round(silence_s * 16_000)), np.float32)
    return Waveform(samples=np.concatenate([quiet, recording(voice_s).samples, quiet], axis=1), sample_rate_hz=16_000)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_recordings_become_a_voice_with_a_name_of_its_own(lora: bool, voice: TextToSpeechPipeline, tmp_path: Path) -> None:
    if lora:
        pytest.importorskip("peft")
    base, out, folder = tmp_path / "base", tmp_path / "mine", tmp_path / "anna"
    voice.save_pretrained(base, half=True)
    folder.mkdir()
    pace = (
        float(voice.durations.frames(voice.processor.phones.encode(["Hello there."])[0][0], 0)[1:-1].sum())
        / voice.durations.config.frames_per_s
    )
    for number in range(3):
        write_sound(clip(0.25, pace * (1 + 0.2 * number)), folder / f"{number}.wav")
        (folder / f"{number}.txt").write_text("Hello\nthere." if number else "Hello there.")
    run(folder, base, out, *(("--lora", "2") if lora else ()))
    shards = work_folder(out) / "tokens"
    said = {sample["json"]["phonemes"] for _, sample in read_split(shards, read_index(shards), "train")}
    assert len(said) == 1, "the lines of a transcript are one text"
    mine = TextToSpeechPipeline.from_pretrained(out)
    assert mine.processor.speakers.values == ("heart", "michael", "anna")
    assert mine("Hello there.", speaker="anna", seconds=0.5).seconds == 0.5
    tables = [load_bundle(place / "durations", "duration_predictor").tensors["embed_speaker.weight"] for place in (base, out)]
    assert torch.equal(tables[1][2], tables[0][0])
    assert torch.equal(tables[1][3:], tables[0][3:])
    offset = voice.space.segment("speaker", 0).offset
    assert not torch.equal(mine.model.embed.weight[offset + 2], voice.model.embed.weight[offset + 2].half().float())
    if lora:
        assert load_adapter(out / "adapter").values == {"speaker": ["heart", "michael", "anna"]}
        main(["merge-adapter", str(out / "adapter"), "--out", str(tmp_path / "again")])
        assert weights_of(tmp_path / "again") == weights_of(out)
        assert TextToSpeechPipeline.from_pretrained(tmp_path / "again").processor.speakers.values == mine.processor.speakers.values


def test_a_speaker_needs_a_free_code() -> None:
    full = AttributeTokenizer("speaker", ["a", "b"], codebook_size=2)
    assert with_value(full, "b") is full
    with pytest.raises(ValueError, match=r"all 2 codes of speaker are taken, so 'c' finds no room"):
        with_value(full, "c")


def test_the_silence_goes_to_the_pauses_and_the_rest_is_shared_as_predicted() -> None:
    part = voiced_part(clip(0.5, 1.0).samples, 400)
    assert part == (20, 60, 80)
    assert fitted_frames(torch.tensor([5.0, 10.0, 20.0, 5.0]), part).tolist() == [20, 13, 27, 20]


def test_a_recording_that_cannot_be_what_the_text_says_is_refused() -> None:
    with pytest.raises(BadMedia, match="does it say what the text says"):
        fitted_frames(torch.tensor([2.0, 10.0, 2.0]), (0, 60, 60))
    with pytest.raises(BadMedia, match="cut them off"):
        fitted_frames(torch.tensor([2.0, 50.0, 2.0]), (200, 260, 261))
    with pytest.raises(BadMedia, match="silent"):
        voiced_part(np.zeros((1, 4000), np.float32), 400)
