"""Any direction: every target from every subset of the others with any known cells; chains; the verbs and what they refuse."""

import argparse
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.any_to_any import BRIDGED, SIZES, TOWERS, write_any
from PIL import Image

from maskgen.cli.main import main
from maskgen.cli.options import pipeline_of
from maskgen.decoding.settings import GenerationSettings
from maskgen.io.audio import Waveform, write_sound
from maskgen.io.letterbox import letterbox
from maskgen.pipelines.any_to_any import AnyToAnyPipeline
from maskgen.pipelines.base import Pipeline
from maskgen.processors.text import prompt_codes, with_holes
from maskgen.scoring.estimators import ScoreSettings
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokens.batch import UNKNOWN

Row = Mapping[str, torch.Tensor]
SHAPES = {"text": (1, 5), "image": (2, 4, 4), "audio": (3, 12), "transcript": (1, 6)}


@pytest.fixture(scope="module", params=[SIZES, TOWERS, BRIDGED], ids=["one", "towers", "bridged"])
def bundle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_text: TextTokenizer, tiny_image: ImageTokenizer
) -> Path:
    return write_any(tmp_path_factory.mktemp("any") / "bundle", tiny_text, tiny_image, request.param)


@pytest.fixture(scope="module")
def model(bundle: Path) -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained(bundle)


def codes(model: AnyToAnyPipeline, name: str, seed: int) -> torch.Tensor:
    size = model.space.segment(name, 0).size
    top = min(size, 38) if name == "phones" else size
    return torch.randint(top, SHAPES[name], generator=torch.Generator().manual_seed(seed))


def recording(seconds: float = 0.5) -> Waveform:
    noise = np.random.default_rng(0).standard_normal((1, round(seconds * 16_000))).astype(np.float32)
    return Waveform(samples=0.1 * noise.clip(-3, 3), sample_rate_hz=16_000)


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (41, 33, 3), dtype=np.uint8))


@pytest.mark.parametrize("target", SHAPES)
@pytest.mark.parametrize("share", [pytest.param(0.0, marks=pytest.mark.slow), 0.5, pytest.param(0.9, marks=pytest.mark.slow)])
def test_every_target_from_every_subset_with_any_known_cells(model: AnyToAnyPipeline, target: str, share: float) -> None:
    """One batch that mixes all directions to a target equals its rows alone; known cells stay; codes are of the target's own levels."""
    others = [name for name in SHAPES if name != target]
    subsets = [some for count in range(len(others) + 1) for some in combinations(others, count)]
    rows: list[dict[str, torch.Tensor]] = []
    for seed, subset in enumerate(subsets):
        known = codes(model, target, 100 + seed)
        hidden = torch.rand(known.shape[1:], generator=torch.Generator().manual_seed(seed)) >= share
        rows.append({**{name: codes(model, name, seed) for name in subset}, target: torch.where(hidden, UNKNOWN, known)})
    seeds = list(range(len(rows)))
    together = model.generate(rows, target, seeds, batch_invariant=True)
    size = model.space.segment(target, 0).size
    for place, (row, made) in enumerate(zip(rows, together.codes, strict=True)):
        assert made.shape == row[target].shape
        assert int(made.min()) >= 0
        assert int(made.max()) < size
        assert made[row[target] != UNKNOWN].equal(row[target][row[target] != UNKNOWN])
        if place % 3 == 0:
            assert model.generate([row], target, [place]).codes[0].equal(made)


def test_each_call_takes_the_shortest_chain(model: AnyToAnyPipeline) -> None:
    wave = recording()
    assert model(target=["text"], image=picture()).steps == ["image > text"]
    heard = model(target=["text"], audio=wave)
    assert heard.steps == ["audio > text"]
    assert heard.transcript is not None
    assert heard.text == heard.transcript.text
    assert heard.transcript.seconds == pytest.approx(0.5)
    assert model(target=["image"], audio=wave).steps == ["audio > text", "text > image"]
    drawn, words = model(target=["image"], audio=wave, source="audio"), ["audio > text"] if model.crosses else []
    assert drawn.steps == [*words, "audio > image"]
    assert (drawn.transcript is not None) == model.crosses
    both = model("a red heart", target=["image", "audio"])
    assert both.steps == ["text > image", "text > audio"]
    assert both.images[0].size == (32, 32)
    assert both.speech[0].seconds > 0.2
    assert both.model_calls > 10


