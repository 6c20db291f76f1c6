"""Long rows: no mask of all pairs exists, and nothing else changes; recomputed blocks have equal gradients."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_mask

from maskgen.decoding.acceleration.kv_cache import KVCacheModel
from maskgen.networks import attention, visibility
from maskgen.networks.attention import attend, chunked_attention
from maskgen.networks.recompute import Recompute
from maskgen.networks.tower_config import Tower, TowersConfig
from maskgen.networks.towers import TowerTransformer
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.networks.visibility import Sight, nearby, sight, visible
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="image", kind="image", num_levels=2, codebook_size=5),
        Modality(name="audio", kind="audio", num_levels=1, codebook_size=7),
    ]
)
TINY = TransformerConfig(dim=32, num_layers=2, num_heads=2)


@pytest.fixture
def long_from_5(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of more than 4 cells count as long, with chunks of a few queries."""
    monkeypatch.setattr(visibility, "LONGEST_DENSE", 4)
    monkeypatch.setattr(attention, "LONGEST_DENSE", 4)
    monkeypatch.setattr(visibility, "CHUNK_PAIRS", 64)


def batch_of(seed: int = 0) -> TokenBatch:
    """Two rows of uneven length, with hidden cells and several documents."""
    draw = torch.Generator().manual_seed(seed)
    samples = [
        {"text": torch.randint(11, (1, 4), generator=draw), "image": torch.randint(5, (2, 3, 3), generator=draw)},
        {"text": torch.randint(11, (1, 2), generator=draw), "audio": torch.randint(7, (1, 9), generator=draw)},
    ]
    batch = pack(samples, SPACE)
    documents = torch.randint(2, batch.valid.shape, generator=draw)
    return replace(batch.hide(torch.rand(batch.valid.shape, generator=draw) < 0.2), document=documents)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), blind=st.booleans(), window=st.none() | st.integers(0, 4), whole=st.booleans(), few=st.booleans())
def test_masks_in_chunks_and_in_blocks_equal_the_dense_mask(seed: int, blind: bool, window: int | None, whole: bool, few: bool) -> None:
    batch = batch_of(seed)
    if whole:
        batch = replace(batch, valid=torch.ones_like(batch.valid), document=torch.zeros_like(batch.document))
    context = batch.modality == 1 if blind else None
    near = None if window is None else nearby(batch.modality, batch.coords[..., 0], torch.tensor([window, 2]))
    dense = visible(batch.valid, batch.document, context, near)
    if dense is None:
        dense = torch.ones(2, 1, batch.valid.shape[1], batch.valid.shape[1], dtype=torch.bool)
    found = Sight(batch.valid, batch.document, context, near)
    if few:
        queries = torch.stack([torch.randperm(batch.valid.shape[1])[:5] for _ in range(2)])
        found, dense = found.of(queries), dense.take_along_dim(queries[:, None, :, None], dim=2)
    assert torch.equal(found.dense, dense)
    assert torch.equal(torch.cat([found.mask(start, start + 3) for start in range(0, found.num_queries, 3)], dim=2), dense)
    query, key, value = (torch.randn(2, 2, length, 16) for length in (found.num_queries, *[batch.valid.shape[1]] * 2))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=dense)
    assert torch.allclose(chunked_attention(query, key, value, found), expected, atol=1e-5)
    blocks = found.block_mask()
    assert torch.equal(create_mask(blocks.mask_mod, 2, 1, *dense.shape[2:], device="cpu"), dense)


