"""Any direction: every target from every subset of the others with any known cells; chains; the verbs and what they refuse."""

import argparse
import json
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

from maskgen.cli.generate_text import any_to_any
from maskgen.cli.main import main
from maskgen.decoding.settings import GenerationSettings
from maskgen.io.audio import Waveform, write_sound
from maskgen.io.letterbox import letterbox
from maskgen.pipelines.any_to_any import AnyToAny
from maskgen.pipelines.base import Pipeline
from maskgen.scoring.likelihood import ScoreSettings
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer, with_holes
from maskgen.tokens.batch import UNKNOWN

Row = Mapping[str, torch.Tensor]
SHAPES = {"text": (1, 5), "image": (2, 4, 4), "audio": (3, 12), "transcript": (1, 6)}


@pytest.fixture(scope="module", params=[SIZES, TOWERS, BRIDGED], ids=["one", "towers", "bridged"])
def bundle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_text: TextTokenizer, tiny_image: ImageTokenizer
) -> Path:
    return write_any(tmp_path_factory.mktemp("any") / "bundle", tiny_text, tiny_image, request.param)


@pytest.fixture(scope="module")
def model(bundle: Path) -> AnyToAny:
    return AnyToAny.from_pretrained(bundle)


def codes(model: AnyToAny, name: str, seed: int) -> torch.Tensor:
    size = model.pipeline.space.segment(name, 0).size
    top = min(size, 38) if name == "phones" else size
    return torch.randint(top, SHAPES[name], generator=torch.Generator().manual_seed(seed))


def recording(seconds: float = 0.5) -> Waveform:
    noise = np.random.default_rng(0).standard_normal((1, round(seconds * 16_000))).astype(np.float32)
    return Waveform(samples=0.1 * noise.clip(-3, 3), sample_rate_hz=16_000)


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (41, 33, 3), dtype=np.uint8))


