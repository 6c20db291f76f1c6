"""The golden file of Meissonic's transformer, written with the authors' own classes (viiika/Meissonic, diffusers 0.31.0)."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from maskgen.interop.meissonic_network import MeissonicConfig, MeissonicTransformer

GOLDEN = Path(__file__).parent.parent / "interop" / "golden" / "meissonic.safetensors"


def golden() -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Configuration, weights, and inputs and outputs of the golden file."""
    with safe_open(GOLDEN, "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = load_file(GOLDEN)
    parts = ({name.split("/", 1)[1]: value for name, value in tensors.items() if name.startswith(kind)} for kind in ("weights/", "io/"))
    return config, *parts


def network() -> MeissonicTransformer:
    config, weights, _ = golden()
    sizes = {name: config[name] for name in MeissonicConfig.__dataclass_fields__}
    model = MeissonicTransformer(MeissonicConfig(**{**sizes, "axes_dims_rope": tuple(sizes["axes_dims_rope"])})).eval()
    model.load_state_dict(weights)
    return model.requires_grad_(False)


def close(found: Tensor, wanted: Tensor, views: int = 1) -> None:
    """Equal to 1e-5 of the largest value; guidance scale g multiplies what two views differ by up to 2 g - 1 times."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * views * max(1.0, float(wanted.abs().amax())))
