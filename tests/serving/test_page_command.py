"""`maskgen demo` and `serve --page` as commands: what they load, what they refuse, and a process that ends cleanly."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from builders.command_line import refused

from maskgen.cli import demo
from maskgen.cli.main import build_parser

ROOT = Path(__file__).parents[2]


def test_without_a_model_the_installed_ones_are_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert set(demo.installed_shown()) >= {"emoji-64", "heart-16k"}
    monkeypatch.setattr(demo, "model_names", lambda: ["heart-16k"])
    caplog.set_level("INFO")
    assert demo.installed_shown() == ["heart-16k"]
    assert "pip install maskgen-any-64" in caplog.text
    monkeypatch.setattr(demo, "model_names", lambda: [])
    with pytest.raises(ValueError, match="no shipped model is installed; name one"):
        demo.installed_shown()


def test_the_page_is_for_this_machine_unless_serve_says_otherwise() -> None:
    args = build_parser().parse_args(["demo"])
    assert (args.host, args.page, args.api_keys, args.cors) == ("127.0.0.1", True, None, [])
    assert not build_parser().parse_args(["serve", "--model", "emoji-64"]).page


def test_a_missing_gradio_is_named_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from maskgen.cli import options

    found = options.importlib.util.find_spec
    monkeypatch.setattr(options.importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else found(name, *rest))
    for command in (("demo",), ("serve", "--model", "emoji-64", "--page")):
        assert refused(capsys, *command) == "the page needs gradio; install it with: pip install maskgen[demo]"


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_process_answers_and_ends_cleanly(tiny_bundle: Path, end: int) -> None:
    pytest.importorskip("gradio", reason="the page needs gradio: pip install maskgen[demo]")
    command = [sys.executable, "-m", "maskgen", "demo", "--model", f"tiny={tiny_bundle}", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        said = re.fullmatch(r"maskgen shows tiny at (http://127.0.0.1:\d+); Ctrl-C ends it\n", process.stdout.readline())
        assert said is not None
        with urllib.request.urlopen(said[1], timeout=30) as answer:
            page = answer.read().decode()
        assert "Text to image" in page
        process.send_signal(end)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Traceback" not in errors
    finally:
        process.kill()
        process.wait(10)