@pytest.mark.parametrize("target", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_every_target_from_every_subset_with_any_known_cells(model: AnyToAny, target: str, share: float) -> None:
    """One batch that mixes all directions to a target equals its rows alone; known cells stay; codes are of the target's own levels."""
    others = [name for name in SHAPES if name != target]
    subsets = [some for count in range(len(others) + 1) for some in combinations(others, count)]
    rows: list[dict[str, torch.Tensor]] = []
    for seed, subset in enumerate(subsets):
        known = codes(model, target, 100 + seed)
        hidden = torch.rand(known.shape[1:], generator=torch.Generator().manual_seed(seed)) >= share
        rows.append({**{name: codes(model, name, seed) for name in subset}, target: torch.where(hidden, UNKNOWN, known)})
    seeds = list(range(len(rows)))
    together = model.pipeline.generate(rows, target, seeds)
    size = model.pipeline.space.segment(target, 0).size
    for place, (row, made) in enumerate(zip(rows, together.codes, strict=True)):
        assert made.shape == row[target].shape
        assert int(made.min()) >= 0
        assert int(made.max()) < size
        assert made[row[target] != UNKNOWN].equal(row[target][row[target] != UNKNOWN])
        if place % 3 == 0:
            assert model.pipeline.generate([row], target, [place]).codes[0].equal(made)


def test_each_call_takes_the_shortest_chain(model: AnyToAny) -> None:
    wave = recording()
    assert model(["text"], image=picture()).steps == ["image > text"]
    heard = model(["text"], sound=wave)
    assert heard.steps == ["speech > text"]
    assert heard.transcript is not None
    assert heard.text == heard.transcript.text
    assert heard.transcript.seconds == pytest.approx(0.5)
    assert model(["image"], sound=wave).steps == ["speech > text", "text > image"]
    drawn, words = model(["image"], sound=wave, directly=True), ["speech > text"] if model.crosses else []
    assert drawn.steps == [*words, "speech > image"]
    assert (drawn.transcript is not None) == model.crosses
    both = model(["image", "speech"], text="a red heart")
    assert both.steps == ["text > image", "text > speech"]
    assert both.image is not None
    assert both.image.size == (32, 32)
    assert both.speech is not None
    assert both.speech.seconds > 0.2
    assert both.passes > 10


def test_a_text_beside_a_sound_says_what_the_sound_does_not(model: AnyToAny) -> None:
    """Via the words it ends the caption; directly it stands in the row beside what is heard, and changes the picture."""
    wave, style = recording(), " flat style "
    heard = model(["text"], sound=wave).text
    assert heard
    drawn = model(["image"], sound=wave, text=style)
    assert (drawn.text, drawn.steps) == (heard, ["speech > text", "text > image"])
    written, bare = (model(["image"], text=text).outputs[-1].log_probabilities[0] for text in (f"{heard}, flat style", heard))
    assert drawn.outputs[-1].log_probabilities[0].equal(written)
    assert not written.equal(bare)
    directly = model(["image"], sound=wave, text=style, directly=True)
    assert directly.steps[-1] == "speech + text > image"
    known = {"audio": model.voice.codes_of(wave), **model.pipeline.text_codes(style)}
    if model.crosses:
        known["transcript"] = directly.outputs[0].codes[0]
    assert directly.outputs[-1].codes[0].equal(model.pipeline.generate([known], "image", [0]).codes[0])
    plain = model(["image"], sound=wave, directly=True).outputs[-1]
    assert not torch.equal(directly.outputs[-1].log_probabilities[0], plain.log_probabilities[0])


def test_words_too_long_for_a_caption_are_named_so(model: AnyToAny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskgen.pipelines.base.LONGEST_PROMPT", 0)
    with pytest.raises(ValueError, match=r"heard \d+ words, too long for a caption .*--directly"):
        model(["image"], sound=recording())
    model(["image"], sound=recording(), directly=True)


def test_texts_are_judged_by_a_sound_over_every_way_to_lay_them_along_it(model: AnyToAny) -> None:
    """Beside the pseudo-likelihood of each way in one fold, which is one pass with all slots masked."""
    wave, pipeline = recording(0.3), model.pipeline
    heard, scribe = model.voice.codes_of(wave), model.scribe
    count = scribe.slots(heard.shape[1])
    texts = ["a", "b a", "red"]
    found = model.which(wave, [*texts, "a heart " * 40])
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
        model.which(wave, [])


def test_specialists_draw_and_speak_in_its_place(bundle: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "with")
    (folder / "specialists.json").write_text(json.dumps({"image": str(tiny_bundle)}))
    drawn, own = (AnyToAny.from_pretrained(folder, alone=alone)(["image"], text="a red heart") for alone in (False, True))
    wanted = Pipeline.from_pretrained(tiny_bundle).generate([{"text": "a red heart"}], "image", [0])
    assert drawn.outputs[0].codes[0].equal(wanted.codes[0])
    assert not own.outputs[0].codes[0].equal(wanted.codes[0])
    for text, message in (("[1]", "maps image and speech"), ('{"film": "x"}', "for film")):
        (folder / "specialists.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            AnyToAny.from_pretrained(folder)


def test_specialists_follow_the_machine_and_their_own_settings(bundle: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "with")
    (folder / "specialists.json").write_text(json.dumps({"image": str(tiny_bundle)}))
    args = argparse.Namespace(model=str(folder), alone=False, device="cpu", dtype="bfloat16", int8=False, compile=False)
    model = any_to_any(args)
    assert model.specialists.pictures is not None
    assert {one.model.embed.weight.dtype for one in (model.pipeline, model.specialists.pictures)} == {torch.bfloat16}
    assert model.decoder_of("image") is model.specialists.pictures
    assert model.decoder_of("image", directly=True) is model.decoder_of("text") is model.decoder_of("audio") is model.pipeline


def test_pictures_are_laid_on_white_and_prompts_are_stripped_as_elsewhere(model: AnyToAny, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    encode = model.pictures.encode

    def watched(pictures: Sequence[Image.Image]) -> list[torch.Tensor]:
        seen.extend(one.tobytes() for one in pictures)
        return encode(pictures)

    monkeypatch.setattr(model.pictures, "encode", watched)
    model(["text"], image=Image.new("RGBA", (64, 64), (0, 0, 0, 0)))
    assert seen == [Image.new("RGB", (32, 32), "white").tobytes()]
    drawn, plain = (model(["image"], text=text).outputs[0].codes[0] for text in (" a red heart ", "a red heart"))
    assert drawn.equal(plain)


def test_the_same_seed_gives_the_same_media(model: AnyToAny) -> None:
    first, second, other = (model(["image"], text="a red heart", seed=seed).image for seed in (3, 3, 4))
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.tobytes() == second.tobytes() != other.tobytes()


@pytest.mark.parametrize(("medium", "target"), [({"image": picture()}, "text"), ({"sound": recording()}, "transcript")])
def test_of_several_candidates_the_likeliest_is_kept(model: AnyToAny, medium: dict[str, Any], target: str) -> None:
    chosen = model(["text"], **medium, seed=5, candidates=4)
    assert len(chosen.outputs[0].codes) == 4
    alone = [model(["text"], **medium, seed=5 + number) for number in range(4)]
    for number, one in enumerate(alone):
        assert chosen.outputs[0].codes[number].equal(one.outputs[0].codes[0])
    known = (
        {"image": model.pictures.encode([letterbox(picture(), model.pictures.size)])[0]}
        if target == "text"
        else {"audio": model.voice.codes_of(recording())}
    )
    scores = [model.pipeline.score([{**known, target: one.outputs[0].codes[0]}], target)[0] for one in alone]
    best = max(range(4), key=lambda number: scores[number].total)
    assert chosen.text == alone[best].text
    assert len({one.text for one in alone}) > 1
    assert chosen.passes == sum(one.passes for one in alone) + sum(score.model_calls for score in scores)
    with pytest.raises(ValueError, match="candidates must be at least 1, got 0"):
        model(["text"], **medium, candidates=0)


def test_a_text_ends_at_its_first_end_code(model: AnyToAny, tiny_text: TextTokenizer) -> None:
    end = model.pipeline.space.modality("text").end
    assert end == tiny_text.end
    words = tiny_text.encode(["a cat"])[0]
    known = torch.cat([words, torch.tensor([[end, int(words[0, 0])]])], dim=1)
    assert model.pipeline.generate([{"text": known}], "text", [0]).media == ["a cat"]


def test_holes_are_filled_and_nothing_else(model: AnyToAny, tiny_text: TextTokenizer) -> None:
    known = with_holes("a [2] heart", tiny_text)
    made = model.pipeline.generate([{"text": known}], "text", [1]).codes[0]
    assert int((known == UNKNOWN).sum()) == 2
    assert made[known != UNKNOWN].equal(known[known != UNKNOWN])
    for bad in ("a heart", "a [0] heart", "a [999] heart"):
        with pytest.raises(ValueError, match=r"has no hole to fill; write \[3\]"):
            with_holes(bad, tiny_text)


@pytest.mark.parametrize(
    ("targets", "given", "message"),
    [
        (["image"], {}, "exactly one"),
        (["image"], {"text": "a", "image": picture()}, "got text and image"),
        (["film"], {"text": "a"}, "ask for some of text, image, speech"),
        ([], {"text": "a"}, "got none"),
        (["image", "image"], {"text": "a"}, "each once"),
        (["image"], {"image": picture()}, "is given and asked for"),
        (["speech"], {"text": "  "}, "found no words"),
        (["image", "speech"], {"text": "heart " * 200}, "at most 64 are taken"),
        (
            ["speech"],
            {"text": "a", "settings": {"speech": GenerationSettings()}},
            "settings for speech; text, transcript, image, audio are decoded",
        ),
        (["image"], {"sound": Waveform(samples=np.zeros((1, 16_000), np.float32), sample_rate_hz=16_000)}, "silent"),
        (["text"], {"sound": Waveform(samples=np.full((1, 100), np.nan, np.float32), sample_rate_hz=16_000)}, "NaN|infinit"),
    ],
)
def test_what_cannot_be_meant_is_refused(model: AnyToAny, targets: list[str], given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(targets, **given)  # type: ignore[arg-type]


def test_the_verbs(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    picture().save("picture.png")
    write_sound(recording(), tmp_path / "clip.wav")
    main(["generate", "text", "--image", "picture.png", "--model", str(bundle)])
    main(["generate", "text", "--audio", "clip.wav", "--model", str(bundle), "--out", "said.json", "--candidates", "2"])
    main(["generate", "text", "a [2] heart", "--image", "picture.png", "--model", str(bundle), "--out", "filled.txt"])
    main(["generate", "image", "--audio", "clip.wav", "--model", str(bundle), "--out", "heard.png"])
    main(["generate", "image", "--audio", "clip.wav", "--directly", "--model", str(bundle), "--out", "direct.png"])
    wanted = AnyToAny.from_pretrained(bundle)(["image"], sound=recording(), directly=True).image
    assert wanted is not None
    assert Image.open("direct.png").tobytes() == wanted.tobytes()
    main(["generate", "image,speech", "a red heart", "--model", str(bundle), "--out", "both"])
    assert "text > image, text > speech" in capsys.readouterr().out
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
        (["text"], "exactly one"),
        (["text", "no hole"], "has no hole"),
        (["text", "[2]", "--audio", "clip.wav"], "leave out --audio"),
        (["image", "a heart", "a cat", "--audio", "clip.wav"], "do not go together"),
        (["image", " ", "--audio", "clip.wav"], "the prompt beside --audio is empty"),
        (["image", "a heart", "--directly"], "--directly draws a recording"),
        (["image", "--audio", "clip.wav", "--strength", "0.5"], "--audio and --strength do not go together"),
        (["image,text", "flat style", "--audio", "clip.wav"], "give exactly one of"),
        (["image", "--audio", "missing.wav"], "missing.wav"),
        (["speech"], "either a text to speak or --image"),
        (["score", "a heart"], "neither of --image and --audio"),
        (["score", "a heart", "--audio", "clip.wav", "--image", "picture.png"], "both of --image and --audio"),
        (["score", "a heart", "--audio", "clip.wav", "--samples", "4"], "--samples is for --image"),
        (["score", "a heart", " ", "--audio", "clip.wav"], "a text without a word"),
        (["score", "a heart " * 40, "--audio", "clip.wav"], "codes or more, wanted texts that may be said"),
        (["speech", "--image", "picture.png", "--speed", "2"], "takes no"),
        (["image,speech", "a heart", "--steps", "3"], "means one modality"),
        (["text,image", "--image", "picture.png"], "is given and asked for"),
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
