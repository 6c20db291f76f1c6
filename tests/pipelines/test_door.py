"""One door: the class that a model is for, everything saved, moving that fails safely, and names that are typed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.any_to_any import write_any

import maskgen
from maskgen.decoding.decoder import Helpers
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.critic import TokenCritic
from maskgen.networks.packed_linear import is_packed
from maskgen.networks.shortcut import ShortcutBlock, ShortcutConfig
from maskgen.networks.transformer import TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer

PROMPT = "a red heart, flat style"
SHIPPED = {"emoji-64": "TextToImagePipeline", "heart-16k": "TextToSpeechPipeline", "any-64": "AnyToAnyPipeline"}


@pytest.fixture(scope="module")
def any_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_text: TextTokenizer, tiny_image: ImageTokenizer) -> Path:
    return write_any(tmp_path_factory.mktemp("door") / "any", tiny_text, tiny_image)


def test_the_class_is_the_one_that_the_model_is_for(
    tiny_bundle: Path, any_bundle: Path, voice: maskgen.TextToSpeechPipeline, tmp_path: Path
) -> None:
    voice.save_pretrained(tmp_path / "voice")
    kinds = [type(Pipeline.from_pretrained(folder)).__name__ for folder in (tiny_bundle, tmp_path / "voice", any_bundle)]
    assert kinds == ["TextToImagePipeline", "TextToSpeechPipeline", "AnyToAnyPipeline"]
    for kind in (maskgen.TextToSpeechPipeline, maskgen.AnyToAnyPipeline, maskgen.TextGenerationPipeline):
        with pytest.raises(ValueError, match=r"is no model for .*; load it with TextToImagePipeline, or give another"):
            kind.from_pretrained(tiny_bundle)
    with pytest.raises(ValueError, match="lacks image"):
        maskgen.TextToImagePipeline.from_pretrained(tmp_path / "voice")


def test_folders_of_other_libraries_are_named(tmp_path: Path) -> None:
    for name, kind in (("model_index.json", "a diffusers pipeline"), ("config.json", "a transformers model")):
        folder = tmp_path / kind.split()[1]
        folder.mkdir()
        (folder / name).write_text("{}")
        with pytest.raises(ValueError, match=kind):
            Pipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match="pickles"):
        Pipeline.from_pretrained(tmp_path, use_safetensors=False)


def test_everything_that_was_loaded_is_saved(any_bundle: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(any_bundle, tmp_path / "with")
    (folder / "specialists.json").write_text(json.dumps({"image": os.path.relpath(tiny_bundle, folder)}))
    whole = maskgen.AnyToAnyPipeline.from_pretrained(folder)
    whole.save_pretrained(tmp_path / "copy")
    shutil.rmtree(folder)
    again = maskgen.AnyToAnyPipeline.from_pretrained(tmp_path / "copy")
    assert list(again.specialists) == ["image"]
    for call in ({"prompt": PROMPT, "target": ["image", "audio"]}, {"image": np.zeros((32, 32, 3), np.uint8), "target": "text"}):
        ours, theirs = (one(**call) for one in (whole, again))
        assert all(
            a.equal(b) for a, b in zip((o.codes[0] for o in ours.generations), (o.codes[0] for o in theirs.generations), strict=True)
        )
        assert ours.texts == theirs.texts


def test_critics_and_shortcuts_are_saved_with_the_weights_they_belong_to(
    tiny_pipeline: maskgen.TextToImagePipeline, tmp_path: Path
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critic = TokenCritic(TransformerConfig(dim=32, num_layers=1, num_heads=2), tiny_pipeline.space, "image").eval()
        shortcut = ShortcutBlock(ShortcutConfig(dim=32, num_heads=2)).eval()
        for part in (critic, shortcut):
            for weight in part.parameters():
                weight.data = weight.data.half().float()
    pipe = maskgen.TextToImagePipeline(**{**tiny_pipeline.components, "helpers": Helpers(critic, shortcut)})
    pipe.save_pretrained(tmp_path / "copy")
    again = Pipeline.from_pretrained(tmp_path / "copy")
    for settings in (GenerationSettings(steps=(4, 2), sampler="critic"), GenerationSettings(steps=(4, 2), shortcut=2)):
        ours, theirs = (one.generate([pipe.text_codes(PROMPT)], "image", [1], settings).codes[0] for one in (pipe, again))
        assert ours.equal(theirs)


def test_weights_are_halved_only_where_none_changes(tiny_pipeline: maskgen.TextToImagePipeline, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "half")  # came from half precision
    exact = maskgen.TextToImagePipeline(**{**tiny_pipeline.components, "model": _finer(tiny_pipeline)})
    exact.save_pretrained(tmp_path / "whole")
    sizes = [(tmp_path / name / "weights.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[1] > 1.9 * sizes[0]
    again = Pipeline.from_pretrained(tmp_path / "whole").model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in exact.model.state_dict().items())


def _finer(pipeline: Pipeline) -> torch.nn.Module:
    """The model with weights that half precision cannot hold."""
    import copy

    model = copy.deepcopy(pipeline.model)
    with torch.no_grad():
        model.blocks[0].feed.out.weight += 1e-5
    return model


def test_moving_takes_all_forms_and_leaves_a_working_pipeline_when_it_fails(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = maskgen.TextToImagePipeline.from_pretrained(tiny_bundle)
    wanted = pipe(PROMPT).codes[0]
    for place in (("cpu",), (torch.bfloat16,), ("cpu", torch.float32), (torch.device("cpu"), torch.float32)):
        assert pipe.to(*place) is pipe
    assert pipe.to(dtype="bfloat16").dtype == torch.bfloat16
    pipe = maskgen.TextToImagePipeline.from_pretrained(tiny_bundle)
    for place, kind, sentence in (
        ("cuda:7", ValueError, "is not usable here"),
        ("nowhere", ValueError, "is not usable here"),
        ("meta", ValueError, "holds no weights"),
        (torch.int8, ValueError, "dtype must be float32"),
    ):
        with pytest.raises(kind, match=sentence):
            pipe.to(place)  # type: ignore[arg-type]
    moves: list[Any] = []
    own = pipe.tokenizers["image"].to  # type: ignore[attr-defined]

    def failing(device: Any) -> None:
        moves.append(device)
        if len(moves) == 1:
            raise RuntimeError("out of memory\nat line 3")
        own(device)

    monkeypatch.setattr(pipe.tokenizers["image"], "to", failing)
    with pytest.raises(ValueError, match=r"does not fit on cpu \(out of memory\); it stays where it was"):
        pipe.to("cpu", torch.bfloat16)
    assert len(moves) == 2
    assert pipe.dtype == torch.float32
    assert pipe(PROMPT).codes[0].equal(wanted)


def test_auto_precision_is_one_of_two_and_stays(tiny_bundle: Path) -> None:
    kinds = {Pipeline.from_pretrained(tiny_bundle, dtype="auto").dtype for _ in range(2)}
    assert len(kinds) == 1
    assert kinds <= {torch.float32, torch.bfloat16}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_saved_and_loaded_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    pipe = Pipeline.from_pretrained(name, specialists=False)
    assert type(pipe).__name__ == SHIPPED[name]
    pipe.save_pretrained(tmp_path / name)
    again = Pipeline.from_pretrained(tmp_path / name)
    few = {"num_inference_steps": [2, 1, 1]}
    calls: list[dict[str, Any]] = {
        "emoji-64": [{"prompt": PROMPT, **few}],
        "heart-16k": [{"prompt": "Hi."}],
        "any-64": [{"prompt": PROMPT, "target": "image", **few}, {"prompt": "a cat", "target": "audio"}],
    }[name]
    for call in calls:
        ours, theirs = (one(**call) for one in (pipe, again))  # type: ignore[operator]
        for left, right in zip(getattr(ours, "images", []), getattr(theirs, "images", []), strict=True):
            assert np.array_equal(np.asarray(left), np.asarray(right))
        for left, right in zip(getattr(ours, "audio", []), getattr(theirs, "audio", []), strict=True):
            assert np.array_equal(left.samples, right.samples)


def test_reprs_are_short(tiny_pipeline: maskgen.TextToImagePipeline, voice: maskgen.TextToSpeechPipeline, any_bundle: Path) -> None:
    both = maskgen.AnyToAnyPipeline.from_pretrained(any_bundle)
    spoken = voice("Hello there.")
    shown = [
        tiny_pipeline,
        tiny_pipeline(PROMPT, num_outputs=3),
        voice,
        spoken,
        spoken.audio[0],
        both,
        both(PROMPT, target=["image", "audio"]),
    ]
    assert all(len(repr(one)) < 250 for one in shown), [repr(one) for one in shown]
    assert "3 images of 32 x 32" in repr(shown[1])


WRONG_FOR_A_VOICE: list[tuple[str, str]] = [
    (
        'voice("Hi.", num_images_per_prompt=2)',
        "TypeError: TextToSpeechPipeline takes no argument 'num_images_per_prompt'.*give num_outputs",
    ),
    ('voice("Hi.", image="x.png")', "TypeError: .*takes no argument 'image'"),
    ('voice("Hi.", output_type="np")', "TypeError: .*takes no argument 'output_type'"),
    ('voice("Hi.", seconds="1")', "TypeError: seconds must be a number, got '1'"),
    ('voice("Hi.", audio=3)', "TypeError: audio is a int; give a path, bytes or an open file, a maskgen Waveform"),
    ('voice("Hi.", audio="clip.wav", span_s=(0, 1))', "ValueError: clip.wav does not exist"),
    ("voice(None)", "TypeError: prompt must be a text or a list of texts, got None"),
    ('voice.generate({"phones": "hi"}, "audio", [0])', "TypeError: known must be a list with one mapping"),
    ('voice.generate([{"phones": "hi"}], ["audio"], [0])', "TypeError: target must be the name of a modality"),
    ("voice.to(7)", "TypeError: to.. takes a device and a dtype, got 7"),
    ('maskgen.Pipeline.from_pretrained("emoji-64", dtype=3)', "TypeError: dtype must be"),
    ('maskgen.Pipeline.from_pretrained("emoji-64", device=3)', "TypeError: device must be a name"),
]
ASK = """
import json, sys
sys.path[:0] = sys.argv[1:]
import maskgen
from builders.voice import tiny_voice
from test_door import WRONG_FOR_A_VOICE
voice, answers = tiny_voice(), []
for call, _ in WRONG_FOR_A_VOICE:
    try:
        answers.append(f"nothing: {eval(call)!r}")
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}")
print(json.dumps(answers))
"""


def test_wrong_calls_of_a_voice_say_what_it_takes() -> None:
    """In a process of its own, where no type checker of the tests speaks first."""
    here = Path(__file__).parent
    ran = subprocess.run([sys.executable, "-c", ASK, str(here), str(here.parent)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    answers = json.loads(ran.stdout.splitlines()[-1])
    for answer, (call, sentence) in zip(answers, WRONG_FOR_A_VOICE, strict=True):
        assert re.match(sentence, answer), f"{call}: {answer}"


def test_several_texts_are_spoken_in_one_call_as_they_are_alone(voice: maskgen.TextToSpeechPipeline) -> None:
    texts = ["Hello there.", "Good bye. See you."]
    both = voice(texts, num_outputs=2, seed=3, batch_invariant=True)
    assert len(both.audio) == 4
    assert [len(one) for one in both.sentences] == [1, 2]
    for place, text in enumerate(texts):
        alone = voice(text, num_outputs=2, seed=3, batch_invariant=True)
        assert both.seeds[2 * place : 2 * place + 2] == alone.seeds
        assert all(np.array_equal(both.audio[2 * place + take].samples, alone.audio[take].samples) for take in range(2))


def test_the_door_is_typed_listed_and_needs_no_torch() -> None:
    assert dir(maskgen) == sorted(maskgen.__all__)
    assert all(getattr(maskgen, name) is not None for name in maskgen.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Voice'; it has AnyToAnyOutput"):
        _ = maskgen.Voice  # type: ignore[attr-defined]
    code = "import sys, maskgen; dir(maskgen); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).returncode == 0


@pytest.mark.slow  # mypy without its cache
def test_names_of_the_door_have_types(tmp_path: Path) -> None:
    """mypy sees classes, not Any: a wrong argument of a call is an error."""
    script = tmp_path / "user.py"
    script.write_text(
        "import maskgen\n"
        "pipe = maskgen.TextToImagePipeline.from_pretrained('emoji-64')\n"
        "reveal_type(pipe)\n"
        "pipe('a', seed=0, num_outputs=2)\n"
        "pipe('a', num_outputs='two')\n"
    )
    ran = subprocess.run([sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), str(script)], capture_output=True, text=True)
    assert "TextToImagePipeline" in ran.stdout
    assert 'user.py:5: error: Argument "num_outputs"' in ran.stdout
    assert "user.py:4" not in ran.stdout


def test_rows_of_one_length_go_together_with_packed_weights_and_keep_their_bits(tiny_bundle: Path) -> None:
    pipe = maskgen.TextToImagePipeline.from_pretrained(tiny_bundle).enable_packed_weights()
    assert is_packed(pipe.model)
    rows: list[int] = []
    watch = pipe.model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    try:
        together = pipe(PROMPT, num_outputs=4, seed=7)
        first, rows = rows, []
        again = pipe(PROMPT, num_outputs=4, seed=7)
    finally:
        watch.remove()
    for place in range(4):
        alone = pipe(PROMPT, seed=7 + place)
        assert together.codes[place].equal(alone.codes[0])
        assert together.log_probabilities[place].equal(alone.log_probabilities[0])
        assert again.codes[place].equal(alone.codes[0])
    assert together.model_calls == again.model_calls == [12.0] * 4
    assert max(first) == 8  # four rows with both views of guidance
    assert len(rows) in (6, 4 * 6)  # what the first call found out is remembered: all together, or one by one where bits would change


def test_without_invariance_all_rows_go_together(tiny_pipeline: maskgen.TextToImagePipeline) -> None:
    rows: list[int] = []
    watch = tiny_pipeline.model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    try:
        tiny_pipeline([PROMPT, "a"], batch_invariant=False)
        free = len(rows)
        tiny_pipeline([PROMPT, "a"], batch_invariant=True)
    finally:
        watch.remove()
    assert (free, len(rows) - free) == (6, 12)
