import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from maskgen.tokens.batch import UNKNOWN, stack
from maskgen.tokens.packing import coordinates, pack, pack_rows, unpack
from maskgen.tokens.space import MASK, PAD, Modality, TokenSpace
from maskgen.tokens.unpadding import unpad

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="image", kind="image", num_levels=3, codebook_size=5),
        Modality(name="audio", kind="audio", num_levels=2, codebook_size=7),
    ]
)


@st.composite
def sample_lists(draw: st.DrawFn) -> list[dict[str, Tensor]]:
    samples = []
    for _ in range(draw(st.integers(1, 4))):
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
        sample = {}
        for modality in SPACE.modalities:
            if draw(st.booleans()):
                grid = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))  # any number of axes, in every modality
                sample[modality.name] = torch.randint(UNKNOWN, modality.codebook_size, (modality.num_levels, *grid), generator=generator)
        samples.append(sample)
    return samples


@given(samples=sample_lists(), multiple=st.integers(1, 5))
def test_unpack_inverts_pack(samples: list[dict[str, Tensor]], multiple: int) -> None:
    batch = pack(samples, SPACE, multiple)
    assert batch.ids.shape[1] % multiple == 0
    found = unpack(batch, SPACE)
    assert [set(sample) for sample in found] == [set(sample) for sample in samples]
    assert all(torch.equal(got[name], sample[name]) for got, sample in zip(found, samples, strict=True) for name in sample)


@given(samples=sample_lists())
def test_pack_equals_the_definition(samples: list[dict[str, Tensor]]) -> None:
    batch = pack(samples, SPACE)
    for row, sample in enumerate(samples):
        expected = []
        for modality in SPACE.modalities:
            if modality.name in sample:
                codes = sample[modality.name].flatten(1).T.tolist()
                offsets = [segment.offset for segment in SPACE.of(modality.name)]
                for cell in codes:
                    ids = [MASK if code == UNKNOWN else code + offset for code, offset in zip(cell, offsets, strict=True)]
                    expected.append(ids + [PAD] * (SPACE.num_levels - len(ids)))
        assert batch.ids[row][batch.valid[row]].tolist() == expected
        assert not batch.ids[row][~batch.valid[row]].any()


def test_coordinates_follow_the_axes_of_a_grid() -> None:
    assert coordinates([2]).tolist() == [[0, 0, 0], [1, 0, 0]]
    assert coordinates([2, 2]).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert coordinates([1, 1, 2]).tolist() == [[0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("grid", [(1,), (5,), (1, 1), (1, 5), (5, 1), (1, 1, 1), (3, 1, 1), (1, 2, 3), (2, 1, 3), (2, 3, 4)])
def test_the_shape_of_a_grid_travels_with_its_cells(grid: tuple[int, ...]) -> None:
    samples = [{one.name: torch.zeros(one.num_levels, *grid, dtype=torch.long)} for one in SPACE.modalities]
    two_rows = pack_rows([samples, samples[::-1]], SPACE, multiple=7)
    for batch in (two_rows, two_rows.repeat(2), stack(two_rows, two_rows), unpad(pack(samples, SPACE), 8).batch):
        assert all(codes.shape[1:] == grid for sample in unpack(batch, SPACE) for codes in sample.values())
    assert [list(sample) for sample in unpack(two_rows, SPACE)] == [list(one) for one in (*samples, *samples[::-1])]


def test_hidden_cells_are_absent_and_the_rest_stays() -> None:
    batch = pack([{"text": torch.tensor([[1, 2]]), "audio": torch.tensor([[3], [4]])}], SPACE)
    hidden = batch.hide(batch.cells(SPACE.index("text")))
    assert [set(sample) for sample in unpack(hidden, SPACE)] == [{"audio"}]
    assert bool(batch.valid.all()), "the caller's batch must not change"


def test_stack_pads_the_shorter_batch() -> None:
    short, long = pack([{"text": torch.tensor([[1]])}], SPACE), pack([{"text": torch.tensor([[1, 2, 3]])}], SPACE)
    both = stack(short, long)
    assert [sample["text"].shape[1] for sample in unpack(both, SPACE)] == [1, 3]


def test_repeat_puts_copies_side_by_side() -> None:
    batch = pack([{"text": torch.tensor([[1]])}, {"text": torch.tensor([[2]])}], SPACE).repeat(2)
    assert [sample["text"].tolist() for sample in unpack(batch, SPACE)] == [[[1]], [[1]], [[2]], [[2]]]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"video": torch.zeros(1, 1)}, "no modality 'video'"),
        ({"image": torch.zeros(1, 2, 2)}, "3 levels"),
        ({"text": torch.tensor([[11]])}, r"\[0, 11\)"),
        ({"text": torch.tensor([[-2]])}, "unknown"),
    ],
)
def test_wrong_samples_are_refused(sample: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack([sample], SPACE)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        pack([], SPACE)


TIMED = TokenSpace(
    [
        Modality(name="phones", kind="phones", num_levels=2, codebook_size=128),
        Modality(name="audio", kind="audio", num_levels=2, codebook_size=7),
    ]
)


@given(frames=st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_a_phoneme_stands_where_it_is_spoken_and_comes_back(frames: list[int]) -> None:
    phones = torch.tensor([list(range(len(frames))), frames])
    audio = torch.zeros(2, max(1, sum(frames)), dtype=torch.long)
    batch = pack([{"phones": phones, "audio": audio}, {"audio": audio}], TIMED)
    found = unpack(batch, TIMED)
    assert torch.equal(found[0]["phones"], phones)
    assert torch.equal(found[0]["audio"], audio)
    times = batch.coords[0, batch.modality[0] == 1, 0].tolist()
    starts = [sum(frames[:place]) for place in range(len(frames))]
    assert times == [start + length // 2 for start, length in zip(starts, frames, strict=True)]


def test_phonemes_of_unknown_length_still_stand_in_order() -> None:
    phones = torch.tensor([[5, 6, 7], [UNKNOWN, UNKNOWN, UNKNOWN]])
    batch = pack([{"phones": phones}], TIMED)
    assert batch.coords[0, :, 0].tolist() == [1, 4, 7]
    assert torch.equal(unpack(batch, TIMED)[0]["phones"], phones)
