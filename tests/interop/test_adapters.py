"""Low-rank adapters on published networks: every one is used in the forward pass, and merging it changes nothing but rounding."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.hub_folders import amused

import maskgen
from maskgen.networks.lora import LoraSettings, adapt_published, merge_published
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.packing import pack
from tests.interop.dream_cases import write_dream
from tests.interop.folders import write_titok
from tests.interop.llada_cases import write_llada
from tests.interop.test_mdlm import write_mdlm

pytest.importorskip("peft", reason="needs peft: pip install maskgen[finetune]")


def text_model(write: Callable[[Path], Any], folder: Path) -> tuple[Path, Callable[[Any], dict[str, Any]]]:
    write(folder)
    return folder, lambda pipe: {"text": torch.tensor([[5, 7, UNKNOWN, UNKNOWN, 9]])}


def titok(folder: Path) -> tuple[Path, Callable[[Any], dict[str, Any]]]:
    write_titok(folder)
    return folder, lambda pipe: {"label": torch.tensor([[1]]), "image": torch.full((1, *pipe.grids["image"]), UNKNOWN)}


def diffusers_pipeline(folder: Path) -> tuple[Path, Callable[[Any], dict[str, Any]]]:
    pytest.importorskip("diffusers", reason="needs diffusers: pip install maskgen[diffusers]")
    return amused(folder), lambda pipe: {**pipe.text_codes("a dog"), "image": torch.full((1, *pipe.grids["image"]), UNKNOWN)}


MODELS = {
    "amused": diffusers_pipeline,
    "dream": partial(text_model, write_dream),
    "llada": partial(text_model, write_llada),
    "mdlm": partial(text_model, write_mdlm),
    "titok": titok,
}


@pytest.mark.parametrize("made", MODELS.values(), ids=MODELS)
def test_every_adapter_learns_and_merges(made: Callable[..., Any], tmp_path: Path) -> None:
    folder, row = made(tmp_path / "model")
    pipe = maskgen.Pipeline.from_pretrained(folder)
    known = row(pipe)
    target = "text" if "image" not in known else "image"
    batch, segment = pack([known], pipe.space), pipe.space.of(target)[0]
    cells = batch.cells(segment.index)

    def logits() -> torch.Tensor:
        found: torch.Tensor = pipe.model.logits(pipe.model(batch)[cells], segment.offset, segment.size)
        return found

    plain = logits().detach()
    adapt_published(pipe.model, LoraSettings(rank=2))
    torch.testing.assert_close(logits().detach(), plain, atol=1e-5, rtol=1e-4)
    factors = {name: weight for name, weight in pipe.model.named_parameters() if weight.requires_grad}
    assert factors
    assert all("lora_" in name for name in factors)
    (logits().nan_to_num(neginf=0.0) ** 2).clamp(max=1e6).sum().backward()
    last = [weight for name, weight in factors.items() if "lora_B" in name]
    unused = [name for name, weight in factors.items() if "lora_B" in name and (weight.grad is None or not weight.grad.any())]
    assert not unused, unused
    with torch.no_grad():
        for weight in last:
            weight.normal_(std=0.1)
        adapted = logits()
        assert not torch.allclose(adapted, plain, atol=1e-3)
        merge_published(pipe.model)
        torch.testing.assert_close(logits(), adapted, atol=1e-4, rtol=1e-4)
    assert not [name for name, _ in pipe.model.named_parameters() if "lora" in name]
