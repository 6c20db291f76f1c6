"""Downloads an npm package by name, version and sha256, and reads files from its tarball without unpacking it."""

import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from maskgen.io.files import file_sha256


def tarball_name(package: str, version: str) -> str:
    """File name used by `npm pack`: `@scope/name` at `1.0` becomes `scope-name-1.0.tgz`."""
    return f"{package.removeprefix('@').replace('/', '-')}-{version}.tgz"


def fetch(package: str, version: str, sha256: str, folder: Path) -> Path:
    """Tarball of a package, downloaded with the npm client unless it is already in `folder`.

    Args:
        package: Name with its scope.
        version: Exact version.
        sha256: Expected hex digest of the tarball.
        folder: Folder of tarballs.

    Returns:
        Path of the verified tarball.

    Raises:
        ValueError: If npm is missing or fails, or the digest differs.
    """
    path = folder / tarball_name(package, version)
    if not path.exists():
        _pack(package, version, path)
    digest = file_sha256(path)
    if digest != sha256:
        raise ValueError(f"{path} has sha256 {digest}, the recipe wants {sha256}; delete the file and build again")
    return path


def _pack(package: str, version: str, path: Path) -> None:
    """Run `npm pack` in the tarball's folder."""
    wanted = f"{package}@{version}"
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"npm is not on the PATH and {path} does not exist; install Node.js, or put the tarball of {wanted} there")
    path.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([npm, "pack", "--ignore-scripts", wanted], cwd=path.parent, capture_output=True, text=True, check=False)
    if done.returncode or not path.exists():
        raise ValueError(f"npm pack {wanted} failed with exit code {done.returncode}: {done.stderr.strip()[-300:]}; check the network")


def read_members(tarball: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Content of the regular files in a tarball whose path inside the package satisfies `wanted`."""
    content = {}
    with tarfile.open(tarball, "r:gz") as archive:
        for member in archive:
            name = member.name.removeprefix("package/")
            if member.isreg() and wanted(name):
                stream = archive.extractfile(member)
                assert stream is not None, "a regular member has a stream"
                content[name] = stream.read()
    return content
