"""Fine-tuning a published model on a folder of captioned images: an adapter learns them, and the result is a folder of the family's own."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.hub_folders import AMUSED_SIDE, amused
from PIL import Image
from safetensors.torch import load_file

import maskgen
from maskgen.cli.main import main
from maskgen.interop import meissonic
from maskgen.networks.lora import LoraSettings
from maskgen.training.finetune_folder import FolderSettings, finetune
from maskgen.training.finetune_published import published_from_checkpoint
from maskgen.training.finetune_run import FinetuneSettings

pytest.importorskip("diffusers", reason="needs diffusers: pip install maskgen[diffusers]")
pytest.importorskip("peft", reason="needs peft: pip install maskgen[finetune]")


def captioned(folder: Path) -> Path:
    """Four flat pictures, each with its colour as the caption."""
    folder.mkdir()
    for name, colour in {"red": (250, 10, 10), "blue": (10, 10, 250), "green": (10, 250, 10), "white": (250, 250, 250)}.items():
        pixels = np.full((2 * AMUSED_SIDE, 2 * AMUSED_SIDE, 3), colour, np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(name)
    return folder


@pytest.mark.parametrize("rank", [4, pytest.param(None, marks=pytest.mark.slow)])
def test_a_folder_is_learned_and_the_model_written_in_its_own_layout(tmp_path: Path, rank: int | None) -> None:
    model, pictures = amused(tmp_path / "model"), captioned(tmp_path / "pictures")
    lora = None if rank is None else LoraSettings(rank=rank)
    settings = FinetuneSettings(steps=60, batch_size=4, lr=2e-2 if rank else 2e-3, lora=lora, drop_condition=0.0)
    made = finetune(pictures, str(model), tmp_path / "mine", settings, FolderSettings(held_out=0.0))
    assert made.run.steps == 60
    before, after = (load_file(place / "transformer" / "diffusion_pytorch_model.safetensors") for place in (model, tmp_path / "mine"))
    assert before.keys() == after.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed
    if rank:
        assert all(any(part in name for part in ("to_q", "to_k", "to_v", "to_out.0")) for name in changed)
    for part in ("text_encoder", "vqvae"):
        (file,) = (model / part).glob("*.safetensors")
        assert all(torch.equal(tensor, load_file(tmp_path / "mine" / part / file.name)[name]) for name, tensor in load_file(file).items())
    old, new = (maskgen.TextToImagePipeline.from_pretrained(place) for place in (model, tmp_path / "mine"))
    rows = [{**old.text_codes(path.stem), "image": Image.open(path)} for path in sorted(pictures.glob("*.png"))]
    likelier = [second.total - first.total for first, second in zip(old.score(rows, "image"), new.score(rows, "image"), strict=True)]
    assert min(likelier) > 1, likelier


def test_it_goes_on_where_it_stopped_and_its_checkpoint_becomes_a_folder_of_the_family(tmp_path: Path) -> None:
    model, pictures = amused(tmp_path / "model"), captioned(tmp_path / "pictures")
    settings = FinetuneSettings(steps=2, batch_size=2, lr=1e-2, lora=LoraSettings(rank=2), checkpoint_steps=2)
    finetune(pictures, str(model), tmp_path / "mine", settings, FolderSettings(held_out=0.0))
    again = finetune(pictures, str(model), tmp_path / "mine", settings, FolderSettings(held_out=0.0))
    assert again.run.steps == 0
    other = FinetuneSettings(steps=3, batch_size=2, lora=LoraSettings(rank=2))
    with pytest.raises(ValueError, match=r"holds another run: .* was .*, it is .* now"):
        finetune(pictures, str(model), tmp_path / "mine", other, FolderSettings(held_out=0.0))
    last = tmp_path / "mine.work" / "checkpoints" / "last.ckpt"
    pipeline, mine = published_from_checkpoint(last), maskgen.Pipeline.from_pretrained(tmp_path / "mine")
    assert all(torch.equal(tensor, mine.model.state_dict()[name]) for name, tensor in pipeline.model.state_dict().items())
    with pytest.raises(ValueError, match="there is no model 'elsewhere'"):
        published_from_checkpoint(last, "elsewhere")


def losses(printed: str) -> tuple[float, float]:
    """Held-out loss before and after, as `maskgen finetune` prints them."""
    found = re.search(r"held-out loss: .* (\d+\.\d+) -> (\d+\.\d+)", printed)
    assert found is not None, printed
    return float(found[1]), float(found[2])


def test_meissonic_learns_from_the_command_line_and_goes_on_after_its_validation(
    tiny_family: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(meissonic, "SIDES", {True: 8, False: 8})  # the published grid has 64 x 64 cells
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        Image.fromarray(np.full((16, 16, 3), (250, 10, 10), np.uint8)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text("red")
    options = ("--lora", "4", "--steps", "16", "--batch-size", "2", "--lr", "2e-2", "--held-out", "0.5")
    main(["finetune", str(pictures), "--model", str(tiny_family("Meissonic")), "--out", str(tmp_path / "mine"), *options])
    before, after = losses(capsys.readouterr().out)
    assert after < before - 0.3
    assert maskgen.Pipeline.from_pretrained(tmp_path / "mine").family == "Meissonic"


def test_llada_learns_a_folder_of_texts(tiny_family: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(4):
        (texts / f"{number}.txt").write_text("a red heart")
    options = ("--lora", "4", "--steps", "16", "--batch-size", "2", "--lr", "2e-2", "--held-out", "0.5")
    main(["finetune", str(texts), "--model", str(tiny_family("LLaDA")), "--out", str(tmp_path / "mine"), *options])
    printed = capsys.readouterr().out
    before, after = losses(printed)
    assert after < before - 0.3
    assert 'maskgen generate text "Hello." --model' in printed
    old, new = (maskgen.Pipeline.from_pretrained(place) for place in (tiny_family("LLaDA"), tmp_path / "mine"))
    row = [{"text": "a red heart"}]
    assert new.family == "LLaDA"
    assert new.score(row, "text")[0].total > old.score(row, "text")[0].total
