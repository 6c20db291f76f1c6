import dataclasses

import pytest
import torch
from builders.networks import randomised
from torch import Tensor

from maskgen.decoding.acceleration.kv_cache import KVCacheModel, PrefixCacheModel, undecoded
from maskgen.decoding.acceleration.slots import Slots
from maskgen.decoding.guidance import ConstantGuidance
from maskgen.decoding.logits import guided_model, hide_condition, model_logits
from maskgen.networks.attention import explicit_attention
from maskgen.networks.transformer import MaskTransformer, TransformerConfig, rope_frequencies, rotate
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.tokens.batch import TokenBatch, stack
from maskgen.tokens.packing import pack, pack_rows
from maskgen.tokens.space import MASK, Modality, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="image", kind="image", num_levels=2, codebook_size=5),
    ]
)
TEXT, IMAGE = SPACE.index("text"), SPACE.index("image")


def transformer(**options: bool) -> MaskTransformer:
    torch.manual_seed(0)
    model = MaskTransformer(TransformerConfig(dim=32, num_layers=3, num_heads=2, **options), SPACE.size, 2).eval()
    randomised(model, 0.2)
    return model


@pytest.fixture
def model() -> MaskTransformer:
    return transformer()


@pytest.fixture
def blind() -> MaskTransformer:
    return transformer(blind_condition=True)


def sample(words: int, rows: int) -> dict[str, Tensor]:
    text = torch.randint(0, 11, (1, words), generator=torch.Generator().manual_seed(words))
    return {"text": text, "image": torch.full((2, rows, 3), -1)}


def guided_rows() -> TokenBatch:
    """Uneven rows above the same rows without their condition, as guidance stacks them."""
    batch = pack([sample(2, 3), sample(4, 2)], SPACE)
    return stack(batch, batch.hide(batch.cells(TEXT)))


