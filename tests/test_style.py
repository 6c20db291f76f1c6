"""ruff is part of the test command, mypy of the slow tests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


CHECKS = [("ruff", "check", "."), ("ruff", "format", "--check", "."), pytest.param(("mypy",), marks=pytest.mark.slow)]
"""Without its cache mypy takes more than a minute, which is too long for the default tests: run `pytest -m slow tests/test_style.py`."""


@pytest.mark.parametrize("arguments", CHECKS, ids=lambda arguments: " ".join(arguments))
def test_the_tree_is_clean(arguments: tuple[str, ...]) -> None:
    found = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
