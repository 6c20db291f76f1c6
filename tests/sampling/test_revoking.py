"""Orders that take codes back: each follows its paper step by step, and what they share."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from builders.draws import seeded
from builders.networks import randomised
from torch import Tensor

from maskgen.masking.counts import masked_after
from maskgen.masking.schedule import Cosine, Linear
from maskgen.networks.attention_maps import low_attention, lower_half, received_attention
from maskgen.networks.transformer import Block, MaskTransformer, TransformerConfig
from maskgen.networks.visibility import visible
from maskgen.sampling.base import Sampler
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.sampling.critic import CriticSampler
from maskgen.sampling.frequency import FrequencySampler
from maskgen.sampling.remdm import ReMDMSampler
from maskgen.sampling.self_correction import SelfCorrectionSampler
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import Modality, Segment, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=5),
        Modality(name="image", kind="image", num_levels=2, codebook_size=8),
    ]
)
IMAGE = SPACE.segment("image", 0)


def blank(rows: int, columns: int, words: int = 2, known: int = 0) -> dict[str, Tensor]:
    """A picture of which the last cells are known, with a caption."""
    codes = torch.full((2, rows, columns), -1)
    codes.view(2, -1)[:, rows * columns - known :] = 3
    return {"text": torch.arange(words)[None] % 5, "image": codes}


def contextual(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
    """Logits from the place of a cell and all that its row knows; whole numbers, so sums are exact."""
    context = (batch.ids.sum(dim=2) * batch.valid).sum(dim=1, keepdim=True).expand_as(cells)[cells]
    _, row, column = batch.coords[cells].unbind(dim=1)
    keys = (context * 31 + row * 13 + column * 17 + segment.level)[:, None]
    return ((keys + torch.arange(segment.size) * 5) * 2654435761 % 1013).float() / 300


def suspicion(batch: TokenBatch, segment: Segment) -> Tensor:
    """A critic that looks at place and code alone."""
    return ((batch.ids[..., segment.level] * 7919 + batch.coords.sum(dim=-1) * 13) % 101).float() / 25


def chequered(batch: TokenBatch, segment: Segment) -> Tensor:
    return batch.cells(segment.index) & (batch.coords.sum(dim=-1) % 2 == 0)


KINDS: dict[str, Callable[..., Sampler]] = {
    **{f"remdm-{name}": partial(ReMDMSampler, strategy=name, eta=0.3) for name in ("cap", "rescale", "conf", "loop")},
    "self_correction": SelfCorrectionSampler,
    "self_correction-warm": lambda **options: SelfCorrectionSampler(fill="random", correction_temperature=0.7, cells_per_step=2, **options),
    "critic": lambda **options: CriticSampler(critic=suspicion, **options),
    "frequency": lambda **options: FrequencySampler(grouping=chequered, critic=suspicion, **options),
    "frequency-confidence": lambda **options: FrequencySampler(grouping=chequered, **options),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def both_levels(sampler: Sampler, samples: list[dict[str, Tensor]], seeds: list[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Codes of the rows after both levels with the same generators, and what each generator gives next."""
    batch, generators = pack(samples, SPACE), seeded(*seeds)
    for segment in SPACE.of("image"):
        batch, _ = sampler.sample(contextual, batch, segment, generators)
    return [sample["image"] for sample in unpack(batch, SPACE)], [torch.rand(2, generator=generator) for generator in generators]


@every_kind
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_row_ends_the_same_alone_and_leaves_its_generator_the_same(kind: Callable[..., Sampler], steps: int) -> None:
    samples = [blank(4, 4), blank(2, 3, 4, known=2), blank(3, 3, 1, known=9), blank(1, 2)]
    sampler = kind(steps=steps)
    codes, after = both_levels(sampler, samples, [5, 6, 7, 8])
    for row, sample in enumerate(samples):
        alone, own = both_levels(sampler, [sample], [5 + row])
        assert torch.equal(codes[row], alone[0])
        assert torch.equal(after[row], own[0])
        assert (codes[row] >= 0).all()
        assert torch.equal(codes[row][sample["image"] >= 0], sample["image"][sample["image"] >= 0])