def decode(batch: TokenBatch, steps: int = 5) -> list[TokenBatch]:
    """The batches that a model sees in a decode of the coarsest level: a row's first half of it is written cell by cell."""
    seen = [batch]
    for step in range(steps):
        ids = seen[-1].ids.clone()
        for row in range(len(batch)):
            cells = batch.cells(IMAGE)[row].nonzero()[:, 0]
            ids[row, cells[(step * 2 + row) % (len(cells) // 2)], 0] = SPACE.segment("image", 0).offset + (step + row) % 5
        seen.append(batch.with_ids(ids))
    return seen


@torch.no_grad()
def naive(model: MaskTransformer, batches: list[TokenBatch], row: int, refresh: int) -> list[Tensor]:
    """Hidden states of one row over a decode, one cell after the other."""
    answers, keys, values, full = [], [], [], None
    for number, batch in enumerate(batches):
        ids, modality, coords, valid, document = (getattr(batch, name)[row] for name in ("ids", "modality", "coords", "valid", "document"))
        x = model.embed_norm(model.embed(ids).sum(dim=1) + model.embed_modality(modality))
        if number % refresh == 0:
            full, active = ids, list(range(len(ids)))
            keys, values, hidden = [{} for _ in model.blocks], [{} for _ in model.blocks], {}
        else:
            active = [c for c in range(len(ids)) if (modality[c] == IMAGE and ids[c, 0] == MASK) or (ids[c] != full[c]).any()]
        stream = {cell: x[cell][None, None] for cell in active}
        for depth, block in enumerate(model.blocks):
            queries = {}
            for cell in active:
                angles = (coords[cell].float()[:, None] * rope_frequencies(model.config)).sum(dim=0)
                turn = angles.cos()[None, None, None], angles.sin()[None, None, None]
                q, k, v = block.attention.qkv(block.attention_norm(stream[cell])).reshape(3, 1, 2, 1, 16)
                queries[cell] = rotate(block.attention.query_norm(q), turn)
                keys[depth][cell], values[depth][cell] = rotate(block.attention.key_norm(k), turn), v
            for cell in active:
                seen = [c for c in range(len(ids)) if c == cell or (valid[c] and document[c] == document[cell])]
                stacked = torch.cat([keys[depth][c] for c in seen], dim=2), torch.cat([values[depth][c] for c in seen], dim=2)
                mixed = block.attention.out(explicit_attention(queries[cell], *stacked).reshape(1, 1, 32))
                stream[cell] = stream[cell] + mixed
                stream[cell] = stream[cell] + block.feed(block.feed_norm(stream[cell]))
        hidden.update({cell: model.norm(stream[cell])[0, 0] for cell in active})
        answers.append(torch.stack([hidden[cell] for cell in range(len(ids))]))
    return answers


def test_reuse_equals_the_definition_cell_by_cell(model: MaskTransformer) -> None:
    batches = decode(guided_rows(), steps=4)
    reused = KVCacheModel(model, IMAGE, refresh=3)
    found = [reused(batch) for batch in batches]
    for row in (0, 1, 3):
        for hidden, expected in zip(found, naive(model, batches, row, refresh=3), strict=True):
            here = batches[0].valid[row]
            torch.testing.assert_close(hidden[row][here], expected[here], atol=2e-5, rtol=1e-4)


def test_reuse_is_an_approximation_and_refresh_1_is_none(model: MaskTransformer) -> None:
    exact, rough = KVCacheModel(model, IMAGE, refresh=1), KVCacheModel(model, IMAGE, refresh=2)
    for number, batch in enumerate(decode(guided_rows())):
        with torch.no_grad():
            plain = model(batch)
        assert torch.equal(exact(batch), plain)
        assert torch.equal(rough(batch), plain) == (number % 2 == 0)
    assert exact.work == 1


def test_work_counts_the_cells_that_were_computed(model: MaskTransformer) -> None:
    reused, batches = KVCacheModel(model, IMAGE, refresh=4), decode(pack([sample(4, 2)], SPACE), steps=2)
    for batch in batches:
        reused(batch)
    assert reused.work == (10 + 6 + 6) / 30, "4 text and 6 image cells, all of them blank at the full pass"


def test_a_row_is_reused_alike_alone_and_in_a_batch(model: MaskTransformer) -> None:
    batches = decode(pack([sample(2, 3), sample(4, 2)], SPACE))
    batches.append(batches[-1].with_ids(torch.where(batches[-1].ids == MASK, 18, batches[-1].ids)))
    together, alone = KVCacheModel(model, IMAGE, refresh=4), KVCacheModel(model, IMAGE, refresh=4)
    for batch in batches:
        own = batch.alone(1)
        torch.testing.assert_close(together(batch)[1:, : own.ids.shape[1]], alone(own), atol=1e-5, rtol=1e-5)


def test_named_levels_stand_over_what_the_masks_say(model: MaskTransformer) -> None:
    batch, level = pack([{"text": torch.tensor([[1, 2]]), "image": torch.tensor([[[-1, 2, 3, 4]], [[-1, -1, -1, 4]]])}], SPACE), 1
    told, guessed = KVCacheModel(model, IMAGE, refresh=9), KVCacheModel(model, IMAGE, refresh=9)
    told.levels = [level]
    for passes in (told, guessed):
        passes(batch)
        passes(batch)
    assert told.work == (6 + 3) / 12, "a masked known cell, as in a masked null condition, hides at which level the others are"
    assert guessed.work == (6 + 1) / 12


def test_a_window_is_kept_and_another_one_makes_a_full_pass(model: MaskTransformer, blind: MaskTransformer) -> None:
    batch = dataclasses.replace(guided_rows(), coords=guided_rows().coords[..., [1, 0, 2]])
    with torch.no_grad():
        for width in (0, 1, 2):
            window = torch.tensor([width, 0, 1, width])
            expected = model(batch, window=window)
            reused = KVCacheModel(model, IMAGE, refresh=9)
            assert torch.equal(reused(batch), model(batch))
            assert torch.equal(reused(batch, window=window), expected)
            torch.testing.assert_close(reused(batch, window=window)[batch.valid], expected[batch.valid], atol=1e-5, rtol=1e-5)
            kept = PrefixCacheModel(blind, IMAGE)
            for seen in decode(batch, steps=2):
                exact = blind(seen, context=batch.modality != IMAGE, window=window)
                torch.testing.assert_close(kept(seen, window=window)[seen.valid], exact[seen.valid], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["condition", "valid", "coords", "shape"])
def test_any_other_change_than_the_targets_ids_makes_a_full_pass(model: MaskTransformer, change: str) -> None:
    batch = pack([sample(4, 3), sample(2, 2)], SPACE)
    other = {
        "condition": batch.with_ids(torch.where(batch.cells(TEXT)[..., None] & (batch.ids > MASK), 5, batch.ids)),
        "valid": batch.hide(batch.cells(TEXT)),
        "coords": dataclasses.replace(batch, coords=batch.coords + batch.coords.new_tensor([0, 1, 0]) * (batch.modality == 1)[..., None]),
        "shape": batch.rows(slice(0, 1)),
    }[change]
    reused = KVCacheModel(model, IMAGE, refresh=100)
    for seen in decode(batch, steps=2):
        reused(seen)
    with torch.no_grad():
        assert torch.equal(reused(other), model(other))


def test_what_a_call_returned_stays_as_it_was(model: MaskTransformer) -> None:
    reused = KVCacheModel(model, IMAGE, refresh=100)
    found = [(hidden, hidden.clone()) for hidden in (reused(batch) for batch in decode(guided_rows()))]
    assert all(torch.equal(now, then) for now, then in found)


def test_a_guided_decode_with_refresh_1_is_the_plain_one_and_with_more_costs_less(model: MaskTransformer) -> None:
    batch, results, work = pack([sample(2, 3), sample(4, 2)], SPACE), [], []
    for refresh in (0, 1, 3):
        passes = KVCacheModel(model, IMAGE, refresh) if refresh else model
        logits_fn = guided_model(passes, hide_condition((TEXT,)), ConstantGuidance(3.0))
        generators = [torch.Generator().manual_seed(row) for row in range(2)]
        filled, _ = ConfidenceSampler(steps=6).sample(logits_fn, batch, SPACE.segment("image", 0), generators)
        assert not (filled.ids[..., 0][batch.cells(IMAGE)] == MASK).any()
        results.append(filled.ids)
        work.append(passes.work if isinstance(passes, KVCacheModel) else 1)
    assert torch.equal(results[0], results[1])
    assert work[1] == 1 > work[2]


def test_blank_cells_are_those_of_the_level_or_group_being_decoded() -> None:
    M = MASK
    ids = torch.tensor([[[9, 0, 0], [M, M, M], [3, M, M], [3, 4, M]], [[9, M, 0], [3, 4, M], [3, M, 5], [3, 4, 5]]])
    cells = torch.tensor([[False, True, True, True]] * 2)
    assert undecoded(ids, cells).tolist() == [[False, True, False, False], [False, False, True, False]]
    assert undecoded(ids, cells, [[0], [1, 2]]).tolist() == [[False, True, False, False], [False, True, True, False]]
    assert undecoded(ids, cells, [[0, 1], [2]]).tolist() == [[False, True, True, False], [False, False, True, False]]


def test_slots_take_what_they_put() -> None:
    chosen = torch.tensor([[True, False, True, True], [False, False, True, False]])
    slots = Slots.of(chosen)
    assert slots.index[0].tolist() == [0, 2, 3]
    assert slots.filled.tolist() == [[True, True, True], [True, False, False]]
    values = torch.arange(24.0).reshape(2, 3, 4)
    into = torch.full_like(values, -1)
    slots.put(slots.take(values, dim=2), into, dim=2)
    assert torch.equal(into, torch.where(chosen[:, None], values, -1))


def test_a_refresh_below_1_is_refused(model: MaskTransformer) -> None:
    with pytest.raises(ValueError, match=r"refresh must be at least 1.*got 0"):
        KVCacheModel(model, IMAGE, refresh=0)


@torch.no_grad()
def unkept(model: MaskTransformer, batch: TokenBatch) -> Tensor:
    hidden: Tensor = model(batch, context=batch.modality != IMAGE)
    return hidden


def test_a_blind_condition_does_not_look_at_the_target(blind: MaskTransformer) -> None:
    batch = guided_rows()
    first, *_, last = [unkept(blind, seen) for seen in decode(batch)]
    condition = batch.cells(TEXT)
    torch.testing.assert_close(first[condition], last[condition], atol=1e-6, rtol=0)
    assert not torch.allclose(first[batch.cells(IMAGE)], last[batch.cells(IMAGE)], atol=1e-2), "the target does look"
    changed = batch.with_ids(torch.where(batch.cells(TEXT)[..., None] & (batch.ids > MASK), 5, batch.ids))
    shown = batch.cells(IMAGE) & (torch.arange(len(batch)) < 2)[:, None]
    assert not torch.allclose(unkept(blind, changed)[shown], first[shown], atol=1e-2), "and at the condition too"


def test_a_kept_prefix_equals_a_computed_one(blind: MaskTransformer) -> None:
    row = pack_rows([[sample(2, 2), sample(3, 3)], [sample(6, 1)]], SPACE)
    for start in (guided_rows(), pack([sample(1, 1)], SPACE), row):
        passes, batches = PrefixCacheModel(blind, IMAGE), decode(start)
        for batch in batches:
            torch.testing.assert_close(passes(batch)[batch.valid], unkept(blind, batch)[batch.valid], atol=1e-5, rtol=1e-5)
        assert passes.work < 1


def test_another_condition_makes_another_prefix(blind: MaskTransformer) -> None:
    passes, first, other = PrefixCacheModel(blind, IMAGE), pack([sample(4, 2)], SPACE), pack([sample(4, 2)], SPACE)
    other.ids[0, 1, 0] = 5
    for batch in (first, other, other.hide(other.cells(TEXT)), *decode(other)):
        torch.testing.assert_close(passes(batch)[batch.valid], unkept(blind, batch)[batch.valid], atol=1e-5, rtol=1e-5)


def test_reuse_keeps_a_blind_condition_blind(blind: MaskTransformer) -> None:
    batch = guided_rows()
    assert torch.equal(KVCacheModel(blind, IMAGE, refresh=2)(batch), unkept(blind, batch))


def test_models_are_not_mixed_up(model: MaskTransformer, blind: MaskTransformer) -> None:
    batch = guided_rows()
    with pytest.raises(ValueError, match=r"blind_condition=False.*KVCacheModel"):
        PrefixCacheModel(model, IMAGE)
    with pytest.raises(ValueError, match="blind_condition=True and was called without context"):
        model_logits(blind)(batch, batch.cells(IMAGE), SPACE.segment("image", 0), 0.0)
    with pytest.raises(ValueError, match="blind_condition=False and was called with context"):
        unkept(model, batch)
