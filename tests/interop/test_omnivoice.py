"""OmniVoice whole: from a folder laid out as the hub's to speech, and back to such a folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import maskgen
from maskgen.tokens.batch import UNKNOWN

pytest.importorskip("torchaudio", reason="needs torchaudio: pip install maskgen[codecs]", exc_type=ImportError)
LEVELS, CODES, HOP, RATE = 4, 16, 320, 16_000


@pytest.fixture(scope="module")
def folder(tiny_family: Callable[[str], Path]) -> Path:
    return tiny_family("OmniVoice")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> maskgen.Pipeline:
    made = maskgen.Pipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def prompt_of(pipeline: maskgen.Pipeline, text: str) -> torch.Tensor:
    found: torch.Tensor = pipeline.tokenizers["prompt"].encode([text])[0]
    return found


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


def test_a_folder_without_its_codec_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "audio_tokenizer").unlink()
    with pytest.raises(ValueError, match="has no folder audio_tokenizer"):
        maskgen.Pipeline.from_pretrained(tmp_path)