@every_kind
def test_every_one_of_them_does_take_codes_back_or_replace_them(kind: Callable[..., Sampler]) -> None:
    _, trajectory = kind(steps=10).sample(contextual, pack([blank(6, 6)], SPACE), IMAGE, seeded(0))
    before, after = trajectory.codes[:-1], trajectory.codes[1:]
    assert ((before >= 0) & (after != before)).any()


def alpha(strategy: str, time: float, law: Any) -> float:
    """Share kept at a time in [0, 1]; the loop's phases end at 0.55 and 0.05 and hold 0.9."""
    if strategy != "loop":
        return float(1 - law(1 - time))
    if time > 0.55:
        return 0.9 * float(1 - law((1 - time) / 0.45))
    return 0.9 if time > 0.05 else 0.9 + 0.1 * float(1 - law(1 - time / 0.05))


def naive_remdm(strategy: str, eta: float, steps: int, law: Any, sample: dict[str, Tensor], seed: int) -> list[list[int]]:
    """ReMDM cell by cell at temperature 0: codes after each step."""
    [generator], batch = seeded(seed), pack([sample], SPACE)
    cells = [place for place in range(batch.ids.shape[1]) if batch.ids[0, place, 0] == 1]
    codes, chance, trace = dict.fromkeys(cells, -1), dict.fromkeys(cells, 0.0), []
    for step in range(steps):
        time = 1 - step / steps
        kept, wanted = alpha(strategy, time, law), alpha(strategy, 1 - (step + 1) / steps, law)
        most = min(1.0, (1 - wanted) / kept) if kept > 0 else 1.0
        partition = sum(math.exp(-chance[cell]) for cell in cells if codes[cell] >= 0)
        uniform, before, ids = torch.rand(len(cells), dtype=torch.float64, generator=generator).tolist(), dict(codes), batch.ids.clone()
        for cell in cells:
            ids[0, cell, 0] = 1 if before[cell] < 0 else before[cell] + IMAGE.offset
        for cell, u in zip(cells, uniform, strict=True):
            holding = strategy != "loop" or 0.05 < time <= 0.55
            sigma = {"cap": min(eta, most), "rescale": eta * most, "loop": min(eta, most) * holding, "conf": 0.0}[strategy]
            if strategy == "conf" and before[cell] >= 0:
                sigma = most * math.exp(-chance[cell]) / partition
            if before[cell] >= 0:
                codes[cell] = -1 if u < sigma else before[cell]
            elif u < (wanted - (1 - sigma) * kept) / (1 - kept):
                only = torch.zeros_like(batch.valid)
                only[0, cell] = True
                logits = contextual(batch.with_ids(ids), only, IMAGE, 0.0)[0]
                codes[cell], chance[cell] = int(logits.argmax()), float(logits.softmax(-1).max())
        trace.append([codes[cell] for cell in cells])
    return trace


