"""Files that audiocraft exports: a PyTorch file with weights and the YAML of the training that made them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from maskgen.interop.weights import read_pickle

WEIGHTS, YAML = "best_state", "xp.cfg"
"""Keys of an exported file."""
DEEPEST = 8
"""References that may lead to each other."""
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Exported:
    """What the configuration of an exported file says.

    Args:
        path: The file.
        text: Its YAML, as it stands there.
        config: Its content.
    """

    path: Path
    text: str
    config: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """The value under a dotted name such as "rvq.n_q", behind the references that lead to it; `default` if there is none.

        Raises:
            ValueError: If references lead in a circle.
        """
        for _ in range(DEEPEST):
            found: Any = self.config
            for part in name.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
            if not isinstance(found, str) or (reference := _REFERENCE.fullmatch(found)) is None:
                return default if found is None else found
            name = reference[1]
        raise ValueError(f"{self.path} has references in a circle at {name}; copy the model again")

    def section(self, name: str) -> dict[str, Any]:
        """A mapping under a dotted name, with the values behind its references; empty if there is none."""
        found = self.get(name, {})
        return {key: self.get(f"{name}.{key}") for key in found} if isinstance(found, Mapping) else {}


def read_exported(path: Path) -> Exported:
    """Read the configuration in a file of audiocraft, as data only.

    Raises:
        ValueError: If the file is missing or damaged, would run code, or lacks weights or YAML.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; copy the whole folder of the model")
    content = read_pickle(path)
    if not isinstance(content, Mapping) or not isinstance(content.get(WEIGHTS), Mapping) or not isinstance(content.get(YAML), str):
        raise ValueError(f"{path} has no {WEIGHTS} with {YAML}, as audiocraft exports them; copy the model again")
    try:
        config = yaml.safe_load(content[YAML])
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path} has {YAML} that is no plain YAML ({reason}); copy the model again") from error
    if not isinstance(config, Mapping):
        raise ValueError(f"{path} has {YAML} that holds a {type(config).__name__}, wanted a mapping; copy the model again")
    return Exported(path, content[YAML], config)


def write_exported(path: Path, tensors: Mapping[str, Tensor], text: str) -> None:
    """Write weights and YAML as audiocraft exports them; the folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    torch.save({WEIGHTS: weights, YAML: text, "exported": True}, path)
