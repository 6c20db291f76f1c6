"""Orders with a structure: blocks one after the other, and spans of neighbours that are kept together."""

import dataclasses
import math

import pytest
import torch
from builders.draws import seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskgen.decoding.logits import model_logits
from maskgen.masking.counts import masked_after
from maskgen.masking.schedule import Cosine, Linear
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.sampling.base import Decision, DrawFn, Sampler, State, StepFn
from maskgen.sampling.blocks import BlockSampler, block_plan
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.sampling.random_order import RandomOrderSampler
from maskgen.sampling.spans import SpanSampler, span_numbers
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import MASK, Modality, Segment, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=13),
        Modality(name="image", kind="image", num_levels=1, codebook_size=5),
        Modality(name="audio", kind="audio", num_levels=2, codebook_size=7),
    ]
)
TEXT = SPACE.segment("text", 0)


def words(length: int, known: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """An unknown text with the known words at these places."""
    codes = torch.full((1, length), -1)
    codes[0, list(known)] = 3
    return {"text": codes}


def contextual(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    """Logits that depend on the place of a cell, on progress and on all that its row knows; whole numbers, so sums are exact."""
    context = (batch.ids.sum(dim=2) * batch.valid).sum(dim=1, keepdim=True).expand_as(cells)[cells]
    keys = (context * 31 + batch.coords[cells][:, 0] * 7 + round(progress * 100))[:, None]
    return ((keys + torch.arange(segment.size) * 5) * 2654435761 % 1013).float() / 300


def decoded(sampler: Sampler, *samples: dict[str, Tensor], first_seed: int = 0) -> tuple[TokenBatch, TokenBatch, Tensor]:
    """The batch before and after, and the codes after every step."""
    batch = pack(samples, SPACE)
    filled, trajectory = sampler.sample(contextual, batch, TEXT, seeded(*range(first_seed, first_seed + len(samples))))
    return batch, filled, trajectory.codes


def llada(length: int, known: tuple[int, ...], steps: int, block_size: int) -> Tensor:
    """Blocks of the surest codes in plain loops, from 3.2 and 11.11 of the reference; the likeliest code of every cell."""
    batch = pack([words(length, known)], SPACE)
    places = [place for place in range(length) if place not in known]
    blocks = [places[start : start + block_size] for start in range(0, len(places), block_size)]
    done = 0
    for number, block in enumerate(blocks):
        own_steps = steps // len(blocks) + (number < steps % len(blocks))
        left = list(block)
        for step in range(own_steps):
            keep_masked = math.floor(len(block) * (own_steps - step - 1) / own_steps)
            keep_masked = min(keep_masked, len(left) - 1)
            if left:
                cells = torch.zeros(1, length, dtype=torch.bool)
                cells[0, left] = True
                logprobs, codes = contextual(batch, cells, TEXT, done / steps).double().log_softmax(-1).max(-1)
                order = sorted(range(len(left)), key=lambda one: (float(logprobs[one]), left[one]))
                ids = batch.ids.clone()
                for one in order[keep_masked:]:
                    ids[0, left[one], 0] = int(codes[one]) + TEXT.offset
                left = [left[one] for one in sorted(order[:keep_masked])]
                batch = batch.with_ids(ids)
            done += 1
    return batch.ids


@pytest.mark.parametrize(
    ("length", "known", "steps", "block_size"), [(12, (), 6, 4), (17, (0, 5, 6), 11, 4), (9, (2,), 9, 3), (5, (), 7, 8)]
)
def test_blocks_of_the_surest_codes_equal_plain_loops(length: int, known: tuple[int, ...], steps: int, block_size: int) -> None:
    _, filled, _ = decoded(BlockSampler(steps=steps, block_size=block_size, temperature=0.0), words(length, known))
    assert torch.equal(filled.ids, llada(length, known, steps, block_size))


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=3), size=st.integers(1, 9), spare=st.integers(0, 6))
def test_a_cell_is_kept_only_after_all_blocks_before_its_own(lengths: list[int], size: int, spare: int) -> None:
    unknown = [[place for place in range(length) if place != length // 2] for length in lengths]
    steps = max(1, -(-max(map(len, unknown)) // size)) + spare
    sampler = BlockSampler(steps=steps, block_size=size, inner=ConfidenceSampler(choice_temperature=3.0))
    _, filled, codes = decoded(sampler, *(words(length, (length // 2,)) for length in lengths))
    assert not (filled.ids == MASK).any()
    for row, places in enumerate(unknown):
        plan = block_plan(steps, -(-len(places) // size)) if places else []
        for now, (block, local, length) in zip(codes[:, row], plan, strict=False):
            assert (now[places[: block * size]] >= 0).all(), "blocks before are full"
            assert (now[places[(block + 1) * size :]] == -1).all(), "blocks behind are untouched"
            assert local + 1 < length or (now[places[: (block + 1) * size]] >= 0).all(), "a block ends full"


@given(steps=st.integers(1, 60), blocks=st.integers(1, 60))
def test_steps_are_divided_evenly_and_the_first_blocks_take_what_is_left(steps: int, blocks: int) -> None:
    if steps < blocks:
        return
    plan = block_plan(steps, blocks)
    lengths = [sum(block == one for one, _, _ in plan) for block in range(blocks)]
    assert len(plan) == steps
    assert [block for block, _, _ in plan] == sorted(block for block, _, _ in plan)
    assert lengths == sorted(lengths, reverse=True)
    assert max(lengths) - min(lengths) <= 1
    assert all((local, length) == (step - sum(lengths[:block]), lengths[block]) for step, (block, local, length) in enumerate(plan))


@pytest.mark.parametrize(
    "inner", [ConfidenceSampler(choice_temperature=2.0), RandomOrderSampler(), SpanSampler(span=2)], ids=lambda one: type(one).__name__
)
def test_one_block_is_the_inner_order_itself(inner: Sampler) -> None:
    rows = [words(9, (1,)), words(14), words(3)]
    _, ours, _ = decoded(BlockSampler(steps=5, block_size=99, inner=inner, temperature=0.7), *rows)
    _, theirs, _ = decoded(dataclasses.replace(inner, steps=5, temperature=0.7), *rows)
    assert torch.equal(ours.ids, theirs.ids)


@pytest.mark.parametrize(
    "inner", [None, ConfidenceSampler(), RandomOrderSampler(), SpanSampler(choice_temperature=1.0)], ids=lambda one: type(one).__name__
)
def test_rows_with_other_numbers_of_blocks_equal_their_solo_runs(inner: Sampler | None) -> None:
    rows, sampler = (
        [words(23, (4, 5)), words(2), words(9), words(4, (0, 1, 2, 3)), words(11)],
        BlockSampler(steps=8, block_size=3, inner=inner),
    )
    filled, trajectory = sampler.sample(contextual, pack(rows, SPACE), TEXT, seeded(*range(5)))
    for row, sample in enumerate(rows):
        solo, own = sampler.sample(contextual, pack([sample], SPACE), TEXT, seeded(row))
        assert torch.equal(unpack(filled, SPACE)[row]["text"], unpack(solo, SPACE)[0]["text"])
        assert torch.equal(trajectory.logprobs[: len(own.codes), row, : own.codes.shape[2]], own.logprobs[:, 0])


def test_a_step_of_uneven_rows_costs_one_pass_and_a_full_block_none() -> None:
    torch.manual_seed(0)
    model = MaskTransformer(TransformerConfig(dim=16, num_layers=1, num_heads=2), SPACE.size, 3).eval()
    passes: list[int] = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    batch = pack([words(12), words(4), words(8)], SPACE)
    BlockSampler(steps=6, block_size=4).sample(model_logits(model), batch, TEXT, seeded(0, 1, 2))
    assert len(passes) == 6
    passes.clear()
    _, trajectory = BlockSampler(steps=10, block_size=3).sample(model_logits(model), pack([words(4)], SPACE), TEXT, seeded(0))
    assert len(passes) == 4, "three cells in five steps, then one"
    assert trajectory.changed[:, 0].sum(dim=1).tolist() == [1, 1, 1, 0, 0, 1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restless(Sampler):
    """Asks for everything but its own known cells, accepts all, and in every step but the last gives all that it knows back."""

    revokes = True

    def start(self, state: State) -> StepFn:
        def step(now: State, draw_cells: DrawFn) -> Decision:
            everything = torch.ones_like(now.target)
            own = now.target & ~now.unknown
            return Decision(draw_cells(~own), everything, None if now.step + 1 == now.steps else everything)

        return step


def test_an_inner_order_may_revoke_inside_its_block_alone() -> None:
    sampler, rows = BlockSampler(steps=9, block_size=3, inner=Restless(), temperature=0.0), [words(6, (0,)), words(3)]
    batch = pack(rows, SPACE)
    filled, trajectory = sampler.sample(contextual, batch, TEXT, seeded(0, 1))
    assert sampler.revokes
    assert not (filled.ids[batch.valid] == MASK).any()
    assert torch.equal(filled.ids[0, 0], batch.ids[0, 0])
    shown = [[place for place in range(6) if trajectory.codes[step, 0, place] >= 0] for step in range(9)]
    first, both = [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]
    assert shown == [first, [0], first, [0], first, both, first, both, both]
    for row, sample in enumerate(rows):
        _, own = sampler.sample(contextual, pack([sample], SPACE), TEXT, seeded(row))
        assert torch.equal(trajectory.logprobs[:, row, : own.logprobs.shape[2]], own.logprobs[:, 0])
    assert not BlockSampler(inner=ConfidenceSampler()).revokes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hasty(Sampler):
    """Takes all cells at once, and must not be asked again."""

    def start(self, state: State) -> StepFn:
        def step(now: State, draw_cells: DrawFn) -> Decision:
            assert now.unknown.any()
            return Decision(draw_cells(now.unknown), now.unknown)

        return step


def test_an_inner_order_is_not_asked_while_its_block_waits() -> None:
    _, _, codes = decoded(BlockSampler(steps=6, block_size=3, inner=Hasty()), words(5))
    assert [(now[0] >= 0).sum() for now in codes] == [3, 3, 3, 5]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Around(Sampler):
    """Decides as another order does, and compares its logits with its codes."""

    other: Sampler

    def start(self, state: State) -> StepFn:
        step = self.other.start(state)

        def watched(now: State, draw_cells: DrawFn) -> Decision:
            drawn = (decision := step(now, draw_cells)).drawn
            logprobs = drawn.logits.log_softmax(dim=-1).gather(-1, drawn.codes[drawn.cells][:, None])[:, 0]
            torch.testing.assert_close(drawn.logprobs[drawn.cells], logprobs)
            return decision

        return watched


def test_logits_stand_in_the_order_of_the_cells_whatever_the_blocks_of_a_row() -> None:
    sampler = Around(steps=6, other=BlockSampler(steps=6, block_size=3))
    _, filled, _ = decoded(sampler, words(14), words(2), words(8), words(14))
    assert not (filled.ids == MASK).any()


def test_blocks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 10 unknown cells, which are 4 blocks of 3, and there are 3 steps"):
        decoded(BlockSampler(steps=3, block_size=3), words(2), words(10))
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        BlockSampler(block_size=0)
    with pytest.raises(ValueError, match=r"inner sampler has top_k 3, codes are drawn with None; give top_k to BlockSampler"):
        BlockSampler(inner=ConfidenceSampler(top_k=3))
    assert BlockSampler(top_k=3, inner=ConfidenceSampler(top_k=3)).top_k == 3


def naive_spans(unknown: list[int], span: int) -> list[list[int]]:
    """Stretches of neighbours, each cut into spans from its beginning."""
    spans: list[list[int]] = []
    for place in unknown:
        if spans and spans[-1][-1] == place - 1 and len(spans[-1]) < span:
            spans[-1].append(place)
        else:
            spans.append([place])
    return spans


def test_ten_frames_keep_ten_frames() -> None:
    codes = torch.full((2, 10), -1)
    batch, segment = pack([{"audio": codes}], SPACE), SPACE.segment("audio", 0)
    assert span_numbers(batch.cells(segment.index), 3).tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2, 3]]
    filled, trajectory = SpanSampler(steps=4, schedule=Linear()).sample(contextual, batch, segment, seeded(0))
    assert unpack(filled, SPACE)[0]["audio"].shape == (2, 10)
    assert (unpack(filled, SPACE)[0]["audio"][0] >= 0).all()
    assert sorted(trajectory.changed[:, 0].sum(dim=1).tolist()) == [1, 3, 3, 3]


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 22), min_size=1, max_size=3),
    span=st.integers(1, 5),
    steps=st.integers(1, 8),
    score=st.sampled_from(["max", "prod"]),
    law=st.sampled_from([Cosine(), Linear()]),
    seed=st.integers(0, 2**20),
)
def test_spans_are_whole_at_every_step_and_their_counts_are_the_schedule_s(
    lengths: list[int], span: int, steps: int, score: str, law: Cosine | Linear, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    known = [tuple((torch.rand(length, generator=draw) < 0.2).nonzero()[:, 0].tolist()) for length in lengths]
    sampler = SpanSampler(span=span, steps=steps, score=score, schedule=law, choice_temperature=2.0)  # type: ignore[arg-type]
    _, filled, codes = decoded(sampler, *map(words, lengths, known), first_seed=seed)
    assert not (filled.ids == MASK).any()
    spans = [
        naive_spans([place for place in range(length) if place not in fixed], span) for length, fixed in zip(lengths, known, strict=True)
    ]
    total = torch.tensor([len(one) for one in spans])
    for step, now in enumerate(codes):
        masked = [[bool((now[row, one] == -1).all()) for one in own] for row, own in enumerate(spans)]
        whole = [[bool((now[row, one] >= 0).all()) for one in own] for row, own in enumerate(spans)]
        assert all(left != right for lefts, rights in zip(masked, whole, strict=True) for left, right in zip(lefts, rights, strict=True))
        assert [sum(one) for one in masked] == masked_after(law, step, steps, total).tolist()


@pytest.mark.parametrize("score", ["max", "prod"])
def test_spans_equal_magnet_in_plain_loops(score: str) -> None:
    length, steps, known = 19, 5, (7,)
    spans, batch = naive_spans([place for place in range(length) if place not in known], 3), pack([words(length, known)], SPACE)
    total = len(spans)
    for step in range(steps):
        probability = {}
        ids = batch.ids.clone()
        for one in spans:
            cells = torch.zeros(1, length, dtype=torch.bool)
            cells[0, one] = True
            top = contextual(batch, cells, TEXT, step / steps).double().softmax(-1).max(-1)
            probability[tuple(one)] = top.values.tolist()
            ids[0, one, 0] = top.indices + TEXT.offset
        worst = {  # 11.5 of the reference: the larger, the sooner masked again
            one: 1 - max(found) if score == "max" else -sum(map(math.log, found)) for one, found in probability.items()
        }
        left = math.floor(total * math.cos(math.pi / 2 * (step + 1) / steps) + 1e-8)
        spans = [list(one) for one in sorted(worst, key=lambda one: -worst[one])[:left]]
        for one in spans:
            ids[0, one, 0] = MASK
        batch = batch.with_ids(ids)
    sampler = SpanSampler(steps=steps, temperature=0.0, score=score)  # type: ignore[arg-type]
    _, filled, _ = decoded(sampler, words(length, known))
    assert torch.equal(filled.ids, batch.ids)


def test_spans_of_one_cell_are_the_confidence_order() -> None:
    rows = [words(12, (3,)), words(20), words(1)]
    _, ours, _ = decoded(SpanSampler(span=1, steps=6, choice_temperature=3.0), *rows)
    _, theirs, _ = decoded(ConfidenceSampler(steps=6, choice_temperature=3.0), *rows)
    assert torch.equal(ours.ids, theirs.ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"span": 0}, "span must be"),
        ({"score": "mean"}, "mean"),
        ({"choice_temperature": -1.0}, "choice_temperature"),
    ],
)
def test_bad_span_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):  # a checker of types, where one runs, comes first
        SpanSampler(**options)  # type: ignore[arg-type]
