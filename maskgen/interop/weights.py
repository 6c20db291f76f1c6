"""Published weights into a network: names and shapes must match exactly, and no tensor is held twice."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskgen.interop.base import read_json
from maskgen.io.weight_names import PICKLES, WEIGHT_VARIANTS

MOST_NAMED = 3
"""Tensors that an error names of each kind."""


def weight_files(folder: Path, stem: str | None = None) -> list[Path]:
    """Files that hold the weights in a folder, safetensors before pickles.

    Args:
        folder: Folder of one network.
        stem: Beginning of the file's name, where a folder holds several networks.

    Returns:
        All shards that an index names, or else the one file of weights. Of full and half precision the full one.

    Raises:
        ValueError: If there are none, or several that could be meant; names what is there.
    """
    named = sorted(path for path in folder.glob(f"{stem or ''}*") if path.is_file()) if folder.is_dir() else []
    indexes = [path for path in named if path.name.endswith(".safetensors.index.json")]
    for index in _without_variants(indexes):
        return _shards(index)
    for suffixes in ((".safetensors",), PICKLES):
        found = [path for path in named if path.suffix in suffixes]
        chosen = _without_variants(found) or found
        if len(chosen) == 1:
            return chosen
        if chosen:
            raise ValueError(
                f"{folder} has several files of weights ({', '.join(path.name for path in chosen[:6])}); leave the one that is meant"
            )
    wanted = f"{stem or ''}*.safetensors"
    raise ValueError(f"{folder} has no weights ({wanted} or a PyTorch file); copy the whole folder of the model")


def _without_variants(paths: Sequence[Path]) -> list[Path]:
    """The files that are no second copy in another precision."""
    return [path for path in paths if not set(path.name.split(".")[1:]) & set(WEIGHT_VARIANTS)]


def _shards(index: Path) -> list[Path]:
    """Files that an index of safetensors names.

    Raises:
        ValueError: If it names other than plain files of its own folder, or one is missing.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, Mapping) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index} has no weight_map from tensors to files; copy the model again")
    files = sorted(set(names.values()))
    for name in files:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{index} names the file {name!r}, wanted a plain name of a .safetensors file; copy the model again")
    if missing := [name for name in files if not (index.parent / name).is_file()]:
        raise ValueError(f"{index} names {', '.join(missing[:MOST_NAMED])}, which is not there; copy the whole folder of the model")
    return [index.parent / name for name in files]


Tensors = Mapping[str, Tensor]
Part = Callable[[Any], Tensors]


def load_exactly(
    module: nn.Module,
    files: Sequence[Path],
    *,
    source: str,
    rename: Callable[[str], str | None] = lambda name: name,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    optional: Collection[str] = (),
    part: Part = lambda content: content,
) -> None:
    """Load published weights into a network that was built on the meta device.

    Each tensor is read, checked, cast and put in place one after the other, so that at most one is held twice. Floating-point tensors
    become `dtype`; others stay as they are.

    Args:
        module: Network on the meta device; no buffer that is not saved may be on it.
        files: Files of `weight_files`.
        source: Where they come from, for errors.
        rename: Published name to the module's; None skips the tensor.
        dtype: Precision of the loaded network.
        device: Where it goes.
        optional: Names of the module whose tensors may be missing and keep what they are (they must not be on the meta device).
        part: The tensors in what a pickle holds, for example `lambda content: content["model"]`.

    Raises:
        ValueError: If a file is damaged or would run code, or tensors are missing, unknown or misshapen: names them, with shapes.
    """
    wanted = module.state_dict(keep_vars=True)
    second = {name: first for name, first in _tied(module).items()}
    unknown, misshapen, done = list[str](), list[str](), set[str]()
    for path in files:
        with _opened(path, part) as names, torch.no_grad():
            for name, read in names():
                ours = rename(name)
                if ours is None:
                    continue
                if ours not in wanted:
                    unknown.append(f"{name} {_shape(read())}")
                    continue
                tensor = read()
                if tensor.shape != wanted[ours].shape:
                    misshapen.append(f"{name} is {_shape(tensor)}, wanted {_shape(wanted[ours])}")
                    continue
                done.add(ours)
                if second.get(ours, ours) == ours or second[ours] not in done:
                    _put(module, ours, tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype, copy=True))
    missing = [f"{name} {_shape(tensor)}" for name, tensor in wanted.items() if name not in done and name not in optional]
    missing = [one for one in missing if second.get(one.split(" ")[0]) not in done]
    _refuse(source, {"lack": missing, "have the unknown tensors": unknown, "have other shapes": misshapen})
    _tie_again(module, second)
    module.eval().requires_grad_(False)


