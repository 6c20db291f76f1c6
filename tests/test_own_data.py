"""The walks of docs/own-data.md: their commands run, from a folder of files to a judged model."""

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from test_docs import blocks, commands

from maskgen import Pipeline
from maskgen.cli.main import main
from maskgen.evaluation.own import own_set
from maskgen.io.audio import Waveform

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "own-data.md"
QUICK = [
    "--trainer.max_steps=2",
    "--model.warmup_steps=1",
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",
    "--trainer.enable_progress_bar=false",
]
SMALL = {
    "finetune": ["--steps", "2", "--batch-size", "2", "--checkpoint-steps", "2"],
    "fit text": [
        *QUICK,
        "--model.transformer.dim=32",
        "--model.transformer.num_layers=1",
        "--model.transformer.num_heads=2",
        "--model.compile=false",
        "--data.batch_size=8",
        "--data.grouping=null",
    ],
    "fit image": [
        *QUICK,
        "--model.autoencoder.encoder_channels=[16,16]",
        "--model.autoencoder.decoder_channels=[16,16,16]",
        "--model.compile=[]",
        "--data.batch_size=4",
    ],
    "evaluate text": ["--samples", "4", "--masks", "4", "--judge-texts", "50"],
}
"""What makes a command of the page small enough for a test."""
SAID = ("Hello there.", "Good morning to you.", "The cat sleeps.", "A red house.", "We go home now.", "It rains today.") * 2
WORDS = ("a small", "the large", "one red", "some blue"), ("cat", "dog", "house", "tree"), ("sleeps", "waits", "stands here", "is old")


@pytest.fixture(autouse=True)
def floating_point_as_before() -> Iterator[None]:
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision(precision)


def pictures(folder: Path, count: int) -> None:
    """Coloured discs with captions."""
    folder.mkdir()
    for number in range(count):
        image = Image.new("RGB", (64, 64), "white")
        colour = tuple(np.random.default_rng(number).integers(0, 256, 3).tolist())
        ImageDraw.Draw(image).ellipse((8, 8, 30 + number, 50), fill=colour)
        image.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"disc number {number}, flat style\na disc")


def small(arguments: list[str]) -> list[str]:
    if arguments[0] == "fit":
        return [*arguments, *SMALL["fit text" if "text" in arguments[2] else "fit image"]]
    return [*arguments, *SMALL.get(arguments[0], []), *SMALL.get(" ".join(arguments[:2]), [])]


