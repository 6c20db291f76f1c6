"""What the tests of MaskGCT share: golden files of its authors' classes, and networks with the weights in them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from maskgen.interop.maskgct_network import MaskGCTNetwork
from maskgen.interop.maskgct_stages import PHONES, AcousticStage, SemanticStage, StageConfig
from maskgen.interop.weights import load_exactly
from maskgen.tokens.space import Modality, TokenSpace

GOLDEN = Path(__file__).parent / "golden"
SEMANTIC_CODES, CODES, LEVELS = 40, 20, 3


def golden(name: str) -> dict[str, Tensor]:
    """Inputs and outputs of a golden file."""
    with safe_open(GOLDEN / f"maskgct_{name}.safetensors", framework="pt") as file:
        names = [one for one in file.keys() if one.startswith("io/")]  # noqa: SIM118 (not a mapping)
        return {one.removeprefix("io/"): file.get_tensor(one) for one in names}


def config_of(name: str) -> dict[str, Any]:
    """Configuration of a golden file, by the published names."""
    with safe_open(GOLDEN / f"maskgct_{name}.safetensors", framework="pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["config"])
    return found


def published_name(name: str) -> str | None:
    """Name of a weight of a golden file; None for what is no weight, and for the empty table that the reference never reads."""
    return name.removeprefix("weights/") if name.startswith("weights/") and "embed_tokens" not in name else None


def loaded(module: Any, name: str) -> Any:
    """A network on the meta device with the weights of a golden file."""
    load_exactly(module, [GOLDEN / f"maskgct_{name}.safetensors"], source=name, rename=published_name)
    return module


def stage(name: str) -> Any:
    """One stage with the weights of its golden file."""
    with torch.device("meta"):
        made = (SemanticStage if name == "t2s" else AcousticStage)(StageConfig.from_published(config_of(name), name))
    return loaded(made, name)


def golden_space() -> TokenSpace:
    """Token space of the golden networks."""
    names = {"phonemes": ("text", 1, PHONES), "heard": ("audio", 1, SEMANTIC_CODES), "semantic": ("audio", 1, SEMANTIC_CODES)}
    names |= {"voice": ("audio", LEVELS, CODES), "audio": ("audio", LEVELS, CODES)}
    return TokenSpace(
        [Modality(name=name, kind=kind, num_levels=levels, codebook_size=size) for name, (kind, levels, size) in names.items()]  # type: ignore[arg-type]
    )


def golden_model(semantic_steps: int = 25, acoustic_steps: Sequence[int] = (25, 10, 1)) -> MaskGCTNetwork:
    """All three golden networks as one."""
    parts = [stage(name) for name in ("t2s", "s2a_1layer", "s2a_full")]
    return MaskGCTNetwork(*parts, golden_space(), semantic_steps, acoustic_steps)