def test_a_text_beside_a_sound_says_what_the_sound_does_not(model: AnyToAnyPipeline) -> None:
    """Via the words it ends the caption; directly it stands in the row beside what is heard, and changes the picture."""
    wave, style = recording(), " flat style "
    heard = model(target=["text"], audio=wave).text
    assert heard
    drawn = model(style, target=["image"], audio=wave)
    assert (drawn.text, drawn.steps) == (heard, ["audio > text", "text > image"])
    written, bare = (model(text, target=["image"]).generations[-1].log_probabilities[0] for text in (f"{heard}, flat style", heard))
    assert drawn.generations[-1].log_probabilities[0].equal(written)
    assert not written.equal(bare)
    directly = model(style, target=["image"], audio=wave, source="audio")
    assert directly.steps[-1] == "audio + text > image"
    known = {"audio": model.speech.codes_of(wave), **prompt_codes(model.tokenizers["text"], style)}
    if model.crosses:
        known["transcript"] = directly.generations[0].codes[0]
    assert directly.generations[-1].codes[0].equal(model.generate([known], "image", [0]).codes[0])
    plain = model(target=["image"], audio=wave, source="audio").generations[-1]
    assert not torch.equal(directly.generations[-1].log_probabilities[0], plain.log_probabilities[0])


