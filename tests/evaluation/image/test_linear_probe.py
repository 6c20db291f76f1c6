"""Linear probes find what is linear in the features and nothing else."""

import json
from pathlib import Path

import pytest
import torch
from builders.toned_rows import row

from maskgen.evaluation.image.linear_probe import (
    accuracy,
    choose_penalty,
    evaluate_probe,
    fit_probe,
    pixel_features,
    read_attributes,
    subject,
)


def planted(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes that differ along two of ten features."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(3, (count,), generator=generator)
    centres = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 4.0]])
    features = torch.randn(count, 10, generator=generator)
    features[:, :2] += centres[target]
    return features * torch.logspace(-2, 2, 10), target


def test_a_probe_finds_planted_classes_whatever_the_scale_and_repeats_itself() -> None:
    features, target = planted(200, 0)
    probe = fit_probe(features, target, 3, choose_penalty(features, target, 3))
    assert accuracy(probe, *planted(200, 1)) > 0.95
    again = fit_probe(features, target, 3, choose_penalty(features, target, 3))
    assert torch.equal(probe.linear.weight, again.linear.weight)


def test_the_fit_is_the_minimum_of_the_penalised_loss() -> None:
    features, target = planted(100, 2)
    probe = fit_probe(features, target, 3, 0.01)
    outputs = probe(features)
    loss = torch.nn.functional.cross_entropy(outputs, target) + 0.005 * probe.linear.weight.square().sum()
    loss.backward()
    assert float(probe.linear.weight.grad.abs().max()) < 1e-3  # type: ignore[union-attr]


def test_attributes_are_read_from_the_rows_that_have_them() -> None:
    rows = [row(number % 4, number % 6, ("flat", "noto")[number % 2]) for number in range(60)]
    styles = torch.tensor([[float(one.style == "flat")] for one in rows])
    found = read_attributes({"planted": (styles, styles[:24])}, rows, rows[:24])
    assert set(found) == {"subject", "tone", "style"}, "a single group is nothing to tell apart"
    assert (found["style"]["planted"]["accuracy"], found["style"]["commonest"]) == (1.0, 0.5)
    assert (found["tone"]["classes"], found["tone"]["rows"], found["tone"]["held_out"]) == (5, 50, 20)


def test_the_report_has_the_probes_beside_pixels(toned: Path, tmp_path: Path) -> None:
    report = evaluate_probe(toned, tmp_path, {"own": lambda pictures: torch.ones(len(pictures), 2)}, rows=24, facts={"model": "none"})
    style = report["attributes"]["style"]
    assert style["own"]["accuracy"] == pytest.approx(0.5)
    assert style["pixels"]["accuracy"] == 1.0, "the first half of the colours is one style"
    assert json.loads((tmp_path / "probe.json").read_text())["model"] == "none"
    with pytest.raises(ValueError, match="no held-out split 'train'"):
        evaluate_probe(toned, tmp_path, {}, split="train")


def test_a_subject_is_the_label_without_its_tone() -> None:
    labels = {
        "Santa Claus: light skin tone": "Santa Claus",
        "woman: medium-dark skin tone, blond hair": "woman, blond hair",
        "person walking facing right": "person walking facing right",
    }
    for label, wanted in labels.items():
        one = row(0, 1, "flat")
        assert subject(type(one)(**{**vars(one), "label": label})) == wanted


def test_thumbnails_are_averages() -> None:
    pixels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    pixels[:, 0, :4, :2] = 255
    small = pixel_features(pixels)
    assert small.shape == (1, 3 * 16 * 16)
    assert float(small[0, 0]) == pytest.approx(0.5)
    assert float(small.sum()) == pytest.approx(0.5)
