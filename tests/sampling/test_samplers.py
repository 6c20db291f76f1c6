"""What every decoding order must keep, and the loop around them."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from builders.draws import seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch import Tensor

from maskgen.masking.schedule import Cosine, Linear, masked_after
from maskgen.sampling import by_name, names
from maskgen.sampling.ancestral import AncestralSampler
from maskgen.sampling.base import Decision, DrawFn, Sampler, State, StepFn, ranked
from maskgen.sampling.blocks import BlockSampler
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.sampling.critic import CriticSampler
from maskgen.sampling.entropy import EntropySampler
from maskgen.sampling.frequency import FrequencySampler
from maskgen.sampling.halton import HaltonSampler
from maskgen.sampling.remdm import ReMDMSampler
from maskgen.sampling.spans import SpanSampler
from maskgen.sampling.zigzag import ZigzagSampler
from maskgen.tokens.batch import TokenBatch, pack, unpack
from maskgen.tokens.space import MASK, Modality, Segment, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="image", kind="image", num_levels=1, codebook_size=16),
        Modality(name="audio", kind="audio", num_levels=3, codebook_size=8),
    ]
)
IMAGE = SPACE.segment("image", 0)
Kind = Callable[..., Sampler]


def suspicion(batch: TokenBatch, segment: Segment) -> Tensor:
    """A critic that knows nothing but looks at every code: whole numbers of place and code, each row alone."""
    time, row, column = batch.coords.unbind(dim=-1)
    return ((batch.ids[..., segment.level] * 7919 + time * 7 + row * 13 + column * 17) % 101).float() / 25


def every_other(batch: TokenBatch, segment: Segment) -> Tensor:
    """Cells at even places are persistent."""
    return batch.cells(segment.index) & (batch.coords.sum(dim=-1) % 2 == 0)


def blocks(steps: int = 12, **options: Any) -> Sampler:
    """As many blocks of 64 cells as there are steps."""
    return BlockSampler(steps=steps, block_size=-(-64 // steps), inner=EntropySampler(**options), **options)


def picture(rows: int, columns: int, unknown: int, seed: int = 0) -> dict[str, Tensor]:
    """A caption and a picture with that many unknown cells at random places."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(16, (1, rows, columns), generator=generator)
    codes.view(-1)[torch.randperm(rows * columns, generator=generator)[:unknown]] = -1
    return {"text": torch.randint(11, (1, 1 + seed % 4), generator=generator), "image": codes}