def test_words_too_long_for_a_caption_are_named_so(model: AnyToAnyPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskgen.tokenizers.base.Tokenizer.longest_prompt", 0)
    with pytest.raises(ValueError, match=r"heard \d+ words, too long for a caption .*--source audio"):
        model(target=["image"], audio=recording())
    model(target=["image"], audio=recording(), source="audio")


def test_texts_are_judged_by_a_sound_over_every_way_to_lay_them_along_it(model: AnyToAnyPipeline) -> None:
    """Beside the pseudo-likelihood of each way in one fold, which is one pass with all slots masked."""
    wave, pipeline = recording(0.3), model
    heard, scribe = model.speech.codes_of(wave), model.scribe
    count = scribe.slots(heard.shape[1])
    texts = ["a", "b a", "red"]
    found = model.align(wave, [*texts, "a heart " * 40])
    assert found[-1].place == 3
    assert (found[-1].probability, found[-1].candidate["transcript"]) == (0.0, None)
    assert sum(one.probability for one in found) == pytest.approx(1.0)
    for one in found[:3]:
        codes = [code for word in texts[one.place].split() for code in scribe.spelled(word)]
        ways = list(combinations(range(count), len(codes)))
        grids = torch.full((len(ways), 1, count), scribe.empty)
        for grid, places in zip(grids, ways, strict=True):
            grid[0, list(places)] = torch.tensor(codes)
        rows = [{"audio": heard, "transcript": grid} for grid in grids]
        each = torch.tensor([way.total for way in pipeline.score(rows, "transcript", settings=ScoreSettings(estimator="pseudo", folds=1))])
        assert one.score.total == pytest.approx(float(each.logsumexp(dim=0)), abs=1e-3)
        assert one.candidate["transcript"] == scribe.decode([grids[int(each.argmax())]])[0]
    with pytest.raises(ValueError, match="found no text"):
        model.align(wave, [])


def test_specialists_draw_and_speak_in_its_place(bundle: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "with")
    (folder / "specialists.json").write_text(json.dumps({"image": os.path.relpath(tiny_bundle, folder)}))
    drawn, own = (AnyToAnyPipeline.from_pretrained(folder, specialists=some)("a red heart", target=["image"]) for some in (True, False))
    wanted = Pipeline.from_pretrained(tiny_bundle).generate([{"text": "a red heart"}], "image", [0])
    assert drawn.generations[0].codes[0].equal(wanted.codes[0])
    assert not own.generations[0].codes[0].equal(wanted.codes[0])
    for text, message in (("[1]", "maps image and speech"), ('{"film": "x"}', "for film")):
        (folder / "specialists.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            AnyToAnyPipeline.from_pretrained(folder)


def test_specialists_follow_the_machine_and_their_own_settings(bundle: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "with")
    (folder / "specialists.json").write_text(json.dumps({"image": os.path.relpath(tiny_bundle, folder)}))
    args = argparse.Namespace(
        model=str(folder), device="cpu", dtype="bfloat16", variant=None, revision=None, local_files_only=False, int8=False, compile=False
    )
    model = pipeline_of(args, "AnyToAnyPipeline", specialists=True)
    assert {one.dtype for one in (model, model.specialists["image"])} == {torch.bfloat16}
    assert model.decoder_of("image") is model.specialists["image"]
    assert model.decoder_of("image", from_audio=True) is model.decoder_of("text") is model.decoder_of("audio") is model


def test_pictures_are_laid_on_white_and_prompts_are_stripped_as_elsewhere(model: AnyToAnyPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    encode = model.tokenizers["image"].encode

    def watched(pictures: Sequence[Image.Image]) -> list[torch.Tensor]:
        seen.extend(one.tobytes() for one in pictures)
        return encode(pictures)

    monkeypatch.setattr(model.tokenizers["image"], "encode", watched)
    model(target=["text"], image=Image.new("RGBA", (64, 64), (0, 0, 0, 0)))
    assert seen == [Image.new("RGB", (32, 32), "white").tobytes()]
    drawn, plain = (model(text, target=["image"]).generations[0].codes[0] for text in (" a red heart ", "a red heart"))
    assert drawn.equal(plain)


def test_the_same_seed_gives_the_same_media(model: AnyToAnyPipeline) -> None:
    first, second, other = (model("a red heart", target=["image"], seed=seed).images[0] for seed in (3, 3, 4))
    assert first.tobytes() == second.tobytes() != other.tobytes()


@pytest.mark.parametrize(("medium", "target"), [({"image": picture()}, "text"), ({"audio": recording()}, "transcript")])
def test_of_several_candidates_the_likeliest_is_kept(model: AnyToAnyPipeline, medium: dict[str, Any], target: str) -> None:
    chosen = model(target=["text"], **medium, seed=5, candidates=4, batch_invariant=True)
    assert len(chosen.generations[0].codes) == 4
    alone = [model(target=["text"], **medium, seed=5 + number) for number in range(4)]
    for number, one in enumerate(alone):
        assert chosen.generations[0].codes[number].equal(one.generations[0].codes[0])
    known = (
        {"image": model.tokenizers["image"].encode([letterbox(picture(), model.tokenizers["image"].size)])[0]}
        if target == "text"
        else {"audio": model.speech.codes_of(recording())}
    )
    scores = [model.score([{**known, target: one.generations[0].codes[0]}], target)[0] for one in alone]
    best = max(range(4), key=lambda number: scores[number].total)
    assert chosen.text == alone[best].text
    assert len({one.text for one in alone}) > 1
    assert chosen.model_calls == sum(one.model_calls for one in alone) + sum(score.model_calls for score in scores)
    with pytest.raises(ValueError, match="candidates must be at least 1, got 0"):
        model(target=["text"], **medium, candidates=0)


def test_a_text_ends_at_its_first_end_code(model: AnyToAnyPipeline, tiny_text: TextTokenizer) -> None:
    end = model.space.modality("text").end
    assert end == tiny_text.end
    words = tiny_text.encode(["a cat"])[0]
    known = torch.cat([words, torch.tensor([[end, int(words[0, 0])]])], dim=1)
    assert model.generate([{"text": known}], "text", [0]).media == ["a cat"]


def test_holes_are_filled_and_nothing_else(model: AnyToAnyPipeline, tiny_text: TextTokenizer) -> None:
    known = with_holes("a [2] heart", tiny_text)
    made = model.generate([{"text": known}], "text", [1]).codes[0]
    assert int((known == UNKNOWN).sum()) == 2
    assert made[known != UNKNOWN].equal(known[known != UNKNOWN])
    for bad in ("a heart", "a [0] heart", "a [999] heart"):
        with pytest.raises(ValueError, match=r"has no hole to fill; write \[3\]"):
            with_holes(bad, tiny_text)


@pytest.mark.parametrize(
    ("targets", "given", "message"),
    [
        (["image"], {}, "exactly one"),
        (["image"], {"prompt": "a", "image": picture()}, "got text and image"),
        (["film"], {"prompt": "a"}, "one or several of text, image, audio"),
        ([], {"prompt": "a"}, "target is an empty list"),
        (["image", "image"], {"prompt": "a"}, "each once"),
        (["image"], {"image": picture()}, "is given and asked for"),
        (["audio"], {"prompt": "  "}, "found no words"),
        (["image", "audio"], {"prompt": "heart " * 200}, "at most 64 are taken"),
        (["text"], {"prompt": "no hole"}, "has no hole to fill"),
        (["text"], {"audio": recording(), "source": "audio"}, "ask for an image"),
        (["image", "text"], {"audio": recording(), "guidance_scale": 2.0}, "is for one target"),
        (
            ["audio"],
            {"prompt": "a", "settings": {"speech": GenerationSettings()}},
            "settings for speech; text, transcript, image, audio are decoded",
        ),
        (["image"], {"audio": Waveform(samples=np.zeros((1, 16_000), np.float32), sample_rate_hz=16_000)}, "silent"),
        (["text"], {"audio": Waveform(samples=np.full((1, 100), np.nan, np.float32), sample_rate_hz=16_000)}, "NaN|infinit"),
    ],
)
def test_what_cannot_be_meant_is_refused(model: AnyToAnyPipeline, targets: list[str], given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(target=targets, **given)  # type: ignore[arg-type]


def test_the_verbs(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    picture().save("picture.png")
    write_sound(recording(), tmp_path / "clip.wav")
    main(["generate", "text", "--image", "picture.png", "--model", str(bundle)])
    main(["generate", "text", "--audio", "clip.wav", "--model", str(bundle), "--out", "said.json", "--candidates", "2"])
    main(["generate", "text", "a [2] heart", "--image", "picture.png", "--model", str(bundle), "--out", "filled.txt"])
    main(["generate", "image", "--audio", "clip.wav", "--model", str(bundle), "--out", "heard.png"])
    main(["generate", "image", "--audio", "clip.wav", "--source", "audio", "--model", str(bundle), "--out", "direct.png"])
    wanted = AnyToAnyPipeline.from_pretrained(bundle)(target=["image"], audio=recording(), source="audio").images[0]
    assert Image.open("direct.png").tobytes() == wanted.tobytes()
    main(["generate", "any", "a red heart", "--target", "image,audio", "--model", str(bundle), "--out", "both"])
    assert "text > image, text > audio" in capsys.readouterr().out
    main(["score", "a red heart", "a cat", "--audio", "clip.wav", "--model", str(bundle), "--json"])
    first, second = json.loads(capsys.readouterr().out)
    assert first["log_likelihood"] >= second["log_likelihood"]
    assert {first["text"], second["text"]} == {"a red heart", "a cat"}
    assert " ".join(one["word"] for one in first["words"]) == first["text"]
    main(["score", "a red heart", "a cat", "--audio", "clip.wav", "--model", str(bundle)])
    assert Path("both.png").is_file()
    assert Path("both.wav").is_file()
    assert not Path("both.txt").exists()
    assert Image.open("heard.png").size == (32, 32)
    assert Path("filled.txt").read_text().startswith("a")
    assert '"words"' in Path("said.json").read_text()
    assert "one pass for all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["text"], "give a text with holes or a message, --image, --audio or --length, got none"),
        (["text", "no hole"], "has no hole"),
        (["text", "[2]", "--audio", "clip.wav"], "got prompt and audio"),
        (["image", "a heart", "a cat", "--audio", "clip.wav"], "do not go together"),
        (["image", " ", "--audio", "clip.wav"], "the prompt next to --audio is empty"),
        (["image", "a heart", "--source", "audio"], "--source says how a recording is drawn"),
        (["image", "--audio", "clip.wav", "--strength", "0.5"], "--audio and --strength do not go together"),
        (["any", "flat style", "--target", "image,text", "--audio", "clip.wav"], "give exactly one of"),
        (["image", "--audio", "missing.wav"], "missing.wav"),
        (["speech"], "either a text to speak or --image"),
        (["score", "a heart"], "neither of --image and --audio"),
        (["score", "a heart", "--audio", "clip.wav", "--image", "picture.png"], "both of --image and --audio"),
        (["score", "a heart", "--audio", "clip.wav", "--samples", "4"], "--samples is for --image"),
        (["score", "a heart", " ", "--audio", "clip.wav"], "a text without a word"),
        (["score", "a heart " * 40, "--audio", "clip.wav"], "codes or more, wanted texts that may be said"),
        (["speech", "--image", "picture.png", "--speed", "2"], "takes no"),
        (["any", "a heart", "--target", "image,audio", "--num-inference-steps", "3"], "is for one target"),
        (["any", "--target", "text,image", "--image", "picture.png"], "is given and asked for"),
    ],
)
def test_bad_calls_end_with_one_sentence(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    picture().save("picture.png")
    write_sound(recording(), tmp_path / "clip.wav")
    with pytest.raises(SystemExit) as stop:
        main([*(["generate"] if call[0] != "score" else []), *call, "--model", str(bundle)])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("\n") == 1
    assert message in said
