"""The Halton order: published cells, cover of any grid, and the decode along it."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from maskgen.masking.counts import masked_after, whole_ceil
from maskgen.masking.schedule import Arccos
from maskgen.sampling.halton import HaltonSampler, halton_order, radical_cells
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, Segment, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=5),
        Modality(name="image", kind="image", num_levels=1, codebook_size=4),
    ]
)


def van_der_corput(point: int, base: int) -> Fraction:
    value, scale = Fraction(0), Fraction(1, base)
    while point:
        value, point, scale = value + point % base * scale, point // base, scale / base
    return value


def naive_order(grid: tuple[int, ...], bases: tuple[int, ...] = (2, 3, 5)) -> tuple[list[tuple[int, ...]], int]:
    """First occurrences by the definition, and the number of points it took."""
    met: dict[tuple[int, ...], None] = {}
    cells, point = 1, 0
    for size in grid:
        cells *= size
    while len(met) < cells:
        point += 1
        met.setdefault(tuple(int(van_der_corput(point, base) * size) for base, size in zip(bases, grid, strict=False)))
    return list(met), point


def uniform(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    return torch.zeros(int(cells.sum()), segment.size)


def revealed(sampler: HaltonSampler, codes: Tensor, name: str = "image", seed: int = 0) -> list[list[tuple[int, ...]]]:
    """Places that each step reveals, for one row."""
    batch, segment = pack([{name: codes}], SPACE), SPACE.segment(name, 0)
    _, trajectory = sampler.sample(uniform, batch, segment, [torch.Generator().manual_seed(seed)])
    return [[tuple(place) for place in batch.coords[0][changed[0]].tolist()] for changed in trajectory.changed]


@pytest.mark.parametrize(
    ("size", "published"),
    [
        (8, [(4, 2), (2, 5), (6, 0), (1, 3), (5, 6), (3, 1), (7, 4), (0, 7)]),
        (16, [(8, 5), (4, 10), (12, 1), (2, 7), (10, 12), (6, 3), (14, 8), (1, 14)]),
    ],
)
def test_first_cells_equal_the_published_ones(size: int, published: list[tuple[int, int]]) -> None:
    assert [(int(cell) // size, int(cell) % size) for cell in halton_order((size, size))[:8]] == published


@pytest.mark.parametrize(
    ("grid", "points"),
    [
        ((8, 8), 79),
        ((16, 16), 685),
        ((24, 24), 2201),
        ((32, 32), 2292),
        ((48, 48), 7070),
        ((64, 64), 10363),
        ((16, 24), 689),
        ((32, 64), 4265),
    ],
)
def test_a_grid_is_covered_after_the_published_number_of_points(grid: tuple[int, int], points: int) -> None:
    numbers = torch.arange(1, points + 1)
    cells = radical_cells(numbers, 2, grid[0]) * grid[1] + radical_cells(numbers, 3, grid[1])
    assert len(cells.unique()) == grid[0] * grid[1] > len(cells[:-1].unique())


def test_one_axis_in_base_three_needs_the_published_number_of_points() -> None:
    assert len(radical_cells(torch.arange(1, 486), 3, 256).unique()) == 256 > len(radical_cells(torch.arange(1, 485), 3, 256).unique())


@pytest.mark.parametrize("grid", [(1,), (7,), (64,), (1, 1), (8, 8), (3, 11), (16, 24), (13, 2), (3, 4, 5), (2, 1, 6)])
def test_the_order_equals_the_definition_in_fractions(grid: tuple[int, ...]) -> None:
    expected, _ = naive_order(grid)
    numbers = [sum(place * stride for place, stride in zip(cell, strides(grid), strict=True)) for cell in expected]
    assert halton_order(grid).tolist() == numbers


def strides(grid: tuple[int, ...]) -> list[int]:
    result = [1]
    for size in reversed(grid[1:]):
        result.insert(0, result[0] * size)
    return result


@pytest.mark.parametrize("grid", [(32, 64), (64, 64), (63, 64), (1000,), (4096,)])
def test_every_cell_of_a_large_grid_comes_once(grid: tuple[int, ...]) -> None:
    order = halton_order(grid)
    assert torch.equal(order.sort().values, torch.arange(len(order)))


@pytest.mark.parametrize("steps", [32, 12])
def test_a_blank_picture_is_revealed_along_the_order_with_the_published_counts(steps: int) -> None:
    order = [(0, int(cell) // 16, int(cell) % 16) for cell in halton_order((16, 16))]
    done = 0
    for step, places in enumerate(revealed(HaltonSampler(steps=steps), torch.full((1, 16, 16), -1))):
        upto = 256 - int(masked_after(Arccos(), step, steps, torch.tensor([256]), whole_ceil))
        assert sorted(places) == sorted(order[done:upto])
        done = upto
    assert done == 256


@pytest.mark.parametrize("grid", [(6, 9), (9, 6), (1, 12), (12, 1), (1, 1)])
def test_known_cells_are_skipped_and_the_shape_comes_from_all_cells(grid: tuple[int, int]) -> None:
    codes = torch.full((1, *grid), -1)
    codes.view(-1)[: codes.numel() // 3] = 0
    places = [cell for step in revealed(HaltonSampler(steps=codes.numel()), codes) for cell in step]
    axes = tuple(size for size in grid if size > 1) or (1,)
    expected = [cell for cell in halton_order(axes).tolist() if codes.view(-1)[cell] == -1]
    assert [row * grid[1] + column for _, row, column in places] == expected


def test_text_is_revealed_in_base_two_along_time() -> None:
    places = [cell for step in revealed(HaltonSampler(steps=8), torch.full((1, 8), -1), "text") for cell in step]
    assert [time for time, _, _ in places] == [4, 2, 6, 1, 5, 3, 7, 0]


def test_a_rolled_order_is_the_same_circle_from_a_place_that_the_seed_decides() -> None:
    order = [int(cell) for cell in halton_order((4, 4))]
    starts = set()
    for seed in range(12):
        rolled = revealed(HaltonSampler(steps=16, roll=True), torch.full((1, 4, 4), -1), seed=seed)
        cells = [row * 4 + column for step in rolled for _, row, column in step]
        shift = order.index(cells[0])
        assert cells == order[shift:] + order[:shift]
        starts.add(shift)
    assert len(starts) > 4
