"""LLaDA's network and its three samplers against tensors of the authors' code (`golden/llada.safetensors`)."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import maskgen.sampling.base
import maskgen.sampling.random_order
from maskgen.decoding.guidance import ConstantGuidance
from maskgen.decoding.logits import guided_model, model_logits, remask
from maskgen.interop.llada_network import NEVER, LLaDAConfig, LLaDANetwork
from maskgen.interop.sequences import ModelVocabulary, cell_after_cell
from maskgen.masking.counts import masked_after
from maskgen.masking.schedule import Even
from maskgen.sampling.blocks import BlockSampler
from maskgen.sampling.draw import scattered
from maskgen.sampling.random_order import RandomOrderSampler
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import MASK
from tests.interop.llada_cases import golden_network, text_space


def head(network: LLaDANetwork, hidden: Tensor) -> Tensor:
    """The published head, with the logit of the mask token."""
    return network.model.transformer["ff_out"](hidden)


def test_every_state_of_the_network_is_the_authors() -> None:
    network, given = golden_network()
    seen: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: seen.__setitem__(name, output))
    hidden = network(pack([{"text": row[None]} for row in given["ids"]], network.vocabulary.space))
    assert_close(head(network, hidden), given["logits"], rtol=1e-5, atol=1e-5)
    for name in [key.removeprefix("mid.") for key in given if key.startswith("mid.")]:
        assert_close(seen[name], given[f"mid.{name}"], rtol=1e-5, atol=1e-5)


def test_padding_has_no_influence() -> None:
    """The authors' own file ignores the padding mask, so their padded rows differ from lone ones; ours don't."""
    network, given = golden_network()
    padded = pack([{"text": row[None]} for row in given["padded_ids"]], network.vocabulary.space).hide(given["attention_mask"] == 0)
    hidden, shown = network(padded), given["attention_mask"] == 1
    assert_close(head(network, hidden)[shown], given["padded_logits"][shown], rtol=1e-5, atol=1e-5)
    alone = pack([{"text": given["padded_ids"][1:2, 3:]}], network.vocabulary.space)
    assert_close(head(network, network(alone)), given["logits_row1_alone_without_pads"], rtol=1e-5, atol=1e-5)
    assert not hidden[~shown].any()


def test_the_mask_token_is_never_drawn_as_a_code() -> None:
    """The authors' sampler can draw the mask token, which stays in the text and is printed."""
    network, given = golden_network()
    batch = pack([{"text": row[None]} for row in given["ids"]], network.vocabulary.space)
    found = network.logits(network(batch)[0], 2, 64)
    mask = network.sizes.mask_id
    assert bool((found[:, mask] == NEVER).all())
    assert_close(found[:, :mask], given["logits"][0, :, :mask], rtol=1e-5, atol=1e-5)


def prompts(given: dict[str, Tensor]) -> TokenBatch:
    """The sampler's prompts with eight unknown cells behind each; ours have no padding in front of the shorter one."""
    blank = torch.full((8,), -1)
    shown = [ids[kept.bool()] for ids, kept in zip(given["prompt"], given["prompt_attention_mask"], strict=True)]
    return pack([{"text": torch.cat([row, blank])[None]} for row in shown], text_space(64))


def states(sampler: BlockSampler, logits_fn: LogitsFn, batch: TokenBatch, space_size: int = 64) -> list[list[Tensor]]:
    """The eight cells of each row after every step, the mask token (60) where unknown."""
    segment, found = text_space(space_size).segment("text", 0), []

    def note(state: Any) -> None:
        codes = torch.where(state.codes == -1, 60, state.codes)
        found.append([codes[row][state.target[row]] for row in range(len(codes))])

    sampler.sample(logits_fn, batch, segment, [torch.Generator().manual_seed(0) for _ in range(len(batch))], note)
    return found


def assert_states(found: list[list[Tensor]], wanted: Tensor) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(torch.stack(ours), theirs[:, -8:])


def test_blocks_with_the_surest_codes_first_are_the_authors() -> None:
    network, given = golden_network()
    sampler = BlockSampler(steps=4, block_size=4, temperature=0.0, schedule=Even())
    assert_states(states(sampler, model_logits(network), prompts(given)), given["sampler_codes"])