@pytest.mark.parametrize("strategy", ["cap", "rescale", "conf", "loop"])
@pytest.mark.parametrize(("eta", "steps", "law"), [(0.0, 6, Linear()), (0.3, 9, Linear()), (0.9, 21, Cosine())])
def test_remdm_is_the_paper_cell_by_cell(strategy: Any, eta: float, steps: int, law: Any) -> None:
    sampler = ReMDMSampler(strategy=strategy, eta=eta, steps=steps, schedule=law, temperature=0.0)
    sample = blank(5, 6, known=4)
    _, trajectory = sampler.sample(contextual, pack([sample], SPACE), IMAGE, seeded(3))
    expected = naive_remdm(strategy, eta, steps, law, sample, 3)
    assert trajectory.codes[:, 0, 2:28].tolist() == expected
    if eta > 0 or strategy == "conf":
        assert any(a >= 0 > b for one, other in pairwise(expected) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("strategy", ["cap", "rescale"])
def test_remdm_without_eta_unmasks_as_mdlm_does(strategy: Any) -> None:
    """Each masked cell with probability (t - s) / t of the linear law, from the same uniforms; nothing is taken back."""
    _, trajectory = ReMDMSampler(strategy=strategy, eta=0.0, steps=8).sample(contextual, pack([blank(6, 6)], SPACE), IMAGE, seeded(1))
    visible_now, [generator] = torch.zeros(36, dtype=torch.bool), seeded(1)
    for step in range(8):
        t, s = 1 - step / 8, 1 - (step + 1) / 8
        chosen = ~visible_now & (torch.rand(36, dtype=torch.float64, generator=generator) < (t - s) / t)
        torch.rand(int(chosen.sum()), dtype=torch.float64, generator=generator)  # the draw of the codes
        visible_now |= chosen
        assert torch.equal(trajectory.codes[step, 0, 2:] >= 0, visible_now)
    assert (trajectory.changed.sum(dim=0)[0, 2:] == 1).all()


def test_remdm_keeps_the_expected_share() -> None:
    """With remasking, as without, the schedule is the expected share of masked cells."""
    samples, steps = [blank(20, 20)] * 8, 6
    _, trajectory = ReMDMSampler(eta=0.5, steps=steps).sample(contextual, pack(samples, SPACE), IMAGE, seeded(*range(8)))
    for step, codes in enumerate(trajectory.codes):
        assert (codes[:, 2:] < 0).double().mean() == pytest.approx(1 - (step + 1) / steps, abs=0.03)


def misled(answer: Tensor, place: int) -> Callable[..., Tensor]:
    """A model that knows the answer, but for one cell, of which it is surely wrong as long as it knows nothing else of the picture."""

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        logits = 5.0 * torch.nn.functional.one_hot(answer[cells.nonzero()[:, 1] - 2], segment.size).float()
        known = (batch.ids[:, 2:, 0] != 1).sum(dim=1)
        fooled = (cells.nonzero()[:, 1] == place + 2) & (known == 0)[cells.nonzero()[:, 0]]
        return torch.where(
            fooled[:, None], 50.0 * torch.nn.functional.one_hot((answer[place] + 1) % segment.size, segment.size).float(), logits
        )

    return logits_fn


ANSWER = torch.randint(8, (16,), generator=torch.Generator().manual_seed(4))


def hindsight() -> Callable[[TokenBatch, Segment], Tensor]:
    """A critic that trusts cell 0 most at first and knows the truth from the second look on."""
    looks = []

    def critic(batch: TokenBatch, segment: Segment) -> Tensor:
        looks.append(batch)
        wrong = torch.zeros(batch.valid.shape)
        wrong[:, 2:] = (batch.ids[:, 2:, 0] - segment.offset != ANSWER).float()
        wrong[:, 2] *= -1 if len(looks) == 1 else 1
        return wrong

    return critic


def decoded(sampler: Sampler) -> tuple[list[int], Any]:
    filled, trajectory = sampler.sample(misled(ANSWER, 0), pack([blank(4, 4)], SPACE), IMAGE, seeded(0))
    return (filled.ids[0, 2:, 0] - IMAGE.offset).tolist(), trajectory


def test_a_critic_recovers_from_an_early_wrong_code_that_the_confidence_order_keeps() -> None:
    greedy, _ = decoded(ConfidenceSampler(steps=5, temperature=0.0, choice_temperature=0.0))
    assert greedy == [(int(ANSWER[0]) + 1) % 8, *ANSWER[1:].tolist()]
    made, trajectory = decoded(CriticSampler(steps=5, temperature=0.0, choice_temperature=0.0, critic=hindsight()))
    assert made == ANSWER.tolist()
    assert trajectory.codes[:2, 0, 2].tolist() == [greedy[0], -1]


@pytest.mark.parametrize(("first_lasts", "recovers"), [(True, False), (False, True)])
def test_the_frequency_order_takes_back_outside_the_persistent_group_only(first_lasts: bool, recovers: bool) -> None:
    def grouping(batch: TokenBatch, segment: Segment) -> Tensor:
        lasting = torch.zeros_like(batch.valid)
        lasting[:, 2] = first_lasts
        return lasting

    made, _ = decoded(FrequencySampler(steps=5, temperature=0.0, choice_temperature=0.0, critic=hindsight(), grouping=grouping))
    assert (made == ANSWER.tolist()) == recovers
    assert made[1:] == ANSWER[1:].tolist()


@pytest.mark.parametrize("kind", ["critic", "frequency", "frequency-confidence"])
def test_counts_of_critic_and_frequency_are_the_schedule_s(kind: str) -> None:
    samples = [blank(5, 5), blank(2, 2)]
    _, trajectory = KINDS[kind](steps=6).sample(contextual, pack(samples, SPACE), IMAGE, seeded(0, 1))
    for step, codes in enumerate(trajectory.codes):
        masked = ((codes == -1) & pack(samples, SPACE).cells(IMAGE.index)).sum(dim=1)
        assert torch.equal(masked, masked_after(Cosine(), step, 6, torch.tensor([25, 4])))


def test_missing_critic_and_grouping_say_what_to_give() -> None:
    batch = pack([blank(2, 2)], SPACE)
    with pytest.raises(ValueError, match="the critic sampler needs a trained critic; put one into the folder critic"):
        CriticSampler().sample(contextual, batch, IMAGE, seeded(0))
    with pytest.raises(ValueError, match="the frequency sampler needs groups of cells; give grouping="):
        FrequencySampler().sample(contextual, batch, IMAGE, seeded(0))
    with pytest.raises(FloatingPointError, match="scores of the critic are not finite at step 0 of 12"):
        CriticSampler(critic=lambda rows, _: torch.full(rows.valid.shape, math.nan)).sample(contextual, batch, IMAGE, seeded(0))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ReMDMSampler, {"eta": 1.5}, "eta is a probability, got 1.5"),
        (ReMDMSampler, {"t_on": 0.05}, "0 < t_off < t_on < 1"),
        (ReMDMSampler, {"alpha_on": 1.0}, "alpha_on must lie between 0 and 1, got 1.0"),
        (SelfCorrectionSampler, {"fill_share": 0.0}, "fill_share must lie in"),
        (SelfCorrectionSampler, {"cells_per_step": 0}, "cells_per_step must be at least 1, got 0"),
        (SelfCorrectionSampler, {"correction_temperature": -1.0}, "correction_temperature must be"),
        (CriticSampler, {"choice_temperature": math.inf}, "choice_temperature must be"),
        (FrequencySampler, {"choice_temperature": -1.0}, "choice_temperature must be"),
    ],
)
def test_bad_options_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)


