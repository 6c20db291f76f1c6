"""MDLM: network and sampler against tensors of the authors' code (`golden/mdlm.safetensors`), and a folder laid out as the hub's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

import maskgen
import maskgen.sampling.ancestral
import maskgen.sampling.base
from maskgen.decoding.decoder import Decoder
from maskgen.decoding.logits import model_logits
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.mdlm import FAMILY, mdlm_settings, our_mdlm_name, published_mdlm_tensors
from maskgen.interop.mdlm_network import MDLMConfig, MDLMNetwork, rotary_frequencies
from maskgen.sampling import names
from maskgen.sampling.draw import draw, row_noise, scattered
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK
from tests.interop.llada_cases import chat_vocabulary, golden, text_space

TINY = {"model_type": "mdlm", "hidden_dim": 32, "cond_dim": 8, "n_blocks": 2, "n_heads": 2, "model_length": 16, "vocab_size": 301}


def golden_network() -> tuple[MDLMNetwork, dict[str, Tensor]]:
    """The network of the golden file, and its inputs and outputs."""
    weights, given, config = golden("mdlm")
    sizes = MDLMConfig.from_dict(config, "the golden file")
    network = MDLMNetwork(sizes, text_space(sizes.mask_id)).eval().requires_grad_(False)
    network.load_state_dict({ours: tensor for name, tensor in weights.items() if (ours := our_mdlm_name(name)) is not None})
    return network, given


def rows(network: MDLMNetwork, ids: Tensor) -> Any:
    """Rows of ids as a batch; the mask token is an unknown cell."""
    return pack([{"text": torch.where(row == network.sizes.mask_id, -1, row)[None]} for row in ids], network.vocabulary.space)


def test_every_state_of_the_network_is_the_authors() -> None:
    network, given = golden_network()
    seen: dict[str, Tensor] = {}
    for name, module in network.backbone.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: seen.__setitem__(name, output))
    hidden = network(rows(network, given["ids"]))
    table = network.backbone.output_layer["linear"]
    assert_close(table(hidden, 0, 41), given["logits"], rtol=1e-5, atol=1e-5)
    for name in ("vocab_embed", "sigma_map", "blocks.0", "blocks.1"):
        assert_close(seen[name], given[f"mid.{name}"], rtol=1e-5, atol=1e-5)
    told = network.backbone(given["ids"], given["sigma"])
    assert_close(table(told, 0, 41), given["logits_with_sigma"], rtol=1e-5, atol=1e-5)


def test_probabilities_of_unknown_cells_are_those_of_subs() -> None:
    """Theirs are -1e6 for what cannot be; ours are not there: the mask token is no code, and a known cell is not asked about."""
    network, given = golden_network()
    batch = rows(network, given["ids"])
    unknown = batch.ids[..., 0] == MASK
    ours = network.logits(network(batch)[unknown], 2, 40).log_softmax(dim=-1)
    assert_close(ours, given["subs_log_probs"][unknown][:, :40], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("published", ["sampler_codes", "sampler_plain_codes"])
def test_the_published_samplers_are_repeated_code_for_code(published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs let all codes and the mask race for a cell; ours toss a coin for the mask first, with the same odds."""
    network, given = golden_network()
    batch, states = pack([{"text": torch.full((1, 8), -1)} for _ in range(2)], network.vocabulary.space), []
    segment = network.vocabulary.space.segment("text", 0)
    times = torch.linspace(1, 1e-5, 6)
    logits_fn, now, winners = model_logits(network), [batch], {}

    def toss(cells: Tensor, generators: Any, noise: Any) -> Tensor:
        step = len(states)
        before, after = times[step], times[step + 1]
        shares = logits_fn(now[-1], cells, segment, 0.0).softmax(dim=-1)
        race = torch.cat([shares * (before - after), after.expand(len(shares), 1)], dim=1)
        winners[step] = (race / (1e-10 - (given["sampler_uniform"][step] + 1e-10).log())[cells]).argmax(dim=-1)
        return scattered(cells, (winners[step] == 40).double(), 0.0)  # 1 is above any chance, so the cell stays masked

    def drawn(logits: Tensor, rows: Tensor, generators: Any, **options: Any) -> tuple[Tensor, Tensor]:
        found = winners.get(len(states))
        codes = logits.argmax(dim=-1) if found is None else found[found < 40]
        return codes, logits.log_softmax(dim=-1).gather(-1, codes[:, None])[:, 0]

    def note(state: Any) -> None:
        now.append(state.batch)
        states.append(torch.where(state.codes == -1, 40, state.codes))

    monkeypatch.setattr(maskgen.sampling.ancestral, "row_noise", toss)
    monkeypatch.setattr(maskgen.sampling.base, "draw", drawn)
    mdlm_settings(5).at(0).sample(logits_fn, batch, segment, [torch.Generator() for _ in range(2)], note)
    assert len(states) == 5, "no cell was left for the last decision; theirs computes it nevertheless"
    assert torch.equal(torch.stack([*states, states[-1]]), given[published])


