"""Bridges between towers: nothing at first, then exactly what attention over translated cells gives."""

from dataclasses import asdict
from functools import partial

import pytest
import torch
from builders.networks import random_codes, run
from torch import Tensor

from maskgen.networks.auto import load_own, network_of, own_tensors
from maskgen.networks.bridges import Bridge
from maskgen.networks.tower_config import Tower, TowersConfig, tower_spaces
from maskgen.networks.towers import TowerTransformer, bridged
from maskgen.networks.transformer import Block, TransformerConfig
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack, pack_rows
from maskgen.tokens.space import Modality, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="audio", kind="audio", num_levels=4, codebook_size=5),
        Modality(name="image", kind="image", num_levels=3, codebook_size=6),
        Modality(name="transcript", kind="transcript", num_levels=1, codebook_size=11, stride=2),
    ]
)
WIDE = TransformerConfig(dim=48, num_layers=3, num_heads=3, tie_head=True)
NARROW = TransformerConfig(dim=20, num_layers=3, num_heads=3, head_width=16, tie_head=True, rope_split=(1, 0, 0))
TOWERS = {
    "pictures": Tower(modalities=["text", "image"], transformer=WIDE),
    "speech": Tower(modalities=["audio", "transcript"], transformer=NARROW),
}
BRIDGE = Bridge(modalities=["transcript"], hidden_dim=8)
CONFIG = TowersConfig(towers=TOWERS, bridges={"pictures": BRIDGE})


def made(presence: float | None) -> TowerTransformer:
    """Random weights; with a presence the bridge is open."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TowerTransformer(CONFIG, SPACE).eval().requires_grad_(False)
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and not name.startswith("bridges."):
                torch.nn.init.normal_(weight, std=0.3)
        for name in model.names:
            model.tower(name).embed.weight[0] = 0.0
        for number in range(model.num_layers if presence is not None else 0):
            translation = model.translation("pictures", number)
            torch.nn.init.normal_(translation.out.weight, std=0.3)
            torch.nn.init.normal_(translation.presence.weight)
            translation.presence.bias.fill_(presence)
    return model


codes = partial(random_codes, SPACE)
PICTURE = {"text": codes("text", 4), "image": codes("image", 2, 3)}
SPEECH = {"audio": codes("audio", 9), "transcript": codes("transcript", 5)}
BOTH = {**PICTURE, **SPEECH}


def of_tower(batch: TokenBatch, name: str) -> Tensor:
    """Cells of a tower in the first row of a batch."""
    return torch.isin(batch.modality[0], torch.tensor([SPACE.index(one) for one in TOWERS[name].modalities]))


def test_an_untrained_bridge_leaves_both_towers_as_they_are_alone() -> None:
    model, batch = made(None), pack([BOTH], SPACE)
    for name, sample in (("pictures", PICTURE), ("speech", SPEECH)):
        alone = run(model.tower(name), pack([sample], tower_spaces(CONFIG, SPACE)[name]))[0]
        torch.testing.assert_close(run(model, batch)[0, of_tower(batch, name), : alone.shape[1]], alone, atol=1e-4, rtol=1e-4)


def test_the_reader_sees_what_crosses_and_the_source_nothing() -> None:
    model, batch = made(1.0), pack([BOTH], SPACE)
    found, alone = run(model, batch)[0], run(model.tower("speech"), pack([SPEECH], tower_spaces(CONFIG, SPACE)["speech"]))[0]
    torch.testing.assert_close(found[of_tower(batch, "speech"), :20], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[of_tower(batch, "pictures")], naive(model, batch), atol=1e-4, rtol=1e-4)
    unheard = run(model, pack([PICTURE], SPACE))[0]
    assert float((found[of_tower(batch, "pictures")] - unheard).abs().max()) > 0.05


def naive(model: TowerTransformer, batch: TokenBatch) -> Tensor:
    """Hidden states of the reader's cells, one query at a time, over its own keys and those of the translated cells."""
    spaces = tower_spaces(CONFIG, SPACE)
    reader, source = (pack([sample], spaces[name]) for name, sample in (("pictures", PICTURE), ("speech", SPEECH)))
    tower, heard = model.tower("pictures"), model.tower("speech")
    crosses = source.modality[0] == spaces["speech"].index("transcript")
    x, rotation = tower.start(reader.ids, reader.modality, reader.coords)
    y, turned = heard.start(source.ids, source.modality, source.coords)
    for number in range(3):
        block, other = tower.blocks[number], heard.blocks[number]
        assert isinstance(block, Block)
        assert isinstance(other, Block)
        cells, presence = model.translation("pictures", number)(y[:, crosses])
        normed = block.attention_norm(cells)[0]
        width = 3 * 16
        query, key, value = block.attention.project(block.attention_norm(x), rotation)
        mixed = torch.zeros_like(query)
        for head in range(3):
            rows = block.attention.qkv.weight[width + head * 16 : width + head * 16 + 16]
            theirs = block.attention.key_norm(normed @ rows.T)
            what = normed @ block.attention.qkv.weight[2 * width + head * 16 : 2 * width + head * 16 + 16].T
            keys, values = torch.cat([key[0, head], theirs]), torch.cat([value[0, head], what])
            extra = torch.cat([torch.zeros(key.shape[2]), torch.log(torch.sigmoid(presence[0]))])
            for cell in range(query.shape[2]):
                mixed[0, head, cell] = ((keys @ query[0, head, cell]) / 4 + extra).softmax(dim=0) @ values
        x = block.after(x, block.attention.out(mixed.transpose(1, 2).flatten(2)))
        y = other(y, turned, None)
    found: Tensor = tower.norm(x)[0]
    return found


