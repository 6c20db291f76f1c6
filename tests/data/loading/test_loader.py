"""The loader: same rows on any ranks and workers, nothing lost or repeated, and it goes on exactly where it stopped."""

from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from maskgen.data.loading.grouping import ByLength, Grouping, OneByOne, Packed
from maskgen.data.loading.loader import ALONE, ResumableLoader, Share
from maskgen.data.loading.order import Draw, ShuffledOrder


class Echo(Dataset[Draw]):
    """The draw itself."""

    def __getitem__(self, draw: Draw) -> Draw:
        return draw


def length(draw: Draw) -> int:
    return 1 + draw[0] * 7 % 10


def as_is(rows: Any) -> Any:
    return list(rows)


def loader(counts: list[int], batch_size: int, grouping: Grouping | None = None, share: Share = ALONE, workers: int = 0) -> ResumableLoader:
    return ResumableLoader(Echo(), ShuffledOrder(counts, 3, 2), batch_size, as_is, grouping, length, share, workers)


GROUPINGS = st.sampled_from([OneByOne(), ByLength(2), ByLength(5), Packed(12, draws=30, open_rows=3), Packed(5, draws=7)])


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    batch=st.sampled_from([4, 8]),
    grouping=GROUPINGS,
    world=st.sampled_from([1, 2, 4]),
    passes=st.integers(1, 6),
)
def test_ranks_share_one_order_and_no_draw_is_lost_or_repeated(
    counts: list[int], batch: int, grouping: Grouping, world: int, passes: int
) -> None:
    counts = [*counts, 8]
    ranks = [loader(counts, batch // world, grouping, Share(rank, world)) for rank in range(world)]
    alone = loader(counts, batch, grouping)
    for _ in range(passes):
        parts = zip(*(list(one) for one in ranks), strict=True)
        assert [list(chain(*part)) for part in parts] == list(alone)


@settings(deadline=None, max_examples=60)
@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=5), grouping=GROUPINGS, passes=st.integers(1, 9))
def test_no_draw_is_lost_or_repeated(counts: list[int], grouping: Grouping, passes: int) -> None:
    one = loader([*counts, 8], 4, grouping)
    seen = [number for _ in range(passes) for rows in one for row in rows for _, number in row]
    assert len(set(seen)) == len(seen)
    assert set(range(one.place.window * grouping.window(4))) <= set(seen)


@settings(deadline=None, max_examples=60)
@given(grouping=GROUPINGS, cut=st.integers(0, 40))
def test_a_resumed_loader_gives_the_next_batch(grouping: Grouping, cut: int) -> None:
    whole, first, second = (loader([9, 4, 11], 4, grouping) for _ in range(3))
    batches = [batch for _ in range(8) for batch in whole]
    for _, _ in zip(range(cut), (batch for _ in range(8) for batch in first), strict=False):
        pass
    second.load_state_dict(first.state_dict())
    assert next(iter(second)) == batches[cut]


@pytest.mark.parametrize("workers", [(0, 2), (2, 0), (1, 2)])
def test_the_place_does_not_depend_on_workers(workers: tuple[int, int]) -> None:
    whole = loader([9, 4, 11], 4, ByLength(2))
    batches = [batch for _ in range(3) for batch in whole]
    first, second = (loader([9, 4, 11], 4, ByLength(2), workers=count) for count in workers)
    stream = iter(first)
    assert [next(stream) for _ in range(4)] == batches[:4]
    second.load_state_dict(first.state_dict())
    assert [*second, *second][: len(batches) - 4] == batches[4 : 4 + 2 * len(second)]


def test_a_state_of_another_global_batch_is_refused() -> None:
    first, second = loader([16], 4), loader([16], 2)
    with pytest.raises(ValueError, match=r"windows of 4 draws, this run has 2; keep batch_size"):
        second.load_state_dict(first.state_dict())


def test_too_few_rows_for_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="3 training rows do not fill one batch of 4"):
        loader([3], 4)


def test_rows_of_like_length_come_together() -> None:
    plain, sorted_ = loader([64], 4), loader([64], 4, ByLength(16))

    def spread(one: ResumableLoader) -> int:
        return sum(max(length(row[0]) for row in rows) * len(rows) - sum(length(row[0]) for row in rows) for rows in one)

    assert spread(sorted_) < spread(plain) / 3


def test_packed_rows_hold_what_fits_and_are_well_filled() -> None:
    rows = [row for batch in loader([600], 4, Packed(30, draws=300)) for row in batch]
    used = [sum(map(length, row)) for row in rows]
    assert max(used) <= 30
    assert sum(used) / (30 * len(used)) > 0.9
    alone = Packed(5, draws=10).rows([(row, row) for row in range(10)], length, 1)
    assert all(len(row) == 1 for row in alone if length(row[0]) > 5)
