"""Halton-MaskGIT's transformer beside tensors of its authors' own class, and their sampler along ours."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from maskgen.decoding.guidance import ConstantGuidance
from maskgen.decoding.logits import guided_model, hide_condition
from maskgen.interop.halton_config import HaltonConfig, halton_config
from maskgen.interop.halton_network import HaltonTransformer
from maskgen.masking.counts import masked_after, whole_ceil
from maskgen.masking.schedule import Arccos, ArccosFloat32, MaskSchedule
from maskgen.sampling import base
from maskgen.sampling.draw import Cut
from maskgen.sampling.halton import HaltonSampler, halton_order
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import Modality, Segment, TokenSpace

GOLDEN = Path(__file__).parent / "golden/halton.safetensors"
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
CODES, CLASSES, SIDE = 40, 10, 4


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with safe_open(GOLDEN, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


@pytest.fixture(scope="module")
def model(golden: dict[str, Tensor]) -> HaltonTransformer:
    weights = {name.removeprefix("weights/"): tensor for name, tensor in golden.items() if name.startswith("weights/")}
    made = HaltonTransformer(halton_config({name: tensor.shape for name, tensor in weights.items()}, num_heads=2))
    made.load_state_dict(weights)
    return made.eval().requires_grad_(False)


def rows(model: HaltonTransformer, golden: dict[str, Tensor], blank: bool = False) -> TokenBatch:
    """The golden classes and grids."""
    grids = golden["io/ids"].masked_fill(golden["io/ids"] == CODES, UNKNOWN)
    pairs = zip(golden["io/classes"], torch.full_like(grids, UNKNOWN) if blank else grids, strict=True)
    return pack([{"label": label[None, None], "image": grid[None]} for label, grid in pairs], model.space)


def logits_of(model: HaltonTransformer, batch: TokenBatch) -> Tensor:
    """Logits of every image cell [batch, cells, codes]."""
    image = model.space.of("image")[0]
    return model.logits(model(batch)[batch.modality == image.index], image.offset, image.size).view(len(batch), -1, CODES)


def test_the_logits_and_every_intermediate_tensor_equal_the_golden_file(model: HaltonTransformer, golden: dict[str, Tensor]) -> None:
    batch, label = rows(model, golden), model.space.index("label")
    torch.testing.assert_close(logits_of(model, batch), golden["io/logits_conditional"][..., :CODES], **CLOSE)
    hidden = batch.hide(batch.modality == label)
    torch.testing.assert_close(logits_of(model, hidden), golden["io/logits_unconditional"][..., :CODES], **CLOSE)

    names = ["cls_emb", "tok_emb", "transformer.layers.0", "transformer.layers.1", "last_norm"]
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, given, made: seen.update({name: made})

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    dropped = batch.hide((batch.modality == label) & golden["io/drop"].bool()[:, None])
    torch.testing.assert_close(logits_of(model, dropped), golden["io/logits"][..., :CODES], **CLOSE)
    for handle in handles:
        handle.remove()
    for name in names:
        torch.testing.assert_close(seen[name].reshape(golden[f"io/mid.{name}"].shape), golden[f"io/mid.{name}"], **CLOSE)


def test_a_row_without_a_label_has_the_null_condition_and_hidden_cells_change_nothing(
    model: HaltonTransformer, golden: dict[str, Tensor]
) -> None:
    batch = rows(model, golden)
    label, image = (batch.modality == model.space.index(name) for name in ("label", "image"))
    null = logits_of(model, batch.hide(label))
    absent = pack([{"image": grid["image"]} for grid in unpack(batch, model.space)], model.space)
    masked = batch.with_ids(batch.ids.masked_fill(label[..., None], 1))
    for other in (absent, masked):
        torch.testing.assert_close(logits_of(model, other), null, **CLOSE)

    last = image & (torch.arange(batch.ids.shape[1]) > 12)
    some, others = batch.hide(last), batch.with_ids(torch.where(last[..., None], batch.ids.flip(0), batch.ids)).hide(last)
    assert torch.equal(logits_of(model, some), logits_of(model, others))
    assert not torch.allclose(logits_of(model, some)[:, :12], logits_of(model, batch)[:, :12])
    assert not bool(model(some)[last | label].any())


def test_rows_that_are_no_whole_image_are_refused(model: HaltonTransformer) -> None:
    for grid in ((4, 3), (2, 8), (5, 5)):
        with pytest.raises(ValueError, match=f"one image of 4 x 4 cells a row, got {grid[0]} x {grid[1]}"):
            model(pack([{"image": torch.zeros(1, *grid, dtype=torch.long)}], model.space))
    with pytest.raises(ValueError, match="predicts image codes alone"):
        model.logits(torch.zeros(1, 24), 2, CLASSES)


def race(noise: Tensor, asked: list[tuple[Tensor, int]]) -> Any:
    """Stands for `draw`: the authors' draw with their noise, code = arg max of p / q."""

    def drawn(logits: Tensor, rows: Tensor, generators: Any, *, temperature: float, cut: Cut) -> tuple[Tensor, Tensor]:
        cells, step = asked[-1]
        shares = (logits / temperature).softmax(dim=-1)
        codes = None
        if cut.top_k is not None:
            shares, codes = shares.topk(cut.top_k)
        picked = (shares / noise[step][cells.flatten()][:, : shares.shape[1]]).argmax(dim=-1)
        found = picked if codes is None else codes.gather(-1, picked[:, None])[:, 0]
        return found, torch.zeros(len(found))

    return drawn


