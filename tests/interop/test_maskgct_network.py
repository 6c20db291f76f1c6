"""MaskGCT's networks and its sampler against tensors of the authors' classes (`golden/maskgct_*.safetensors`)."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from maskgen.decoding.decoder import Decoder
from maskgen.decoding.logits import guided_model, hide_condition
from maskgen.interop.maskgct import acoustic_settings, semantic_settings
from maskgen.interop.maskgct_network import MaskGCTNetwork
from maskgen.interop.maskgct_stages import time_of
from maskgen.sampling import base
from maskgen.sampling.draw import Cut
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.packing import pack, unpack
from tests.interop.maskgct_cases import LEVELS, golden, golden_model, golden_space, stage

SPACE = golden_space()
PROMPT, TARGET = 4, 6
"""Frames of the recording and of the speech in the golden sampler of the second stage."""


def close(found: Tensor, wanted: Tensor) -> None:
    assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.fixture(scope="module")
def network() -> MaskGCTNetwork:
    return golden_model(semantic_steps=5, acoustic_steps=(5, 4, 1))


def states_of(module: torch.nn.Module) -> dict[str, Tensor]:
    """Filled with the output of every part of a network when it runs."""
    seen: dict[str, Tensor] = {}
    for name, part in module.named_modules():
        part.register_forward_hook(lambda _part, _inputs, output, name=name: seen.__setitem__(name, output))
    return seen


def test_every_state_of_the_first_stage_is_the_authors() -> None:
    made, given = stage("t2s"), golden("t2s")
    seen, whole = states_of(made), torch.ones(2, 15, dtype=torch.bool)
    vectors = torch.cat([made.phones(given["phone_ids"].flatten()).view(2, 5, -1), given["cells"]], dim=1)
    hidden = made.diff_estimator(vectors, given["t"], whole)
    names = [name.removeprefix("mid.") for name in given if name.startswith("mid.")]
    for name in names:
        found = seen[name if name in seen else f"diff_estimator.{name}"]
        close(found.view(given[f"mid.{name}"].shape), given[f"mid.{name}"])
    close(hidden[:, 5:], given["hidden"])
    close(made.to_logit(hidden[:, 5:]), given["logits"])
    shown = torch.cat([given["phone_mask"], given["cell_mask"]], dim=1).bool()
    padded = made.to_logit(made.diff_estimator(vectors, given["t"], shown)[:, 5:])
    close(padded[:1], given["logits_padded_row0"])
    close(padded[1:, :7], given["logits_padded_row1_valid_cells"])
    close(made.diff_estimator(given["cells"][:, 6:], given["t"], whole[:, :4]), given["hidden_unconditional"])


@pytest.mark.parametrize("name", ["s2a_1layer", "s2a_full"])
def test_every_state_of_the_second_stage_is_the_authors(name: str) -> None:
    made, given = stage(name), golden(name)
    last = torch.full((20,), made.config.num_levels - 1)
    seen = states_of(made)
    told = made.condition(given["semantic"].flatten(), last).view(2, 10, -1)
    hidden = made.diff_estimator(given["cells"] + told, given["t"], torch.ones(2, 10, dtype=torch.bool))
    for one in [one.removeprefix("mid.") for one in given if one.startswith("mid.")]:
        found = seen[one if one in seen else f"diff_estimator.{one}"]
        close(found.view(given[f"mid.{one}"].shape), given[f"mid.{one}"])
    close(hidden, given["hidden"])
    for level, head in enumerate(made.to_logits):
        close(head(hidden), given[f"logits_level{level}"])
    padded = made.diff_estimator(given["cells"] + told, given["t"], given["cell_mask"].bool())
    close(padded[:1], given["hidden_padded_row0"])
    close(padded[1:, :7], given["hidden_padded_row1_valid_cells"])


def gumbel(uniform: Tensor) -> Tensor:
    """Gumbel noise as the authors compute it."""
    return -(-(uniform + 1e-10).log() + 1e-10).log()


def decoded(
    monkeypatch: pytest.MonkeyPatch, network: MaskGCTNetwork, batch: TokenBatch, target: str, level: int, codes: Tensor, order: Tensor
) -> tuple[TokenBatch, list[Tensor], list[Tensor]]:
    """A level decoded with the published settings and the authors' noise: the batch, its codes after every step, and guided logits."""
    settings = semantic_settings() if target == "semantic" else acoustic_settings()
    segment, step, cells = SPACE.segment(target, level), -1, torch.zeros(0)
    steps, kept, length = len(order), {40: 4, 20: 2}[segment.size], order.shape[-1]
    others = tuple(SPACE.index(one.name) for one in SPACE.modalities if one.name != target)
    guided = guided_model(network, hide_condition(others), settings.guidance(), settings.guidance_rescale, rescale_states=True)
    seen, logits = list[Tensor](), list[Tensor]()

    def watched(now: TokenBatch, chosen: Tensor, segment: Any, progress: float) -> Tensor:
        nonlocal step, cells
        step, cells = step + 1, chosen[0, -length:]
        logits.append(guided(now, chosen, segment, progress))
        return logits[-1]

    def draw(scores: Tensor, rows: Tensor, generators: Any, *, temperature: float, cut: Cut) -> tuple[Tensor, Tensor]:
        assert cut.top_k == kept
        noise = gumbel(codes[step, 0, cells]) if temperature else torch.zeros_like(scores)
        best, places = scores.topk(kept, dim=-1)
        won = (best / (temperature or 1.0) + noise.gather(-1, places)).argmax(dim=-1, keepdim=True)
        found = places.gather(-1, won)
        return found[:, 0], scores.log_softmax(dim=-1).gather(-1, found)[:, 0]

    def row_noise(unknown: Tensor, *_: Any) -> Tensor:
        found = torch.zeros(unknown.shape, dtype=torch.float64)
        found[:, -length:] = gumbel(order[step, 0]).double()
        return found

    monkeypatch.setattr(base, "draw", draw)
    monkeypatch.setattr(base, "row_noise", row_noise)
    sampler = dataclasses.replace(settings.at(level), steps=steps, top_k=kept)
    made, _ = sampler.sample(watched, batch, segment, [torch.Generator()], lambda state: seen.append(state.codes[0, -length:]))
    return made, seen, logits


