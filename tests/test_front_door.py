"""benchmarks/front_door.py counts what it says that it counts."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def front_door(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("front_door")


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A checkout with one of everything that is counted."""
    files = {
        "maskgen/__init__.py": "from maskgen.io.files import read\n",
        "maskgen/py.typed": "",
        "maskgen/__pycache__/stale.py": "",
        "maskgen/version.py": "x = 1\n" * 301,
        "maskgen/io/__init__.py": "",
        "maskgen/io/files.py": "def read():\n    from maskgen.cli import main\n" + "    x = 1\n" * 59 + "\n\ndef _hidden(): ...\n",
        "maskgen/cli/__init__.py": "",
        "maskgen/cli/main.py": "import maskgen.cli.verbs\nfrom maskgen.io.files import read as _read\n\n\ndef _hidden(): ...\n"
        + "y = 1\n" * 295,
        "maskgen/cli/verbs.py": "from maskgen.cli import main\n\n\nclass read: ...\n\n\ndef short():\n" + "    x = 1\n" * 59,
        "tests/test_layers.py": 'FLOORS = (("version", "io"), ("cli",))\nraise ImportError("not to be imported")\n',
        "README.md": f"{'a' * 160}\n{'b' * 161}\n",
        "docs/guide.md": f"| {'c' * 161} |\n```\n{'d' * 161}\n```\n",
        "docs/log.md": f"{'e' * 161}\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_every_planted_fault_is_counted_and_nothing_else(front_door: ModuleType, planted: Path) -> None:
    assert front_door.measured(planted) == {
        "rooms at the root of maskgen/": ["__init__.py", "cli", "io", "version.py"],
        "files over 300 lines": ["maskgen/version.py: 301"],
        "functions over 60 lines": ["maskgen/io/files.py: read, 61"],
        "public names defined twice": ["read: cli/verbs.py, io/files.py"],
        "import circles": [
            "maskgen.cli.main > maskgen.cli.verbs > maskgen.cli.main",
            "maskgen.cli.main > maskgen.io.files > maskgen.cli.main",
        ],
        "upward arrows": ["maskgen.io.files > maskgen.cli.main"],
        "docs lines over 160 characters": ["README.md:2: 161", "docs/guide.md:3: 161"],
    }


def test_a_checkout_without_floors_has_no_count_of_upward_arrows(front_door: ModuleType, planted: Path) -> None:
    (planted / "tests/test_layers.py").unlink()
    assert front_door.upward_arrows(planted) is None


def test_other_folders_are_refused(front_door: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted a checkout of maskgen"):
        front_door.measured(tmp_path)


def test_the_script_prints_a_line_a_count_of_this_repository() -> None:
    found = subprocess.run([sys.executable, str(FOLDER / "front_door.py")], capture_output=True, text=True, check=True)
    lines = [line.rsplit(maxsplit=1) for line in found.stdout.splitlines()]
    assert len(lines) == 7
    assert all(count.isdigit() for _, count in lines)
    counts = {name.strip(): int(count) for name, count in lines}
    assert (counts["import circles"], counts["upward arrows"]) == (0, 0)
