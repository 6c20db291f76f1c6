import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgen.tokens.space import MASK, PAD, Modality, TokenSpace

modalities = st.lists(
    st.tuples(st.sampled_from(["text", "image", "audio", "attribute"]), st.integers(1, 4), st.integers(1, 50)), max_size=5
)


def space_of(rows: list[tuple[str, int, int]], specials: tuple[str, ...] = ()) -> TokenSpace:
    return TokenSpace(
        [Modality(name=f"m{i}", kind=kind, num_levels=q, codebook_size=k) for i, (kind, q, k) in enumerate(rows)],  # type: ignore[arg-type]
        specials,
    )


@given(rows=modalities)
def test_every_id_has_exactly_one_owner(rows: list[tuple[str, int, int]]) -> None:
    space = space_of(rows, ("end",))
    owned = [id for m in space.modalities for s in space.of(m.name) for id in range(s.offset, s.offset + s.size)]
    assert sorted([PAD, MASK, 2, *owned]) == list(range(space.size))


@given(rows=modalities)
def test_a_new_modality_moves_no_old_id(rows: list[tuple[str, int, int]]) -> None:
    old = space_of(rows)
    new = old.extended(Modality(name="depth", kind="image", num_levels=2, codebook_size=7))
    assert all(new.of(m.name) == old.of(m.name) for m in old.modalities)
    assert new.segment("depth", 0).offset == old.size


@given(rows=modalities)
def test_a_space_survives_json(rows: list[tuple[str, int, int]]) -> None:
    space = space_of(rows, ("end",))
    assert TokenSpace.from_dict(space.to_dict()) == space


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: space_of([("text", 1, 2)]).of("speech"), "no modality 'speech'"),
        (lambda: space_of([("text", 1, 2)]).segment("m0", 1), "levels 0 to 0"),
        (lambda: Modality(name="x", kind="text", num_levels=0, codebook_size=1), "at least 1"),
        (lambda: TokenSpace(space_of([("text", 1, 2)]).modalities * 2), "unique"),
    ],
)
def test_a_wrong_space_says_so(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
