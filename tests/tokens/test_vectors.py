"""Cells that hold vectors of a frozen encoder: packed, unpacked, hidden, cached and learned like other cells."""

import dataclasses

import pytest
import torch
from builders.networks import randomised
from torch import Tensor

from maskgen.decoding.acceleration.kv_cache import PrefixCacheModel
from maskgen.decoding.logits import remask
from maskgen.masking.masks import draw_masks
from maskgen.masking.schedule import Cosine
from maskgen.networks.joined import ForwardCall, joined_hidden
from maskgen.networks.pretrained import PROJECTION, with_features
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.batch import TokenBatch, stack
from maskgen.tokens.packing import pack, pack_rows, unpack
from maskgen.tokens.space import Modality, TokenSpace
from maskgen.tokens.unpadding import unpad
from maskgen.training.modules.global_batch import GlobalBatch

SPACE = TokenSpace(
    [
        Modality(name="small", kind="features", num_levels=1, codebook_size=1, width=3),
        Modality(name="text", kind="text", num_levels=1, codebook_size=7),
        Modality(name="large", kind="features", num_levels=1, codebook_size=1, width=4),
        Modality(name="image", kind="image", num_levels=2, codebook_size=5),
    ]
)
IMAGE = SPACE.index("image")
CONDITIONS = tuple(SPACE.index(name) for name in ("small", "text", "large"))


