"""Fine-tuning a published model on a folder of captioned images: an adapter learns them, and the result is a folder of the family's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from builders.hub_folders import AMUSED_SIDE, amused
from PIL import Image
from safetensors.torch import load_file

import maskgen
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


@pytest.mark.parametrize("rank", [4, None])
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
