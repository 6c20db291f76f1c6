"""4M's network, losses and schedules against tensors of the authors' code, and rows of a token space against the same network."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from maskgen.interop.fourm_model import FourM, FourMCells, FourMConfig
from maskgen.interop.fourm_network import NEVER, FourMNetwork
from maskgen.interop.fourm_rows import IMAGENET_MEAN, IMAGENET_STD, FourMMarks, spans_of
from maskgen.masking.counts import masked_after
from maskgen.masking.schedule import schedule_by_name
from maskgen.sampling.draw import Cut, draw, onex
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace
from tests.interop.llada_cases import golden

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
MARKS = FourMMarks(end=3, first_sentinel=4, num_sentinels=6)
SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=30, end=3),
        Modality(name="image", kind="image", num_levels=64, codebook_size=2**24),
        Modality(name="tok_rgb@224", kind="image", num_levels=1, codebook_size=20),
    ]
)
NAMES = {"text": "caption", "image": "rgb@224", "tok_rgb@224": "tok_rgb@224"}
U = UNKNOWN


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    return golden("fourm")[1]


@pytest.fixture(scope="module")
def network() -> FourMNetwork:
    weights, _, config = golden("fourm")
    sizes = FourMConfig.of(config, {name: tuple(tensor.shape) for name, tensor in weights.items()}, "the golden file")
    made = FourMNetwork(sizes, SPACE, NAMES, MARKS, config)
    made.model.load_state_dict(weights)
    return made.eval().requires_grad_(False)


def laid(parts: list[tuple[Tensor, Tensor, Tensor]], width: int) -> FourMCells:
    """Visible cells of parts (tokens, places, hidden), one after the other in each row, padded: as the authors gather them."""
    tokens, places, hidden = (torch.cat(one, dim=1) for one in zip(*parts, strict=True))
    valid = torch.zeros(2, width, dtype=torch.bool)
    found = [torch.zeros(2, width, tokens.shape[-1]) for _ in range(2)]
    for row in range(2):
        kept = ~hidden[row]
        valid[row, : int(kept.sum())] = True
        for target, source in zip(found, (tokens, places), strict=True):
            target[row, : int(kept.sum())] = source[row][kept]
    return FourMCells(*found, valid)


def counted(hidden: Tensor) -> Tensor:
    """Place of each cell among the visible ones of its row."""
    return ((~hidden).long().cumsum(dim=1) - 1).clamp(min=0)


def seen_by_the_authors(model: FourM, given: dict[str, Tensor]) -> FourMCells:
    text, pixels, codes = (model.reader(name) for name in ("caption", "rgb@224", "tok_rgb@224"))
    hidden = [given[f"{name}_input_mask"].bool() for name in ("caption", "rgb", "tok_rgb")]
    patches = given["rgb"].unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).reshape(2, 16, 192)
    grid = torch.arange(16).expand(2, 16)
    return laid(
        [
            (text.token_emb(given["caption"]), text.at(counted(hidden[0]).flatten()).view(2, 8, -1), hidden[0]),
            (pixels.proj(patches), pixels.at(grid.flatten()).view(2, 16, -1), hidden[1]),
            (codes.token_emb(given["tok_rgb"].flatten(1)), codes.at(grid.flatten()).view(2, 16, -1), hidden[2]),
        ],
        24,
    )


def asked_by_the_authors(model: FourM, given: dict[str, Tensor]) -> FourMCells:
    text, codes = model.writer("caption"), model.writer("tok_rgb@224")
    hidden, image = given["caption_target_mask"].bool(), given["tok_rgb_target_mask"].bool()
    places, grid = text.at(counted(hidden).flatten()).view(2, 8, -1), torch.arange(16).expand(2, 16)
    shifted = text.token_emb(given["caption"])[:, :-1], places[:, :-1], hidden[:, 1:] | hidden[:, :-1]
    return laid([shifted, (model.mask_token.expand(2, 16, -1), codes.at(grid.flatten()).view(2, 16, -1), image)], 20)


def test_the_inputs_of_both_halves_are_the_authors(network: FourMNetwork, given: dict[str, Tensor]) -> None:
    for half, cells in (("encoder", seen_by_the_authors(network.model, given)), ("decoder", asked_by_the_authors(network.model, given))):
        assert_close(cells.tokens, given[f"{half}_tokens"], **CLOSE)
        assert_close(cells.places, given[f"{half}_positions"], **CLOSE)
        assert torch.equal(cells.valid, ~given[f"{half}_hidden_cells"][:, 0].bool())


def states(network: FourMNetwork, given: dict[str, Tensor]) -> Tensor:
    seen, asked = seen_by_the_authors(network.model, given), asked_by_the_authors(network.model, given)
    found: Tensor = network.model(seen, asked, ~given["decoder_attention_hidden"].bool())
    return found


def test_every_state_and_all_logits_are_the_authors(network: FourMNetwork, given: dict[str, Tensor]) -> None:
    seen = dict[str, Tensor]()
    parts = [key.removeprefix("mid.") for key in given if key.startswith("mid.")]
    hooks = [
        network.model.get_submodule(name).register_forward_hook(lambda _, __, made, name=name: seen.__setitem__(name, made))
        for name in parts
    ]
    hidden = states(network, given)
    for hook in hooks:
        hook.remove()
    assert len(parts) == 7
    for name in parts:
        assert_close(seen[name], given[f"mid.{name}"], **CLOSE)
    for name in ("caption", "tok_rgb"):
        domain = name if name == "caption" else f"{name}@224"
        assert_close(network.model.writer(domain).to_logits(hidden), given[f"logits_{name}"], **CLOSE)


def test_losses_are_the_authors_and_the_weighted_one_counts_logits_as_theirs_does(network: FourMNetwork, given: dict[str, Tensor]) -> None:
    """The reference weights the loss of a modality by its number of logits, so a larger vocabulary counts more."""
    hidden, total, weight, each = states(network, given), 0.0, 0, []
    for name, number, domain in (("caption", 1, "caption"), ("tok_rgb", 2, "tok_rgb@224")):
        cells = given["decoder_modality"] == number
        logits = network.model.writer(domain).to_logits(hidden[cells])
        loss = functional.cross_entropy(logits, given["decoder_target_ids"][cells])
        assert_close(loss[None], given[f"loss_{name}"], **CLOSE)
        each.append(float(loss))
        total, weight = total + float(loss) * logits.numel(), weight + logits.numel()
    assert sum(each) / 2 == pytest.approx(float(given["loss_mod"]), abs=1e-5)
    assert total / weight == pytest.approx(float(given["loss_token"]), abs=1e-5)


def test_what_the_decoder_sees_is_as_in_the_reference(network: FourMNetwork, given: dict[str, Tensor]) -> None:
    """A text from left to right, an image whole, and neither the other."""
    codes = torch.where(given["tok_rgb_target_mask"].bool().view(2, 1, 4, 4), given["tok_rgb"][:, None], U)
    holes = [torch.full((1, cells), U) for cells in (1, 2)]
    rows = network.read(pack([{"text": text, "tok_rgb@224": image} for text, image in zip(holes, codes, strict=True)], SPACE))
    wanted = ~given["decoder_attention_hidden"].bool()
    for row, (text, image) in enumerate(((2, 10), (3, 11))):
        picked = torch.cat([torch.arange(text), text + (codes[row].flatten() == U).nonzero()[:, 0]])
        assert len(picked) == text + image
        assert torch.equal(rows.visible[row][picked][:, picked], wanted[row, : text + image, : text + image])


@pytest.mark.parametrize(("kind", "ours"), [("cosine", "raisedcosine"), ("linear", "even")])
@pytest.mark.parametrize(("cells", "steps"), [(16, 4), (196, 8), (196, 25)])
def test_counts_are_the_authors(given: dict[str, Tensor], kind: str, ours: str, cells: int, steps: int) -> None:
    left = [int(masked_after(schedule_by_name(ours), step, steps, torch.tensor([cells]))) for step in range(steps)]
    found = [before - after for before, after in zip([cells, *left], left, strict=False)]
    assert found == given[f"sampler_counts_{kind}_{cells}_in_{steps}"].tolist()


def test_the_temperature_falls_as_the_authors_does() -> None:
    """Their formula, over the 196 cells of a grid: one over the root of a line of 196 numbers from 1 to 100, times what is left."""
    for steps, start in ((25, 3.0), (50, 5.0), (49, 6.0), (8, 3.0)):
        counts = [196 // steps + (step < 196 % steps) for step in range(steps)]
        line = torch.linspace(1, 100, 196, dtype=torch.float64) ** -0.5
        line = (line - line.min()) / (line - line.min()).max()
        shown = torch.tensor(counts).cumsum(0) / 196
        wanted = 0.5 + (start - 0.5) * (1 - shown) * line[:steps]
        assert [onex(step, steps, start) for step in range(steps)] == pytest.approx(wanted.tolist())


def test_shares_before_the_temperature_keep_the_codes_of_temperature_1() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).expand(400, 4)
    rows, generators = torch.zeros(400, dtype=torch.long), [torch.Generator().manual_seed(0)]
    first, _ = draw(logits, rows, generators, temperature=5.0, cut=Cut(top_p=0.8, before_temperature=True))
    after, _ = draw(logits, rows, generators, temperature=5.0, cut=Cut(top_p=0.8))
    assert set(first.tolist()) == {0, 1}
    assert set(after.tolist()) >= {0, 1, 2}


def test_a_text_becomes_spans() -> None:
    def spans(codes: list[int]) -> tuple[list[int], list[int], list[int]]:
        found = spans_of(codes, MARKS)
        return list(found.visible), list(found.asked), list(found.before)

    assert spans([20, 21]) == ([20, 21, 3], [], [-1, -1])
    assert spans([20, 3, 9, 9]) == ([20, 3], [], [-1] * 4)
    assert spans([U, U, U]) == ([5], [5, U, U, U], [0, 1, 2])
    assert spans([20, U, U]) == ([5], [5, 20, U, U], [0, 1, 2])
    assert spans([20, U, U, 21, U]) == ([20, 5, 21, 6], [5, U, U, 6, U], [-1, 0, 1, -1, 3])
    assert spans([U, 20, U, 21, 22]) == ([5, 20, 6, 21, 22, 3], [5, U, 6, U], [0, -1, 2, -1, -1])
    assert spans([U, 20, 3, 3]) == ([5, 20, 3], [5, U], [0, -1, -1, -1])
    with pytest.raises(ValueError, match="has 6 holes, 4M's vocabulary has names for 5"):
        spans_of([U, 20] * 6, MARKS)


def logits_of(network: FourMNetwork, batch: TokenBatch, name: str) -> Tensor:
    segment = SPACE.of(name)[0]
    return network.logits(network(batch)[batch.cells(segment.index)], segment.offset, segment.size)


def sample() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(20, (1, 4, 4), generator=generator)
    codes.view(-1)[torch.tensor([0, 3, 7, 9, 15])] = U
    picture = torch.randint(2**24, (64, 4, 4), generator=generator)
    return {"text": torch.tensor([[20, 21, U, U]]), "image": picture, "tok_rgb@224": codes}


def test_a_row_gives_the_logits_of_the_same_cells_laid_out_by_hand(network: FourMNetwork) -> None:
    row, model = sample(), network.model
    text, pixels, codes = (model.reader(name) for name in ("caption", "rgb@224", "tok_rgb@224"))
    pixels_of = row["image"].permute(1, 2, 0).reshape(16, 64)
    patches = torch.stack([pixels_of // 2**16, pixels_of // 2**8 % 256, pixels_of % 256], dim=2)
    colours = ((patches / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).flatten(1)
    known = (row["tok_rgb@224"].flatten() != U).nonzero()[:, 0]
    tokens = torch.cat([text.token_emb(torch.tensor([5])), pixels.proj(colours), codes.token_emb(row["tok_rgb@224"].flatten()[known])])
    places = torch.cat([text.at(torch.tensor([0])), pixels.at(torch.arange(16)), codes.at(known)])
    seen = FourMCells(tokens[None], places[None], torch.ones(1, len(tokens), dtype=torch.bool))
    batch = pack([row], SPACE)

    write = model.writer("caption")
    given = torch.cat([write.token_emb(torch.tensor([5, 20, 21])), model.mask_token[0]])
    asked = FourMCells(given[None], write.at(torch.arange(4))[None], torch.ones(1, 4, dtype=torch.bool))
    found = write.to_logits(model(seen, asked, torch.ones(1, 4, 4, dtype=torch.bool).tril()))[0]
    ours = logits_of(network, batch, "text")
    assert bool((ours[:, 4:10] == NEVER).all())
    kept = [0, 1, 2, 3, *range(10, 30)]
    assert_close(ours[:, kept], found[:, kept], **CLOSE)

    unknown = (row["tok_rgb@224"].flatten() == U).nonzero()[:, 0]
    write = model.writer("tok_rgb@224")
    asked = FourMCells(model.mask_token.expand(1, 5, -1), write.at(unknown)[None], torch.ones(1, 5, dtype=torch.bool))
    found = write.to_logits(model(seen, asked, torch.ones(1, 5, 5, dtype=torch.bool)))[0]
    assert_close(logits_of(network, batch, "tok_rgb@224")[unknown], found, **CLOSE)


def test_the_logits_of_a_known_cell_do_not_disturb_the_others(network: FourMNetwork) -> None:
    """Every known cell of an image is asked for too; what the unknown ones say is what they say without it."""
    batch, row = pack([sample()], SPACE), sample()
    unknown = (row["tok_rgb@224"].flatten() == U).nonzero()[:, 0]
    without = network.read(batch)
    slots = without.slots[batch.cells(3)][unknown]
    alone = FourMCells(*(part[:, slots] for part in (without.asked.tokens, without.asked.places, without.asked.valid)))
    hidden = network.model(without.seen, alone, torch.ones(1, 5, 5, dtype=torch.bool))[0]
    assert_close(network(batch)[batch.cells(3)][unknown], hidden, **CLOSE)
    assert bool(network(batch)[batch.cells(3)].any(dim=-1).all())


def test_a_batch_of_unequal_rows_gives_what_the_rows_give_alone(network: FourMNetwork) -> None:
    """The reference decodes as many cells of every row as its first row has unknown (`num_decoder_tokens`)."""
    few, row = sample(), sample()
    few["tok_rgb@224"] = few["tok_rgb@224"].clone().clamp(min=0)
    few["tok_rgb@224"][0, 0, 0] = U
    del few["image"]
    together = pack([few, row], SPACE)
    hidden = network(together)
    for number, one in enumerate((few, row)):
        alone = pack([one], SPACE)
        assert_close(hidden[number][together.valid[number]], network(alone)[0], **CLOSE)


def test_a_row_without_visible_cells_reads_nothing_whatever_stands_beside_it(network: FourMNetwork) -> None:
    """In the reference a row whose encoder cells are all padding averages over that padding."""
    blank = {"tok_rgb@224": torch.full((1, 4, 4), U)}
    together = pack([blank, sample()], SPACE)
    assert_close(network(together)[0][together.valid[0]], network(pack([blank], SPACE))[0], **CLOSE)


def test_a_hidden_text_is_one_hole_and_hidden_images_are_absent(network: FourMNetwork) -> None:
    """The authors' unconditional pass keeps [S_1] in the place of a caption."""
    row = sample()
    batch = pack([{"text": torch.tensor([[20, 21]]), "image": row["image"], "tok_rgb@224": row["tok_rgb@224"]}], SPACE)
    hidden = batch.hide(batch.modality != 3)
    rows = network.read(hidden)
    assert int(rows.seen.valid.sum()) == 1 + 11
    text = network.model.reader("caption")
    assert_close(rows.seen.tokens[0, 0], text.token_emb(torch.tensor(5)))
    assert not network(hidden)[0, :2].any()


def test_what_the_network_cannot_do_is_said(network: FourMNetwork) -> None:
    with pytest.raises(ValueError, match=r"4M does not generate image; take one of text, tok_rgb@224"):
        network.logits(torch.zeros(1, 24), SPACE.of("image")[0].offset, 2**24)
    with pytest.raises(ValueError, match="has cells outside of its 4 x 4 places"):
        network(pack([{"tok_rgb@224": torch.full((1, 4, 5), U)}], SPACE))
    with pytest.raises(ValueError, match="a text of caption has 600 codes, 4M has places for 512"):
        network(pack([{"text": torch.full((1, 600), U)}], SPACE))
    config: dict[str, Any] = dict(network.published)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.model.state_dict().items()}
    with pytest.raises(ValueError, match="here lacks dim, which 4M's configuration has"):
        FourMConfig.of({name: value for name, value in config.items() if name != "dim"}, shapes, "here")
    with pytest.raises(ValueError, match="register tokens"):
        FourMConfig.of({**config, "num_register_tokens": 4}, shapes, "here")
