"""The Dockerfile checked without Docker: user, sources, command line, health check, and what the context leaves out."""

import json
import re
import tomllib
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pytest

from maskgen.cli.main import build_parser
from maskgen.io.shipped import MODEL_PACKAGES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
STEPS = [
    tuple(re.split(r"\s+", line.strip(), maxsplit=1))
    for line in re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)).splitlines()
    if line.strip()
]
LAST = STEPS[max(place for place, (word, _) in enumerate(STEPS) if word == "FROM") :]
"""The stage that becomes the image."""
SOURCES = [source for word, rest in STEPS if word == "COPY" and not rest.startswith("--from") for source in rest.split()[:-1]]


def only(word: str) -> str:
    [found] = [rest for name, rest in LAST if name == word]
    return found


def expression(pattern: str) -> str:
    """A pattern of .dockerignore as a regular expression."""
    parts = re.split(r"(\*\*/|\*|\?)", pattern)
    return "".join({"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part)) for part in parts)


def left_out(path: str) -> bool:
    """Whether a path is no part of the build's context: the last pattern that matches it or a folder above it decides."""
    names = [path, *(str(one) for one in PurePosixPath(path).parents)]
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").strip("/")
            if any(re.fullmatch(expression(pattern), name) for name in names):
                verdict = not line.startswith("!")
    return verdict


def test_the_image_runs_as_a_user_without_a_name_or_rights() -> None:
    user, group = only("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    words = [word for word, _ in LAST]
    assert "RUN" not in words[words.index("USER") :]


def test_every_source_exists_and_is_part_of_the_context() -> None:
    assert SOURCES
    for source in SOURCES:
        assert (ROOT / source).exists(), source
        inside = [path for path in (ROOT / source).rglob("*") if path.is_file()] if (ROOT / source).is_dir() else [ROOT / source]
        kept = [path for path in inside if not left_out(path.relative_to(ROOT).as_posix())]
        assert kept, f"{source} is left out of the context"


def test_what_the_wheel_holds_is_copied() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    for path in (*wheel["packages"], *wheel["force-include"], *PROJECT["project"]["license-files"], PROJECT["project"]["readme"]):
        assert any(PurePosixPath(path).is_relative_to(source) for source in SOURCES), path
        assert not left_out(path), path


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "data/emoji/build/tokens-000000.tar",
        "data/speech/build/index.json",
        "models/any-64/weights.safetensors",
        "maskgen/__pycache__/version.cpython-312.pyc",
        "out/bench/bench.json",
        "runs/x/last.ckpt",
        "tests/conftest.py",
        "keys.txt",
        ".env",
    ],
)
def test_the_context_leaves_out_what_no_image_needs(path: str) -> None:
    assert left_out(path)


def test_the_command_line_parses_and_serves_models_that_are_inside() -> None:
    command = [*json.loads(only("ENTRYPOINT")), *json.loads(only("CMD"))]
    assert command[0] == "maskgen"
    args = build_parser().parse_args(command[1:])
    assert (args.host, args.port) == ("0.0.0.0", int(only("EXPOSE")))
    assert args.api_keys is None, "keys come by the environment"
    for model in args.model:
        assert model not in MODEL_PACKAGES
        assert not left_out(f"models/{model}/bundle.json")


def test_the_health_check_asks_the_port_that_is_served() -> None:
    command = json.loads(only("HEALTHCHECK").partition("CMD")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    [address] = re.findall(r"'(http[^']*)'", command[2])
    assert (urlsplit(address).port, urlsplit(address).path) == (int(only("EXPOSE")), "/healthz")


def test_packages_are_for_cpus_and_no_registry_is_named() -> None:
    whole = " ".join(rest for _, rest in STEPS)
    assert "--torch-backend cpu" in whole
    assert "--extra serve" in whole
    assert "serve" in PROJECT["project"]["optional-dependencies"]
    hosts = [rest for word, rest in STEPS if word == "FROM" and re.match(r"[\w.-]+\.[\w.-]+/", rest)]
    assert not hosts
    assert not [one for one in re.findall(r"https?://([^/:']+)", whole) if one != "127.0.0.1"]
