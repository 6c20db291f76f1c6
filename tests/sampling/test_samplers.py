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

from maskgen.masking.counts import masked_after
from maskgen.masking.schedule import Cosine, Linear
from maskgen.sampling import by_name, contract, names
from maskgen.sampling.ancestral import AncestralSampler
from maskgen.sampling.base import Decision, DrawFn, Sampler, State, StepFn, ranked
from maskgen.sampling.blocks import BlockSampler
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.sampling.contract import IMAGE, SPACE, contextual, picture
from maskgen.sampling.critic import CriticSampler
from maskgen.sampling.entropy import EntropySampler
from maskgen.sampling.frequency import FrequencySampler
from maskgen.sampling.halton import HaltonSampler
from maskgen.sampling.remdm import ReMDMSampler
from maskgen.sampling.spans import SpanSampler
from maskgen.sampling.zigzag import ZigzagSampler
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Segment

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


KINDS: dict[str, Kind] = {
    **{name: by_name(name) for name in names() if not getattr(by_name(name), "needs", ())},
    "halton-rolled": lambda **options: HaltonSampler(roll=True, **options),
    "ancestral-cosine": lambda **options: AncestralSampler(grid="cosine", **options),
    "ancestral-until": lambda **options: AncestralSampler(until=0.1, **options),
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
plain = [name for name in KINDS if not KINDS[name]().revokes and name not in ("blocks", "ancestral", "ancestral-cosine", "ancestral-until")]
every_plain_kind = pytest.mark.parametrize("kind", [KINDS[name] for name in plain], ids=plain)
"""Orders that take nothing back and ask the model exactly once a step."""


@every_kind
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_k": 3, "top_p": 0.9}], ids=str)
def test_an_oracle_is_followed(kind: Kind, options: dict[str, float]) -> None:
    contract.follows_an_oracle(kind, **options)


@every_kind
def test_known_cells_return_and_nothing_of_the_caller_s_is_edited(kind: Kind) -> None:
    contract.returns_known_cells(kind)


@every_kind
@pytest.mark.parametrize("steps", [1, 7, 12])
def test_uneven_rows_equal_their_solo_runs_bit_for_bit_in_any_order(kind: Kind, steps: int) -> None:
    contract.gives_a_row_the_same_alone_and_in_any_batch(kind, steps)


@every_kind
def test_the_temperature_runs_from_step_to_step(kind: Kind) -> None:
    """Soft from the first step to the last is twice the temperature, and sharpening counts at every step but the first."""
    batch = pack([picture(6, 6, 36, seed) for seed in range(3)], SPACE)

    def codes(**options: Any) -> Tensor:
        return kind(steps=6, **options).sample(contextual, batch, IMAGE, seeded(1, 2, 3))[0].ids

    assert torch.equal(codes(soft_steps=6), codes(temperature=2.0))
    assert not torch.equal(codes(sharpening=8.0), codes())
    assert torch.equal(codes(temperature=0.0, sharpening=8.0, soft_steps=2), codes(temperature=0.0))


@every_kind
def test_the_seed_decides(kind: Kind) -> None:
    contract.is_decided_by_the_seed(kind)


@every_kind
@pytest.mark.parametrize("level", [0, 1, 2])
def test_levels_are_decoded_alone(kind: Kind, level: int) -> None:
    contract.decodes_one_level(kind, level)


@every_kind
def test_nothing_masked_never_calls_the_model(kind: Kind) -> None:
    contract.asks_nothing_where_nothing_is_unknown(kind)


@every_kind
def test_only_the_wanted_modality_is_filled(kind: Kind) -> None:
    contract.fills_only_the_wanted_modality(kind)


@every_kind
def test_hidden_and_padding_cells_are_never_filled(kind: Kind) -> None:
    contract.leaves_hidden_and_padding_cells(kind)


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
