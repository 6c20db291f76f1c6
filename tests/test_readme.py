"""The README says what is true: its commands run and the files it names exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip()
    for block in re.findall(r"^```bash\n(.*?)^```$", README, re.S | re.M)
    for line in block.splitlines()
    if line.startswith(("uv run maskgen ", "maskgen "))
]


def test_the_first_screen_has_claim_picture_and_two_commands() -> None:
    screen = "\n".join(README.splitlines()[:40])
    assert "uv run maskgen generate image" in screen
    assert "uv run pytest" in screen
    assert "docs/images/" in screen


def test_every_file_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"\]\(([^)#:]+)\)", README)) | set(
        re.findall(r"`((?:configs|docs|data|tokenizers|models|maskgen|tests)/[\w./-]+)`", README)
    )
    missing = [name for name in sorted(named) if "/build/" not in name and not (ROOT / name).exists()]
    assert not missing, f"README names what does not exist: {missing}"


def test_ci_runs_exactly_the_test_command() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "uv run pytest"


def test_every_command_parses() -> None:
    from maskgen.cli.main import PASSED_ON, build_parser

    assert COMMANDS, "the README shows no command"
    for line in COMMANDS:
        words = shlex.split(line.split(" #")[0].split("&&")[0])
        arguments = words[words.index("maskgen") + 1 :]
        if arguments[0] not in PASSED_ON:
            assert build_parser().parse_args(arguments).verb


GENERATING = [line for line in COMMANDS if re.search("generate (image|speech) ", line) and not re.search("--(image|mask|edit|audio)", line)]


@pytest.mark.parametrize("line", [GENERATING[0], *(pytest.param(line, marks=pytest.mark.slow) for line in GENERATING[1:])])
def test_generation_commands_write_what_they_say(line: str, tmp_path: Path) -> None:
    words = shlex.split(line.split(" #")[0])
    arguments = words[words.index("maskgen") + 1 :]
    out = arguments[arguments.index("--out") + 1]
    ran = subprocess.run([sys.executable, "-m", "maskgen", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / out).stat().st_size > 500