def _refuse(source: str, problems: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError for what does not match."""
    said = [
        f"{what} {', '.join(found[:MOST_NAMED])}{f' and {len(found) - MOST_NAMED} more' if len(found) > MOST_NAMED else ''}"
        for what, found in problems.items()
        if found
    ]
    if said:
        raise ValueError(
            f"the weights in {source} {'; they '.join(said)}; copy the model again, or check that its configuration is its own"
        )


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer."""
    *path, last = name.split(".")
    owner = module.get_submodule(".".join(path))
    if last in owner._parameters:
        owner._parameters[last] = nn.Parameter(tensor, requires_grad=False)
    else:
        owner._buffers[last] = tensor


def _tied(module: nn.Module) -> dict[str, str]:
    """Further names of shared parameters to their first names."""
    first: dict[int, str] = {}
    names = dict(module.named_parameters(remove_duplicate=False))
    for name, weight in names.items():
        first.setdefault(id(weight), name)
    return {name: first[id(weight)] for name, weight in names.items() if first[id(weight)] != name}


def _tie_again(module: nn.Module, second: Mapping[str, str]) -> None:
    """Make shared parameters one again, under whichever name they were read."""
    for name, first in second.items():
        found = module.get_parameter(first)
        if found.is_meta:
            found = module.get_parameter(name)
            _put(module, first, found.data)
        *path, last = name.split(".")
        module.get_submodule(".".join(path))._parameters[last] = module.get_parameter(first)


def _shape(tensor: Tensor) -> str:
    """A shape for an error."""
    return str(list(tensor.shape))


Names = Callable[[], Iterator[tuple[str, Callable[[], Tensor]]]]


def _opened(path: Path, part: Part) -> AbstractContextManager[Names]:
    """A file of weights as names with readers, without reading all of it."""
    return _Safetensors(path) if path.suffix == ".safetensors" else nullcontext(_pickle(path, part))


class _Safetensors(AbstractContextManager[Names]):
    """Names and readers of a safetensors file."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            self._file: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no whole safetensors file ({error}); copy the model again") from error

    def __enter__(self) -> Names:
        opened = self._file.__enter__()

        def names() -> Iterator[tuple[str, Callable[[], Tensor]]]:
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                yield name, lambda name=name: opened.get_tensor(name)  # type: ignore[misc]

        return names

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)


def read_pickle(path: Path) -> Any:
    """Content of a PyTorch file, mapped from the disk where its format allows it; plain data and tensors only, no code is run.

    Raises:
        ValueError: If the file is damaged or holds more than that.
    """
    import pickle

    for mapped in (True, False):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} holds more than tensors and plain data, which could run code and is not read; ask for safetensors"
            ) from error
        except (RuntimeError, OSError, EOFError, KeyError, ValueError, AttributeError) as error:
            if not mapped:
                raise ValueError(f"{path} is no whole PyTorch file ({str(error).splitlines()[0][:120]}); copy the model again") from error
    raise AssertionError("unreachable")


def _pickle(path: Path, part: Part) -> Names:
    """Names and readers of a PyTorch file."""
    try:
        tensors = part(read_pickle(path))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} has no weights where this family keeps them ({error!r}); copy the model again") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(one, Tensor) for one in tensors.values()):
        raise ValueError(f"{path} holds no mapping of names to tensors; copy the model again")

    def names() -> Iterator[tuple[str, Callable[[], Tensor]]]:
        for name, tensor in tensors.items():
            yield name, lambda tensor=tensor: tensor  # type: ignore[misc]

    return names