def sample(seed: int, **cells: int) -> dict[str, Tensor]:
    """A sample with a number of cells of each modality; images are one row."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, count in cells.items():
        width, levels = SPACE.modality(name).width, SPACE.modality(name).num_levels
        grid = (1, count) if name == "image" else (count,)
        made[name] = (
            torch.randn(width, count, generator=generator).half() if width else torch.randint(5, (levels, *grid), generator=generator)
        )
    return made


SAMPLES = [sample(0, small=2, text=3, large=1, image=4), sample(1, large=3, image=2), sample(2, image=3), sample(3, small=1, image=2)]


def transformer(**options: bool) -> MaskTransformer:
    torch.manual_seed(0)
    config = TransformerConfig(dim=16, num_layers=2, num_heads=2, **options)
    model = MaskTransformer(config, SPACE.size, len(SPACE.modalities), SPACE.feature_width).eval()
    randomised(model, 0.3)
    return model


def equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_packing_keeps_vectors_in_rows_in_documents_and_through_every_operation() -> None:
    for batch in (pack(SAMPLES, SPACE), pack_rows([SAMPLES[:3], SAMPLES[3:]], SPACE, multiple=8)):
        assert batch.features is not None
        assert batch.features.dtype == torch.float16
        assert all(equal(*pair) for pair in zip(unpack(batch, SPACE), [one for one in SAMPLES], strict=False))
    batch = pack(SAMPLES, SPACE)
    both = stack(batch.alone(1), batch.repeat(2))
    assert [unpack(both, SPACE)[row].keys() for row in (0, 1, 2)] == [SAMPLES[1].keys(), SAMPLES[0].keys(), SAMPLES[0].keys()]
    assert equal(unpack(both.rows(torch.tensor([4, 0])), SPACE)[1], SAMPLES[1])
    assert batch.same_cells(batch.with_ids(batch.ids + 0))
    assert batch.features is not None
    assert not batch.same_cells(dataclasses.replace(batch, features=batch.features + 1))
    assert not batch.same_cells(dataclasses.replace(batch, features=None))
    hidden = batch.hide(torch.isin(batch.modality, torch.tensor(CONDITIONS)))
    assert [set(one) for one in unpack(hidden, SPACE)] == [{"image"}] * 4


def test_vectors_of_a_wrong_width_or_kind_are_refused() -> None:
    for wrong in (torch.zeros(4, 2), torch.zeros(3, 2, dtype=torch.long), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"wanted vectors \[3, n\]"):
            pack([{"small": wrong}], SPACE)
    with pytest.raises(ValueError, match="small holds features of a frozen encoder, which are a condition alone"):
        SPACE.target("small")
    with pytest.raises(ValueError, match="features have a width above 0"):
        Modality(name="features", kind="features", num_levels=1, codebook_size=1)


@torch.no_grad()
def test_a_network_sees_vectors_by_projection_and_hidden_ones_not_at_all() -> None:
    model, batch = transformer(), pack(SAMPLES, SPACE)
    hidden = model(batch)
    for row in range(len(batch)):
        alone = model(batch.alone(row))[0]
        assert torch.allclose(hidden[row, : len(alone)], alone, atol=1e-5)
    placed = unpad(batch, 16)
    moved = model(placed.batch).flatten(0, 1)
    assert torch.allclose(moved[placed.place[batch.valid]], hidden[batch.valid], atol=1e-5)
    image = batch.cells(IMAGE)
    changed = dataclasses.replace(batch, features=None if batch.features is None else batch.features.flip(2))
    seen = model(changed)
    told = torch.tensor([bool({"small", "large"} & set(one)) for one in SAMPLES])
    differs = ((seen - hidden).abs() > 1e-3).any(dim=2) & image
    assert differs.any(dim=1).tolist() == told.tolist()
    null = batch.hide(~image)
    without = pack([{"image": one["image"]} for one in SAMPLES], SPACE)
    assert torch.allclose(model(null)[image], model(without)[without.cells(IMAGE)], atol=1e-5)
    x, _ = model.start(batch.ids, batch.modality, batch.coords, batch.features)
    assert model.embed_features is not None
    vector = torch.zeros(SPACE.feature_width)
    vector[:3] = SAMPLES[0]["small"][:, 0].float()
    told_by = model.embed_features.weight @ (vector / vector.square().mean().sqrt())
    ids = model.embed(batch.ids[0, 0]).sum(dim=0) + model.embed_modality.weight[SPACE.index("small")]
    assert torch.allclose(x[0, 0], model.embed_norm(ids + told_by), atol=1e-5)


@torch.no_grad()
def test_caches_and_joined_calls_see_the_same_vectors() -> None:
    batch, blind, model = pack(SAMPLES, SPACE), transformer(blind_condition=True), transformer()
    cached = PrefixCacheModel(blind, IMAGE)
    context = batch.modality != IMAGE
    assert torch.allclose(cached(batch)[batch.valid], blind(batch, context=context)[batch.valid], atol=1e-5)
    ids = torch.where(batch.cells(IMAGE)[..., None], batch.ids.flip(0).roll(1, dims=0), batch.ids)
    later = batch.with_ids(torch.where(batch.cells(IMAGE)[..., None] & (ids > 1), ids, batch.ids))
    image = batch.cells(IMAGE)
    assert torch.allclose(cached(later)[image], blind(later, context=context)[image], atol=1e-5)
    assert cached.work < 1
    other = dataclasses.replace(batch, features=None if batch.features is None else 2 * batch.features.flip(2))
    assert torch.allclose(cached(other)[image], blind(other, context=context)[image], atol=1e-5)
    parts: list[TokenBatch] = [batch.rows(slice(0, 1)).trimmed(), batch.rows(slice(1, 4))]
    for part, found in zip(parts, joined_hidden(model, [ForwardCall(part) for part in parts]), strict=True):
        assert torch.allclose(found[part.valid], model(part)[part.valid], atol=1e-5)


def test_a_start_keeps_the_projection_of_features_that_both_have() -> None:
    old, new = torch.ones(2, 3), torch.zeros(2, 5)
    grown = with_features({PROJECTION: old, "x": old}, {PROJECTION: new, "x": old})[PROJECTION]
    assert torch.equal(grown, torch.cat([old, new[:, 3:]], dim=1))
    assert torch.equal(with_features({"x": old}, {PROJECTION: new, "x": old})[PROJECTION], new)
    assert with_features({PROJECTION: old, "x": old}, {"x": old}).keys() == {"x"}
    assert with_features({PROJECTION: new}, {PROJECTION: old})[PROJECTION].shape == (2, 3)


def test_a_null_view_of_masks_does_not_see_given_vectors() -> None:
    batch, model = pack(SAMPLES[:1], SPACE), transformer()
    given = batch.valid & (batch.modality != IMAGE)
    other = pack([{**SAMPLES[0], **{name: SAMPLES[0][name] + 1 for name in ("small", "large")}}], SPACE)
    cells = batch.modality == IMAGE
    seen = [model(one)[cells] for one in (batch, other)]
    assert not torch.allclose(*seen)
    assert torch.equal(*(model(remask(given)(one))[cells] for one in (batch, other)))


def test_ranks_exchange_ids_alone_and_keep_their_vectors() -> None:
    batch = pack(SAMPLES, SPACE)
    whole = GlobalBatch(dataclasses.replace(batch, features=None), slice(1, 3), 2, features=batch.rows(slice(1, 3)).features)
    drawn = draw_masks(whole.batch, SPACE.of("image"), Cosine(), [1.0, 1.0], 0.0, torch.Generator().manual_seed(0))
    found = whole.part(drawn).batch
    assert found.same_cells(batch.rows(slice(1, 3)))