def test_the_first_stage_writes_the_codes_of_the_reference_at_every_step(monkeypatch: pytest.MonkeyPatch, network: MaskGCTNetwork) -> None:
    given = golden("t2s")
    row = {"phonemes": given["phone_ids"][:1], "heard": given["prompt"][:1], "semantic": torch.full((1, 9), UNKNOWN)}
    noise = given["sampler_uniform_codes"], given["sampler_uniform_order"]
    _, seen, logits = decoded(monkeypatch, network, pack([row], SPACE), "semantic", 0, *noise)
    close(logits[0], network.semantic.to_logit(given["sampler_first_guided_hidden"][0]))
    masked = torch.cat([given["sampler_still_masked"][:, 0].bool(), torch.zeros(1, 9, dtype=torch.bool)])
    assert torch.equal(torch.stack(seen), given["sampler_codes"][:, 0].masked_fill(masked, UNKNOWN))


def acoustic_row(given: dict[str, Tensor], known: Tensor | None = None) -> dict[str, Tensor]:
    """A row of the second stage; levels that a golden file lacks are 0 in the recording."""
    voice, audio = torch.zeros(LEVELS, PROMPT, dtype=torch.long), torch.full((LEVELS, TARGET), UNKNOWN)
    voice[: given["prompt"].shape[2]] = given["prompt"][0].T
    if known is not None:
        audio[: known.shape[2]] = known[0].T
    return {"heard": given["semantic"][:1, :PROMPT], "semantic": given["semantic"][:1, PROMPT:], "voice": voice, "audio": audio}