def remembered(logits_fn: Any, asked: list[tuple[Tensor, int]], steps: int) -> Any:
    """The same logits; which cells of the image were asked for at which step is noted."""

    def asking(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        asked.append((cells[batch.modality == segment.index].view(len(batch), -1), round(progress * steps)))
        found: Tensor = logits_fn(batch, cells, segment, progress)
        return found

    return asking


def test_the_authors_sampler_with_guidance_and_temperatures_equals_ours(
    model: HaltonTransformer, golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """w = 2 is a guidance scale of 3; logits times 0.8 to 1.2, halved at the first step."""
    batch, image, asked = rows(model, golden, blank=True), model.space.of("image")[0], list[tuple[Tensor, int]]()
    guided = guided_model(model, hide_condition((model.space.index("label"),)), ConstantGuidance(3.0))
    every = batch.modality == image.index
    first = golden["io/sampler_first_guided_logits"][..., :CODES]
    torch.testing.assert_close(guided(batch, every, image, 0.0).view_as(first), first, **CLOSE)

    monkeypatch.setattr(base, "draw", race(golden["io/sampler_exp"], asked))
    sampler = HaltonSampler(steps=5, temperature=1 / 0.8, sharpening=1.5, soft_steps=1)
    made, trajectory = sampler.sample(remembered(guided, asked, 5), batch, image, [torch.Generator(), torch.Generator()])
    codes = trajectory.codes[:, every].view(5, 2, SIDE, SIDE)
    assert torch.equal(codes.masked_fill(codes == UNKNOWN, CODES), golden["io/sampler_codes"])
    assert torch.equal(trajectory.changed[:, every].view_as(codes).long(), golden["io/sampler_written"])
    assert torch.equal(made.ids[..., 0][every].view(2, SIDE, SIDE) - image.offset, golden["io/sampler_codes"][-1])


def test_the_authors_sampler_with_rolled_orders_and_top_k_equals_ours_and_only_theirs_draws_the_mask_id(
    model: HaltonTransformer, golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect of the reference: the mask id has a logit, is drawn, and becomes the last code at the end.

    So its run is repeated in a space of one code more, whose last code is the mask id.
    """
    label = Modality(name="label", kind="attribute", num_levels=1, codebook_size=CLASSES)
    wider = TokenSpace([label, Modality(name="image", kind="image", num_levels=1, codebook_size=CODES + 1)])
    batch, image, asked = rows(model, golden, blank=True), wider.of("image")[0], list[tuple[Tensor, int]]()
    every = batch.modality == image.index

    def theirs(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        return model.head(model(batch)[cells], CODES + 1)

    def generator_of(roll: int) -> torch.Generator:
        """A generator whose first number rolls the order as far."""
        for seed in range(1000):
            generator = torch.Generator().manual_seed(seed)
            if int(torch.randint(16, (), generator=generator)) == -roll % 16:
                return generator.manual_seed(seed)
        raise AssertionError(roll)

    monkeypatch.setattr(base, "draw", race(golden["io/sampler2_exp"], asked))
    sampler = HaltonSampler(steps=4, top_k=5, roll=True)
    generators = [generator_of(roll) for roll in golden["io/sampler2_roll"].tolist()]
    _, trajectory = sampler.sample(remembered(theirs, asked, 4), batch, image, generators)
    codes = trajectory.codes[:, every].view(4, 2, SIDE, SIDE)
    assert torch.equal(trajectory.changed[:, every].view_as(codes).long(), golden["io/sampler2_written"])
    wanted = golden["io/sampler2_codes"]
    assert torch.equal(codes[:3].masked_fill(codes[:3] == UNKNOWN, CODES), wanted[:3])
    assert torch.equal(codes[3].clamp(max=CODES - 1), wanted[3])
    assert int((codes[3] == CODES).sum()) == 4, "the reference drew the mask id"


def test_a_mask_id_that_is_likeliest_everywhere_is_never_drawn(model: HaltonTransformer, golden: dict[str, Tensor]) -> None:
    """The reference would fill the image with its last code."""
    made = HaltonTransformer(model.config)
    made.load_state_dict(model.state_dict())
    made.eval().requires_grad_(False).head.bias[CODES] = 1e4
    batch, image = rows(made, golden, blank=True), made.space.of("image")[0]
    plain = guided_model(made, hide_condition((made.space.index("label"),)), ConstantGuidance(1.0))
    filled, _ = HaltonSampler(steps=4).sample(plain, batch, image, [torch.Generator().manual_seed(row) for row in range(2)])
    codes = torch.stack([sample["image"] for sample in unpack(filled, made.space)])
    assert 0 <= int(codes.min()) < int(codes.max()) < CODES
    assert (codes == CODES - 1).float().mean() < 0.5


def test_the_orders_of_the_published_grids_equal_the_golden_ones(golden: dict[str, Tensor]) -> None:
    for side in (4, 16, 24):
        order = halton_order((side, side))
        assert torch.equal(torch.stack([order // side, order % side], dim=1), golden[f"io/sampler_order_{side}"])


@pytest.mark.parametrize(("side", "steps"), [(16, 32), (16, 8), (24, 32), (4, 5)])
def test_the_counts_of_the_published_schedule_equal_the_golden_ones(golden: dict[str, Tensor], side: int, steps: int) -> None:
    def counts(schedule: MaskSchedule) -> list[int]:
        total = torch.tensor([side * side])
        masked = [side * side, *(int(masked_after(schedule, step, steps, total, whole_ceil)) for step in range(steps))]
        return [before - after for before, after in pairwise(masked)]

    wanted = golden[f"io/sampler_counts_{side}x{side}_steps{steps}"].tolist()
    assert counts(ArccosFloat32()) == wanted
    assert (counts(Arccos()) == wanted) == (side != 24), "in exact arithmetic a third of 24 x 24 cells is a whole number"


def shapes_of(config: HaltonConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return HaltonTransformer(config).state_dict()


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (HaltonConfig(side=16, dim=384, num_layers=6, num_heads=6, feed_dim=1024), 23),
        (HaltonConfig(side=16, dim=512, num_layers=12, num_heads=6, feed_dim=1536), 69),
        (HaltonConfig(side=16, dim=768, num_layers=12, num_heads=12, feed_dim=2048), 142),
        (HaltonConfig(side=24, dim=1024, num_layers=24, num_heads=16, feed_dim=2816), 480),
    ],
)
def test_the_published_sizes_have_the_published_number_of_weights_and_are_read_back(config: HaltonConfig, millions: int) -> None:
    state = shapes_of(config)
    count = sum(tensor.numel() for name, tensor in state.items() if name != "head.weight")
    assert round(count / 1e6) == millions
    assert halton_config({name: tensor.shape for name, tensor in state.items()}) == config
    if config.side == 24:
        assert len(state) == 274
        assert sum(tensor.numel() for tensor in state.values()) == pytest.approx(496.76e6, abs=0.005e6)


def test_shapes_of_no_published_size_are_refused() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in shapes_of(HaltonConfig(side=2, dim=384, num_layers=1, num_heads=6)).items()}
    with pytest.raises(ValueError, match=r"a tensor cls_emb.weight, the file has none"):
        halton_config({name: shape for name, shape in shapes.items() if name != "cls_emb.weight"})
    with pytest.raises(ValueError, match="2 x 2 codes"):
        halton_config({**shapes, "in_proj.weight": (384, 384, 2, 2)})
    with pytest.raises(ValueError, match="4 positions of width 100"):
        halton_config({**shapes, "pos_emb.weight": (4, 100)})
    with pytest.raises(ValueError, match="5 positions of width 384"):
        halton_config({**shapes, "pos_emb.weight": (5, 384)})
