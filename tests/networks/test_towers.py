"""A mixture of transformers: what its towers do apart, and what they do together."""

from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from builders.networks import random_codes, run
from torch import Tensor

from maskgen.networks.attention_maps import received_attention
from maskgen.networks.auto import load_own, network_of, own_tensors
from maskgen.networks.tower_config import Tower, TowersConfig, tower_spaces
from maskgen.networks.towers import TowerTransformer
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.packing import pack, pack_rows
from maskgen.tokens.space import Modality, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="phones", kind="phones", num_levels=2, codebook_size=7),
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="audio", kind="audio", num_levels=4, codebook_size=5),
        Modality(name="image", kind="image", num_levels=3, codebook_size=6),
    ],
    ["<a>"],
)
WIDE = TransformerConfig(dim=48, num_layers=3, num_heads=3, tie_head=True)
NARROW = TransformerConfig(dim=20, num_layers=3, num_heads=3, head_width=16, tie_head=True, rope_split=(1, 0, 0))
TOWERS = {
    "pictures": Tower(modalities=["text", "image"], transformer=WIDE),
    "speech": Tower(modalities=["audio", "phones"], transformer=NARROW),
}
CONFIG = TowersConfig(towers=TOWERS)


@pytest.fixture
def model() -> TowerTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = TowerTransformer(CONFIG, SPACE).eval()
        for weight in made.parameters():
            if weight.ndim == 2:
                torch.nn.init.normal_(weight, std=0.3)
        for name in made.names:
            torch.nn.init.zeros_(made.tower(name).embed.weight[0].data)
    return made


codes = partial(random_codes, SPACE)
PICTURE = {"text": codes("text", 4), "image": codes("image", 2, 3)}
SPEECH = {"phones": codes("phones", 3), "audio": codes("audio", 9)}


@torch.no_grad()
@pytest.mark.parametrize(("name", "sample"), [("pictures", PICTURE), ("speech", SPEECH)])
def test_a_row_of_one_tower_gives_what_the_tower_alone_gives(model: TowerTransformer, name: str, sample: dict[str, Tensor]) -> None:
    space, tower = tower_spaces(CONFIG, SPACE)[name], model.tower(name)
    ours, theirs = run(model, pack([sample], SPACE)), run(tower, pack([sample], space))
    width = tower.config.dim
    torch.testing.assert_close(ours[..., :width], theirs, atol=1e-5, rtol=1e-5)
    assert not ours[..., width:].any()
    for modality in sample:
        for here, there in zip(SPACE.of(modality), space.of(modality), strict=True):
            wanted = tower.logits(theirs[0], there.offset, there.size)
            torch.testing.assert_close(model.logits(ours[0], here.offset, here.size), wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("name", "sample"), [("pictures", PICTURE), ("speech", SPEECH)])
def test_received_attention_is_that_of_the_tower_and_crosses_over_where_both_are_seen(
    model: TowerTransformer, name: str, sample: dict[str, Tensor]
) -> None:
    alone = received_attention(model.tower(name), pack([sample], tower_spaces(CONFIG, SPACE)[name]), 1)
    torch.testing.assert_close(received_attention(model, pack([sample], SPACE), 1), alone)
    both = pack([{**PICTURE, **SPEECH}, sample], SPACE)
    found = received_attention(model, both, 1)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(found[1, : alone.shape[1]], alone[0])
    ours = torch.isin(both.modality[0], torch.tensor([SPACE.index(one) for one in sample]))
    assert float((found[0, ours] - alone[0] * ours.sum() / len(ours)).abs().max()) > 1e-3