def fixed(table: Tensor, calls: list[float]) -> Callable[..., Tensor]:
    """The same logits of each cell whatever its row knows."""

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        calls.append(progress)
        return table[cells.nonzero()[:, 1] - 2]

    return logits_fn


def test_self_correction_replaces_the_largest_gain_first_and_stops_asking_when_there_is_none() -> None:
    table, calls, steps = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), list[float](), 40
    sampler = SelfCorrectionSampler(steps=steps, fill_share=0.1, temperature=5.0)
    _, trajectory = sampler.sample(fixed(table, calls), pack([blank(4, 4)], SPACE), IMAGE, seeded(2))
    codes, gains = trajectory.codes[:, 0, 2:], []
    assert (codes[3] >= 0).all()
    for before, after in pairwise(codes[3:]):
        gain = table.amax(dim=1) - table.gather(1, before[:, None])[:, 0]
        changed = before != after
        assert int(changed.sum()) == int(gain.max() > 0)
        if changed.any():
            assert int(changed.nonzero()) == int(gain.argmax())
            gains.append(float(gain.max()))
    assert torch.equal(codes[-1], table.argmax(dim=1))
    assert len(gains) > 5
    assert gains == sorted(gains, reverse=True)
    assert len(calls) == 4 + len(gains) + 1, "a row without a gain was asked about again"
    torch.testing.assert_close(trajectory.logprobs[-1, 0, 2:], table.log_softmax(-1).amax(dim=1))


