"""What is given comes back, whatever is drawn in the holes: every modality, every sampler, holes at random."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskgen.decoding.decoder import Helpers
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.critic import TokenCritic
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.text_generation import TextGenerationPipeline
from maskgen.sampling import names
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.space import Kind, Modality, TokenSpace

END, GRIDS = 3, {"text": (12,), "image": (3, 4), "audio": (9,)}


class Plain(Tokenizer):
    """Media are the codes themselves, so that a test sees what was kept."""

    fingerprint = "plain"

    def __init__(self, kind: Kind, num_levels: int) -> None:
        self.kind, self.num_levels, self.codebook_size = kind, num_levels, 6  # type: ignore[misc]

    def modality(self, name: str) -> Modality:
        end = END if self.kind == "text" else None
        return Modality(name=name, kind=self.kind, num_levels=self.num_levels, codebook_size=self.codebook_size, end=end)

    def read(self, path: Path | str) -> Any:
        raise NotImplementedError

    def write(self, media: Any, path: Path | str) -> None:
        raise NotImplementedError

    def save(self, folder: Path | str) -> str:
        raise NotImplementedError

    def encode(self, media: Sequence[Any]) -> list[Codes]:
        return [torch.as_tensor(one) for one in media]

    def decode(self, codes: Sequence[Codes]) -> list[Any]:
        return [grid.clone() for grid in codes]


def fond_of_the_end(model: Any, segment: Any, end: int) -> None:
    """Make a model give the end code most of the probability at every cell."""
    real = model.logits

    def logits(hidden: Tensor, offset: int, size: int) -> Tensor:
        found: Tensor = real(hidden, offset, size)
        if offset == segment.offset:
            found = found + 6.0 * torch.nn.functional.one_hot(torch.tensor(end), size)
        return found

    model.logits = logits


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    tokenizers = {"text": Plain("text", 1), "image": Plain("image", 2), "audio": Plain("audio", 3)}
    space = TokenSpace([one.modality(name) for name, one in tokenizers.items()])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskTransformer(TransformerConfig(dim=16, num_layers=1, num_heads=1), space.size, 3)
    fond_of_the_end(model, space.segment("text", 0), END)
    return Pipeline(model, space, tokenizers, {}, GRIDS)


def holes(target: str, levels: int) -> list[Tensor]:
    """Rows with holes of all kinds: at random in every level, in finer levels alone, everywhere, in one cell, and before a given tail."""
    draw = torch.Generator().manual_seed(len(target))
    shape = (levels, *GRIDS[target])
    rows = [torch.randint(0, 6, shape, generator=draw) for _ in range(8)]
    for number, row in enumerate(rows[:4]):
        row[torch.rand(shape, generator=draw) < (number + 1) / 5] = UNKNOWN
    rows[4][-1] = UNKNOWN
    rows[5][:] = UNKNOWN
    rows[6].view(levels, -1)[:, 1] = UNKNOWN
    rows[7].view(levels, -1)[:, :-1] = UNKNOWN
    return rows


@pytest.mark.parametrize("sampler", names())
@pytest.mark.parametrize("target", GRIDS)
def test_given_codes_come_back_and_no_end_is_drawn_before_them(pipeline: Pipeline, target: str, sampler: str) -> None:
    levels = len(pipeline.space.of(target))
    if sampler == "critic":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pipeline.helpers = Helpers(TokenCritic(pipeline.model.config, pipeline.space, target).eval())
    rows = holes(target, levels)
    before = [row.clone() for row in rows]
    settings = GenerationSettings(steps=(3, 2), sampler=sampler)
    output = pipeline.generate([{target: row} for row in rows], target, list(range(8)), settings)
    for row, old, made, medium in zip(rows, before, output.codes, output.media, strict=True):
        assert torch.equal(row, old), "the caller's codes must not change"
        given = row != UNKNOWN
        assert torch.equal(made[given], row[given])
        assert bool((made >= 0).all())
        if target != "text":
            assert torch.equal(medium, made)
            continue
        kept = max([place + 1 for place in range(12) if row[0, place] not in (UNKNOWN, END)], default=0)
        assert not bool(((made[0, :kept] == END) & ~given[0, :kept]).any())
        assert torch.equal(medium, made[:, : medium.shape[1]])
        assert medium.shape[1] >= kept
        assert not bool((medium[0, kept:] == END).any())
    if target == "text":
        assert bool((output.codes[5] == END).any()), "where nothing is given the text may end anywhere"


def test_the_tail_of_a_text_stays_behind_its_hole(tiny_text: TextTokenizer) -> None:
    assert tiny_text.end is not None
    space = TokenSpace([tiny_text.modality("text")])
    model = MaskTransformer(TransformerConfig(dim=16, num_layers=1, num_heads=1), space.size, 1)
    fond_of_the_end(model, space.segment("text", 0), tiny_text.end)
    pipe = TextGenerationPipeline(model, space, {"text": tiny_text}, {"text": GenerationSettings(steps=(2,))}, {"text": (8,)})
    texts = pipe("a [4] heart [3]", num_outputs=6).texts
    assert all(text.startswith("a") and " heart" in text for text in texts)
    assert all("\0" not in text for text in texts)