def test_the_coarsest_level_is_that_of_the_reference(monkeypatch: pytest.MonkeyPatch, network: MaskGCTNetwork) -> None:
    given = golden("s2a_1layer")
    noise = given["sampler_level0_uniform_codes"], given["sampler_level0_uniform_order"]
    made, seen, logits = decoded(monkeypatch, network, pack([acoustic_row(given)], SPACE), "audio", 0, *noise)
    close(logits[0], network.coarse.to_logits[0](given["sampler_first_guided_hidden"][0]))
    masked = torch.cat([given["sampler_still_masked"][:, 0].bool(), torch.zeros(1, TARGET, dtype=torch.bool)])
    assert torch.equal(torch.stack(seen) == UNKNOWN, masked)
    assert torch.equal(unpack(made, SPACE)[0]["audio"][0], given["sampler_result"][0, :, 0])


def test_the_finer_levels_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch, network: MaskGCTNetwork) -> None:
    """Level 1 in four steps, level 2 in one, which draws at a temperature of 0.2 instead of taking the likeliest codes."""
    given = golden("s2a_full")
    batch = pack([acoustic_row(given, given["sampler_known_level0"])], SPACE)
    noise = [(given[f"sampler_level{level}_uniform_codes"], given[f"sampler_level{level}_uniform_order"]) for level in (1, 2)]
    batch, seen, logits = decoded(monkeypatch, network, batch, "audio", 1, *noise[0])
    close(logits[0], network.fine.to_logits[1](given["sampler_first_guided_hidden"][0]))
    masked = torch.cat([given["sampler_still_masked"][:, 0].bool(), torch.zeros(1, TARGET, dtype=torch.bool)])
    assert torch.equal(torch.stack(seen) == UNKNOWN, masked)
    batch, *_ = decoded(monkeypatch, network, batch, "audio", 2, *noise[1])
    assert torch.equal(unpack(batch, SPACE)[0]["audio"].T, given["sampler_result"][0])


def test_cells_of_the_second_stage_are_sums_over_the_levels(network: MaskGCTNetwork) -> None:
    given = golden("s2a_full")
    blank = torch.full((TARGET, LEVELS), UNKNOWN)
    blank[:, 0] = given["sampler_known_level0"][0, :, 0]
    close(network.fine.codes(torch.cat([given["prompt"][0], blank])), given["sampler_first_input_cells"][0])
    blank[:, :2] = given["sampler_result"][0, :, :2]
    close(network.fine.codes(torch.cat([given["prompt"][0], blank])), given["sampler_last_input_cells"][0])


def test_the_time_of_a_whole_decode_is_that_of_the_reference() -> None:
    for steps, total in ((25, 900), (10, 450), (25, 137), (7, 60)):
        times = 1 - torch.arange(steps).double() / steps
        masked = (torch.sin(times * torch.pi / 2) * total + 1e-9).floor().long()
        found = time_of(masked, torch.full_like(masked, total), torch.full_like(masked, steps))
        assert_close(found.double(), times, rtol=0, atol=1e-6)
    # Of another number of steps the time is right to a cell.
    masked = torch.tensor([300, 299, 0, 1])
    found = time_of(masked, torch.full_like(masked, 300), torch.full_like(masked, 1))
    assert_close(torch.sin(found * torch.pi / 2) * 300, masked.float(), rtol=0, atol=1e-3)


def blank_row(phones: int, heard: int, frames: int) -> dict[str, Tensor]:
    numbers = torch.arange(max(phones, heard))
    return {"phonemes": numbers[None, :phones], "heard": numbers[None, :heard] % 40, "semantic": torch.full((1, frames), UNKNOWN)}


