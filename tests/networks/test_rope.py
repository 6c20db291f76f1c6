"""Rotary frequencies of larger grids, by the properties that their papers state."""

import dataclasses

import pytest
import torch

from maskgen.networks.rope import RopeScaling, axis_frequencies, rope_frequencies
from maskgen.networks.transformer import TRANSFORMER_SCHEMA, MaskTransformer, TransformerConfig
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace

SPACE = TokenSpace([Modality(name="image", kind="image", num_levels=1, codebook_size=9)])
CONFIG = TransformerConfig(dim=64, num_layers=1, num_heads=2)


def test_interpolation_puts_every_second_cell_of_a_double_grid_where_the_training_had_its_cells() -> None:
    torch.manual_seed(0)
    model = MaskTransformer(CONFIG, SPACE.size, 1)
    batch = pack([{"image": torch.zeros(1, 8, 8, dtype=torch.long)}], SPACE)
    _, trained = model.start(batch.ids, batch.modality, batch.coords)
    model.config = dataclasses.replace(CONFIG, rope_scaling="interpolate", rope_factor=2.0)
    _, scaled = model.start(batch.ids, batch.modality, 2 * batch.coords)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(trained, scaled, strict=True))


@pytest.mark.parametrize("scaling", ["interpolate", "ntk", "yarn"])
def test_the_slowest_pair_is_divided_by_the_factor_and_time_is_left_alone(scaling: RopeScaling) -> None:
    plain = rope_frequencies(CONFIG)
    scaled = rope_frequencies(dataclasses.replace(CONFIG, rope_scaling=scaling, rope_factor=3.0, rope_trained=32))
    ratio = scaled / plain.clamp(min=1e-12)
    assert torch.equal(scaled[0], plain[0])
    for axis in (1, 2):
        inside = ratio[axis][plain[axis] > 0]
        assert float(inside[-1]) == pytest.approx(1 / 3, rel=1e-4)
        assert float(inside[0]) == pytest.approx(1 / 3 if scaling == "interpolate" else 1.0, rel=1e-4)
        assert bool((inside.diff() < 1e-6).all())  # never faster for slower pairs


def test_a_factor_of_one_changes_nothing_and_a_single_pair_is_no_special_case() -> None:
    for scaling in ("interpolate", "ntk", "yarn"):
        assert torch.equal(axis_frequencies(6, 1000.0, scaling, 1.0, 16), axis_frequencies(6, 1000.0, "none", 1.0, 0))  # type: ignore[arg-type]
    assert axis_frequencies(1, 1000.0, "ntk", 2.0, 16).tolist() == [1.0]
    assert axis_frequencies(0, 1000.0, "ntk", 2.0, 16).tolist() == []


@pytest.mark.parametrize("wrong", [{"rope_factor": 0.5}, {"rope_scaling": "yarn", "rope_factor": 2.0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="rope_factor must"):
        TransformerConfig(**wrong)  # type: ignore[arg-type]
    TRANSFORMER_SCHEMA.check(dataclasses.asdict(dataclasses.replace(CONFIG, rope_scaling="ntk", rope_factor=2.0)), "a test")