@torch.no_grad()
def test_towers_see_each_other_only_inside_a_document(model: TowerTransformer) -> None:
    both = run(model, pack([{**PICTURE, **SPEECH}], SPACE))
    assert not torch.allclose(both[:, -6:], run(model, pack([PICTURE], SPACE))[:, -6:], atol=1e-2)
    apart = run(model, pack_rows([[PICTURE, SPEECH]], SPACE))[0]
    alone = torch.cat([run(model, pack([sample], SPACE))[0] for sample in (PICTURE, SPEECH)])
    torch.testing.assert_close(apart, alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_invisible_cells_have_no_effect_and_rows_no_neighbours(model: TowerTransformer) -> None:
    samples = [{**PICTURE, **SPEECH}, PICTURE, {"audio": codes("audio", 30, seed=4)}]
    batch = pack(samples, SPACE)
    together = run(model, batch)
    for row, sample in enumerate(samples):
        alone = run(model, pack([sample], SPACE))[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=1e-4)
    hidden = batch.hide(batch.modality == SPACE.index("text"))
    others = hidden.with_ids(torch.where(hidden.valid[..., None], hidden.ids, SPACE.segment("text", 0).offset + 3))
    assert torch.equal(run(model, hidden), run(model, others))
    assert not run(model, replace(batch, valid=torch.zeros_like(batch.valid))).any()


def test_what_one_tower_learns_does_not_move_the_other(model: TowerTransformer) -> None:
    model.train().requires_grad_(True)
    run(model, pack([PICTURE], SPACE)).square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None for weight in model.tower("speech").parameters())
    run(model, pack([{**PICTURE, **SPEECH}], SPACE))[:, 0].square().sum().backward()  # type: ignore[no-untyped-call]
    heard = model.tower("speech").blocks[0].attention.qkv.weight.grad
    assert heard is not None
    assert bool(heard.any())


def test_it_is_rebuilt_from_plain_data_with_each_tied_weight_once(model: TowerTransformer) -> None:
    tensors = own_tensors(model)
    assert not [name for name in tensors if name.endswith("head.weight")]
    again = network_of(asdict(model.config), SPACE)
    load_own(again, {name: tensor.clone() for name, tensor in tensors.items()})
    batch = pack([{**PICTURE, **SPEECH}], SPACE)
    with torch.no_grad():
        assert torch.equal(run(again.eval(), batch), run(model, batch))
    assert again.tower("pictures").head is again.tower("pictures").embed  # type: ignore[union-attr]


@torch.no_grad()
def test_layers_end_where_they_are_told_to(model: TowerTransformer) -> None:
    batch = pack([{**PICTURE, **SPEECH}], SPACE)
    assert model.num_layers == 3
    entered = model(batch, layers=0)
    assert not torch.allclose(entered, model(batch, layers=3))
    alone = pack([{"text": PICTURE["text"]}], tower_spaces(CONFIG, SPACE)["pictures"])
    wanted, _ = model.tower("pictures").start(alone.ids, alone.modality, alone.coords)
    torch.testing.assert_close(entered[batch.modality == SPACE.index("text")], wanted[0])


@pytest.mark.parametrize(
    ("towers", "message"),
    [
        ({}, "no tower"),
        ({"a": TOWERS["pictures"], "b": TOWERS["pictures"]}, "exactly one tower"),
        ({"a": TOWERS["pictures"], "b": Tower(modalities=["audio"], transformer=replace(NARROW, num_heads=2))}, "a 3, 3, 16, b 3, 2, 16"),
        ({"a": Tower(modalities=["audio"], transformer=replace(NARROW, blind_condition=True))}, "blind_condition"),
    ],
)
def test_towers_that_do_not_fit_are_refused(towers: dict[str, Tower], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TowersConfig(towers=towers)


def test_every_modality_needs_a_tower() -> None:
    with pytest.raises(ValueError, match="audio, phones in only one"):
        TowerTransformer(TowersConfig(towers={"pictures": TOWERS["pictures"]}), SPACE)
    with pytest.raises(ValueError, match="at least one modality"):
        Tower(modalities=[])


def test_logits_are_of_whole_levels(model: TowerTransformer) -> None:
    with pytest.raises(ValueError, match="no level of a modality begins at id 4"):
        model.logits(torch.zeros(1, 48), 4, 2)
    assert isinstance(model.tower("speech"), MaskTransformer)
