"""Weights inside installed packages of the extra `speech-eval`, located without importing the packages."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from maskgen.io.files import file_sha256

APART = {"resemblyzer": "pip install --no-deps resemblyzer==0.1.4"}
"""Packages that the extra leaves out, since their dependencies do harm (a source build of webrtcvad, a backport of typing)."""


def package_module(name: str) -> ModuleType:
    """Import a module of the extra.

    Raises:
        ImportError: If it is not installed; the message names the command to run.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(_sentence(name)) from error


def package_file(package: str, inside: str, sha256: str) -> Path:
    """Path of a weight file inside a package, after a check of its digest; the package itself is not imported.

    These packages are maintained by single people, so a file with another digest than the expected one is refused.

    Args:
        package: Import name.
        inside: Path inside the package.
        sha256: Hex digest that the file must have.

    Raises:
        ImportError: If the package is not installed.
        ValueError: If the file is missing or has another digest.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(_sentence(package))
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    digest = file_sha256(path) if path.is_file() else "no such file"
    if digest != sha256:
        raise ValueError(f"{inside} of package {package} has sha256 {digest}, wanted {sha256}; install it again: {_command(package)}")
    return path


def onnx_session(path: Path, threads: int) -> Any:
    """An onnxruntime session on the CPU."""
    onnxruntime = package_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _command(name: str) -> str:
    """The command that installs a module."""
    return APART.get(name.partition(".")[0], "pip install maskgen[speech-eval]")


def _sentence(name: str) -> str:
    """Error message: the missing package and the command that installs it."""
    return f"judging speech needs {name.partition('.')[0]}, which is not installed; install it: {_command(name)}"
