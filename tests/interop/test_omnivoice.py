"""OmniVoice whole: from a folder laid out as the hub's to speech, and back to such a folder."""

from pathlib import Path

import pytest
import torch
from builders.hub_folders import omnivoice
from safetensors.torch import load_file, save_file

import maskgen
from maskgen.decoding.settings import GenerationSettings
from maskgen.sampling import by_name, names
from maskgen.tokens.batch import UNKNOWN

pytest.importorskip("torchaudio", reason="needs torchaudio: pip install maskgen[codecs]", exc_type=ImportError)
LEVELS, CODES, HOP, RATE = 4, 16, 320, 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("omnivoice")
    omnivoice(place)
    return place


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> maskgen.Pipeline:
    made = maskgen.Pipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def prompt_of(pipeline: maskgen.Pipeline, text: str) -> torch.Tensor:
    found: torch.Tensor = pipeline.tokenizers["prompt"].encode([text])[0]
    return found


@pytest.mark.parametrize("name", [name for name in names() if name not in ("critic", "frequency")])
# The samplers left out need a trained critic, or the attention of maskgen's own transformer.
def test_every_sampler_fills_the_blanks_and_keeps_what_was_known(pipeline: maskgen.Pipeline, name: str) -> None:
    groups = None if by_name(name).needs else (tuple(range(LEVELS)),)
    settings = GenerationSettings(sampler=name, steps=(2,), guidance_scale=2.0, null="alone", groups=groups)
    known = torch.arange(LEVELS * 6).view(LEVELS, 6) % CODES
    known[:, 3:5] = UNKNOWN
    row = {"prompt": prompt_of(pipeline, "Hi."), "audio": known}
    for codes in pipeline.generate([row, row], "audio", [1, 2], settings).codes:
        assert torch.equal(codes[known != UNKNOWN], known[known != UNKNOWN])
        assert int(codes.min()) >= 0
        assert int(codes.max()) < CODES


def test_rows_of_unequal_length_are_those_that_each_is_alone(pipeline: maskgen.Pipeline) -> None:
    rows = [
        {"prompt": prompt_of(pipeline, text), "audio": torch.full((LEVELS, frames), UNKNOWN)} for text, frames in (("Hi.", 4), ("A dog", 7))
    ]
    together = pipeline.generate(rows, "audio", [3, 4], batch_invariant=True)
    for place, row in enumerate(rows):
        alone = pipeline.generate([row], "audio", [3 + place])
        assert torch.equal(together.codes[place], alone.codes[0])
        assert together.media[place].samples.shape == (1, row["audio"].shape[1] * HOP)


def test_a_changed_model_is_written_as_the_authors_folder(pipeline: maskgen.Pipeline, folder: Path, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    wanted, found = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in wanted.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in found.items()
    }
    again = maskgen.Pipeline.from_pretrained(tmp_path)
    assert {name: one.fingerprint for name, one in again.tokenizers.items()} == {
        name: one.fingerprint for name, one in pipeline.tokenizers.items()
    }
    row = {"prompt": prompt_of(pipeline, "Hi."), "audio": torch.full((LEVELS, 3), UNKNOWN)}
    assert torch.equal(again.generate([row], "audio", [0]).codes[0], pipeline.generate([row], "audio", [0]).codes[0])


def test_half_precision_reaches_the_trunk_and_not_the_codec(folder: Path) -> None:
    made = maskgen.Pipeline.from_pretrained(folder, dtype="bfloat16")
    assert {tensor.dtype for tensor in made.model.state_dict().values()} == {torch.bfloat16, torch.int64}
    assert {tensor.dtype for tensor in made.tokenizers["audio"].network.state_dict().values()} == {torch.float32}  # type: ignore[attr-defined]
    row = {"prompt": prompt_of(made, "Hi."), "audio": torch.full((LEVELS, 3), UNKNOWN)}
    assert made.generate([row], "audio", [0]).codes[0].shape == (LEVELS, 3)


def test_a_damaged_folder_is_told_apart(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    tensors = load_file(folder / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    wrong = {
        name: tensor[:5] if name == "audio_heads.weight" else tensor for name, tensor in tensors.items() if "layers.1.mlp.up" not in name
    }
    save_file(wrong, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"lack llm.layers.1.mlp.up_proj.weight \[48, 32\].*audio_heads.weight is \[5, 32\], wanted \[68, 32\]"
    ):
        maskgen.Pipeline.from_pretrained(tmp_path)
    (tmp_path / "audio_tokenizer").unlink()
    with pytest.raises(ValueError, match="has no folder audio_tokenizer"):
        maskgen.Pipeline.from_pretrained(tmp_path)