def test_blocks_with_temperature_and_guidance_are_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise is theirs, a Gumbel number a code; we draw one number a cell, so the draw is replaced here."""
    network, given = golden_network()
    batch, noise = prompts(given), given["sampler2_uniform"]
    asked: list[Tensor] = []
    guided = guided_model(network, remask(batch.valid & (batch.ids[..., 0] != MASK)), ConstantGuidance(2.5))

    def logits_fn(now: TokenBatch, cells: Tensor, *rest: Any) -> Tensor:
        asked.append(cells)
        return guided(now, cells, *rest)

    def draw(logits: Tensor, rows: Tensor, generators: Sequence[Any], *, temperature: float, cut: Any) -> tuple[Tensor, Tensor]:
        step, cells = len(asked) - 1, asked[-1]
        place = cells.nonzero()[:, 1] + torch.tensor([0, 2])[rows]  # their second row has two pads in front
        race = logits.double().exp() / (-noise[step, rows, place].double().log()) ** temperature
        codes = race.argmax(dim=-1)
        return codes, logits.double().log_softmax(dim=-1).gather(-1, codes[:, None])[:, 0]

    first = guided(batch, batch.valid, text_space(64).segment("text", 0), 0.0)
    keep = torch.arange(64) != 60
    assert_close(first[:13][:, keep], given["sampler2_first_guided_logits"][0][:, keep], rtol=1e-5, atol=2e-5)
    monkeypatch.setattr(maskgen.sampling.base, "draw", draw)
    sampler = BlockSampler(steps=6, block_size=8, temperature=0.7, schedule=Even())
    assert_states(states(sampler, logits_fn, batch), given["sampler2_codes"])


def test_blocks_in_random_order_are_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    """They draw a number for every cell at every step and keep the largest; we draw one order a block, which has the same distribution."""
    network, given = golden_network()
    batch = prompts(given)
    begin = batch.ids.shape[1] - 8 - torch.tensor([0, 2])  # first unknown cell of each row
    blocks = iter(range(2))

    def order(cells: Tensor, generators: Sequence[Any], noise: Any) -> Tensor:
        block, place = next(blocks), torch.zeros(cells.shape, dtype=torch.float64)
        for row in range(2):
            left = list(range(4))
            for step in range(2):
                drawn = given["sampler3_uniform"][2 * block + step, row, -8:][4 * block : 4 * block + 4]
                kept = sorted(left, key=lambda cell, drawn=drawn: -float(drawn[cell]))[:2]
                for cell in kept:
                    place[row, int(begin[row]) + 4 * block + cell] = step
                left = [cell for cell in left if cell not in kept]
        return scattered(cells, place[cells], 0.0)

    monkeypatch.setattr(maskgen.sampling.random_order, "row_noise", order)
    sampler = BlockSampler(steps=4, block_size=4, temperature=0.0, inner=RandomOrderSampler(schedule=Even()))
    assert_states(states(sampler, model_logits(network), batch), given["sampler3_codes"])


@pytest.mark.parametrize(("total", "steps"), [(128, 50), (5, 8), (8, 3)])
def test_even_counts_are_the_authors(total: int, steps: int) -> None:
    _, given = golden_network()
    left = [int(masked_after(Even(), step, steps, torch.tensor([total]))[0]) for step in range(steps)]
    assert [before - after for before, after in zip([total, *left], left, strict=False)] == given[
        f"sampler_counts_{total}_in_{steps}"
    ].tolist()


def test_parameters_at_published_size() -> None:
    """291 tensors of 8,015.58 million values, as the hub's six shards hold."""
    config = LLaDAConfig(dim=4096, num_layers=32, num_heads=32, num_kv_heads=32, hidden_dim=12288, vocab_size=126464)
    vocabulary = ModelVocabulary(text_space(126464), {"text": 0}, config.mask_id, config.vocab_size)
    with torch.device("meta"):
        weights = LLaDANetwork(config, vocabulary, cell_after_cell(vocabulary)).state_dict()
    assert len(weights) == 291
    assert round(sum(weight.numel() for weight in weights.values()) / 1e4) == 801558
    assert weights["model.transformer.blocks.31.ff_out.weight"].shape == (4096, 12288)


def test_unpacked_rows_are_the_packed_ones() -> None:
    network, given = golden_network()
    batch = prompts(given)
    assert torch.equal(network.vocabulary.ids(batch)[0, :5], given["prompt"][0])
    assert unpack(batch, text_space(64))[1]["text"].shape == (1, 11)