def run(section: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of a section, one after the other."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    for name in ("configs", "tokenizers"):
        os.symlink(ROOT / name, folder / name)
    text = PAGE.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    (folder / "page.md").write_text(text)
    found = [call for block in blocks(folder / "page.md", "bash") for call in commands(block)]
    assert found, section
    for block in blocks(folder / "page.md", "yaml"):
        (folder / f"{yaml.safe_load(block)['name']}.yaml").write_text(block)
    for call in found:
        main(small(call))


def check_report(folder: Path) -> None:
    """The report judges the pictures that were held out, and knows those that were trained on."""
    found = json.loads((folder / "report.json").read_text())
    assert (found["split"], found["pictures"], found["training_pictures"]) == ("validation", 6, 18)
    assert list(found["row_sets"]) == ["generated", "reconstruction", "shuffled"]
    assert all(-1 <= scores["similarity"] <= 1 for scores in found["row_sets"].values())
    assert (folder / "pictures.png").is_file()


@pytest.mark.slow
def test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra eval")
    pictures(tmp_path / "my-images", 24)
    run("Pictures", tmp_path, monkeypatch)
    check_report(tmp_path / "out" / "my-pictures")


@pytest.mark.slow
def test_pictures_with_a_tokenizer_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra eval")
    pictures(tmp_path / "my-images", 24)
    run("A tokenizer for your pictures", tmp_path, monkeypatch)
    assert json.loads((tmp_path / "out" / "my-tokenizer" / "tokenizer.json").read_text())["pictures"] == 24
    check_report(tmp_path / "out" / "my-drawer")


@pytest.mark.slow
def test_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("faster_whisper") is None:  # the judges' packages are an extra: a judge that needs none takes their place
        loud = {"speech": lambda: lambda wave: float((abs(wave.samples) > 0.01).mean())}
        monkeypatch.setattr("maskgen.evaluation.speech.judges.JUDGES", loud)
    (tmp_path / "recordings").mkdir()
    for number, wave in enumerate(Pipeline.from_pretrained("heart-16k")(list(SAID)).audio):
        wave.save(tmp_path / "recordings" / f"{number}.wav")
        (tmp_path / "recordings" / f"{number}.txt").write_text(SAID[number])
    run("Speech", tmp_path, monkeypatch)
    report = json.loads((tmp_path / "out" / "my-speech" / "report.json").read_text())
    assert list(report["row_sets"]) == ["recordings", "codec", "generated seed 0"]
    assert all(0 < part["scores"]["speech_ratio"]["value"] < 1 for part in report["row_sets"].values())


@pytest.mark.slow
def test_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{first} {second} {third}" for first in WORDS[0] for second in WORDS[1] for third in WORDS[2]]
    (tmp_path / "my-texts.txt").write_text("\n".join([*texts, *(f"{text} there" for text in texts)]))
    run("Text", tmp_path, monkeypatch)
    assert any(path.suffix == ".json" for path in (tmp_path / "out" / "my-text").iterdir())


# The set


def test_the_share_held_out_is_that_of_the_build_and_the_rest_is_training(tmp_path: Path) -> None:
    pictures(tmp_path / "set", 24)
    (tmp_path / "set" / "3.json").write_text('{"split": "validation"}')
    main(["data", "build", str(tmp_path / "set"), "--out", str(tmp_path / "raw"), "--workers", "1"])
    everything = own_set(tmp_path / "set", "image")
    assert (everything.split, len(everything.judged), len(everything.training)) == ("validation", 1, 23)
    found = own_set(tmp_path / "set", "image", held_out=0.3)
    keys = {row.key for row in found.judged}
    assert "3" in keys
    assert 1 < len(keys) < 24
    assert len(found.training) == 24 - len(keys)
    raw = own_set(tmp_path / "raw", "image")
    assert [row.key for row in raw.judged] == ["3"]
    assert raw.judged[0].texts == ["disc number 3, flat style", "a disc"]


def test_texts_come_from_a_file_by_the_names_of_the_recordings(tmp_path: Path) -> None:
    (tmp_path / "set" / "in").mkdir(parents=True)
    for name in ("Über 1", "in/two", "three"):
        Waveform(samples=np.zeros((1, 16_000), np.float32), sample_rate_hz=16_000).save(tmp_path / "set" / f"{name}.wav")
    (tmp_path / "texts.tsv").write_text("Über 1.wav\tone\nin/two\tthe second\n\n", encoding="utf-8")
    found = own_set(tmp_path / "set", "audio", texts=tmp_path / "texts.tsv")
    assert sorted(text for row in found.judged for text in row.texts) == ["one", "the second"]
    for wrong in ("one", "a\t", "a\tx\na.wav\ty"):
        (tmp_path / "wrong.tsv").write_text(wrong)
        with pytest.raises(ValueError, match="wanted a recording's name, a tab and its text"):
            own_set(tmp_path / "set", "audio", texts=tmp_path / "wrong.tsv")


def test_a_set_without_the_fields_of_the_demo_corpus_is_refused_by_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "set", 2)
    main(["data", "build", str(tmp_path / "set"), "--out", str(tmp_path / "raw"), "--workers", "1"])
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "image", "--raw", str(tmp_path / "raw"), "--cache", str(tmp_path / "cache")])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "have no label and no style and no tone and no group" in said
    assert "maskgen evaluate image FOLDER" in said