def test_the_chance_of_a_step_is_that_of_the_log_linear_schedule() -> None:
    """Their rates are those of masking 1 - (1 - eps) t; the quotients of two times, which decide, are those of ours."""
    _, given = golden_network()
    times = given["loglinear_t"].double()
    assert_close(-torch.log1p(-(1 - 1e-3) * times), given["loglinear_sigma"].double(), rtol=1e-5, atol=1e-6)
    masked = 1 - torch.exp(-given["loglinear_sigma"].double())
    assert_close(masked / masked[-1], times / times[-1], rtol=1e-5, atol=1e-6)


def test_rare_codes_can_be_drawn_where_the_published_float32_noise_never_draws_them() -> None:
    """From U(0, 1) in float32 their exponential noise lies in [6e-8, 23.1]: 50,000 codes of probability 2e-10 each lose every race."""
    logits = torch.cat([torch.zeros(1, 1), torch.full((1, 50_000), -22.3)], dim=1)
    noise = 1e-10 - (torch.tensor([0.0, 1 - 2.0**-24]) + 1e-10).log()
    shares = logits.softmax(dim=-1)[0, :2]
    assert shares[1] / noise[1] < shares[0] / noise[0], "the kindest noise that there is to a rare code"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maskgen.sampling.draw, "row_uniforms", lambda rows, generators: torch.tensor([1 - 5e-6], dtype=torch.float64))
        codes, _ = draw(logits, torch.zeros(1, dtype=torch.long), [torch.Generator()])
    assert codes[0] > 0


def write_mdlm(folder: Path) -> dict[str, Tensor]:
    """A folder laid out as the hub's, with a small vocabulary in a folder `gpt2` beside it."""
    config = MDLMConfig.from_dict(TINY, "a test")
    network, generator = MDLMNetwork(config, text_space(300)), torch.Generator().manual_seed(0)
    weights = published_mdlm_tensors(network)
    weights |= {
        name: torch.randn(one.shape, generator=generator) / one.shape[-1] ** 0.5 for name, one in weights.items() if "rotary" not in name
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**TINY, "architectures": ["MDLM"], "time_conditioning": False}))
    (folder.parent / "gpt2").mkdir(exist_ok=True)
    (folder.parent / "gpt2" / "tokenizer.json").write_text(chat_vocabulary())
    return weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hub") / "mdlm-owt"
    write_mdlm(place)
    return place


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> maskgen.TextGenerationPipeline:
    found = maskgen.Pipeline.from_pretrained(folder)
    assert isinstance(found, maskgen.TextGenerationPipeline)
    return found


def test_a_text_is_written_from_nothing_and_is_never_the_mask(pipeline: maskgen.TextGenerationPipeline) -> None:
    made = pipeline(num_inference_steps=4, seed=0)
    assert made.generation.codes[0].shape == (1, 16)
    assert int(made.generation.codes[0].max()) < 300
    assert made.text == pipeline.tokenizers["text"].decode(made.generation.codes)[0]
    assert pipeline(length=5, num_inference_steps=2).generation.codes[0].shape == (1, 5)


def test_holes_are_filled_which_the_authors_have_no_call_for(pipeline: maskgen.TextGenerationPipeline) -> None:
    made = pipeline("a [2] heart, flat style", num_inference_steps=2)
    assert made.text.startswith("a")
    assert made.text.endswith("heart, flat style")


def test_the_settings_are_the_published_ones(pipeline: maskgen.TextGenerationPipeline) -> None:
    settings = pipeline.settings_of("text")
    assert (settings.sampler, settings.sampler_options, settings.steps) == ("ancestral", {"until": 1e-5}, (1001,))
    assert (settings.temperature, settings.top_p, settings.guidance_scale) == ((1.0,), 1.0, 1.0)
    assert pipeline.space.modality("text").end is None, "GPT-2's end token begins and ends the rows of the training"


