import dataclasses

import pytest
import torch
from builders.networks import randomised
from torch import Tensor

from maskgen.decoding.acceleration.token_merging import TokenMergingModel, matched
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.batch import TokenBatch, stack
from maskgen.tokens.packing import pack, pack_rows
from maskgen.tokens.space import MASK, Modality, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="image", kind="image", num_levels=1, codebook_size=5),
    ]
)
TEXT, IMAGE = SPACE.index("text"), SPACE.index("image")


@pytest.fixture
def model() -> MaskTransformer:
    torch.manual_seed(0)
    made = MaskTransformer(TransformerConfig(dim=32, num_layers=3, num_heads=2), SPACE.size, 2).eval()
    randomised(made, 0.2)
    return made


def sample(words: int, rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(words * 10 + rows)
    return {
        "text": torch.randint(0, 11, (1, words), generator=generator),
        "image": torch.randint(-1, 5, (1, rows, 4), generator=generator),
    }


@torch.no_grad()
def plain(model: MaskTransformer, batch: TokenBatch) -> Tensor:
    hidden: Tensor = model(batch)
    return hidden


def naive_pairs(x: Tensor, kinds: Tensor, share: float) -> dict[int, int]:
    """Cell to the cell it joins, from the paper's four steps: split, draw the best edge of each, keep the best edges, merge."""
    cells = [cell for cell in range(len(x)) if kinds[cell] > 0]
    sources, places = cells[1::2], cells[0::2]
    edges = []
    for source in sources:
        fitting = [place for place in places if kinds[place] == kinds[source]]
        scores = [float(torch.cosine_similarity(x[source], x[place], dim=0)) for place in fitting]
        if fitting:
            edges.append((max(scores), source, fitting[scores.index(max(scores))]))
    return {source: place for _, source, place in sorted(edges, key=lambda edge: -edge[0])[: int(share * len(cells))]}


def test_matching_equals_the_paper(model: MaskTransformer) -> None:
    generator = torch.Generator().manual_seed(3)
    x, kinds = torch.randn(6, 20, 8, generator=generator), torch.randint(0, 3, (6, 20), generator=generator)
    for share in (0.1, 0.25, 0.5):
        pairs = matched(x, kinds, share)
        for row in range(6):
            found = {cell: int(pairs.into[row, cell]) for cell in range(20) if pairs.merged[row, cell]}
            assert found == naive_pairs(x[row], kinds[row], share)
            assert all(int(pairs.into[row, cell]) == cell for cell in range(20) if cell not in found)


@torch.no_grad()
def naive(model: MaskTransformer, batch: TokenBatch, row: int, share: float) -> Tensor:
    """One row, its places as a batch of their own."""
    own = batch.alone(row)
    x, (cosine, sine) = model.start(own.ids, own.modality, own.coords)
    kinds = torch.where(own.cells(IMAGE), 1 + own.document, 0)[0]
    for number, block in enumerate(model.blocks):
        joined = naive_pairs(x[0], kinds, share) if number else {}
        places = [cell for cell in range(x.shape[1]) if cell not in joined]
        sharing = {place: [place, *(cell for cell, other in joined.items() if other == place)] for place in places}
        means = torch.stack([x[0, sharing[place]].mean(dim=0) for place in places])[None]
        same = own.document[0, places][:, None] == own.document[0, places]
        seen = (same & own.valid[0, places]) | torch.eye(len(places), dtype=torch.bool)
        change = block(means, (cosine[:, :, places], sine[:, :, places]), seen[None, None]) - means
        x = x.clone()
        for place, moved in zip(places, change[0], strict=True):
            x[0, sharing[place]] += moved
    return model.norm(x)[0]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_merged_passes_equal_the_definition_row_by_row(model: MaskTransformer, share: float) -> None:
    batch = pack([sample(2, 3), sample(5, 1), sample(1, 4)], SPACE)
    both = stack(stack(batch, batch.hide(batch.cells(TEXT))), pack_rows([[sample(2, 2), sample(3, 1)]], SPACE))
    hidden = TokenMergingModel(model, [IMAGE], share)(both)
    for row in range(len(both)):
        seen = both.alone(row).valid[0]
        expected = naive(model, both, row, share)
        torch.testing.assert_close(hidden[row][: len(seen)][seen], expected[seen], atol=2e-5, rtol=1e-4)


def test_share_0_changes_no_bit_and_a_share_does(model: MaskTransformer) -> None:
    batch = pack([sample(2, 3), sample(5, 2)], SPACE)
    untouched, merged = TokenMergingModel(model, [IMAGE], 0.0), TokenMergingModel(model, [IMAGE], 0.25)
    assert torch.equal(untouched(batch), plain(model, batch))
    assert not torch.allclose(merged(batch), plain(model, batch), atol=1e-2)
    assert untouched.work == 1
    window, tall = torch.tensor([1, 2]), dataclasses.replace(batch, coords=batch.coords[..., [1, 0, 2]])
    with torch.no_grad():
        assert torch.equal(untouched(tall, window=window), model(tall, window=window))


def test_cells_that_are_all_equal_are_merged_without_loss(model: MaskTransformer) -> None:
    batch = pack([{"image": torch.full((1, 4, 4), -1)}], SPACE)
    assert (batch.ids == MASK).all()
    torch.testing.assert_close(TokenMergingModel(model, [IMAGE], 0.5)(batch), plain(model, batch), atol=1e-5, rtol=1e-5)


def test_work_counts_the_places_of_every_block(model: MaskTransformer) -> None:
    merged = TokenMergingModel(model, [IMAGE], 0.25)
    merged(pack([sample(4, 4)], SPACE))
    assert merged.work == (20 + 16 + 16) / 60


def test_a_modality_that_is_no_target_is_never_merged(model: MaskTransformer) -> None:
    batch = pack([sample(9, 2)], SPACE)
    kinds = torch.where(batch.cells(IMAGE), batch.modality, 0)
    pairs = matched(torch.ones(1, 17, 8), kinds, 0.5)
    assert not pairs.merged[batch.cells(TEXT)].any()
    assert int(pairs.merged.sum()) == 4
    assert TokenMergingModel(model, [], 0.5)(batch).allclose(plain(model, batch), atol=1e-5)


@pytest.mark.parametrize("share", [-0.1, 0.6, float("nan")])
def test_a_share_that_cannot_be_merged_is_refused(model: MaskTransformer, share: float) -> None:
    with pytest.raises(ValueError, match="share must lie in"):
        TokenMergingModel(model, [IMAGE], share)


def test_a_model_with_a_blind_condition_is_refused() -> None:
    blind = MaskTransformer(TransformerConfig(dim=32, num_layers=1, num_heads=2, blind_condition=True), SPACE.size, 2)
    with pytest.raises(ValueError, match="PrefixCacheModel"):
        TokenMergingModel(blind, [IMAGE])
