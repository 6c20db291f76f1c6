"""Settings: per-level values, merging and refusal."""

from pathlib import Path
from typing import Any

import pytest

from maskgen.decoding.guidance import IntervalGuidance
from maskgen.decoding.settings import GenerationSettings, read_settings
from maskgen.masking.schedule import Linear
from maskgen.masking.time_shift import Shifted
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.sampling.halton import HaltonSampler


def test_the_last_value_serves_all_finer_levels() -> None:
    settings = GenerationSettings(steps=(12, 4, 2), temperature=(1.0,), choice_temperature=(4.0, 0.5))
    assert [settings.at(level).steps for level in range(5)] == [12, 4, 2, 2, 2]
    samplers = [settings.at(level) for level in range(3)]
    assert [sampler.choice_temperature for sampler in samplers if isinstance(sampler, ConfidenceSampler)] == [4.0, 0.5, 0.5]


def test_a_bare_number_changes_the_coarsest_level_alone_and_a_list_all() -> None:
    settings = GenerationSettings(steps=(12, 4, 2), temperature=(1.0, 0.8))
    assert settings.changed(steps=7).steps == (7, 4, 2)
    assert settings.changed(steps=[7]).steps == (7,)
    assert settings.changed(steps=(7, 3)).steps == (7, 3)
    assert settings.changed(temperature=0.5).temperature == (0.5, 0.8)
    assert settings.changed(temperature=0.0).temperature == (0.0, 0.8)


def test_none_changes_nothing_and_zero_changes() -> None:
    settings = GenerationSettings(top_k=5, guidance_scale=3.0)
    assert settings.changed(top_k=None, steps=None, sampler=None) == settings
    assert settings.changed(top_k=0).top_k == 0
    assert settings.changed(guidance_scale=0.0).guidance_scale == 0.0


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    found = GenerationSettings.from_dict({"min_p": "1e-2", "steps": ["8", 4], "guidance_scale": "1e1"})
    assert (found.min_p, found.steps, found.guidance_scale) == (0.01, (8, 4), 10)


def test_settings_survive_json() -> None:
    settings = GenerationSettings(steps=(3, 1), guidance_schedule="interval", guidance_scale=2.0, guidance_interval=(0.2, 0.9))
    assert GenerationSettings.from_dict(settings.to_dict()) == settings
    assert settings.guidance() == IntervalGuidance(2.0, 0.2, 0.9)


def test_only_samplers_that_know_a_choice_temperature_get_one() -> None:
    assert isinstance(GenerationSettings(sampler="halton").at(0), HaltonSampler)


def test_zero_top_k_and_full_top_p_cut_nothing() -> None:
    sampler = GenerationSettings(top_k=0, top_p=1.0).at(0)
    assert (sampler.top_k, sampler.top_p) == (None, None)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"steps": [4.5]}, "steps must be whole numbers"),
        ({"refresh": "two"}, "refresh must be a number, got 'two'"),
        ({"groups": 3}, "value of the wrong kind"),
        ({"guidance_scale": {}}, "guidance_scale must be a number"),
        ({"sampler": "zigzag", "groups": [[0], [1, 2]]}, "needs its own look at a single level"),
        ({"sampler": "blocks", "sampler_options": {"inner": "critic"}, "groups": [[0, 1]]}, "needs its own look at a single level"),
        ({"step": 3}, "unknown generation settings step; there are"),
        ({"steps": []}, "steps needs at least one value"),
        ({"steps": [3, 0]}, "steps must be at least 1"),
        ({"temperature": [1.0, -1.0]}, "temperature must be"),
        ({"top_p": 0.0}, "top_p must lie"),
        ({"sampler": "best"}, "no sampler is called"),
        ({"schedule": "best"}, "no mask schedule is called"),
        ({"guidance_schedule": "best"}, "no guidance schedule is called"),
        ({"guidance_schedule": "interval", "guidance_interval": [0.9, 0.2]}, "interval needs"),
    ],
)
def test_bad_settings_are_refused_when_made(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        GenerationSettings.from_dict(data)


def test_settings_are_read_from_yaml(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("image: {steps: [3, 1], guidance_scale: 2.5}")
    assert read_settings(tmp_path / "settings.yaml") == {"image": GenerationSettings(steps=(3, 1), guidance_scale=2.5)}


@pytest.mark.parametrize("content", ["", "image", "image: 3", "- image", "image: [", "image: {step: 3}", "image: {steps: 0}"])
def test_a_bad_settings_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"settings|is no YAML|steps must"):
        read_settings(tmp_path / "settings.yaml")
    with pytest.raises(ValueError, match="do not exist"):
        read_settings(tmp_path / "nothing.yaml")


def test_a_time_shift_wraps_the_schedule_of_any_sampler_and_goes_with_it() -> None:
    settings = GenerationSettings(sampler="halton", time_shift=0.2)
    assert settings.at(0).schedule == Shifted(HaltonSampler().schedule, 0.2)
    named = settings.changed(schedule="linear")
    assert named.at(0).schedule == Shifted(Linear(), 0.2)
    assert GenerationSettings.from_dict(named.to_dict()) == named
    assert named.changed(sampler="confidence").time_shift == 1.0
    inner = GenerationSettings(sampler="blocks", time_shift=0.2).at(0)
    assert inner.inner.schedule == Shifted(type(inner.inner)().schedule, 0.2)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"time_shift must lie in \[0\.001, 1000\], got 0"):
        GenerationSettings(time_shift=0.0)
