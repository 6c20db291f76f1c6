"""Names of files of weights: which are pickles, and which are second copies of weights that another file holds."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
WEIGHT_VARIANTS = ("fp16", "bf16", "non_ema", "int8", "fp8")
"""Parts of file names that mark a second copy of the same weights, such as `model.fp16.safetensors`."""
_VARIANT = re.compile(rf"\.({'|'.join(WEIGHT_VARIANTS)})(?=[.-])")
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.)")
_INDEX = ".index.json"


def without_copies(names: Sequence[str]) -> list[str]:
    """Names of a repository's files without second copies of weights.

    A file of lower precision goes where the same name is there without its mark; a pickle goes where a safetensors file of its name is in
    its folder (`pytorch_model.bin` beside `model.safetensors`).

    Args:
        names: Paths in the repository, with "/".

    Returns:
        The others, in their order. A copy that is the only one stays.
    """
    plain = {_key(name) for name in names if not _VARIANT.search(name)}
    full = [name for name in names if not _VARIANT.search(name) or _key(name) not in plain]
    exact = {_stem(name) for name in full if name.removesuffix(_INDEX).endswith(".safetensors")}
    return [name for name in full if PurePosixPath(name.removesuffix(_INDEX)).suffix not in PICKLES or _stem(name) not in exact]


def _key(name: str) -> str:
    """A name without mark of precision and number of shard."""
    return _SHARD.sub("", _VARIANT.sub("", name))


def _stem(name: str) -> str:
    """Folder and name of a file of weights, the same for a pickle and for its copy as safetensors."""
    path = PurePosixPath(_SHARD.sub("", name.removesuffix(_INDEX)))
    return str(path.with_name("model" if path.stem == "pytorch_model" else path.stem))
