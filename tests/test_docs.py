"""The documents say what is so: their commands parse, their Python compiles, their links and files exist, their lines are short."""

import ast
import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest

from maskgen.cli.main import PASSED_ON, build_parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *(
        path
        for folder in ("configs", "docs", "integrations", "models", "data", "tokenizers", "packages")
        for path in sorted((ROOT / folder).glob("**/*.md"))
    ),
]
HISTORY = ("docs/log.md", "CHANGELOG.md")
"""They name what was there at its time."""
LONGEST_LINE = 160
LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)")
NAMED = re.compile(r"`((?:configs|data|docs|models|maskgen|tests|tokenizers|benchmarks)/[\w./-]+)`")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    """Blocks of code of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.S | re.M)


def anchors(path: Path) -> list[str]:
    """Names under which a forge links the headings of a document."""
    prose = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", prose, re.M)]


def commands(text: str) -> list[list[str]]:
    """Arguments of every call of maskgen in the lines of a shell; comments and what stands around a call are left out."""
    calls: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        for joint, group in itertools.groupby(shlex.split(line, comments=True), lambda word: word in ("&&", "||", "|", ";")):
            words = [] if joint else list(itertools.dropwhile(lambda word: "=" in word, group))
            if words and (words[0].endswith("maskgen") or words[:2] == ["uv", "run"] or words[:3] == ["python", "-m", "maskgen"]):
                place = next((number for number, word in enumerate(words) if word.split("/")[-1] == "maskgen"), len(words))
                calls.append(words[place + 1 :])
    return [call for call in calls if call]


WRITTEN = [
    path
    for path in DOCUMENTS
    if not {"reference", "build"} & set(path.relative_to(ROOT).parts)  # docs/reference is generated
]
COMMANDS = [(name(path), call) for path in WRITTEN for block in blocks(path, "bash") for call in commands(block)]
PYTHON = [(name(path), block) for path in WRITTEN if name(path) not in HISTORY for block in blocks(path, "python")]


def test_calls_are_found_with_what_stands_around_them() -> None:
    text = 'cd x && uv run --extra eval maskgen score "a && b"  # maskgen no\npip install maskgen\nA=1 maskgen generate text \\\n  "b"\n'
    assert commands(text) == [["score", "a && b"], ["generate", "text", "b"]]
    assert commands("git clone --depth 1 REPOSITORY maskgen && cd maskgen\nuv run --no-sync maskgen new sampler x\n") == [
        ["new", "sampler", "x"]
    ]


@pytest.mark.parametrize(("document", "arguments"), COMMANDS, ids=[f"{place}: {' '.join(call)[:60]}" for place, call in COMMANDS])
def test_every_command_parses(document: str, arguments: list[str]) -> None:
    if arguments == ["--version"] or "--help" in arguments:
        return
    if arguments[0] in PASSED_ON:
        configs = [value for flag, value in itertools.pairwise(arguments) if flag == "--config"]
        assert configs, f"{document}: {arguments[0]} without --config"
        assert not [one for one in configs if one.startswith(("configs/", "tokenizers/")) and not (ROOT / one).is_file()]
        return
    assert build_parser().parse_args(arguments).verb


@pytest.mark.parametrize(("document", "block"), PYTHON, ids=[f"{place}-{number}" for number, (place, _) in enumerate(PYTHON)])
def test_every_block_of_python_compiles_and_imports_what_exists(document: str, block: str) -> None:
    for node in ast.walk(ast.parse(block, document)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "maskgen":
            module = importlib.import_module(node.module or "")
            assert not [one.name for one in node.names if not hasattr(module, one.name)], f"{document}: from {node.module}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "maskgen":
            assert hasattr(importlib.import_module("maskgen"), node.attr), f"{document}: maskgen.{node.attr}"


@pytest.mark.parametrize("path", WRITTEN, ids=name)
def test_every_link_and_file_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for link, place in LINK.findall(text):
        target = path.parent / link if link else path
        assert target.exists(), f"{name(path)} links to {link}"
        assert not place or place in anchors(target), f"{name(path)} links to {link}#{place}, there are {anchors(target)}"
    if name(path) not in HISTORY:
        files = [file for file in NAMED.findall(text) if "/build" not in file and not (ROOT / file).exists()]
        assert not files, f"{name(path)} names {files}"


@pytest.mark.parametrize("path", WRITTEN, ids=name)
def test_no_line_but_a_row_of_a_table_is_long(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    long = [number for number, line in enumerate(lines, 1) if len(line) > LONGEST_LINE and not line.startswith("|")]
    assert not long, f"{name(path)} has lines over {LONGEST_LINE} characters: {long}"
