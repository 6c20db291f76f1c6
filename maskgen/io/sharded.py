"""Checkpoints in parts: every rank writes its own shards as safetensors, and any number of ranks reads them again."""

import contextlib
import hashlib
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from maskgen.io.files import atomic_file, file_sha256, sync_folder, write_atomic

REST_FILE, SUMS_FILE = "rest.pt", "sha256sums"
"""Everything that is not sharded, and the sha256 of all files in the format of `sha256sum --check`."""
SHARD_NAME = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
"""Names that torch's writer gives to the file of one rank."""


def is_sharded(path: Path) -> bool:
    """Whether a checkpoint is a folder of shards."""
    return path.is_dir() and (path / SUMS_FILE).is_file()


def holds_shards(tree: Any) -> bool:
    """Whether a nested dictionary or list holds a tensor of which every rank has a part (DTensor)."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(leaf, DTensor) for _, leaf in _leaves(tree))


def write_sharded(tree: dict[str, Any], folder: Path) -> None:
    """Write a nested dictionary into an empty folder; all ranks call this together.

    Tensors of which every rank has a part are written by torch.distributed.checkpoint as safetensors, one file a rank; the rest, with an
    empty tensor of the same shape and type in their places, is written by rank 0.

    Args:
        tree: Plain data, tensors and sharded tensors.
        folder: A folder that all ranks see; it exists.

    Raises:
        OSError: If it cannot be written.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save
    from torch.distributed.tensor import DTensor

    shards = {name: leaf.detach() for name, leaf in _leaves(tree) if isinstance(leaf, DTensor)}
    save(shards, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    if dist.get_rank() == 0:
        rest = _mapped(tree, lambda _, leaf: _placeholder(leaf) if isinstance(leaf, DTensor) else leaf)
        with atomic_file(folder / REST_FILE) as handle:
            torch.save(rest, handle)
    own = f"shard-{dist.get_rank() + 1:05d}-"
    sums = [(path.name, file_sha256(path)) for path in sorted(folder.iterdir()) if path.name.startswith(own)]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, sums)
    if dist.get_rank() == 0:
        found = [*(one for part in gathered for one in part), (REST_FILE, file_sha256(folder / REST_FILE))]
        write_atomic(folder / SUMS_FILE, "".join(f"{made}  {name}\n" for name, made in found).encode())
        sync_folder(folder)


def sums_digest(folder: Path) -> str:
    """One hash of all files of a sharded checkpoint."""
    return hashlib.sha256((folder / SUMS_FILE).read_bytes()).hexdigest()


def verify_sharded(folder: Path, part: int = 0, parts: int = 1) -> None:
    """Check that all files are there, and compare the hashes of every `parts`-th.

    Args:
        folder: Of the checkpoint.
        part: Which files are hashed: each rank takes its own.
        parts: Number of ranks.

    Raises:
        ValueError: If a file is missing or damaged; names it.
    """
    if not is_sharded(folder):
        raise ValueError(f"checkpoint {folder} has no {SUMS_FILE}, so it was not written to its end; take another checkpoint")
    lines = (folder / SUMS_FILE).read_text(errors="replace").splitlines()
    wanted = [(name, made) for made, _, name in (line.partition("  ") for line in lines)]
    if odd := next((name for name, _ in wanted if name != REST_FILE and not SHARD_NAME.fullmatch(name)), None):
        raise ValueError(f"checkpoint {folder} is damaged: its {SUMS_FILE} names {odd[:80]!r}; copy it again or take another")
    names = [name for name, _ in wanted]
    if missing := [name for name in [*names, *([] if REST_FILE in names else [REST_FILE])] if not (folder / name).is_file()]:
        raise ValueError(f"checkpoint {folder} lacks {', '.join(missing)}; copy the whole folder again or take another")
    if extra := sorted(path.name for path in folder.glob("*.safetensors") if path.name not in names):
        raise ValueError(f"checkpoint {folder} has {', '.join(extra)}, which its {SUMS_FILE} lacks; copy the whole folder again")
    for name, made in wanted[part::parts]:
        if (found := file_sha256(folder / name)) != made:
            raise ValueError(
                f"checkpoint {folder} is damaged: {name} has sha256 {found[:12]}…, its record says {made[:12]}…; "
                "copy it again or take another"
            )


def read_sharded(folder: Path, map_location: Any = "cpu", mesh: Any = None) -> dict[str, Any]:
    """Read a checkpoint that `write_sharded` wrote on any number of ranks; nothing in it can run code.

    Args:
        folder: Of the checkpoint; call `verify_sharded` before.
        map_location: Where whole tensors go.
        mesh: DeviceMesh over which sharded tensors are shared out again by their first axis, all ranks together; None gives whole tensors.

    Returns:
        The nested dictionary.

    Raises:
        ValueError: If it can't be read, or holds more than weights and plain data.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.tensor import Shard, empty

    def place(leaf: Tensor) -> Tensor:
        if mesh is None:
            return torch.empty(leaf.shape, dtype=leaf.dtype, device=map_location)
        made: Tensor = empty(*leaf.shape, dtype=leaf.dtype, device_mesh=mesh, placements=[Shard(0)])
        return made

    try:
        tree = torch.load(folder / REST_FILE, map_location=map_location, weights_only=True)
        shards = {name: place(leaf) for name, leaf in _leaves(tree) if isinstance(leaf, Tensor) and leaf.is_meta}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process reads everything on purpose
            load(dict(shards), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=mesh is None)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError, IndexError) as error:
        raise ValueError(f"checkpoint {folder} is damaged or holds more than weights; give the folder that `maskgen fit` wrote") from error
    whole: dict[str, Any] = _mapped(tree, lambda name, leaf: shards.get(name, leaf))
    return whole


def remove_sharded(folder: Path) -> None:
    """Remove a sharded checkpoint: its own files, and the folder if nothing else is in it. Anything else at this path stays."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in [path for path in folder.iterdir() if path.name in (REST_FILE, SUMS_FILE) or SHARD_NAME.fullmatch(path.name)]:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # files of somebody else
        folder.rmdir()


def _placeholder(shard: Tensor) -> Tensor:
    """A tensor without memory that says what belongs in its place."""
    return torch.empty(shard.shape, dtype=shard.dtype, device="meta")


def _leaves(tree: Any, place: str = "") -> Iterable[tuple[str, Any]]:
    """Every leaf of nested dictionaries, lists and tuples, with its place."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{place}/{key}" if place else str(key))
    elif isinstance(tree, (list, tuple)):
        for number, value in enumerate(tree):
            yield from _leaves(value, f"{place}/{number}")
    else:
        yield place, tree


def _mapped(tree: Any, by: Callable[[str, Any], Any], place: str = "") -> Any:
    """A copy with every leaf replaced by a function of its place and itself."""
    if isinstance(tree, Mapping):
        return {key: _mapped(value, by, f"{place}/{key}" if place else str(key)) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_mapped(value, by, f"{place}/{number}") for number, value in enumerate(tree))
    return by(place, tree)
