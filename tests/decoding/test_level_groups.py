"""Levels decoded together: nothing outside the group moves, counts follow the law over all codes, and a step costs one pass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskgen.decoding.level_groups import sample_group
from maskgen.decoding.logits import model_logits
from maskgen.masking.counts import masked_after
from maskgen.masking.schedule import Cosine
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.sampling import by_name, names
from maskgen.sampling.base import State
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.sampling.halton import HaltonSampler, halton_order
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import Modality, Segment, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=5),
        Modality(name="audio", kind="audio", num_levels=4, codebook_size=7),
    ]
)
SEGMENTS = SPACE.of("audio")
GROUP = SEGMENTS[1:3]


def planted(lengths: list[int], known: float = 0.3) -> tuple[TokenBatch, list[Tensor]]:
    """Rows whose coarsest level is known, whose group is known in part, and whose finest level is unknown; and the whole codes."""
    generator = torch.Generator().manual_seed(sum(lengths))
    whole = [torch.randint(0, 7, (4, length), generator=generator) for length in lengths]
    rows = []
    for codes in whole:
        blank = codes.clone()
        blank[1:3] = torch.where(torch.rand(2, codes.shape[1], generator=generator) < known, codes[1:3], UNKNOWN)
        blank[3] = UNKNOWN
        rows.append({"text": torch.tensor([[1, 2]]), "audio": blank})
    return pack(rows, SPACE), whole


def _seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


class Oracle:
    """Knows the answer and counts what it is asked."""

    def __init__(self, lengths: list[int], whole: list[Tensor]) -> None:
        self.answer = pack([{"text": torch.tensor([[1, 2]]), "audio": codes} for codes in whole], SPACE)
        self.asked: list[int] = []

    def __call__(self, batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        self.asked.append(segment.level)
        codes = self.answer.ids[..., segment.level][cells] - segment.offset
        return torch.full((len(codes), segment.size), -30.0).scatter(1, codes[:, None], 30.0)


@pytest.mark.parametrize("name", [name for name in names() if not by_name(name).needs])
def test_every_sampler_finds_the_planted_answer_of_a_group(name: str) -> None:
    batch, whole = planted([5, 17, 30])
    generators = [torch.Generator().manual_seed(row) for row in range(3)]
    made, _ = sample_group(by_name(name)(steps=4), Oracle([5, 17, 30], whole), batch, GROUP, generators)
    for row, (found, codes) in enumerate(zip(unpack(made, SPACE), whole, strict=True)):
        assert torch.equal(found["audio"][:3], codes[:3]), f"row {row}"
        assert bool((found["audio"][3] == UNKNOWN).all())
        assert torch.equal(found["text"], torch.tensor([[1, 2]]))


@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=3), steps=st.integers(1, 6))
def test_counts_follow_the_law_over_all_codes_of_the_group(lengths: list[int], steps: int) -> None:
    batch, whole = planted(lengths)
    seen = []
    generators = [torch.Generator().manual_seed(row) for row in range(len(lengths))]
    sampler = by_name("confidence")(steps=steps)
    sample_group(sampler, Oracle(lengths, whole), batch, GROUP, generators, seen.append)
    total = torch.tensor([int((one["audio"][1:3] == UNKNOWN).sum()) for one in unpack(batch, SPACE)])
    for state in seen:
        assert state.unknown.sum(dim=1).tolist() == masked_after(Cosine(), state.step - 1, steps, total).tolist()


def test_a_row_of_a_group_is_the_same_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    model = MaskTransformer(TransformerConfig(dim=16, num_layers=1, num_heads=2), SPACE.size, 2).eval()
    with torch.no_grad():
        model.embed.weight.mul_(30.0)
    batch, _ = planted([6, 11])
    together, _ = sample_group(
        by_name("confidence")(steps=3), model_logits(model), batch, GROUP, [torch.Generator().manual_seed(n) for n in (3, 4)]
    )
    alone, _ = sample_group(by_name("confidence")(steps=3), model_logits(model), batch.alone(0), GROUP, [torch.Generator().manual_seed(3)])
    assert torch.equal(unpack(together, SPACE)[0]["audio"], unpack(alone, SPACE)[0]["audio"])


def test_a_step_of_a_group_costs_one_pass() -> None:
    model = MaskTransformer(TransformerConfig(dim=16, num_layers=1, num_heads=2), SPACE.size, 2).eval()
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    batch, _ = planted([9])
    sample_group(by_name("confidence")(steps=5), model_logits(model), batch, GROUP, [torch.Generator().manual_seed(0)])
    assert len(passes) == 5


def revealed(batch: TokenBatch, segments: list[Segment], oracle: object) -> list[int]:
    """Numbers of the cells of the unrolled view of the one row, in the order in which they are revealed."""
    order: list[int] = []

    def watch(state: State) -> None:
        order.extend(state.changed[0].nonzero()[:, 0].tolist())

    sample_group(HaltonSampler(steps=99), oracle, batch, segments, [torch.Generator()], watch)  # type: ignore[arg-type]
    return order


@pytest.mark.parametrize("frames", [1, 6, 16])
def test_halton_goes_over_depth_and_time(frames: int) -> None:
    """Base 2 over the levels of the group, base 3 along time, filtered to what is unknown."""
    batch, whole = planted([frames])
    found = revealed(batch, GROUP, Oracle([frames], whole))
    unknown = unpack(batch, SPACE)[0]["audio"][1:3] == UNKNOWN
    expected = [cell for cell in halton_order((2, frames) if frames > 1 else (2,)).tolist() if bool(unknown.flatten()[cell])]
    assert [((cell - 4) % 2, (cell - 4) // 2) for cell in found] == [(cell // frames, cell % frames) for cell in expected]


def test_halton_reveals_the_levels_of_a_picture_s_cell_together() -> None:
    space = TokenSpace([Modality(name="image", kind="image", num_levels=2, codebook_size=7)])

    def uniform(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        return torch.zeros(int(cells.sum()), segment.size)

    found = revealed(pack([{"image": torch.full((2, 3, 4), UNKNOWN)}], space), space.of("image"), uniform)
    assert found == [2 * cell + level for cell in halton_order((3, 4)).tolist() for level in (0, 1)]


def test_a_level_penalty_decodes_coarse_levels_first_and_none_leaves_the_ranking_alone() -> None:
    def order(penalty: float) -> Tensor:
        """Step at which each code of the group was written, [cell, level]."""
        batch, whole = planted([16], known=0.0)
        sampler = ConfidenceSampler(steps=8, level_penalty=penalty, annealing="constant", choice_temperature=1.0)
        seen = list[Tensor]()
        sample_group(sampler, Oracle([16], whole), batch, GROUP, _seeded(0), lambda state: seen.append(state.unknown[0]))
        return torch.stack(seen).sum(dim=0).unflatten(0, (-1, 2))[2:]

    apart, alike = order(1000.0), order(0.0)
    assert int(apart[:, 0].max()) <= int(apart[:, 1].min())
    assert int(alike[:, 0].max()) > int(alike[:, 1].min())


def test_a_decode_of_one_level_knows_no_penalty() -> None:
    batch, whole = planted([9])
    made = [
        ConfidenceSampler(steps=4, level_penalty=penalty).sample(Oracle([9], whole), batch, SEGMENTS[2], _seeded(0))[1].codes
        for penalty in (0.0, 5.0)
    ]
    assert torch.equal(*made)