def test_self_correction_at_a_temperature_never_takes_a_less_likely_code() -> None:
    table = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    sampler = SelfCorrectionSampler(steps=40, fill_share=0.1, temperature=5.0, correction_temperature=3.0, cells_per_step=3)
    _, trajectory = sampler.sample(fixed(table, []), pack([blank(4, 4)], SPACE), IMAGE, seeded(2))
    stood = table[None].expand(40, -1, -1).gather(2, trajectory.codes[:, 0, 2:, None].clamp(min=0))[..., 0][3:]
    changed = trajectory.changed[4:, 0, 2:].sum(dim=1)
    assert (stood[1:] >= stood[:-1]).all()
    assert int(changed.max()) == 3


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_self_correction_spends_the_rest_of_the_steps_and_no_more(steps: int) -> None:
    calls = list[float]()
    sampler = SelfCorrectionSampler(steps=steps, correction_temperature=1.0)
    sampler.sample(fixed(torch.zeros(64, 8), calls), pack([blank(8, 8)], SPACE), IMAGE, seeded(0))
    assert calls == [step / steps for step in range(steps)]


def small_model() -> MaskTransformer:
    torch.manual_seed(0)
    model = MaskTransformer(TransformerConfig(dim=16, num_layers=2, num_heads=2), SPACE.size, 2).eval().requires_grad_(False)
    randomised(model, 0.4)
    return model


def test_received_attention_is_the_mean_over_heads_layers_and_valid_cells() -> None:
    model, batch = small_model(), pack([blank(3, 3), blank(2, 2, 3)], SPACE)
    batch = replace(batch, valid=batch.valid & (torch.arange(11) != 4))
    found = received_attention(model, batch, IMAGE.index)
    expected = torch.zeros(2, 11)
    x, rotation = model.start(batch.ids, batch.modality, batch.coords)
    seen = visible(batch.valid, batch.document)
    for block in model.blocks:
        assert isinstance(block, Block)
        query, key, value = block.attention.project(block.attention_norm(x), rotation)
        for row in range(2):
            for head in range(2):
                for asking in batch.valid[row].nonzero()[:, 0].tolist():
                    scores = [float(query[row, head, asking] @ key[row, head, other]) / math.sqrt(8) for other in range(11)]
                    parts = [math.exp(score) if batch.valid[row, other] else 0.0 for other, score in enumerate(scores)]
                    expected[row] += torch.tensor(parts) / sum(parts) / (2 * 2 * int(batch.valid[row].sum()))
        x = block.after(x, block.attention.mix(query, key, value, seen))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))


def test_the_groups_are_halves_of_the_target_and_the_same_alone() -> None:
    model, samples = small_model(), [blank(3, 3), blank(2, 5, 4), blank(1, 1, 1)]
    groups = low_attention(model)(pack(samples, SPACE), IMAGE)
    assert (groups & pack(samples, SPACE).cells(IMAGE.index)).sum(dim=1).tolist() == groups.sum(dim=1).tolist() == [5, 5, 1]
    for row, sample in enumerate(samples):
        alone = low_attention(model)(pack([sample], SPACE), IMAGE)[0]
        assert torch.equal(groups[row, : len(alone)], alone)
    values, cells = torch.tensor([[3.0, 1.0, 2.0, 9.0, 0.5]]), torch.tensor([[True, True, True, True, False]])
    assert lower_half(values, cells).tolist() == [[False, True, True, False, False]]