def test_a_row_is_the_same_alone_and_beside_a_longer_one(pipeline: maskgen.TextGenerationPipeline) -> None:
    call = {"num_inference_steps": 3, "seed": [1, 2]}
    together = pipeline(["a [2] heart", "a red heart, flat [4], on the table"], **call)
    assert together.texts[0] == pipeline("a [2] heart", num_inference_steps=3, seed=1).text


@pytest.mark.parametrize("sampler", [name for name in names() if name not in ("critic", "frequency")])
def test_every_sampler_runs_and_known_cells_come_back(pipeline: maskgen.TextGenerationPipeline, sampler: str) -> None:
    batch = pack([{"text": torch.tensor([[5, -1, 7, -1, 9]])}, {"text": torch.tensor([[-1, 7]])}], pipeline.space)
    decode = Decoder(pipeline.model, pipeline.space, "text", GenerationSettings(sampler=sampler, steps=(3,)))
    made = decode(batch, [torch.Generator().manual_seed(seed) for seed in (0, 1)]).batch
    assert (made.ids[0, [0, 2, 4], 0] - 2).tolist() == [5, 7, 9]
    assert int(made.ids[1, 1, 0]) == 9
    assert not (made.ids[..., 0] == MASK).any()


def test_packed_weights_write_alike_and_texts_have_scores(folder: Path, pipeline: maskgen.TextGenerationPipeline) -> None:
    packed = maskgen.TextGenerationPipeline.from_pretrained(folder).enable_packed_weights()
    call = {"length": 6, "num_inference_steps": 3, "seed": 0}
    assert packed(**call).text == pipeline(**call).text
    rows = [{"text": "a red heart"}]
    assert pipeline.score(rows, "text")[0].total < 0
    assert pipeline.embed(rows)[0]["text"].shape == (32,)


def test_what_is_saved_is_the_layout_of_the_authors(pipeline: maskgen.TextGenerationPipeline, folder: Path, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "saved")
    wanted, found = load_file(folder / "model.safetensors"), load_file(tmp_path / "saved" / "model.safetensors")
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert (tmp_path / "saved" / "config.json").read_text() == (folder / "config.json").read_text()
    call = {"length": 6, "num_inference_steps": 3, "seed": 0}
    assert maskgen.Pipeline.from_pretrained(tmp_path / "saved")(**call).text == pipeline(**call).text


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    weights = write_mdlm(tmp_path / "model")
    save_file({name: one for name, one in weights.items() if "blocks.1.attn_out" not in name}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ValueError, match=r"lack backbone\.blocks\.1\.attn_out\.weight"):
        maskgen.Pipeline.from_pretrained(tmp_path / "model")
    save_file({**weights, "more": torch.zeros(1)}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ValueError, match="more"):
        maskgen.Pipeline.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({**TINY, "time_conditioning": True}))
    with pytest.raises(ValueError, match="time_conditioning true"):
        maskgen.Pipeline.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({**TINY, "n_heads": None}))
    with pytest.raises(ValueError, match="None for n_heads"):
        maskgen.Pipeline.from_pretrained(tmp_path / "model")
    (tmp_path / "gpt2" / "tokenizer.json").unlink()
    (tmp_path / "model" / "config.json").write_text(json.dumps(TINY))
    with pytest.raises(ValueError, match=r"no tokenizer\.json; copy that of openai-community/gpt2"):
        maskgen.Pipeline.from_pretrained(tmp_path / "model")


def test_parameters_at_published_size() -> None:
    """131 tensors of 169.63 million values, 679 MB in float32, as the hub's file holds."""
    config = MDLMConfig()
    with torch.device("meta"):
        tensors = MDLMNetwork(config, text_space(config.mask_id)).state_dict()
    assert len(tensors) + 1 == 131
    values = sum(one.numel() for one in tensors.values()) + len(rotary_frequencies(config))
    assert round(values / 1e4) == 16963 == round(100 * FAMILY.hub_ids["kuleshov-group/mdlm-owt"])
    assert tensors["backbone.blocks.11.adaLN_modulation.weight"].shape == (4608, 128)


def test_noise_is_asked_for_at_unknown_cells_alone() -> None:
    """So the coins of a row do not depend on the length of another."""
    cells = torch.tensor([[True, False, True], [False, False, True]])
    found = row_noise(cells, [torch.Generator().manual_seed(0) for _ in range(2)], maskgen.sampling.ancestral.uniform)
    assert found[0, 0] == found[1, 2] != 0
