"""The curl lines and the Python of docs/serving.md, run against a server of tiny models."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from builders.served import LIMITS, Running, running

from maskgen.pipelines.base import Pipeline

GUIDE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def shipped(models: dict[str, Pipeline]) -> Iterator[Running]:
    """Tiny models under the names of the shipped ones."""
    names = {"emoji-64": models["pictures"], "heart-16k": models["voice"], "any-64": models["both"]}
    with running(names, LIMITS) as found:
        yield found


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_lines_of_the_guide_run(shipped: Running, tmp_path: Path) -> None:
    blocks = [block for block in re.findall(r"^```bash\n(.*?)^```$", GUIDE, re.S | re.M) if "curl" in block]
    assert len(blocks) == 3
    for block in blocks:
        script = block.replace(ADDRESS, shipped.url)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "heart.png").read_bytes().startswith(b"\x89PNG")
    assert soundfile.info(tmp_path / "said.wav").samplerate == 16_000
    assert "x-time-to-first-audio-ms" in (tmp_path / "head.txt").read_text().lower()


def test_the_python_of_the_guide_runs(shipped: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.S | re.M)[0]
    exec(compile(block.replace(ADDRESS, shipped.url), "docs/serving.md", "exec"), {})
    assert soundfile.info("said.wav").duration > 0


def test_every_option_and_default_of_the_table_is_so() -> None:
    from maskgen.cli.main import build_parser
    from maskgen.serving.limits import ServeLimits

    args = build_parser().parse_args(["serve", "--model", "emoji-64"])
    for option in re.findall(r"`(--[a-z-]+)`", GUIDE.partition("## Errors")[2].partition("## Who")[0]):
        assert hasattr(args, option.removeprefix("--").replace("-", "_")), option
    limits = ServeLimits()
    assert (args.max_running, args.max_waiting, args.timeout_s) == (16, 64, 120.0)
    assert (limits.max_requests, limits.max_body_bytes, limits.body_timeout_s) == (256, 32 * 2**20, 30)
    assert (limits.send_timeout_s, limits.header_timeout_s) == (60, 10)
    assert (limits.max_pixels, limits.max_audio_s, limits.max_characters, limits.max_speech_s) == (2**24, 30, 5000, 60)
    assert (limits.max_steps, limits.max_outputs, limits.max_candidates, limits.max_bodies_bytes) == (256, 16, 16, 256 * 2**20)
