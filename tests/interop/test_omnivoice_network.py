"""The network and the decode of OmniVoice beside tensors of its reference (k2-fsa/OmniVoice, random weights under the published names)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from maskgen.decoding.decoder import Decoder
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.omnivoice import omnivoice_settings
from maskgen.interop.omnivoice_network import OmniVoiceNetwork
from maskgen.interop.weights import load_exactly
from maskgen.masking.counts import masked_after
from maskgen.masking.time_shift import Shifted
from maskgen.sampling import base
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import Modality, TokenSpace

pytest.importorskip("transformers", reason="needs transformers: pip install maskgen[codecs]")
GOLDEN = Path(__file__).parent / "golden" / "omnivoice.safetensors"
LEVELS, CODES, TEXT = 4, 32, 50


def space_of(text: int = TEXT) -> TokenSpace:
    prompt = Modality(name="prompt", kind="text", num_levels=1, codebook_size=text)
    return TokenSpace([prompt, Modality(name="audio", kind="audio", num_levels=LEVELS, codebook_size=CODES)])


SPACE = space_of()


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with safe_open(GOLDEN, framework="pt") as file:
        return {name.removeprefix("io/"): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    with safe_open(GOLDEN, framework="pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["config"])
    return found


@pytest.fixture(scope="module")
def network(golden: dict[str, Tensor], config: dict[str, Any]) -> OmniVoiceNetwork:
    with torch.device("meta"):
        made = OmniVoiceNetwork(config, SPACE)

    def published(name: str) -> str | None:
        return name.removeprefix("weights/") if name.startswith("weights/") else None

    load_exactly(made, [GOLDEN], source="golden", rename=published)
    return made


def row_of(ids: Tensor, audio: Tensor) -> dict[str, Tensor]:
    """A row of the reference as known and unknown cells."""
    spoken = ids[:, audio.bool()]
    return {"prompt": ids[:1, ~audio.bool()], "audio": torch.where(spoken == CODES, UNKNOWN, spoken)}


def both_rows(golden: dict[str, Tensor]) -> TokenBatch:
    ids, audio = golden["input_ids"], golden["audio_mask"]
    return pack([row_of(ids[0], audio[0]), row_of(ids[1][:, :7], audio[1, :7])], SPACE)


def all_logits(network: OmniVoiceNetwork, batch: TokenBatch) -> Tensor:
    """Logits [batch, level, length, code]."""
    hidden = network(batch)
    heads = [network.logits(hidden.flatten(0, 1), one.offset, one.size) for one in SPACE.of("audio")]
    return torch.stack(heads, dim=1).unflatten(0, hidden.shape[:2]).transpose(1, 2)


def test_every_intermediate_and_all_logits_are_those_of_the_reference(golden: dict[str, Tensor], network: OmniVoiceNetwork) -> None:
    batch, seen = both_rows(golden), dict[str, Tensor]()
    names = [name.removeprefix("mid.") for name in golden if name.startswith("mid.llm")]
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _, __, made, name=name: seen.__setitem__(name, made)) for name in names
    ]
    hooks.append(network.llm.layers[0].register_forward_pre_hook(lambda _, given: seen.__setitem__("inputs_embeds", given[0])))
    found = all_logits(network, batch)
    for hook in hooks:
        hook.remove()
    assert set(seen) == {"inputs_embeds", "llm.layers.0", "llm.layers.1", "llm.norm"}
    for name, states in seen.items():
        torch.testing.assert_close(states[batch.valid], golden[f"mid.{name}"][batch.valid], atol=1e-5, rtol=0)
    cells = batch.valid[:, None].expand(-1, LEVELS, -1)
    torch.testing.assert_close(found[cells], golden["logits"][..., :CODES][cells], atol=1e-5, rtol=0)
    torch.testing.assert_close(all_logits(network, batch.alone(1)), golden["logits_row1_alone"][..., :CODES], atol=1e-5, rtol=0)


def test_a_target_whose_row_is_hidden_has_the_logits_of_a_row_without_anything_else(
    golden: dict[str, Tensor], network: OmniVoiceNetwork
) -> None:
    """The unconditional view: text and recording are hidden in place, and the reference gives the target as a shorter row."""
    batch = both_rows(golden).alone(0)
    given = torch.zeros_like(batch.valid)
    given[:, :6] = True
    found = all_logits(network, batch.hide(given))
    torch.testing.assert_close(found[:, :, 6:], golden["logits_row0_target_alone"][..., :CODES], atol=1e-5, rtol=0)
    assert not network(batch.hide(given))[:, :6].any()


@pytest.mark.parametrize(("name", "shift", "steps", "cells"), [("_row0", 0.1, 5, 24), ("_row1", 0.1, 5, 16), ("2", 0.5, 3, 24)])
def test_every_step_writes_as_many_codes_as_in_the_reference(
    golden: dict[str, Tensor], name: str, shift: float, steps: int, cells: int
) -> None:
    counts = golden["sampler_counts_" + name[1:]] if name != "2" else golden["sampler2_counts"]
    left = torch.stack([masked_after(Shifted(shift=shift), step, steps, torch.tensor([cells])) for step in range(steps)])[:, 0]
    assert (torch.cat([torch.tensor([cells]), left]).diff() * -1).tolist() == counts.tolist()


def test_the_shifted_times_are_those_of_the_reference(golden: dict[str, Tensor]) -> None:
    times = 1 - Shifted(shift=0.1)(torch.linspace(0, 1, 6))
    torch.testing.assert_close(times, golden["timesteps_5_shift_0.1"], atol=1e-6, rtol=0)


def test_a_decode_with_the_noise_of_the_reference_writes_its_codes_at_every_step(
    golden: dict[str, Tensor], network: OmniVoiceNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both rows in one batch, with a recording before the target of the first: guidance against the target alone, 4 levels together."""
    rows = [row_of(golden[f"sampler_row{row}_ids"], golden[f"sampler_row{row}_audio_mask"]) for row in range(2)]
    batch, steps = pack(rows, SPACE), iter(range(5))

    def noise(unknown: Tensor, *_: Any) -> Tensor:
        step, found = next(steps), torch.zeros(unknown.shape, dtype=torch.float64)
        for row, start in ((0, 6), (1, 3)):
            uniform = golden[f"sampler_uniform_row{row}"][step].double()
            stretch = slice(start * LEVELS, start * LEVELS + uniform.numel())
            found[row, stretch] = -(-(uniform + 1e-10).log() + 1e-10).log().T.flatten()
        return found

    monkeypatch.setattr(base, "row_noise", noise)
    settings = omnivoice_settings(LEVELS).changed(steps=5)
    seen = list[Tensor]()
    decode = Decoder(network, SPACE, "audio", settings)
    made = decode(batch, [torch.Generator()] * 2, callback=lambda state: seen.append(state.codes))
    assert made.model_calls == [10.0, 10.0]
    for row, start, length in ((0, 6, 6), (1, 3, 4)):
        codes = torch.stack(seen)[:, row].unflatten(1, (-1, LEVELS))[:, start : start + length].transpose(1, 2)
        wanted = golden[f"sampler_codes_row{row}"]
        assert torch.equal(codes, torch.where(wanted == CODES, UNKNOWN, wanted))
        assert torch.equal(unpack(made.batch, SPACE)[row]["audio"][:, -length:], wanted[-1])