@pytest.mark.usefixtures("long_from_5")
@pytest.mark.parametrize("blind", [False, True])
def test_a_network_gives_the_same_states_and_gradients_of_long_rows(blind: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, batch = MaskTransformer(replace(TINY, blind_condition=blind), SPACE.size, 3), batch_of()
    context = batch.modality == 1 if blind else None
    window = torch.tensor([0, 2])
    assert isinstance(sight(batch.valid, batch.document, context, nearby(batch.modality, batch.coords[..., 0], window)), Sight)
    long = gradients(model, batch, context=context, window=window)
    monkeypatch.setattr(visibility, "LONGEST_DENSE", 1024)
    for ours, theirs in zip(long, gradients(model, batch, context=context, window=window), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.usefixtures("long_from_5")
def test_towers_and_cached_decodes_see_the_same_in_long_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    towers, plain, batch = tower_network(), MaskTransformer(TINY, SPACE.size, 3).eval(), batch_of()
    masked = batch.with_ids(torch.where((batch.modality == 2)[..., None] & (torch.arange(2) == 0), MASK, batch.ids))
    changed = masked.with_ids(masked.ids.clone())
    changed.ids[0, 6, 0] = batch.ids[0, 6, 0]

    def found() -> list[Tensor]:
        cached = KVCacheModel(plain, target=2, refresh=9)
        return [*gradients(towers, batch), cached(masked), cached(changed)]

    long = found()
    monkeypatch.setattr(visibility, "LONGEST_DENSE", 1024)
    for ours, theirs in zip(long, found(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("what", ["elementwise", "blocks"])
@pytest.mark.parametrize("longest_dense", [4, 1024])
@pytest.mark.parametrize("towers", [False, True])
def test_recomputed_blocks_have_bit_equal_gradients(
    what: Recompute, longest_dense: int, towers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (visibility, attention):
        monkeypatch.setattr(place, "LONGEST_DENSE", longest_dense)
    torch.manual_seed(0)
    model, batch = tower_network() if towers else MaskTransformer(replace(TINY, dropout=0.1), SPACE.size, 3), batch_of()
    plain = kept_and_gradients(model, batch)
    model.recompute = what
    again = kept_and_gradients(model, batch)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(plain[1], again[1], strict=True))
    assert again[0] < plain[0] if what == "blocks" else again[0] <= plain[0], "recomputation keeps no less"


@pytest.mark.gpu
def test_flex_attention_equals_the_dense_mask_forward_and_backward() -> None:
    valid = torch.rand(2, 2000, device="cuda") < 0.9
    document = torch.randint(3, valid.shape, device="cuda")
    found = sight(valid, document)
    assert isinstance(found, Sight)
    assert found.blocks is not None
    leaves = [torch.randn(2, 4, 2000, 64, device="cuda", requires_grad=True) for _ in range(3)]
    gradients = []
    for seen in (found, visible(valid, document)):
        out = attend(*leaves, seen)
        gradients.append([out, *torch.autograd.grad((out * torch.linspace(-1, 1, 256, device="cuda")).sum(), leaves)])
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-2)


def test_no_mask_of_all_pairs_is_made_for_long_rows() -> None:
    valid = torch.ones(1, 4096, dtype=torch.bool)
    found = sight(valid, torch.arange(4096)[None] // 100)
    assert isinstance(found, Sight)
    assert found.mask(0, found.chunk).numel() <= visibility.CHUNK_PAIRS
    with Largest() as largest:
        query = torch.randn(1, 1, 4096, 16, requires_grad=True)
        attend(query, query, query, found).sum().backward()
    assert largest.pairs <= visibility.CHUNK_PAIRS


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor of truth values that any operation gives."""

    pairs = 0

    def __torch_dispatch__(self, func: object, types: object, args: tuple[object, ...] = (), kwargs: object = None) -> object:
        out = func(*args, **(kwargs or {}))  # type: ignore[operator]
        if isinstance(out, Tensor) and out.dtype == torch.bool:
            self.pairs = max(self.pairs, out.numel())
        return out


def tower_network() -> TowerTransformer:
    config = TowersConfig(
        towers={"one": Tower(modalities=["text", "image"], transformer=TINY), "two": Tower(modalities=["audio"], transformer=TINY)}
    )
    return TowerTransformer(config, SPACE)


def gradients(model: nn.Module, batch: TokenBatch, **options: object) -> list[Tensor]:
    """States of valid cells, and the gradients of all weights."""
    model.zero_grad()
    torch.manual_seed(1)
    hidden = model(batch, **options)[batch.valid]
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    return [hidden.detach(), *(weight.grad.clone() for weight in model.parameters() if weight.grad is not None)]


def kept_and_gradients(model: nn.Module, batch: TokenBatch) -> tuple[int, list[Tensor]]:
    """Bytes that the forward pass keeps for the backward pass outside of recomputed parts, and `gradients`."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = gradients(model, batch)
    return sum(kept.values()), found
