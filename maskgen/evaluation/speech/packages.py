"""Weights that lie inside installed packages of the extra `speech-eval`, found without importing the packages."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from maskgen.io.files import file_sha256

APART = {"resemblyzer": "pip install --no-deps resemblyzer==0.1.4"}
"""Packages whose own demands do harm (a source build of webrtcvad, a backport of typing): the extra leaves them out."""


def package_module(name: str) -> ModuleType:
    """Import a module of the extra.

    Raises:
        ImportError: If it is not installed; the sentence says what to run.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(_sentence(name)) from error


def package_file(package: str, inside: str, sha256: str) -> Path:
    """A weight file of a package, checked; no line of the package runs.

    These packages are small works of single people: a file other than the one that was examined is refused.

    Args:
        package: Import name.
        inside: Path inside the package.
        sha256: Hex digest that the file must have.

    Raises:
        ImportError: If the package is not installed.
        ValueError: If the file is missing or another.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(_sentence(package))
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    found = file_sha256(path) if path.is_file() else "no such file"
    if found != sha256:
        raise ValueError(f"{inside} of package {package} has sha256 {found}, wanted {sha256}; install it again: {_command(package)}")
    return path


def onnx_session(path: Path, threads: int) -> Any:
    """An onnxruntime session on the CPU."""
    onnxruntime = package_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _command(name: str) -> str:
    """What installs a module."""
    return APART.get(name.partition(".")[0], "pip install maskgen[speech-eval]")


def _sentence(name: str) -> str:
    """What is missing and what to do."""
    return f"judging speech needs {name.partition('.')[0]}, which is not installed; install it: {_command(name)}"