def test_the_confidence_of_a_code_is_its_own_also_at_a_temperature(network: OmniVoiceNetwork, golden: dict[str, Tensor]) -> None:
    """The reference ranks a cell by its likeliest code when it draws another one (`class_temperature` above 0)."""
    settings = omnivoice_settings(LEVELS).changed(steps=1, temperature=2.0, guidance_scale=1.0)
    rows = [row_of(golden["sampler_row0_ids"], golden["sampler_row0_audio_mask"])]
    batch = pack(rows, SPACE)
    made = Decoder(network, SPACE, "audio", settings)(batch, [torch.Generator().manual_seed(0)])
    logprobs = all_logits(network, batch).log_softmax(dim=-1)[0, :, 6:]
    drawn = unpack(made.batch, SPACE)[0]["audio"][:, 2:]
    assert not torch.equal(drawn, logprobs.argmax(dim=-1))
    torch.testing.assert_close(made.logprobs[0, 6:].T, logprobs.gather(2, drawn[..., None])[..., 0])


def test_a_text_vocabulary_may_be_smaller_than_the_codebook(config: dict[str, Any]) -> None:
    """The reference looks the text table up at audio cells too, so there the mask id 32 of the audio is out of range."""
    space = space_of(text=5)
    small = {**config, "llm_config": {**config["llm_config"], "vocab_size": 5}}
    network = OmniVoiceNetwork(small, space)
    batch = pack([{"prompt": torch.tensor([[1, 4]]), "audio": torch.full((LEVELS, 3), UNKNOWN)}], space)
    assert network(batch).isfinite().all()


def test_what_the_network_cannot_do_is_said(config: dict[str, Any], network: OmniVoiceNetwork) -> None:
    with pytest.raises(ValueError, match=r"config\.json has 4 levels of 33 ids with mask 32 and 50 text ids, the tokenizers 4 levels"):
        OmniVoiceNetwork(config, space_of(text=60))
    blank = pack([{"prompt": torch.full((1, 2), UNKNOWN), "audio": torch.zeros(LEVELS, 1, dtype=torch.long)}], SPACE)
    with pytest.raises(ValueError, match="no mask for text"):
        network(blank)
    with pytest.raises(ValueError, match="generates audio alone"):
        network.logits(torch.zeros(1, 32), SPACE.of("prompt")[0].offset, TEXT)


def test_the_published_size_has_the_published_number_of_values() -> None:
    """313 tensors and 612.58 million values at Qwen3-0.6B with 151,676 text ids."""
    trunk = {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    trunk |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_676}
    config = {"audio_vocab_size": 1025, "audio_mask_id": 1024, "num_audio_codebook": 8, "llm_config": trunk}
    prompt = Modality(name="prompt", kind="text", num_levels=1, codebook_size=151_676)
    space = TokenSpace([prompt, Modality(name="audio", kind="audio", num_levels=8, codebook_size=1024)])
    with torch.device("meta"):
        tensors = OmniVoiceNetwork(config, space).state_dict()
    assert len(tensors) == 313
    assert round(sum(tensor.numel() for tensor in tensors.values()) / 1e6, 2) == 612.58


def test_settings_of_the_reference_are_options_that_any_model_has() -> None:
    settings = GenerationSettings.from_dict(json.loads(json.dumps(omnivoice_settings(8).to_dict())))
    assert settings == omnivoice_settings(8)
    assert (settings.groups, settings.null, settings.time_shift, settings.guidance_scale) == ((tuple(range(8)),), "alone", 0.1, 3.0)
