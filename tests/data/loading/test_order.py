"""Orders: nothing lost, nothing repeated, and every position a function of seed and position alone."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.data.loading.order import BalancedOrder, MixtureOrder, Order, ShuffledOrder, balanced_weights, fixed_subset

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(lambda counts: sum(counts) > 0)


@settings(deadline=None)
@given(counts=COUNTS, seed=st.integers(0, 5), window=st.integers(0, 3), epoch=st.integers(0, 3))
def test_every_row_comes_once_an_epoch(counts: list[int], seed: int, window: int, epoch: int) -> None:
    order = ShuffledOrder(counts, seed, window)
    drawn = order.draws(epoch * len(order), (epoch + 1) * len(order))
    assert sorted(row for row, _ in drawn) == list(range(sum(counts)))
    assert [number for _, number in drawn] == list(range(epoch * len(order), (epoch + 1) * len(order)))


def all_orders() -> list[Order]:
    shuffled, balanced = ShuffledOrder([5, 8, 3], 1, window=2), BalancedOrder(torch.rand(11), 2)
    return [shuffled, balanced, MixtureOrder([ShuffledOrder([7], 1), BalancedOrder(torch.rand(4), 0)], [3.0, 1.0], 5)]


@settings(deadline=None)
@given(start=st.integers(0, 900), length=st.integers(0, 300), which=st.integers(0, 2))
def test_any_stretch_read_alone_is_the_stretch_of_the_whole(start: int, length: int, which: int) -> None:
    torch.manual_seed(0)
    whole = all_orders()[which].draws(0, 1200)
    torch.manual_seed(0)
    assert all_orders()[which].draws(start, start + length) == whole[start : start + length]


def test_a_small_window_keeps_rows_of_few_shards_together() -> None:
    order = ShuffledOrder([10] * 6, 0, window=2)
    shards = [row // 10 for row, _ in order.draws(0, 60)]
    assert all(len(set(shards[start : start + 20])) == 2 for start in (0, 20, 40))
    assert ShuffledOrder([10] * 6, 0).draws(0, 20) != order.draws(0, 20)


@settings(deadline=None)
@given(weights=st.lists(st.floats(0.01, 5), min_size=1, max_size=4), blocks=st.integers(1, 4))
@pytest.mark.slow
def test_a_mixture_holds_each_share_and_loses_nothing_of_any_part(weights: list[float], blocks: int) -> None:
    parts = [ShuffledOrder([3, 4], number) for number in range(len(weights))]
    mixture = MixtureOrder(parts, weights, 0)
    total = blocks * mixture.block_size
    drawn = Counter(row // 7 for row, _ in mixture.draws(0, total))
    for part, weight in enumerate(weights):
        assert abs(drawn[part] - total * weight / sum(weights)) <= 2 + total * 2**-19
        own = [number for row, number in mixture.draws(0, total) if row // 7 == part]
        assert sorted(own) == list(range(len(own)))


def test_weights_that_cannot_be_kept_are_refused() -> None:
    part = ShuffledOrder([4], 0)
    with pytest.raises(ValueError, match="positive weight"):
        MixtureOrder([part, part], [1.0, 0.0], 0)
    with pytest.raises(ValueError, match="too uneven"):
        MixtureOrder([part, part], [1.0, 1e-6], 0)
    with pytest.raises(ValueError, match="at least one row"):
        ShuffledOrder([0], 0)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 20), min_size=5, max_size=5), seed=st.integers(0, 9))
def test_families_come_equally_often_and_styles_inside_them(sizes: list[int], seed: int) -> None:
    styles = [("noto", "noto"), ("fluent", "flat"), ("fluent", "color"), ("fluent", "3d"), ("twemoji", "twemoji")]
    rows = [{"family": family, "style": style} for (family, style), size in zip(styles, sizes, strict=True) for _ in range(size)]
    order = BalancedOrder(balanced_weights(rows, ("family", "style")), seed)
    drawn = Counter(rows[row]["style"] for row, _ in order.draws(0, len(order)))
    for (family, style), _ in zip(styles, sizes, strict=True):
        assert abs(drawn[style] - len(rows) / (9 if family == "fluent" else 3)) <= 1 + 1e-6


def test_a_field_that_rows_lack_is_named() -> None:
    with pytest.raises(ValueError, match="balanced by 'style'"):
        balanced_weights([{"family": "noto"}], ("family", "style"))


def test_a_fixed_subset_does_not_move_when_rows_are_added() -> None:
    keys = [f"key-{number}" for number in range(100)]
    small = {keys[row] for row, _ in fixed_subset(keys, 10)}
    more = {([*keys, "new"])[row] for row, _ in fixed_subset([*keys, "new"], 11)}
    assert len(small) == 10
    assert small <= more | {"new"}
    assert all(draw == -1 for _, draw in fixed_subset(keys, 10))