def test_rows_documents_and_hidden_cells_stay_apart() -> None:
    model = made(1.0)
    samples = [BOTH, PICTURE, {**PICTURE, "transcript": codes("transcript", 2, seed=5)}, SPEECH]
    batch = pack(samples, SPACE)
    together = run(model, batch)
    for row, sample in enumerate(samples):
        alone = run(model, pack([sample], SPACE))[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=1e-4)
    apart = run(model, pack_rows([[PICTURE, SPEECH, samples[2]]], SPACE))[0]
    alone = torch.cat([run(model, pack([sample], SPACE))[0] for sample in (PICTURE, SPEECH, samples[2])])
    torch.testing.assert_close(apart, alone, atol=1e-5, rtol=1e-4)
    unseen = run(model, batch.hide(batch.modality == SPACE.index("transcript")))[0, of_tower(pack([BOTH], SPACE), "pictures")]
    torch.testing.assert_close(unseen, run(model, pack([PICTURE], SPACE))[0], atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_bridge_through_the_attention_of_training() -> None:
    model = made(1.0)
    wanted = run(model, pack([BOTH], SPACE))
    model.bridges.requires_grad_(True)
    found = run(model, pack([BOTH], SPACE))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)  # explicit attention in place of the fused one
    found.square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in model.bridges.parameters())


def test_a_network_with_bridges_comes_back_from_plain_data() -> None:
    model = made(1.0)
    copy = network_of(asdict(CONFIG), SPACE).eval()
    load_own(copy, own_tensors(model))
    torch.testing.assert_close(run(copy, pack([BOTH], SPACE)), run(model, pack([BOTH], SPACE)))
    assert isinstance(copy, TowerTransformer)
    assert copy.crossing_to("image") == copy.crossing_to("text") == ("transcript",)
    assert copy.crossing_to("audio") == ()


def test_a_bridge_is_added_to_towers_and_kept_where_it_is_the_same() -> None:
    model = made(1.0)
    torch.testing.assert_close(run(bridged(model, SPACE, "pictures", BRIDGE), pack([BOTH], SPACE)), run(model, pack([BOTH], SPACE)))
    other = bridged(model, SPACE, "pictures", Bridge(modalities=["transcript", "audio"], hidden_dim=4))
    assert other.crossing_to("image") == ("transcript", "audio")
    torch.testing.assert_close(run(other, pack([PICTURE], SPACE)), run(model, pack([PICTURE], SPACE)))


@pytest.mark.parametrize(
    ("bridges", "message"),
    [
        ({"pictures": Bridge(modalities=["text"])}, "to 'pictures'"),
        ({"sculpture": Bridge(modalities=["text"])}, "the towers are pictures"),
        ({"speech": Bridge(modalities=["text", "audio"])}, "one other tower"),
        ({"speech": Bridge(modalities=["text", "smell"])}, "smell"),
    ],
)
def test_bridges_that_lead_nowhere_are_refused(bridges: dict[str, Bridge], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TowersConfig(towers=TOWERS, bridges=bridges)
    with pytest.raises(ValueError, match="at least one modality"):
        Bridge(modalities=[])
    with pytest.raises(ValueError, match="hidden_dim=0"):
        Bridge(modalities=["text"], hidden_dim=0)
