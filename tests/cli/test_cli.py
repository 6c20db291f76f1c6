"""The command line: one sentence and exit code 2 for everything a user can get wrong, and nothing written."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from builders.command_line import refused
from builders.media import png_of
from PIL import Image

from maskgen.cli.main import main
from maskgen.tokenizers.text import train_bpe

PROMPT = "a red heart, flat style"
FIT = {
    "model": {
        "class_path": "maskgen.training.modules.image_autoencoder.ImageAutoencoderModule",
        "init_args": {"autoencoder": {"patch": 8}, "quantizer": {"class_path": "maskgen.autoencoders.quantizers.ResidualQuantizer"}},
    },
    "data": {"class_path": "maskgen.data.loading.raw_media.RawImages", "init_args": {"folder": "nowhere"}},
    "trainer": {"max_steps": 1},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> Path:
    """An empty working folder; beside it the bundle, pictures and broken pictures."""
    made = tmp_path / "made"
    made.mkdir()
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "picture.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "small.png")
    Image.new("L", (32, 32), 255).save(tmp_path / "mask.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "picture.png").read_bytes()[:1500])
    (tmp_path / "bomb.png").write_bytes(png_of(12_000, 12_000))
    monkeypatch.chdir(made)
    return made


def test_a_picture_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate", "image", PROMPT, "--model", "../bundle", "--out", "heart.png", "--seed", "5"])
    said = capsys.readouterr()
    assert Image.open("heart.png").size == (32, 32)
    assert said.out.startswith("wrote heart.png (32 x 32, seed 5; 12 model calls an image")
    assert said.out.count("\n") == 1
    assert said.err == ""


def test_several_pictures_are_a_sheet_and_single_files_with_their_seeds(here: Path) -> None:
    main(["generate", "image", PROMPT, "a", "--model", "../bundle", "--out", "all.png", "--num-outputs", "3", "--scale", "2"])
    assert sorted(path.name for path in here.iterdir()) == [*(f"all-{number}.png" for number in range(6)), "all.png"]
    assert Image.open("all.png").size == (3 * 68 + 4, 2 * 68 + 4)
    main(["generate", "image", PROMPT, "--model", "../bundle", "--out", "one.png", "--seed", "2", "--scale", "2"])
    assert np.array_equal(np.asarray(Image.open("one.png")), np.asarray(Image.open("all-2.png")))


def test_a_gif_has_a_frame_a_step(here: Path) -> None:
    main(["generate", "image", PROMPT, "--model", "../bundle", "--num-inference-steps", "4,2", "--gif", "film.gif", "--scale", "2"])
    with Image.open("film.gif") as film:
        assert film.size == (64, 64)
        assert getattr(film, "n_frames", 1) == 6  # Pillow merges the last step and the picture, which are equal
    assert (here / "image.png").is_file()


def test_edits_are_written(here: Path) -> None:
    common = ["generate", "image", "--model", "../bundle", "--image", "../picture.png"]
    main([*common, PROMPT, "--mask-image", "../mask.png", "--out", "inside.png"])
    main([*common, "--outpaint", "8,0,8,0", "--out", "wide.png"])
    main([*common, "--strength", "0", "--out", "same.png"])
    assert Image.open("wide.png").size == (48, 32)
    assert np.array_equal(np.asarray(Image.open("same.png")), np.asarray(Image.open("../picture.png")))


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([""], "the prompt is empty"),
        ([], "the prompt is empty"),
        (["  "], "the prompt is empty"),
        (["star " * 300], "at most 64 are taken"),
        ([PROMPT, "--num-inference-steps", "0"], "steps must be at least 1"),
        ([PROMPT, "--num-inference-steps", "three"], "--num-inference-steps"),
        ([PROMPT, "--num-inference-steps", "4,"], "--num-inference-steps"),
        ([PROMPT, "--sampler", "best"], "no sampler is called 'best'; choose one of"),
        ([PROMPT, "--guidance-schedule", "best"], "no guidance schedule is called"),
        ([PROMPT, "--model", "../nothing"], "there is no model '../nothing'"),
        ([PROMPT, "--model", "heart-16k"], "is no model for text to image"),
        ([PROMPT, "--device", "mps"], "use cpu"),
        ([PROMPT, "--set", "refresh=two"], "refresh must be a number"),
        ([PROMPT, "--out", "missing/heart.png"], "cannot write missing/heart.png"),
        ([PROMPT, "--out", "."], "cannot write ."),
        ([PROMPT, "--out", "folder.png"], "cannot write folder.png"),
        ([PROMPT, "--out", "heart.xyz"], "cannot write heart.xyz: its name must end in"),
        ([PROMPT, "--gif", "film.png"], "cannot write film.png"),
        ([PROMPT, "--num-outputs", "0"], "at least 1"),
        ([PROMPT, "--num-outputs", "many"], "--num-outputs"),
        ([PROMPT, "--seed", "-1"], "seed must lie"),
        ([PROMPT, "--seed", "99999999999999999999999"], "seed must lie"),
        ([PROMPT, "--scale", "0"], "--scale must lie in 1 to"),
        ([PROMPT, "--scale", "100000"], "--scale must lie in 1 to"),
        ([PROMPT, "--temperature", "-1"], "temperature must be"),
        ([PROMPT, "--temperature", "nan"], "temperature must be"),
        ([PROMPT, "--choice-temperature", "inf"], "choice_temperature must be"),
        ([PROMPT, "--guidance-scale", "nan"], "guidance_scale"),
        ([PROMPT, "--top-p", "2"], "top_p must lie"),
        ([PROMPT, "--top-k", "-1"], "top_k must be"),
        ([PROMPT, "--no-such-option"], "--no-such-option"),
        ([PROMPT, "--mask-image", "../mask.png"], "mask_image needs image"),
        ([PROMPT, "--strength", "0.5"], "strength needs image"),
        ([PROMPT, "--image", "../picture.png"], "exactly one of"),
        ([PROMPT, "--image", "../picture.png", "--strength", "2"], "strength must lie"),
        ([PROMPT, "--image", "../picture.png", "--mask-image", "../small.png"], "the mask has 16 x 16 pixels, the picture 32 x 32"),
        ([PROMPT, "--image", "../cut.png", "--strength", "1"], "cut.png cannot be used as a picture"),
        ([PROMPT, "--image", "../bomb.png", "--strength", "1"], "144000000 pixels, at most 50000000"),
        ([PROMPT, "--image", "../nothing.png", "--strength", "1"], "does not exist"),
        ([PROMPT, "--image", "../picture.png", "--outpaint", "8,0,0"], "--outpaint needs four numbers"),
        ([PROMPT, "--image", "../picture.png", "--outpaint", "8"], "--outpaint needs four numbers"),
        ([PROMPT, "--image", "../picture.png", "--outpaint", "a,b,c,d"], "--outpaint"),
        ([PROMPT, "--image", "../picture.png", "--outpaint", "3,0,0,0"], "multiples of 8"),
        ([PROMPT, "--image", "../picture.png", "--outpaint", "9999999,0,0,0"], "cells"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], args: list[str], sentence: str
) -> None:
    (here / "folder.png").mkdir()
    assert sentence in refused(capsys, "generate", "image", "--model", "../bundle", *args)
    assert [path.name for path in here.iterdir()] == ["folder.png"]


@pytest.mark.parametrize(
    "name", ["bundle.json", "weights.safetensors", "tokenizers/image/weights.safetensors", "tokenizers/text/tokenizer.json"]
)
def test_one_flipped_byte_in_a_bundle_is_refused(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = here.parent / "bundle" / name
    data = bytearray(path.read_bytes())
    place = data.index(b"dim") if name == "bundle.json" else len(data) // 2
    data[place] ^= 1
    path.write_bytes(data)
    assert "is damaged" in refused(capsys, "generate", "image", PROMPT, "--model", "../bundle")
    assert not list(here.iterdir())


def test_another_tokenizer_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_bpe(["other words"] * 9, 260).save(here.parent / "bundle" / "tokenizers" / "text")
    assert "fingerprint" in refused(capsys, "generate", "image", PROMPT, "--model", "../bundle")


def written(config: dict[str, object], path: str = "config.yaml") -> Path:
    Path(path).write_text(yaml.safe_dump(config))
    return Path(path)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (("model", "init_args", "max_stepz"), 3, "max_stepz"),
        (("trainer", "max_stepz"), 3, "max_stepz"),
        (("nonsense",), 3, "nonsense"),
        (("data", "init_args", "batch"), 3, "batch"),
        (("model", "init_args", "lr"), "fast", "lr"),
        (("model", "class_path"), "maskgen.training.modules.masked.NoSuchModule", "NoSuchModule"),
    ],
)
def test_a_bad_configuration_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], place: tuple[str, ...], value: object, sentence: str
) -> None:
    config = yaml.safe_load(yaml.safe_dump(FIT))
    part = config
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    assert sentence in refused(capsys, "fit", "--config", written(config))
    assert [path.name for path in here.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    "class_path",
    ["os.system", "subprocess.Popen", "torch.load", "canary.Canary", "maskgen.cli.main.sys.exit", "maskgen.io.files.os.system"],
)
@pytest.mark.parametrize("place", ["model", "data", "quantizer", "callback"])
def test_a_class_path_outside_the_list_is_neither_imported_nor_run(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, class_path: str, place: str
) -> None:
    (here / "canary.py").write_text("from pathlib import Path\nPath('sang').touch()\nclass Canary:\n    def __init__(self): pass\n")
    monkeypatch.syspath_prepend(str(here))
    config = yaml.safe_load(yaml.safe_dump(FIT))
    bad = {"class_path": class_path, "init_args": {"command": "touch sang", "args": "touch sang"}}
    if place == "quantizer":
        config["model"]["init_args"]["quantizer"] = bad
    elif place == "callback":
        config["trainer"]["callbacks"] = [bad]
    else:
        config[place] = bad
    said = refused(capsys, "fit", "--config", written(config))
    assert class_path in said
    assert not (here / "sang").exists()
    assert "canary" not in sys.modules


def test_a_class_path_that_names_nothing_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for class_path in ("maskgen.tokenizers.image.Nothing", "maskgen.nothing.Nothing"):
        config = yaml.safe_load(yaml.safe_dump(FIT)) | {"model": {"class_path": class_path}}
        assert class_path in refused(capsys, "fit", "--config", written(config))


def test_a_missing_or_broken_configuration_is_one_sentence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "configuration nothing.yaml does not exist" in refused(capsys, "fit", "--config", "nothing.yaml")
    assert "configuration nothing.yaml does not exist" in refused(capsys, "fit", "--config=nothing.yaml")
    Path("broken.yaml").write_text("model: [")
    refused(capsys, "fit", "--config", "broken.yaml")
    refused(capsys, "fit")


def test_missing_shards_end_with_a_sentence_after_what_lightning_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(written(FIT)), "--trainer.logger=false", "--trainer.accelerator=cpu"])
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("maskgen: error: nowhere/index.json does not exist")


TOKENIZERS = ["--text", "../bundle/tokenizers/text", "--image", "../bundle/tokenizers/image"]


@pytest.mark.parametrize(
    "args",
    [
        ["data", "build", "nothing.yaml"],
        ["data", "tokenize", "nothing", "--out", "tokens", *TOKENIZERS],
        ["data", "text-tokenizer", "nothing.yaml"],
        ["export", "image-tokenizer", "nothing.ckpt", "--out", "bundle"],
        ["export", "model", "nothing.ckpt", "--out", "bundle", *TOKENIZERS],
        ["export", "model", "../picture.png", "--out", "bundle", *TOKENIZERS],
        ["export", "model", "nothing.ckpt", "--out", "bundle", "--generation", "nothing.yaml", *TOKENIZERS],
        ["evaluate", "image", "--model", "nothing"],
        ["evaluate", "tokenizer", "--tokenizer", "../bundle"],
        ["export", "critic", "nothing.ckpt", "--out", "critic"],
        ["export", "shortcut", "nothing.ckpt", "--out", "shortcut"],
        ["tune", "--model", "nothing", "--try", "steps=4"],
        ["tune", "--model", "../bundle", "--try", "steps=4", "--split", "A"],
        ["tune", "--model", "../bundle", "--try", "steps"],
        ["tune", "--model", "../bundle", "--try", "steps=4", "--rows", "0"],
        ["compare", "samplers", "--model", "nothing"],
        ["compare", "samplers", "--config", "nothing.yaml"],
    ],
)
def test_other_verbs_refuse_missing_files_too(here: Path, capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    refused(capsys, *args)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("args", "usage"), [([], "usage: maskgen"), (["generate"], "usage: maskgen generate"), (["compare"], "usage: maskgen compare")]
)
def test_a_call_without_verb_shows_the_usage(capsys: pytest.CaptureFixture[str], args: list[str], usage: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(usage)
    assert lines[-1].startswith("maskgen: error: ")


@pytest.mark.parametrize("args", [["--help"], ["generate", "image", "--help"], ["tune", "--help"]])
def test_help_is_fast_and_needs_no_torch(args: list[str]) -> None:
    run = "from maskgen.cli.main import main\ntry:\n    main(sys.argv[1:])"
    code = f"import sys\n{run}\nfinally:\n    assert 'torch' not in sys.modules, 'torch'"
    started_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    elapsed_s = time.perf_counter() - started_s
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: maskgen")
    assert elapsed_s < 1.0 or _cpu_s(code, args) < 1.0


def _cpu_s(code: str, args: list[str]) -> float:
    """Processor time of the call, which a busy machine does not stretch."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code, *args], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_installed_command_ends_with_code_2_and_no_traceback(here: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "maskgen", "generate", "image", "", "--model", "../bundle"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "maskgen: error: the prompt is empty; say what the output shows or says\n"
    assert not list(here.iterdir())
