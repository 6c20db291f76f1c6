"""Dream's network and its four samplers against tensors of the authors' code (`golden/dream.safetensors`)."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import maskgen.sampling.ancestral
import maskgen.sampling.base
from maskgen.decoding.logits import model_logits
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.dream import FAMILY, dream_settings
from maskgen.interop.dream_network import NEVER, DreamConfig, DreamNetwork
from maskgen.masking.counts import masked_after
from maskgen.masking.schedule import ShareOfRest
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from tests.interop.dream_cases import golden_dream, tiny_network


@pytest.fixture(scope="module")
def made() -> tuple[DreamNetwork, dict[str, Tensor]]:
    return golden_dream()


def rows(network: DreamNetwork, ids: Tensor) -> TokenBatch:
    """Rows of ids as a batch; the mask token is an unknown cell."""
    return pack([{"text": torch.where(row == network.sizes.mask_id, -1, row)[None]} for row in ids], network.vocabulary.space)


def test_every_state_of_the_network_is_the_authors(made: tuple[DreamNetwork, dict[str, Tensor]]) -> None:
    network, given = made
    seen: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: seen.__setitem__(name, output))
        for name, module in network.named_modules()
    ]
    hidden = network(rows(network, given["ids"]))
    for hook in hooks:
        hook.remove()
    for name in [key.removeprefix("mid.") for key in given if key.startswith("mid.")]:
        assert_close(seen[name], given[f"mid.{name}"], rtol=1e-5, atol=1e-5)
    assert_close(network.lm_head(seen["model.norm"]), given["logits"], rtol=1e-5, atol=1e-5)
    assert_close(network.lm_head(hidden), given["logits_shifted"], rtol=1e-5, atol=1e-5)


def test_padding_has_no_influence(made: tuple[DreamNetwork, dict[str, Tensor]]) -> None:
    """Their logits are those of the next cell; ours are shifted, so a cell has the logits of the visible cell before it."""
    network, given = made
    shown = given["attention_mask"] == 1
    hidden = network(rows(network, given["padded_ids"]).hide(~shown))
    assert_close(network.lm_head(hidden[0, 1:]), given["padded_logits_row0"][0, :-1], rtol=1e-5, atol=1e-5)
    second = network.lm_head(hidden[1][shown[1]])
    assert_close(second[1:], given["padded_logits_row1_valid_cells"][0, :-1], rtol=1e-5, atol=1e-5)
    assert_close(second[0], given["padded_logits_row1_valid_cells"][0, 0], rtol=1e-5, atol=1e-5)
    assert not hidden[~shown].any()


def test_a_cell_behind_hidden_ones_has_the_state_of_the_last_visible_one(made: tuple[DreamNetwork, dict[str, Tensor]]) -> None:
    network, given = made
    batch = rows(network, given["ids"][:1])
    hole = torch.zeros_like(batch.valid)
    hole[0, 3:5] = True
    alone = rows(network, given["ids"][:1, [0, 1, 2, 5, 6, 7, 8]])
    assert_close(network(batch.hide(hole))[~hole], network(alone)[0], rtol=1e-5, atol=1e-5)


def test_the_mask_token_is_never_drawn_as_a_code(made: tuple[DreamNetwork, dict[str, Tensor]]) -> None:
    network, given = made
    found = network.logits(network(rows(network, given["ids"]))[0], 2, 48)
    assert bool((found[:, 46] == NEVER).all())
    keep = torch.arange(48) != 46
    assert_close(found[:, keep], given["logits_shifted"][0][:, keep], rtol=1e-5, atol=1e-5)


def prompts(network: DreamNetwork, given: dict[str, Tensor]) -> TokenBatch:
    """The samplers' prompts with eight unknown cells behind each; ours have no padding in front of the shorter one."""
    shown = [ids[kept.bool()] for ids, kept in zip(given["prompt"], given["prompt_attention_mask"], strict=True)]
    return pack([{"text": torch.cat([row, torch.full((8,), -1)])[None]} for row in shown], network.vocabulary.space)


def decoded(made: tuple[DreamNetwork, dict[str, Tensor]], settings: GenerationSettings) -> Tensor:
    """The eight cells of each row after every step, the mask token where unknown."""
    network, given = made
    batch, found = prompts(network, given), []

    def note(state: Any) -> None:
        codes = torch.where(state.codes == -1, 46, state.codes)
        found.append(torch.stack([codes[row][state.target[row]] for row in range(2)]))

    segment = network.vocabulary.space.segment("text", 0)
    settings.at(0).sample(model_logits(network), batch, segment, [torch.Generator() for _ in range(2)], note)
    return torch.stack(found)


