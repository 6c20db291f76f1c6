"""`maskgen bench serve`: against a real server, and its sums on planted answers."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from builders.command_line import refused
from builders.served import KEY, Running, running

from maskgen.cli.main import main
from maskgen.pipelines.base import Pipeline
from maskgen.serving.keys import ApiKeys
from maskgen.serving.load import LoadAnswer, load_summary
from maskgen.serving.load_plot import load_plot


def test_a_server_is_measured(server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = "images,speech,transcriptions,captions"
    main(["bench", "serve", "--url", server.url, "--kinds", kinds, "--concurrency", "2,1", "--requests", "4", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "bench.json").read_text())
    assert [level["concurrency"] for level in found["levels"]] == [1, 2]
    for level in found["levels"]:
        assert level["statuses"] == {"200": 4}
        assert set(level["latency_s_by_kind"]) == set(kinds.split(","))
        assert 0 < level["first_audio_s"]["p50"] <= level["latency_s_by_kind"]["speech"]["p50"]
        assert level["audio_s_per_s"] > 0
    assert ElementTree.parse(tmp_path / "bench.svg").getroot().tag.endswith("svg")
    assert "2 clients: " in capsys.readouterr().out


def test_what_cannot_be_measured_is_refused(server: Running, models: dict[str, Pipeline], capsys: pytest.CaptureFixture[str]) -> None:
    call = ("bench", "serve", "--url")
    assert refused(capsys, *call, "ftp://127.0.0.1").startswith("'ftp://127.0.0.1' is no URL of a server")
    assert refused(capsys, *call, server.url, "--concurrency", "0").startswith("--concurrency must be numbers from 1 to 1000")
    assert refused(capsys, *call, server.url, "--kinds", "video").startswith("--kinds names video; choose some of images")
    with running({"pictures": models["pictures"]}, keys=ApiKeys([KEY])) as closed:
        assert "answers /v1/models with status 401" in refused(capsys, *call, closed.url)
        assert refused(capsys, *call, closed.url, "--api-key", KEY, "--kinds", "speech").startswith("the server has no model for speech")


def test_sums_over_answers() -> None:
    answers = [
        LoadAnswer("speech", 200, 2.0, 0.5, 4.0),
        LoadAnswer("speech", 200, 4.0, 1.5, 4.0),
        LoadAnswer("images", 200, 1.0),
        LoadAnswer("images", 429, 0.1),
        LoadAnswer("images", 0, 9.0),
    ]
    found = load_summary(answers, 10.0, 2)
    assert found["statuses"] == {"200": 3, "429": 1, "0": 1}
    assert (found["requests_per_s"], found["audio_s_per_s"]) == (0.3, 0.8)
    assert (found["latency_s"]["p50"], found["first_audio_s"]["p50"], found["real_time_factor"]["p50"]) == (2.0, 1.0, 0.75)
    assert found["latency_s_by_kind"]["images"]["mean"] == 1.0


def test_a_plot_shows_the_panels_that_have_data() -> None:
    level = load_summary([LoadAnswer("images", 200, 1.0)], 2.0, 1)
    plot = load_plot([level, {**level, "concurrency": 2}], "a <title>")
    texts = [one.text for one in ElementTree.fromstring(plot).iter() if one.tag.endswith("text")]
    assert "latency, s" in texts
    assert "time to first audio, s" not in texts
    assert "a <title>" in texts
