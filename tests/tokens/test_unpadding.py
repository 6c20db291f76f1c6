"""Folding: what the model says of a cell does not depend on the row it stands in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace
from maskgen.tokens.unpadding import unpad

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="audio", kind="audio", num_levels=2, codebook_size=5),
    ]
)


def rows(lengths: list[tuple[int, int]]) -> list[dict[str, torch.Tensor]]:
    return [{"text": torch.randint(11, (1, text)), "audio": torch.randint(5, (2, audio))} for text, audio in lengths]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=9), st.integers(4, 20), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_every_visible_cell_comes_once_with_all_that_it_holds(lengths: list[tuple[int, int]], length: int, multiple: int) -> None:
    batch = pack(rows(lengths), SPACE)
    batch = batch.hide((batch.modality == 1) & (torch.arange(len(batch)) % 2 == 0)[:, None])
    new, place = unpad(batch, length, multiple)
    to = place[batch.valid]
    assert (place >= 0).equal(batch.valid)
    assert len(to.unique()) == len(to) == int(new.valid.sum())
    for old, folded_ in ((batch.ids, new.ids), (batch.modality, new.modality), (batch.coords, new.coords)):
        assert folded_.flatten(0, 1)[to].equal(old[batch.valid])
    assert len(new) % multiple == 0
    assert new.valid.shape[1] % length == 0


def test_the_model_says_the_same_of_a_cell_folded_or_not() -> None:
    torch.manual_seed(0)
    model = MaskTransformer(TransformerConfig(dim=32, num_layers=2, num_heads=2), SPACE.size, 2).eval()
    batch = pack(rows([(3, 7), (5, 2), (1, 9), (4, 4)]), SPACE)
    batch = batch.hide((batch.modality == 2) & (torch.arange(4) == 1)[:, None])
    new, place = unpad(batch, 16, 4)
    assert len(new) == 4
    before = model(batch)[batch.valid]
    after = model(new).flatten(0, 1)[place[batch.valid]]
    assert torch.allclose(before, after, atol=1e-5)


def test_nothing_to_fold_and_bad_sizes() -> None:
    batch = pack(rows([(2, 2)]), SPACE)
    hidden, place = unpad(batch.hide(batch.valid), 8, 2)
    assert hidden.valid.shape == (2, 8)
    assert not bool(hidden.valid.any())
    assert bool((place == -1).all())
    with pytest.raises(ValueError, match="positive length"):
        unpad(batch, 0)
