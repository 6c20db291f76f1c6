"""Scorers, the journal of trials, the search in two rounds and the comparison of samplers, with made-up judges."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskgen.decoding.settings import GenerationSettings
from maskgen.evaluation.image.corpus import Row
from maskgen.evaluation.speech.asr import TextErrors
from maskgen.evaluation.tuning.compare import Cell, at_budget, compare, markdown, read_defaults, shared_steps, write_comparison
from maskgen.evaluation.tuning.report import ticks, write_tune_report
from maskgen.evaluation.tuning.tasks import (
    ImageTask,
    RowScore,
    Sentence,
    SpeechTake,
    SpeechTask,
    TaskScorer,
    TextTask,
    half_unknown,
    passes_of,
    row_seed,
)
from maskgen.evaluation.tuning.trials import Journal, run_trial
from maskgen.evaluation.tuning.tune import candidates, changed, rewrite_generation, tune
from maskgen.io.audio import Waveform
from maskgen.io.bundle import load_bundle
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.outputs import GenerationOutput
from maskgen.processors.text import prompt_codes
from maskgen.sampling import by_name
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokens.space import TokenSpace

OWN = GenerationSettings(steps=(16,))
FACTS = {"model": "m", "target": "image", "split": "C", "seed": 0}


class Planted(TaskScorer):
    """Quality falls short of 1 by what `loss` says of the steps, with noise that is the row's own; passes are the steps."""

    measure, judge = "planted quality", "planted 1"

    def __init__(self, rows: int = 40) -> None:
        self.rows = [f"row {number}" for number in range(rows)]
        self.asked: list[tuple[int, int]] = []

    @property
    def keys(self) -> list[str]:
        return self.rows

    def score(self, settings: GenerationSettings, places: Sequence[int]) -> list[RowScore]:
        steps = settings.steps[0]
        self.asked += [(steps, place) for place in places]
        quality = 1 - 1 / steps if steps <= 16 else 0.5
        noise = {key: row_seed(key, 0) / 2**32 for key in self.rows}
        keys = [self.rows[place] for place in places]
        return [RowScore(key=key, quality=quality - noise[key], passes=float(steps), elapsed_s=0.1) for key in keys]


def rows_of_pictures(count: int) -> list[Row]:
    return [Row(key=f"k{n}", label=f"l{n}", caption=f"picture {n}", style="flat", tone=0, group="other") for n in range(count)]


def test_pictures_are_scored_with_seeds_of_their_keys(tiny_pipeline: Pipeline) -> None:
    heard: list[list[int]] = []

    def draw(captions: Sequence[str], seeds: Sequence[int], settings: GenerationSettings) -> Any:
        heard.append(list(seeds))
        return tiny_pipeline.generate([tiny_pipeline.text_codes(caption) for caption in captions], "image", seeds, settings)

    def brightness(rows: Sequence[Row], pictures: Sequence[Image.Image]) -> list[float]:
        return [float(np.asarray(picture).mean()) + len(row.caption) for row, picture in zip(rows, pictures, strict=True)]

    settings = GenerationSettings(steps=(2, 1))
    task = ImageTask(rows_of_pictures(4), draw, brightness, seed=3)
    together, alone = task.score(settings, [0, 1, 2]), task.score(settings, [2])
    assert [row.key for row in together] == ["k0", "k1", "k2"]
    assert heard == [[row_seed(key, 3) for key in ("k0", "k1", "k2")], [row_seed("k2", 3)]]
    assert together[2].quality == alone[0].quality
    assert len({row.quality for row in together}) == 3
    assert [row.passes for row in together] == [3.0] * 3
    assert together[0].weight == 1.0


