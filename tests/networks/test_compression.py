"""Cells merged into blocks for the trunk: exact masks, other cells untouched, grids of any sides, packed rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskgen.decoding.acceleration.compiled import CompiledModel
from maskgen.decoding.decoder import Decoder
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.compression import blocks_of
from maskgen.networks.tower_config import Tower, TowersConfig
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack, pack_rows
from maskgen.tokens.space import Modality, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="image", kind="image", num_levels=2, codebook_size=5),
        Modality(name="audio", kind="audio", num_levels=1, codebook_size=7),
    ]
)


def sample(words: int, rows: int, columns: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed + 10 * rows + columns)
    return {
        "text": torch.randint(0, 11, (1, words), generator=generator),
        "image": torch.randint(-1, 5, (2, rows, columns), generator=generator),
    }


def model(compress: int = 2) -> MaskTransformer:
    torch.manual_seed(0)
    found = MaskTransformer(TransformerConfig(dim=32, num_layers=2, num_heads=2, compress=compress), SPACE.size, 3).eval()
    for weight in found.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return found


def hidden(network: MaskTransformer, batch: TokenBatch) -> Tensor:
    with torch.no_grad():
        return network(batch)


@settings(max_examples=20)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3),
    side=st.integers(1, 3),
    hide=st.integers(0, 2**16),
)
def test_blocks_are_those_of_a_naive_loop(sizes: list[tuple[int, int, int]], side: int, hide: int) -> None:
    batch = pack_rows([[sample(*size) for size in sizes], [sample(*sizes[0])]], SPACE)
    batch = batch.hide(torch.rand(batch.valid.shape, generator=torch.Generator().manual_seed(hide)) < 0.3)
    found = blocks_of(batch, side)
    for row in range(2):
        groups: dict[tuple[int, ...], list[int]] = {}
        for cell in range(batch.valid.shape[1]):
            time, up, left = batch.coords[row, cell].tolist()
            is_image = int(batch.modality[row, cell]) == 2
            key = (int(batch.document[row, cell]), time, up // side, left // side) if is_image else (-1, cell)
            groups.setdefault(key, []).append(cell)
        for position, cells in enumerate(groups.values()):
            valid = [cell for cell in cells if bool(batch.valid[row, cell])]
            assert found.members[row, position][found.present[row, position]].tolist() == valid
            assert bool(found.batch.valid[row, position]) == bool(valid)
            assert found.place[row, cells].tolist() == [position] * len(cells)
            assert int(found.batch.document[row, position]) == int(batch.document[row, cells[0]])
        assert not bool(found.batch.valid[row, len(groups) :].any())


def test_a_row_has_the_same_states_alone_padded_and_packed_and_hidden_cells_say_nothing() -> None:
    network, one, other = model(), sample(2, 3, 5), sample(4, 4, 4)
    alone = hidden(network, pack([one], SPACE))[0]
    length = len(alone)
    assert torch.allclose(hidden(network, pack([one, other], SPACE))[0, :length], alone, atol=1e-5)
    assert torch.allclose(hidden(network, pack_rows([[other, one]], SPACE))[0, -length:], alone, atol=1e-5)
    batch = pack([one], SPACE)
    some = torch.zeros_like(batch.valid)
    some[0, [1, 4, 7]] = True  # a word, and cells of blocks that keep others
    changed = batch.with_ids(torch.where(some[..., None], 2, batch.ids))
    assert torch.allclose(hidden(network, changed.hide(some))[~some], hidden(network, batch.hide(some))[~some], atol=1e-6)
    assert not torch.allclose(hidden(network, changed)[~some], hidden(network, batch)[~some], atol=1e-3)


def test_rows_without_grids_and_single_cells_are_those_of_the_plain_network() -> None:
    compressed, plain = model(), model(1)
    plain.load_state_dict({name: tensor for name, tensor in compressed.state_dict().items() if not name.startswith("compression")})
    batch = pack([{"text": sample(5, 1, 1)["text"], "audio": torch.arange(6)[None]}], SPACE)
    expected = plain.norm(hidden(plain, batch))
    assert torch.allclose(hidden(compressed, batch), expected, atol=1e-5)


def test_at_the_start_every_cell_gets_what_its_block_becomes_and_gradients_reach_all() -> None:
    torch.manual_seed(0)
    network = MaskTransformer(TransformerConfig(dim=32, num_layers=1, num_heads=2, compress=2), SPACE.size, 3)
    batch = pack([sample(2, 4, 4)], SPACE)
    states = network(batch)
    assert states.shape == (1, 18, 32)
    states.square().sum().backward()
    assert network.compression is not None
    for weight in network.compression.parameters():
        assert float(weight.grad.abs().min(dim=0).values.max()) > 0  # type: ignore[union-attr]


def test_decoding_works_and_what_needs_a_position_a_cell_is_refused() -> None:
    network = model()
    batch = pack([{"text": sample(2, 1, 1)["text"], "image": torch.full((2, 4, 6), -1)}], SPACE)
    draw = [torch.Generator().manual_seed(0)]
    made = Decoder(network, SPACE, "image", GenerationSettings(steps=(2, 1)))(batch, draw).batch
    assert bool((made.ids != 1).all())
    with pytest.raises(ValueError, match=r"merges cells .* leave refresh"):
        Decoder(network, SPACE, "image", GenerationSettings(steps=(2, 1), refresh=2))(batch, draw)
    with pytest.raises(ValueError, match="cannot be compiled"):
        CompiledModel(network)
    with pytest.raises(ValueError, match="leave compress at 1"):
        TowersConfig(towers={"all": Tower(modalities=["text", "image"], transformer=network.config)})
    with pytest.raises(ValueError, match="compress must"):
        TransformerConfig(compress=2, blind_condition=True)
    parts = batch.map(lambda field: field[:, [0, 1, 2, 4, 5, 8]])
    with pytest.raises(ValueError, match="whole grids"):
        hidden(network, parts)