def contextual(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    """Logits that depend on the place of a cell, on progress and on all that its row knows; whole numbers, so sums are exact."""
    context = (batch.ids.sum(dim=2) * batch.valid).sum(dim=1, keepdim=True).expand_as(cells)[cells]
    time, row, column = batch.coords[cells].unbind(dim=1)
    keys = (context * 31 + time * 7 + row * 13 + column * 17 + round(progress * 100))[:, None]
    return ((keys + torch.arange(segment.size) * 5) * 2654435761 % 1013).float() / 300


KINDS: dict[str, Kind] = {
    **{name: by_name(name) for name in names() if not getattr(by_name(name), "needs", ())},
    "halton-rolled": lambda **options: HaltonSampler(roll=True, **options),
    "ancestral-cosine": lambda **options: AncestralSampler(grid="cosine", **options),
    "confidence-linear": lambda **options: ConfidenceSampler(annealing="linear", **options),
    "confidence-amused": lambda **options: ConfidenceSampler(annealing="amused", **options),
    "spans-prod": lambda **options: SpanSampler(score="prod", **options),
    "blocks": blocks,
    "critic": lambda **options: CriticSampler(critic=suspicion, **options),
    "frequency": lambda **options: FrequencySampler(critic=suspicion, grouping=every_other, **options),
    "zigzag": lambda **options: ZigzagSampler(inner=ConfidenceSampler(**options), inverse=contextual, **options),
    **{f"remdm-{name}": partial(ReMDMSampler, strategy=name) for name in ("cap", "rescale", "conf", "loop")},
}
"""Every order of the house, by its defaults, and its variants."""

COUNTED = {"confidence", "confidence-linear", "confidence-amused", "moment", "entropy", "margin", "random_order", "critic"}
"""Orders whose counts are the schedule's at every step."""

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
plain = [name for name in KINDS if not KINDS[name]().revokes and name not in ("blocks", "ancestral", "ancestral-cosine")]
every_plain_kind = pytest.mark.parametrize("kind", [KINDS[name] for name in plain], ids=plain)
"""Orders that take nothing back and ask the model exactly once a step."""


def oracle(answer: TokenBatch) -> Callable[..., Tensor]:
    """A model that knows the answer."""

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        codes = answer.ids[..., segment.level][cells] - segment.offset
        return 60.0 * torch.nn.functional.one_hot(codes, segment.size).float()

    return logits_fn


def blank(batch: TokenBatch, segment: Segment) -> TokenBatch:
    ids = batch.ids.clone()
    ids[..., segment.level][batch.cells(segment.index)] = MASK
    return batch.with_ids(ids)


@every_kind
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_k": 3, "top_p": 0.9}], ids=str)
def test_an_oracle_is_followed(kind: Kind, options: dict[str, float]) -> None:
    answer = pack([picture(8, 8, 0, 1), picture(5, 9, 0, 2)], SPACE)
    filled, _ = kind(steps=6, **options).sample(oracle(answer), blank(answer, IMAGE), IMAGE, seeded(0, 1))
    assert torch.equal(filled.ids, answer.ids)


@every_kind
def test_known_cells_return_and_nothing_of_the_caller_s_is_edited(kind: Kind) -> None:
    batch = pack([picture(8, 8, 30, 1), picture(4, 4, 16, 2)], SPACE)
    before = {field.name: getattr(batch, field.name).clone() for field in dataclasses.fields(batch)}
    handed: list[tuple[Tensor, Tensor]] = []

    sampler = kind(steps=5)

    def logits_fn(current: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        assert (batch.ids[..., 0][cells] == MASK).all(), "only what was unknown at the start is asked for"
        assert sampler.revokes or (current.ids[..., 0][cells] == MASK).all()
        logits = contextual(current, cells, segment, progress)
        handed.append((logits, logits.clone()))
        return logits

    filled, _ = sampler.sample(logits_fn, batch, IMAGE, seeded(0, 1))
    assert all(torch.equal(getattr(batch, name), value) for name, value in before.items())
    assert all(torch.equal(logits, copy) for logits, copy in handed)
    target = batch.cells(IMAGE.index) & (batch.ids[..., 0] == MASK)
    assert torch.equal(filled.ids[~target], batch.ids[~target])
    written = filled.ids[..., 0][target]
    assert ((written >= IMAGE.offset) & (written < IMAGE.offset + IMAGE.size)).all()


@every_kind
@pytest.mark.parametrize("steps", [1, 7, 12])
def test_uneven_rows_equal_their_solo_runs_bit_for_bit_in_any_order(kind: Kind, steps: int) -> None:
    samples = [picture(8, 8, 0, 1), picture(8, 8, 1, 2), picture(3, 5, 5, 3), picture(8, 8, 64, 4)]
    sampler = kind(steps=steps)
    filled, trajectory = sampler.sample(contextual, pack(samples, SPACE), IMAGE, seeded(10, 11, 12, 13))
    together = unpack(filled, SPACE)
    order = [2, 0, 3, 1]
    shuffled = unpack(
        sampler.sample(contextual, pack([samples[row] for row in order], SPACE), IMAGE, seeded(*(10 + row for row in order)))[0], SPACE
    )
    for row, sample in enumerate(samples):
        solo, own = sampler.sample(contextual, pack([sample], SPACE), IMAGE, seeded(10 + row))
        length, taken = solo.ids.shape[1], len(own.codes)
        assert torch.equal(together[row]["image"], unpack(solo, SPACE)[0]["image"])
        assert torch.equal(together[row]["image"], shuffled[order.index(row)]["image"])
        assert torch.equal(trajectory.codes[:taken, row, :length], own.codes[:, 0])
        assert torch.equal(trajectory.logprobs[:taken, row, :length], own.logprobs[:, 0])


@every_kind
def test_the_seed_decides(kind: Kind) -> None:
    batch = pack([picture(8, 8, 64, 1)] * 3, SPACE)
    filled, _ = kind(steps=4).sample(contextual, batch, IMAGE, seeded(5, 6, 5))
    assert torch.equal(filled.ids[0], filled.ids[2])
    assert not torch.equal(filled.ids[0], filled.ids[1])


@every_kind
@pytest.mark.parametrize("level", [0, 1, 2])
def test_levels_are_decoded_alone(kind: Kind, level: int) -> None:
    codes = torch.randint(8, (3, 12), generator=seeded(0)[0])
    answer = pack([{"text": torch.tensor([[3, 4]]), "audio": codes}], SPACE)
    start = codes.clone()
    start[level:] = -1
    segment = SPACE.segment("audio", level)
    batch = pack([{"text": torch.tensor([[3, 4]]), "audio": start}], SPACE)
    filled, trajectory = kind(steps=5).sample(oracle(answer), batch, segment, seeded(0))
    expected = start.clone()
    expected[level] = codes[level]
    assert torch.equal(unpack(filled, SPACE)[0]["audio"], expected)
    assert torch.equal(trajectory.codes[-1, 0, 2:], codes[level])


@every_kind
def test_nothing_masked_never_calls_the_model(kind: Kind) -> None:
    def never(*_: object) -> Tensor:
        raise AssertionError("there is nothing to predict")

    batch = pack([picture(3, 3, 0)], SPACE)
    filled, trajectory = kind().sample(never, batch, IMAGE, seeded(0))
    assert torch.equal(filled.ids, batch.ids)
    assert trajectory.codes.shape == trajectory.changed.shape == (0, *batch.modality.shape)


@every_kind
def test_only_the_wanted_modality_is_filled(kind: Kind) -> None:
    sample = {"text": torch.tensor([[1, -1, 2]]), "image": torch.full((1, 2, 3), -1)}
    filled, _ = kind(steps=2).sample(contextual, pack([sample], SPACE), IMAGE, seeded(0))
    result = unpack(filled, SPACE)[0]
    assert torch.equal(result["text"], sample["text"])
    assert (result["image"] >= 0).all()


@every_kind
def test_hidden_and_padding_cells_are_never_filled(kind: Kind) -> None:
    batch = pack([picture(2, 2, 4, 1), picture(4, 4, 16, 1)], SPACE)
    hidden = torch.zeros_like(batch.valid)
    hidden[1, -3:] = True
    filled, _ = kind(steps=3).sample(contextual, batch.hide(hidden), IMAGE, seeded(0, 1))
    assert torch.equal(filled.ids[hidden | ~batch.valid], batch.ids[hidden | ~batch.valid])
    assert (filled.ids[batch.valid & ~hidden] != MASK).all()


@settings(deadline=None, max_examples=120)
@given(
    name=st.sampled_from(sorted(KINDS)),
    steps=st.integers(1, 20),
    unknown=st.lists(st.integers(0, 24), min_size=1, max_size=3),
    law=st.sampled_from([Cosine(), Linear()]),
    seed=st.integers(0, 2**31),
)
def test_counts_fall_to_zero_as_the_schedule_says(name: str, steps: int, unknown: list[int], law: Cosine | Linear, seed: int) -> None:
    batch = pack([picture(4, 6, count, row) for row, count in enumerate(unknown)], SPACE)
    sampler = KINDS[name](steps=steps, schedule=law)
    filled, trajectory = sampler.sample(contextual, batch, IMAGE, seeded(*(seed + row for row in range(len(unknown)))))
    cells, total = batch.cells(IMAGE.index), torch.tensor(unknown)
    masked = [((codes == -1) & cells).sum(dim=1) for codes in trajectory.codes]
    if name in COUNTED:
        assert all(torch.equal(left, masked_after(law, step, steps, total)) for step, left in enumerate(masked))
    assert len(masked) <= steps
    if name in plain:
        assert len(masked) <= max(unknown), "every step takes at least one cell, so few cells take few passes"
        for earlier, later in zip([total, *masked], masked, strict=False):
            assert ((later < earlier) | (later == 0)).all()
    assert not (filled.ids == MASK).any()
    assert (filled.ids[..., 0][cells] >= IMAGE.offset).all()


@every_plain_kind
def test_the_trajectory_tells_codes_changes_and_log_probabilities(kind: Kind) -> None:
    batch = pack([picture(4, 4, 10, 1), picture(4, 4, 16, 2)], SPACE)
    asked: list[tuple[Tensor, Tensor]] = []

    def logits_fn(current: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        logits = contextual(current, cells, segment, progress)
        asked.append((cells, logits))
        return logits

    filled, trajectory = kind(steps=4).sample(logits_fn, batch, IMAGE, seeded(0, 1))
    target = batch.ids[..., 0] == MASK
    assert torch.equal(trajectory.codes[-1][batch.cells(IMAGE.index)], filled.ids[..., 0][batch.cells(IMAGE.index)] - IMAGE.offset)
    assert torch.equal(trajectory.changed.sum(dim=0), target.long())
    assert (trajectory.codes[:, ~batch.cells(IMAGE.index)] == -1).all()
    assert (trajectory.logprobs[:, ~target] == 0).all()
    for (cells, logits), changed, codes, logprobs in zip(asked, trajectory.changed, trajectory.codes, trajectory.logprobs, strict=True):
        full = torch.zeros(*cells.shape, IMAGE.size).masked_scatter(cells[..., None], logits.log_softmax(dim=-1))
        torch.testing.assert_close(logprobs[changed], full[changed].gather(-1, codes[changed][:, None]).squeeze(-1))


@every_kind
def test_the_callback_sees_every_step_and_can_stop(kind: Kind) -> None:
    batch = pack([picture(4, 4, 16, 1)], SPACE)
    seen: list[tuple[int, int, float]] = []
    kind(steps=4).sample(contextual, batch, IMAGE, seeded(0), callback=lambda s: seen.append((s.step, s.steps, int(s.unknown.sum()))))
    assert [step for step, _, _ in seen] == list(range(1, len(seen) + 1))
    assert len(seen) <= 4
    assert {steps for _, steps, _ in seen} == {4}
    assert seen[-1][2] == 0

    def stop(state: State) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kind(steps=4).sample(contextual, batch, IMAGE, seeded(0), callback=stop)


@every_kind
def test_progress_is_steps_done_over_steps(kind: Kind) -> None:
    heard: list[float] = []

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        heard.append(progress)
        return contextual(batch, cells, segment, progress)

    kind(steps=4).sample(logits_fn, pack([picture(4, 4, 16)], SPACE), IMAGE, seeded(0))
    assert heard == sorted(heard)
    assert set(heard) <= {0.0, 0.25, 0.5, 0.75}
    assert heard


@every_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_logits_name_step_and_modality(kind: Kind, value: float) -> None:
    spoiled: list[int] = []

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        logits = contextual(batch, cells, segment, progress)
        if progress >= 0.5:
            logits[-1, 3] = value
            spoiled.append(round(4 * progress))
        return logits

    with pytest.raises(FloatingPointError) as caught:
        kind(steps=4).sample(logits_fn, pack([picture(4, 4, 16)], SPACE), IMAGE, seeded(0))
    assert f"logits of image level 0 are not finite at step {spoiled[0]} of 4" in str(caught.value)
    assert len(spoiled) == 1, "the first spoiled logits end the decode"


@every_kind
def test_logits_of_another_shape_are_refused(kind: Kind) -> None:
    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        return torch.zeros(int(cells.sum()), SPACE.size)

    with pytest.raises(ValueError, match="logits of image must have shape"):
        kind(steps=1).sample(logits_fn, pack([picture(4, 4, 16)], SPACE), IMAGE, seeded(0))


@every_kind
def test_half_precision_logits_and_autograd_are_handled_at_the_door(kind: Kind) -> None:
    weight = torch.ones((), requires_grad=True)

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        logits = (contextual(batch, cells, segment, progress) * weight).bfloat16()
        assert not logits.requires_grad
        return logits

    _, trajectory = kind(steps=3).sample(logits_fn, pack([picture(4, 4, 16)], SPACE), IMAGE, seeded(0))
    assert trajectory.logprobs.dtype == torch.float32
    assert (trajectory.logprobs.bfloat16().float() != trajectory.logprobs).any()


def test_one_generator_a_row_is_asked_for() -> None:
    with pytest.raises(ValueError, match="batch of 2 rows needs one generator a row, got 1"):
        ConfidenceSampler().sample(contextual, pack([picture(2, 2, 4)] * 2, SPACE), IMAGE, seeded(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"top_k": 0}, "top_k must be"),
        ({"top_p": 0.0}, "top_p must lie"),
        ({"top_p": 1.5}, "top_p must lie"),
        ({"choice_temperature": -0.5}, "choice_temperature must be"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConfidenceSampler(**options)


def test_samplers_are_found_by_name_and_an_unknown_name_lists_them() -> None:
    assert {"confidence": ConfidenceSampler, "halton": HaltonSampler, "remdm": ReMDMSampler}.items() <= {
        n: by_name(n) for n in names()
    }.items()
    with pytest.raises(ValueError, match=r"'euler'.*confidence,.*halton,.*random_order"):
        by_name("euler")


def test_a_yaml_class_path_builds_a_sampler() -> None:
    parser = ArgumentParser()
    parser.add_argument("--samplers", type=dict[str, Sampler])
    options = {"steps": 8, "choice_temperature": 2.0, "top_k": 4, "schedule": {"class_path": "maskgen.masking.schedule.Linear"}}
    entry = {"class_path": "maskgen.sampling.confidence.ConfidenceSampler", "init_args": options}
    built = parser.instantiate(parser.parse_object({"samplers": {"image": entry}}))
    assert built.samplers["image"] == ConfidenceSampler(steps=8, choice_temperature=2.0, top_k=4, schedule=Linear())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restless(Sampler):
    """A sampler from outside the house: takes two accepted cells back at each step but the last, and asks for known cells too."""

    revokes = True

    def start(self, state: State) -> StepFn:
        noise = torch.Generator().manual_seed(0)

        def step(now: State, draw_cells: DrawFn) -> Decision:
            everything = torch.ones_like(now.target)
            last = now.step + 1 == now.steps
            place = ranked(torch.rand(now.target.shape, generator=noise).masked_fill(~now.target | now.unknown, 2.0))
            return Decision(draw_cells(now.unknown), everything, None if last else place < 2)

        return step


def test_a_sampler_may_revoke_but_never_touch_what_was_given() -> None:
    batch = pack([picture(4, 4, 10, 1)], SPACE)
    filled, trajectory = Restless(steps=6).sample(contextual, batch, IMAGE, seeded(0))
    given_ids = batch.ids != MASK
    assert torch.equal(filled.ids[given_ids], batch.ids[given_ids])
    assert not (filled.ids == MASK).any()
    assert len(trajectory.codes) == 6
    left = [int(((codes == -1) & batch.cells(IMAGE.index)).sum()) for codes in trajectory.codes]
    assert left == [0, 2, 2, 2, 2, 0]
    assert (trajectory.logprobs[1][trajectory.codes[1] == -1] == 0).all()