def test_speech_quality_is_one_minus_the_word_error_rate_over_all_words() -> None:
    wave = Waveform(samples=np.zeros((1, 8), np.float32), sample_rate_hz=8)
    edits = {"one": 1, "a b c d": 1, "x y": 4}

    def listen(text: str, _: Waveform) -> TextErrors:
        return TextErrors(word_edits=edits[text], words=len(text.split()), character_edits=0, characters=1)

    def speak(row: Sentence, seed: int, settings: GenerationSettings) -> SpeechTake:
        return SpeechTake(wave=wave, passes=float(seed % 7), elapsed_s=2.0)

    task = SpeechTask([Sentence(key=text, text=text, speaker="s") for text in edits], speak, listen)
    scored = task.score(OWN, [0, 1, 2])
    assert [row.quality for row in scored] == [0.0, 0.75, -1.0]
    mean = sum(row.quality * row.weight for row in scored) / sum(row.weight for row in scored)
    assert mean == pytest.approx(1 - sum(edits.values()) / 7)
    assert [row.passes for row in scored] == [row_seed(text, 0) % 7 for text in edits]


@given(cells=st.integers(1, 30), levels=st.integers(1, 2), seed=st.integers(0, 2**32 - 1))
def test_half_of_a_text_is_unknown_at_all_levels(cells: int, levels: int, seed: int) -> None:
    codes = torch.arange(levels * cells).view(levels, cells)
    found = half_unknown(codes, seed)
    unknown = found == -1
    assert int(unknown.sum()) == levels * max(1, cells // 2)
    assert (unknown == unknown[:1]).all()
    assert torch.equal(found[~unknown], codes[~unknown])
    assert torch.equal(found, half_unknown(codes, seed))
    assert (codes >= 0).all()


def test_an_oracle_restores_every_text_and_a_model_that_is_off_by_one_none() -> None:
    texts = [("a", torch.tensor([[3, 4, 5, 6]])), ("b", torch.tensor([[1, 2]])), ("c", torch.tensor([[9]]))]
    truth = {row_seed(key, 0): codes for key, codes in texts}

    def off_by(number: int) -> Any:
        def generate(known: Any, seeds: Any, settings: Any) -> Any:
            made = [torch.where(row["text"] == -1, truth[seed] + number, row["text"]) for row, seed in zip(known, seeds, strict=True)]
            calls = [1.0, 2.0, 3.0][: len(made)]
            return GenerationOutput([], made, list(seeds), [], calls, 0.3, [torch.zeros(codes.shape) for codes in made])

        return generate

    scored = TextTask(texts, off_by(0)).score(OWN, [0, 1, 2])
    assert [(row.quality, row.weight, row.passes) for row in scored] == [(1.0, 2.0, 1.0), (1.0, 1.0, 2.0), (1.0, 1.0, 3.0)]
    assert [row.quality for row in TextTask(texts, off_by(1)).score(OWN, [0, 1])] == [0.0, 0.0]


def test_text_is_infilled_by_any_model_of_text(tiny_text: TextTokenizer) -> None:
    space = TokenSpace([tiny_text.modality("text")])
    model = MaskTransformer(TransformerConfig(dim=16, num_layers=1, num_heads=2), space.size, 1)
    pipeline = Pipeline(model, space, {"text": tiny_text}, {"text": GenerationSettings(steps=(2,))})
    texts = [(text, prompt_codes(tiny_text, text)["text"]) for text in ("a red heart", "a blue square, 3d style")]
    task = TextTask(texts, lambda known, seeds, settings: pipeline.generate(known, "text", seeds, settings))
    scored = task.score(pipeline.settings["text"], [0, 1])
    assert [row.weight for row in scored] == [codes.shape[1] // 2 for _, codes in texts]
    assert all(0 <= row.quality <= 1 and 0 < row.passes <= 2 for row in scored)


def test_passes_are_one_number_or_one_a_row() -> None:
    assert passes_of(12, 2) == [12.0, 12.0]
    assert passes_of([1, 2.5], 2) == [1.0, 2.5]
    with pytest.raises(ValueError, match="passes of 2 rows, wanted one number for each of 3"):
        passes_of([1, 2], 3)


def test_no_row_is_run_twice_over_rounds_and_restarts(tmp_path: Path) -> None:
    task, path = Planted(8), tmp_path / "trials.jsonl"
    few = run_trial(task, Journal(path, FACTS), {}, OWN, 2)
    many = run_trial(task, Journal(path, FACTS), {}, OWN, 8)
    again = run_trial(task, Journal(path, FACTS), {}, OWN, 5)
    assert task.asked == [(16, place) for place in range(8)]
    assert [row.key for row in many.rows] == task.keys
    assert list(few.rows) == list(many.rows[:2])
    assert list(again.rows) == list(many.rows[:5])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [len(line["scores"]) for line in lines] == [2, 6]


def test_a_torn_line_is_dropped_and_run_again(tmp_path: Path) -> None:
    task, path = Planted(3), tmp_path / "trials.jsonl"
    for steps in (4, 8):
        run_trial(task, Journal(path, FACTS), {"steps": steps}, OWN.changed(steps=steps), 3)
    path.write_bytes(path.read_bytes()[:-20])
    trials = [run_trial(task, Journal(path, FACTS), {"steps": steps}, OWN.changed(steps=steps), 3) for steps in (4, 8)]
    assert [steps for steps, _ in task.asked] == [4] * 3 + [8] * 6
    assert [trial.point[0] for trial in trials] == [4.0, 8.0]
    assert [json.loads(line)["changes"]["steps"] for line in path.read_text().splitlines()] == [4, 8]


def test_trials_of_other_facts_and_foreign_lines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    run_trial(Planted(2), Journal(path, FACTS), {}, OWN, 2)
    with pytest.raises(ValueError, match="holds trials with seed 0 instead of 1, split C instead of D; give another --out"):
        Journal(path, {**FACTS, "seed": 1, "split": "D"})
    path.write_text("not a trial\n")
    with pytest.raises(ValueError, match=r"line 1 of .* is no trial of maskgen"):
        Journal(path, FACTS)


def tuned_with(tmp_path: Path, steps: Sequence[int], passes_at_most: float | None = None) -> tuple[Planted, Any]:
    task = Planted()
    found = candidates(OWN, [{"steps": count} for count in steps])
    return task, tune(task, Journal(tmp_path / "trials.jsonl", FACTS), found, passes_at_most)


def test_the_planted_best_setting_is_found_in_two_rounds(tmp_path: Path) -> None:
    task, found = tuned_with(tmp_path, [2, 4, 8, 12, 20, 24, 28, 32])
    assert found.second[found.chosen].settings.steps == (16,)  # every planted difference is on every row, so nothing is noise
    assert [trial.settings.steps[0] for trial in found.first] == [16, 2, 4, 8, 12, 20, 24, 28, 32]
    assert [trial.settings.steps[0] for trial in found.second] == [16, 2, 4, 8, 12]
    assert [len(trial.rows) for trial in (found.first[0], found.second[0])] == [10, 40]
    assert [found.second[place].settings.steps[0] for place in found.front] == [2, 4, 8, 12, 16]
    assert len(task.asked) == len(set(task.asked)) == 9 * 10 + 5 * 30


def test_a_bound_on_the_passes_holds_and_the_bundle_s_own_is_still_measured(tmp_path: Path) -> None:
    _, found = tuned_with(tmp_path, [2, 4, 8, 32], passes_at_most=9.0)
    assert found.second[0].settings == OWN
    assert found.second[found.chosen].settings.steps == (8,)
    with pytest.raises(ValueError, match="at most 1 passes, the cheapest takes 2"):
        tuned_with(tmp_path, [2, 4, 8, 32], passes_at_most=1.0)


def test_what_cannot_be_decoded_with_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    found = candidates(OWN, [{"steps": 0}, {"steps": 16}, {"steps": 8}])
    assert [one.settings.steps for one in found] == [(16,), (8,)]
    assert "left out steps=0: steps must be at least 1" in caplog.text
    with pytest.raises(ValueError, match="unknown generation settings stepz"):
        candidates(OWN, [{"stepz": 4}])


def test_a_setting_that_cannot_begin_is_left_out_of_the_search(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(Planted):
        def score(self, settings: GenerationSettings, places: Sequence[int]) -> Any:
            if settings.sampler == "critic":
                raise ValueError("the critic order needs a trained critic")
            return super().score(settings, places)

    found = candidates(OWN, [{"steps": 4}, {"sampler": "critic"}, {"steps": 8}])
    made = tune(Refusing(), Journal(tmp_path / "trials.jsonl", FACTS), found)
    assert [trial.settings.steps[0] for trial in made.first] == [16, 4, 8]
    assert "left out sampler=critic: the critic order needs" in caplog.text
    own = candidates(OWN.changed(sampler="critic"), [{"sampler": "confidence"}])
    with pytest.raises(ValueError, match="needs a trained critic"):
        tune(Refusing(), Journal(tmp_path / "other.jsonl", FACTS), own)


def test_another_sampler_starts_without_the_old_one_s_options() -> None:
    own = GenerationSettings(sampler="halton", sampler_options={"roll": True})
    assert changed(own, {"steps": 4}).sampler_options == {"roll": True}
    assert changed(own, {"sampler": "confidence"}).sampler_options == {}
    assert changed(own, {"sampler": "halton"}).sampler_options == {"roll": True}


def test_the_page_and_the_json_mark_the_front_and_the_chosen(tmp_path: Path) -> None:
    _, found = tuned_with(tmp_path, [2, 4, 8, 32])
    report = write_tune_report(tmp_path, found, FACTS, "planted <quality>")
    assert json.loads((tmp_path / "pareto.json").read_text()) == report
    assert report["second_round"][report["chosen"]]["passes"] == 16
    assert GenerationSettings.from_dict(report["settings"]) == OWN
    page = (tmp_path / "report.html").read_text()
    assert page.count('class="chosen"') == page.count('class="front"') == 1
    assert page.count("<circle") == len(found.second) + 1
    assert "planted &lt;quality&gt;" in page
    assert "http" not in page


@given(low=st.floats(-1e6, 1e6), span=st.one_of(st.just(0.0), st.floats(1e-3, 1e6)))
def test_ticks_hold_what_is_shown_and_are_few(low: float, span: float) -> None:
    found = ticks(low, low + span)
    slack = 1e-6 * max(1.0, abs(low), span)
    assert found[0] <= low + slack
    assert found[-1] >= low + span - slack
    assert 2 <= len(found) <= 9
    assert found == sorted(set(found))


def test_settings_are_rewritten_and_the_weights_are_untouched(tmp_path: Path, tiny_bundle: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "bundle.json"}
    settings = GenerationSettings(sampler="halton", steps=(3, 1), guidance_scale=1.5)
    fingerprint = rewrite_generation(folder, "image", settings)
    assert fingerprint == load_bundle(folder, "pipeline").fingerprint != load_bundle(tiny_bundle, "pipeline").fingerprint
    assert {path: path.read_bytes() for path in before} == before
    pipeline = Pipeline.from_pretrained(folder)
    assert pipeline.settings == {"image": settings}
    with pytest.raises(ValueError, match="generates image, not text"):
        rewrite_generation(folder, "text", settings)
    (folder / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is damaged"):
        rewrite_generation(folder, "image", settings)


@given(own=st.lists(st.integers(1, 20), min_size=1, max_size=5), more=st.integers(0, 60))
def test_a_budget_is_shared_whole_and_the_bundle_s_own_comes_back(own: list[int], more: int) -> None:
    budget = len(own) + more
    found = shared_steps(own, budget)
    assert sum(found) == budget
    assert min(found) >= 1
    assert shared_steps(own, sum(own)) == own
    beyond = [steps - 1 for steps in own] if sum(own) > len(own) else [1] * len(own)
    assert all(abs(steps - 1 - more * part / sum(beyond)) < 1 for steps, part in zip(found, beyond, strict=True))


def test_levels_of_a_group_share_their_steps_and_a_small_budget_is_refused() -> None:
    own = GenerationSettings(steps=(9, 3, 7), groups=((0,), (1, 2)))
    assert at_budget(own, "random_order", {}, 12, 3).steps == (9, 3, 3)
    with pytest.raises(ValueError, match="a budget of 1 steps is too small, this model decodes 2 levels"):
        at_budget(own, "random_order", {}, 1, 3)


def test_every_sampler_is_compared_and_what_cannot_be_is_listed(tmp_path: Path) -> None:
    task, journal = Planted(3), Journal(tmp_path / "compare.jsonl", FACTS)
    own = GenerationSettings(sampler="halton", sampler_options={"roll": True}, steps=(4,))
    defaults: dict[str, dict[str, Any]] = {"confidence": {"choice_temperature": [2.0]}, "critic": {}, "random_order": {}}

    class Lacking(Planted):
        def score(self, settings: GenerationSettings, places: Sequence[int]) -> list[RowScore]:
            if settings.sampler == "critic":
                raise ValueError("the critic order needs a trained critic; give one")
            if settings.sampler == "random_order" and settings.steps[0] < 8:
                raise ValueError("too few steps")
            return super().score(settings, places)

    task = Lacking(3)
    cells = compare(task, journal, own, defaults, [4, 8], 1)
    again = compare(task, Journal(tmp_path / "compare.jsonl", FACTS), own, defaults, [4, 8], 1)
    assert [dataclasses.replace(cell, trial=None) for cell in cells] == [dataclasses.replace(cell, trial=None) for cell in again]
    assert len(task.asked) == 3 * 3
    table = write_comparison(tmp_path, cells, FACTS, task.measure, 3)
    lines = {line.split(" | ")[0]: line for line in table.splitlines() if line.startswith("| ")}
    assert lines["| critic"] == "| critic | needs a trained critic | needs a trained critic |"
    assert lines["| random_order"].startswith("| random_order | not possible | ")
    assert "- random_order at 4 steps: too few steps" in table
    assert "- confidence: choice_temperature=[2.0]" in table
    assert " / 8 / 0.100 |" in lines["| confidence"]
    found = json.loads((tmp_path / "compare.json").read_text())
    assert [cell["sampler"] for cell in found["cells"]] == ["confidence"] * 2 + ["critic"] * 2 + ["random_order"] * 2
    assert found["cells"][1]["passes"] == 8.0


def test_a_comparison_of_which_nothing_is_possible_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="confidence at 2 steps: a budget of 2 steps is too small"):
        compare(Planted(2), Journal(tmp_path / "compare.jsonl", FACTS), OWN, {"confidence": {}}, [2], 3)


def test_the_table_has_a_line_a_sampler_and_a_column_a_budget() -> None:
    cells = [Cell(sampler="critic", budget=budget, reason="needs a trained critic") for budget in (4, 8, 12)]
    assert "| sampler | 4 steps | 8 steps | 12 steps |\n| --- | ---: | ---: | ---: |\n| critic |" in markdown(cells, FACTS, "quality", 5)


def test_the_shipped_defaults_name_samplers_that_there_are_and_fit_them() -> None:
    defaults = read_defaults(Path(__file__).parents[3] / "configs/compare_samplers.yaml")
    for name, changes in defaults.items():
        assert changes["guidance_scale"] == 1.0
        if not by_name(name).needs:
            assert at_budget(OWN, name, changes, 8, 1).sampler == name


def test_samplers_that_need_an_optional_package_are_compared_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "defaults.yaml").write_text("all: {top_k: 3}\nsamplers: {confidence: {}}")
    plain, more = (read_defaults(tmp_path / "defaults.yaml", more) for more in ((), ("diffusers_scheduler",)))
    assert more == {**plain, "diffusers_scheduler": {"top_k": 3}}
    (tmp_path / "defaults.yaml").write_text("samplers: {diffusers_scheduler: {top_p: 0.5}}")
    assert read_defaults(tmp_path / "defaults.yaml")["diffusers_scheduler"] == {"top_p": 0.5}


@pytest.mark.parametrize("content", ["[]", "all: 3", "samplers: {confidence: 3}", "others: {}", "samplers: {euler: {}}", "all: ["])
def test_defaults_of_another_form_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "defaults.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"must hold|no sampler is called|is no YAML"):
        read_defaults(tmp_path / "defaults.yaml")
