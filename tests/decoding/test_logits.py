"""LogitsFn of a model, and guidance: unfused, fused, and against a negative prompt."""

import pytest
import torch
from torch import Tensor, nn

from maskgen.decoding.guidance import ConstantGuidance, IntervalGuidance, LinearGuidance, MaskRateGuidance, rescale_guided
from maskgen.decoding.logits import (
    ModelCallCounter,
    against,
    guided,
    guided_model,
    hide_condition,
    model_logits,
    remask,
    seen_through,
)
from maskgen.decoding.several_conditions import guided_by
from maskgen.decoding.together import logits_by_group
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, Segment, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=13),
        Modality(name="image", kind="image", num_levels=1, codebook_size=17),
    ]
)
TEXT, IMAGE = SPACE.segment("text", 0), SPACE.segment("image", 0)


class ToyModel(nn.Module):
    """Each cell sees itself and the mean of what is valid in its row: enough for a condition to matter. No positions in the mean."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(SPACE.size, 32)
        self.mix = nn.Linear(32, 32)
        self.head = nn.Linear(32, SPACE.size, bias=False)
        self.calls: list[tuple[int, int]] = []
        self.head_cells = 0
        self.to(dtype)

    def forward(self, batch: TokenBatch) -> Tensor:
        self.calls.append((batch.ids.shape[0], batch.ids.shape[1]))
        cells = self.embed(batch.ids).sum(dim=2) * batch.valid[..., None]
        mean = cells.sum(dim=1, keepdim=True) / batch.valid.sum(dim=1)[:, None, None]
        return torch.tanh(self.mix(cells + 3 * mean))

    def logits(self, hidden: Tensor, offset: int, size: int) -> Tensor:
        self.head_cells += len(hidden)
        return hidden @ self.head.weight[offset : offset + size].T


def batch_of(*texts: list[int], known: int = 5) -> TokenBatch:
    image = torch.full((1, 4, 4), -1)
    image[0, 0, :known] = torch.arange(known)[:4]
    return pack([{"text": torch.tensor([text]), "image": image.clone()} for text in texts], SPACE)


def target_of(batch: TokenBatch) -> Tensor:
    return batch.cells(IMAGE.index) & (batch.ids[..., 0] == 1)


def unfused(model: ToyModel, scale: float) -> LogitsFn:
    plain = model_logits(model)
    return guided(plain, seen_through(hide_condition((TEXT.index,)), plain), ConstantGuidance(scale))


def never(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    raise AssertionError("the unconditional pass must not run")


def test_model_logits_are_the_head_at_the_chosen_cells_over_one_level() -> None:
    model, batch = ToyModel(), batch_of([1, 2, 3], [4])
    cells = target_of(batch)
    logits = model_logits(model)(batch, cells, IMAGE, 0.0)
    hidden = model(batch)
    every = hidden @ model.head.weight.T
    torch.testing.assert_close(logits, every[cells][:, IMAGE.offset : IMAGE.offset + IMAGE.size])
    assert model.head_cells == int(cells.sum())


def test_scale_one_never_calls_the_unconditional_function() -> None:
    model, batch = ToyModel(), batch_of([1, 2, 3])
    cells = target_of(batch)
    plain = model_logits(model)(batch, cells, IMAGE, 0.0)
    assert torch.equal(guided(model_logits(model), never, ConstantGuidance(1.0))(batch, cells, IMAGE, 0.5), plain)
    model.calls.clear()
    assert torch.equal(guided_model(model, hide_condition((TEXT.index,)), ConstantGuidance(1.0))(batch, cells, IMAGE, 0.5), plain)
    assert [rows for rows, _ in model.calls] == [1]


def test_the_scale_is_that_of_the_progress() -> None:
    model, batch = ToyModel(), batch_of([1, 2, 3])
    logits_fn = guided_model(model, hide_condition((TEXT.index,)), IntervalGuidance(3.0, 0.25, 0.75))
    for step, progress in enumerate((0.0, 0.25, 0.5, 0.75)):
        changed = batch.with_ids(torch.where(target_of(batch)[..., None], IMAGE.offset + step, batch.ids))
        logits_fn(changed, target_of(batch), IMAGE, progress)
    assert [rows for rows, _ in model.calls] == [1, 2, 2, 1]


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 8.0])
def test_guidance_is_u_plus_scale_times_c_minus_u(scale: float) -> None:
    model, batch = ToyModel(), batch_of([1, 2, 3], [4], [])
    cells = target_of(batch)
    conditional = model_logits(model)(batch, cells, IMAGE, 0.0)
    unconditional = model_logits(model)(batch.hide(batch.cells(TEXT.index)), cells, IMAGE, 0.0)
    assert not torch.allclose(conditional, unconditional)
    expected = unconditional + scale * (conditional - unconditional)
    torch.testing.assert_close(unfused(model, scale)(batch, cells, IMAGE, 0.0), expected)


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 8.0])
def test_fused_equals_unfused_with_one_call_and_half_the_head(scale: float) -> None:
    model, batch = ToyModel(), batch_of([1, 2, 3], [4], [])
    cells = target_of(batch)
    expected = unfused(model, scale)(batch, cells, IMAGE, 0.0)
    model.calls.clear()
    model.head_cells = 0
    fused = guided_model(model, hide_condition((TEXT.index,)), ConstantGuidance(scale))(batch, cells, IMAGE, 0.0)
    torch.testing.assert_close(fused, expected, atol=1e-5, rtol=1e-5)
    assert model.calls == [(6, batch.ids.shape[1])]
    assert model.head_cells == int(cells.sum())


def test_half_precision_is_mixed_in_float32() -> None:
    model, batch = ToyModel(torch.bfloat16), batch_of([1, 2, 3], [4])
    cells = target_of(batch)
    conditional = model_logits(model)(batch, cells, IMAGE, 0.0)
    unconditional = model_logits(model)(batch.hide(batch.cells(TEXT.index)), cells, IMAGE, 0.0)
    assert conditional.dtype == torch.bfloat16
    expected = unconditional.float() + 8.0 * (conditional.float() - unconditional.float())
    fused = guided_model(model, hide_condition((TEXT.index,)), ConstantGuidance(8.0))(batch, cells, IMAGE, 0.0)
    for logits in (fused, unfused(model, 8.0)(batch, cells, IMAGE, 0.0)):
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_a_condition_that_is_hidden_cannot_change_the_unconditional_logits() -> None:
    model = ToyModel()
    null = seen_through(hide_condition((TEXT.index,)), model_logits(model))
    first, second = batch_of([1, 2, 3]), batch_of([9, 9, 9])
    assert torch.equal(null(first, target_of(first), IMAGE, 0.0), null(second, target_of(second), IMAGE, 0.0))


@pytest.mark.parametrize("negative_text", [[7], [7, 8, 9], [7, 8, 9, 10, 11, 12]])
@pytest.mark.parametrize("fused", [True, False])
def test_a_negative_prompt_of_any_length_sees_the_target_as_decoded_so_far(negative_text: list[int], fused: bool) -> None:
    model = ToyModel()
    blank = batch_of(negative_text, negative_text, known=0)
    keep = blank.ids.clone()
    view = against(blank, IMAGE.index)
    plain, schedule = model_logits(model), LinearGuidance(5.0)
    logits_fn = guided_model(model, view, schedule) if fused else guided(plain, seen_through(view, plain), schedule)
    for known in (1, 3):
        batch, same = batch_of([1, 2, 3], [4], known=known), batch_of(negative_text, negative_text, known=known)
        cells = target_of(batch)
        conditional, negative = plain(batch, cells, IMAGE, 0.5), plain(same, target_of(same), IMAGE, 0.5)
        torch.testing.assert_close(logits_fn(batch, cells, IMAGE, 0.5), negative + 3.0 * (conditional - negative), atol=1e-5, rtol=1e-5)
    assert torch.equal(blank.ids, keep)


def test_a_negative_batch_with_another_target_is_refused() -> None:
    small = pack([{"text": torch.tensor([[1]]), "image": torch.full((1, 2, 2), -1)}], SPACE)
    batch = batch_of([1, 2])
    with pytest.raises(ValueError, match=r"\[4\] target cells a row, the conditional one \[16\]"):
        guided_model(ToyModel(), against(small, IMAGE.index), ConstantGuidance(2.0))(batch, target_of(batch), IMAGE, 0.0)


def test_nothing_edits_the_batch() -> None:
    model, batch = ToyModel(), batch_of([1, 2, 3], [4])
    before = {name: getattr(batch, name).clone() for name in ("ids", "valid", "modality", "coords", "document")}
    guided_model(model, hide_condition((TEXT.index,)), ConstantGuidance(2.0))(batch, target_of(batch), IMAGE, 0.0)
    unfused(model, 2.0)(batch, target_of(batch), IMAGE, 0.0)
    assert all(torch.equal(getattr(batch, name), value) for name, value in before.items())


def filled_up(batch: TokenBatch, row: int, count: int) -> TokenBatch:
    """The batch with the first `count` unknown cells of a row known."""
    ids = batch.ids.clone()
    ids[row, target_of(batch)[row].nonzero()[:count, 0], 0] = IMAGE.offset
    return batch.with_ids(ids)


@pytest.mark.parametrize("fused", [True, False])
def test_mask_rate_guidance_is_per_row(fused: bool) -> None:
    model, view, plain = ToyModel(), hide_condition((TEXT.index,)), model_logits(ToyModel())
    schedule = MaskRateGuidance(4.0)
    logits_fn = guided_model(model, view, schedule) if fused else guided(plain, seen_through(view, plain), schedule)
    batch = filled_up(batch_of([1, 2, 3], [4], [5, 6], known=0), 1, 12)
    cells = target_of(batch)
    conditional, unconditional = plain(batch, cells, IMAGE, 0.0), seen_through(view, plain)(batch, cells, IMAGE, 0.0)
    scale = torch.tensor([1.0, 1 + 3 * 12 / 16, 1.0])[cells.nonzero()[:, 0], None]
    found = logits_fn(batch, cells, IMAGE, 0.0)
    torch.testing.assert_close(found, unconditional + scale * (conditional - unconditional), atol=1e-5, rtol=1e-5)
    if not fused:
        assert torch.equal(found[scale[:, 0] == 1], conditional[scale[:, 0] == 1])


def test_one_guided_row_costs_the_second_pass_and_blank_or_finished_rows_do_not() -> None:
    counter, model = ModelCallCounter(), ToyModel()
    logits_fn = guided_model(model, hide_condition((TEXT.index,)), MaskRateGuidance(4.0), counter=counter)
    blank = batch_of([1, 2, 3], [4], known=0)
    logits_fn(blank, target_of(blank), IMAGE, 0.5)
    assert counter.rows == 2
    done = filled_up(blank, 1, 16)  # a full row has no cell left to guide
    logits_fn(done, target_of(done), IMAGE, 0.5)
    assert counter.rows == 4
    begun = filled_up(blank, 1, 1)
    logits_fn(begun, target_of(begun), IMAGE, 0.5)
    assert counter.rows == 8


@pytest.mark.parametrize("schedule", [ConstantGuidance(5.0), MaskRateGuidance(5.0)])
def test_rescaled_guidance_is_the_same_fused_and_unfused_and_for_a_row_alone(schedule: ConstantGuidance | MaskRateGuidance) -> None:
    model, view, batch = ToyModel(), hide_condition((TEXT.index,)), batch_of([1, 2, 3], [4, 5, 6])
    plain, cells = model_logits(model), target_of(batch)
    unfused = guided(plain, seen_through(view, plain), schedule, rescale=0.7)(batch, cells, IMAGE, 0.5)
    fused = guided_model(model, view, schedule, rescale=0.7)(batch, cells, IMAGE, 0.5)
    torch.testing.assert_close(fused, unfused, atol=1e-5, rtol=1e-5)
    guided_only = guided(plain, seen_through(view, plain), schedule)(batch, cells, IMAGE, 0.5)
    expected = rescale_guided(guided_only, plain(batch, cells, IMAGE, 0.5), cells.nonzero()[:, 0], 0.7)
    torch.testing.assert_close(fused, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(fused, guided_only)
    other = batch_of([1, 2, 3], [7, 8, 9])
    own = cells.nonzero()[:, 0] == 0
    assert torch.equal(fused[own], guided_model(model, view, schedule, rescale=0.7)(other, cells, IMAGE, 0.5)[own])


def test_several_conditions_add_up_by_weight() -> None:
    model, batch = ToyModel(), batch_of([1, 2, 3], [4], [])
    plain, cells = model_logits(model), target_of(batch)
    views = [against(batch_of(*[text] * 3), IMAGE.index) for text in ([1, 2], [3], [9, 9])]
    functions = [seen_through(view, plain) for view in views]
    null = seen_through(hide_condition((TEXT.index,)), plain)
    weights = [2.5, -1.0, 0.7]
    values, base = [function(batch, cells, IMAGE, 0.0) for function in functions], null(batch, cells, IMAGE, 0.0)
    expected = base + sum((value - base) * weight for value, weight in zip(values, weights, strict=True))
    found = guided_by(list(zip(functions, weights, strict=True)), null)(batch, cells, IMAGE, 0.0)
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="at least one condition"):
        guided_by([], null)


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_one_condition_equals_guided_to_the_bit(weight: float) -> None:
    model, batch = ToyModel(torch.bfloat16), batch_of([1, 2, 3], [4])
    plain, cells = model_logits(model), target_of(batch)
    null = never if weight == 1 else seen_through(hide_condition((TEXT.index,)), plain)
    expected = guided(plain, null, ConstantGuidance(weight))(batch, cells, IMAGE, 0.0)
    assert torch.equal(guided_by([(plain, weight), (never, 0.0)], null)(batch, cells, IMAGE, 0.0), expected)


@pytest.mark.parametrize("fused", [True, False])
def test_any_subset_guidance_leads_away_from_the_same_row_with_the_given_cells_masked(fused: bool) -> None:
    model, start = ToyModel(), batch_of([1, 2, 3], [4], known=2)
    given = start.valid & (start.ids[..., 0] != MASK)  # the text and two cells of the picture
    now = filled_up(start, 0, 5)
    plain, cells, view = model_logits(model), target_of(now), remask(given)
    schedule = ConstantGuidance(3.0)
    logits_fn = guided_model(model, view, schedule) if fused else guided(plain, seen_through(view, plain), schedule)
    conditional = plain(now, cells, IMAGE, 0.5)
    unconditional = plain(now.with_ids(torch.where(given[..., None], MASK, now.ids)), cells, IMAGE, 0.5)
    expected = unconditional + 3.0 * (conditional - unconditional)
    torch.testing.assert_close(logits_fn(now, cells, IMAGE, 0.5), expected, atol=1e-5, rtol=1e-5)
    alone = logits_by_group([guided_model(model, remask(given[row : row + 1]), schedule) for row in range(2)], [[0], [1]])
    torch.testing.assert_close(alone(now, cells, IMAGE, 0.5), expected, atol=1e-5, rtol=1e-5)


def test_a_counter_counts_the_rows_of_real_passes() -> None:
    counter, model, batch = ModelCallCounter(), ToyModel(), batch_of([1, 2, 3], [4], [5])
    logits_fn = guided_model(model, hide_condition((TEXT.index,)), IntervalGuidance(3.0, 0.5, 1.0), counter=counter)
    cost = []
    for known, progress in ((5, 0.25), (4, 0.5), (4, 0.75), (3, 0.75)):
        before, changed = counter.rows, batch_of([1, 2, 3], [4], [5], known=known)
        logits_fn(changed, target_of(changed), IMAGE, progress)
        cost.append((counter.rows - before) / len(batch))
    assert cost == [1, 2, 0, 2]
    plain = model_logits(model, counter)
    plain(batch, target_of(batch), IMAGE, 0.0)
    plain(batch, target_of(batch), IMAGE, 0.5)
    assert counter.rows == 3 * 5 + 3
    assert counter.rows == sum(rows for rows, _ in model.calls)