def test_entropy_with_temperature_and_nucleus_is_theirs(
    made: tuple[DreamNetwork, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes race with their noise, a number a code; we draw one number a cell, so the draw is replaced here."""
    noise, step = made[1]["sampler_exp"], iter(range(4))

    def draw(logits: Tensor, rows: Tensor, generators: Sequence[Any], *, temperature: float, cut: Any) -> tuple[Tensor, Tensor]:
        shares = (logits / temperature).softmax(dim=-1)
        ordered, codes = shares.sort(dim=-1, descending=True)
        cut_away = torch.zeros_like(shares, dtype=torch.bool).scatter(-1, codes, ordered.cumsum(dim=-1) - ordered > cut.top_p)
        found = (shares.masked_fill(cut_away, 0) / noise[next(step)][: len(shares)]).argmax(dim=-1)
        return found, logits.log_softmax(dim=-1).gather(-1, found[:, None])[:, 0]

    monkeypatch.setattr(maskgen.sampling.base, "draw", draw)
    found = decoded(made, dream_settings(4, temperature=0.8, top_p=0.9))
    assert torch.equal(found, made[1]["sampler_codes"][..., -8:])
    assert torch.equal((found == 46).sum(dim=-1), made[1]["sampler_masked_after_step"])


def test_origin_is_theirs(made: tuple[DreamNetwork, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    uniform, step = made[1]["sampler2_uniform"], iter(range(5))

    def toss(cells: Tensor, generators: Any, noise: Any) -> Tensor:
        return torch.ones(cells.shape, dtype=torch.float64).masked_scatter(cells, uniform[next(step)][: int(cells.sum())].double())

    monkeypatch.setattr(maskgen.sampling.ancestral, "row_noise", toss)
    found = decoded(made, dream_settings(5, temperature=0.0, top_p=1.0, ranking="origin"))
    assert torch.equal(found, made[1]["sampler2_codes"][..., -8:])


def test_maskgit_plus_with_noise_in_the_order_is_theirs(
    made: tuple[DreamNetwork, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Theirs draw cells without replacement from softmax(confidence / 0.5); that is the order of confidence + 0.5 Gumbel."""
    noise, step = made[1]["sampler3_exp"], iter(range(4))

    def order(cells: Tensor, generators: Any, kind: Any) -> Tensor:
        found, drawn = torch.zeros(cells.shape, dtype=torch.float64), -noise[next(step)].double().log()
        for row, pads in enumerate((made[1]["prompt_attention_mask"] == 0).sum(dim=1).tolist()):
            found[row, : 13 - pads] = drawn[row, pads:]
        return found

    monkeypatch.setattr(maskgen.sampling.base, "row_noise", order)
    settings = dream_settings(4, temperature=0.0, top_p=1.0, ranking="maskgit_plus").changed(choice_temperature=0.5)
    found = decoded(made, settings)
    assert torch.equal(found, made[1]["sampler3_codes"][..., -8:])


def test_the_margin_of_the_likeliest_codes_is_theirs(made: tuple[DreamNetwork, dict[str, Tensor]]) -> None:
    settings = dream_settings(4, temperature=0.0, top_p=1.0, ranking="topk_margin").changed(top_k=6)
    found = decoded(made, settings)
    assert torch.equal(found, made[1]["sampler4_codes"][..., -8:])
    assert torch.equal((found == 46).sum(dim=-1), made[1]["sampler4_masked_after_step"])


def naive_counts(total: int, steps: int) -> list[int]:
    """Masked cells after each step in the authors' arithmetic."""
    times, left, found = torch.linspace(1, 1e-3, steps + 1), total, []
    for step in range(steps):
        left -= int(left * (1 - times[step + 1] / times[step])) if step < steps - 1 else left
        found.append(left)
    return found


@pytest.mark.parametrize(("total", "steps"), [(8, 4), (8, 8), (3, 8), (512, 512), (100, 7), (1, 1)])
def test_counts_are_a_share_of_the_rest(total: int, steps: int) -> None:
    found = [int(masked_after(ShareOfRest(), step, steps, torch.tensor([total]))) for step in range(0, steps, max(1, steps // 8))]
    assert found == naive_counts(total, steps)[:: max(1, steps // 8)]


def test_rows_with_unequal_holes_keep_their_own_counts_where_theirs_take_the_mean(made: tuple[DreamNetwork, dict[str, Tensor]]) -> None:
    """In the authors' code both rows decode the count of the mean row, (8 + 2) / 2, and the longer one keeps masks to the end."""
    network, given = made
    space = network.vocabulary.space
    long, short = given["prompt"][0].tolist(), [5, 7]
    samples = [{"text": torch.tensor([[*long, *[-1] * 8]])}, {"text": torch.tensor([[*short, -1, -1]])}]
    settings = dream_settings(4, temperature=0.0)

    def run(batch: TokenBatch, notes: list[Tensor]) -> TokenBatch:
        sampler, segment = settings.at(0), space.segment("text", 0)
        generators = [torch.Generator() for _ in range(len(batch))]
        return sampler.sample(model_logits(network), batch, segment, generators, lambda state: notes.append(state.unknown.sum(dim=1)))[0]

    counts: list[Tensor] = []
    together = run(pack(samples, space), counts)
    assert torch.stack(counts).T.tolist() == [naive_counts(8, 4), naive_counts(2, 4)]
    for row, sample in enumerate(samples):
        alone = run(pack([sample], space), [])
        assert torch.equal(together.ids[row, : alone.ids.shape[1]], alone.ids[0])


def test_parameters_at_published_size() -> None:
    """339 tensors of 7,615.62 million values, 15.2 GB in bfloat16, as the hub's four shards hold."""
    with torch.device("meta"):
        tensors = tiny_network(DreamConfig()).state_dict()
    assert len(tensors) == 339
    assert round(sum(one.numel() for one in tensors.values()) / 1e4) == 761562 == round(100 * FAMILY.hub_ids["Dream-org/Dream-v0-Base-7B"])
    assert tensors["model.layers.27.self_attn.k_proj.bias"].shape == (512,)
