"""Low-rank adapters: nothing changes when one is put in, merging changes nothing, and an adapter knows its base."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskgen.networks.lora import Adapter, LoraSettings, adapter_tensors, add_lora, apply_adapter, load_adapter, merge_lora, save_adapter
from maskgen.networks.pretrained import load_pretrained
from maskgen.networks.transformer import MaskTransformer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import TokenSpace

pytest.importorskip("peft")
SETTINGS = LoraSettings(rank=3)


def hidden_of(model: MaskTransformer, space: TokenSpace) -> Tensor:
    """Logits of two rows with text and picture."""
    draw = torch.Generator().manual_seed(3)
    rows = [{"text": torch.randint(0, 50, (1, 5), generator=draw), "image": torch.randint(0, 16, (2, 4, 4), generator=draw)} for _ in "ab"]
    batch = pack(rows, space)
    with torch.no_grad():
        hidden = model.eval()(batch)
        return model.logits(hidden.flatten(0, 1), space.of("image")[0].offset, 16)


def trained(folder: Path, rows: list[range]) -> MaskTransformer:
    """The bundle's model with an adapter that three steps have moved, far enough to be seen."""
    model = load_pretrained(folder).model
    add_lora(model, SETTINGS, rows)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.05, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        ids = torch.arange(2, 42).view(1, 20, 2)
        ones = torch.ones(1, 20, dtype=torch.long)
        places = torch.zeros(1, 20, 3, dtype=torch.long)
        hidden = model.train()(TokenBatch(ids, ones, places, ones.bool(), ones, places))
        model.logits(hidden[0], 2, 20).square().mean().backward()
        optimizer.step()
    return model


def test_an_untrained_adapter_changes_nothing_and_freezes_the_rest(tiny_bundle: Path, tiny_space: TokenSpace) -> None:
    model = load_pretrained(tiny_bundle).model
    before = hidden_of(model, tiny_space)
    add_lora(model, SETTINGS)
    assert torch.equal(hidden_of(model, tiny_space), before)
    assert {name.split(".")[-3] for name, one in model.named_parameters() if one.requires_grad} == {"lora_A", "lora_B"}
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 4 * len(model.blocks)


def test_the_same_seed_gives_the_same_factors_and_leaves_the_global_generator(tiny_bundle: Path) -> None:
    found = []
    for seed in (5, 5, 6):
        model = load_pretrained(tiny_bundle).model
        state = torch.get_rng_state()
        add_lora(model, SETTINGS, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(next(one for name, one in model.named_parameters() if "lora_A" in name))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_training_moves_the_adapter_and_the_named_rows_alone(tiny_bundle: Path) -> None:
    base, model = load_pretrained(tiny_bundle).model, trained(tiny_bundle, [range(10, 14)])
    found = {name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items() if "lora_" not in name}
    changed = [name for name, tensor in base.state_dict().items() if not torch.equal(found[name], tensor)]
    assert changed == ["embed.weight"]
    assert adapter_tensors(model, base)["embed.rows"].tolist() == [10, 11, 12, 13]


def test_the_merged_model_answers_as_the_adapted_one_and_is_plain(tiny_bundle: Path, tiny_space: TokenSpace) -> None:
    base, model = load_pretrained(tiny_bundle).model, trained(tiny_bundle, [range(10, 14)])
    plain, wanted = merge_lora(model), hidden_of(model, tiny_space)
    assert plain.state_dict().keys() == base.state_dict().keys()
    assert torch.allclose(hidden_of(plain, tiny_space), wanted, atol=1e-4)
    assert not torch.allclose(hidden_of(base, tiny_space), wanted, atol=1e-2)
    assert torch.equal(hidden_of(model, tiny_space), wanted), "merging must leave the adapted model as it was"


def test_a_saved_adapter_makes_the_same_model_of_its_base(tiny_bundle: Path, tmp_path: Path) -> None:
    base, model = load_pretrained(tiny_bundle), trained(tiny_bundle, [range(10, 14)])
    save_adapter(tmp_path, Adapter(SETTINGS, "tiny", base.weights, {"style": ["a", "b"]}, adapter_tensors(model, base.model)))
    found, again = load_adapter(tmp_path), load_pretrained(tiny_bundle)
    assert (found.base, found.values, found.settings.scale) == ("tiny", {"style": ["a", "b"]}, 6.0)
    apply_adapter(again.model, again.weights, found)
    wanted, made = merge_lora(model).state_dict(), merge_lora(again.model).state_dict()
    assert all(torch.equal(made[name], wanted[name]) for name in wanted)


def test_an_adapter_of_another_base_is_refused(tiny_bundle: Path) -> None:
    base = load_pretrained(tiny_bundle)
    with pytest.raises(ValueError, match=r"trained on other with the weights 0000.*, this model has the weights"):
        apply_adapter(base.model, base.weights, Adapter(SETTINGS, "other", "0" * 64, {}, {}))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"rank": 5000}, {"alpha": -1.0}])
def test_sizes_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="of LoRA must"):
        LoraSettings(**wrong)  # type: ignore[arg-type]