def decode(network: MaskGCTNetwork, rows: list[dict[str, Tensor]], target: str = "semantic", **changes: Any) -> list[Tensor]:
    """Codes of a plain decode; row i has seed i + the number of the row in its first phone."""
    settings = (semantic_settings() if target == "semantic" else acoustic_settings()).changed(**changes)
    generators = [torch.Generator().manual_seed(len(row["heard"][0])) for row in rows]
    made = Decoder(network, SPACE, target, settings)(pack(rows, SPACE), generators)
    return [row[target] for row in unpack(made.batch, SPACE)]


def test_there_may_be_more_phones_than_codes_of_the_recording(network: MaskGCTNetwork) -> None:
    """The reference cuts the mask of the phones at the number of the recording's codes and fails where there are more phones."""
    for row in (blank_row(phones=9, heard=2, frames=4), blank_row(phones=3, heard=0, frames=4)):
        found = decode(network, [row], steps=3)[0]
        assert found.shape == (1, 4)
        assert int(found.min()) >= 0


def test_a_row_does_not_depend_on_its_neighbours(network: MaskGCTNetwork) -> None:
    """The reference takes the spread of guidance over the batch, and the count of masked cells from row 0 and the padded length."""
    rows = [blank_row(5, 3, 9), blank_row(12, 6, 4)]
    together = decode(network, rows, steps=4)
    alone = [decode(network, [row], steps=4)[0] for row in rows]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))


def test_a_hidden_condition_leaves_the_target_alone(network: MaskGCTNetwork) -> None:
    rows = [blank_row(5, 3, 6), {"semantic": torch.full((1, 6), UNKNOWN)}]
    batch = pack(rows, SPACE)
    first = batch.alone(0)
    hidden = network(first.hide(first.modality != SPACE.index("semantic")))
    assert_close(hidden[0, 8:], network(batch.alone(1))[0], rtol=0, atol=0)
    given = acoustic_row(golden("s2a_full"))
    whole, less = pack([given], SPACE), pack([{name: given[name] for name in ("semantic", "audio")}], SPACE)
    hidden = network(whole.hide(whole.modality != SPACE.index("audio")))  # the semantic codes of the target stay
    assert_close(hidden[0, -TARGET:], network(less)[0, -TARGET:], rtol=0, atol=0)


def test_rows_of_both_stages_may_stand_in_one_batch(network: MaskGCTNetwork) -> None:
    rows = [
        blank_row(5, 3, 6),
        acoustic_row(golden("s2a_1layer")),
        acoustic_row(golden("s2a_full"), golden("s2a_full")["sampler_known_level0"]),
    ]
    together = network(pack(rows, SPACE))
    for place, row in enumerate(rows):
        found = network(pack([row], SPACE))[0]
        assert_close(together[place, : len(found)], found, rtol=1e-5, atol=1e-5)


def test_what_the_networks_cannot_do_is_said(network: MaskGCTNetwork) -> None:
    row = acoustic_row(golden("s2a_full"))
    with pytest.raises(ValueError, match="codes of semantic are unknown; generate semantic before audio"):
        network(pack([{**row, "semantic": torch.full((1, TARGET), UNKNOWN)}], SPACE))
    with pytest.raises(ValueError, match=r"rows have \[3\] codes of heard and \[4\] cells of voice; give one a cell"):
        network(pack([{**row, "heard": row["heard"][:, :3]}], SPACE))
    with pytest.raises(ValueError, match="no mask for phones"):
        network(pack([{**blank_row(2, 1, 1), "phonemes": torch.full((1, 2), UNKNOWN)}], SPACE))
    with pytest.raises(ValueError, match="generates semantic and audio codes"):
        network.logits(torch.zeros(1, 24), SPACE.of("phonemes")[0].offset, 1024)
    parts = network.semantic, network.fine, network.fine
    with pytest.raises(ValueError, match=r"the networks have .* \(3, 20, 20, 40\), the tokenizers \(3, 20, 20, 40\)"):
        MaskGCTNetwork(*parts, SPACE)
