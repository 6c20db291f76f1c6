"""Calls of the command line that must fail."""

from pathlib import Path

import pytest

from maskgen.cli.main import main


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """The sentence on stderr of a call that must fail."""
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.err.startswith("maskgen: error: "), said.err
    assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err
    return said.err.removeprefix("maskgen: error: ").strip()
