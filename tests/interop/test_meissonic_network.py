"""Meissonic's transformer beside golden tensors of the authors' own classes: random weights under the published names."""

from typing import Any

import pytest
import torch
from builders.meissonic import close, golden, network
from torch import Tensor

from maskgen.interop.meissonic_blocks import rotations
from maskgen.interop.meissonic_network import MeissonicConfig, MeissonicTransformer

CPU = torch.device("cpu")


def test_every_tensor_of_the_golden_file_is_reproduced() -> None:
    model, io = network(), golden()[2]
    seen: dict[str, Any] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda module, given, made, name=name: seen.update({name: made}))  # type: ignore[misc]
    for name, time in (("logits_t0", torch.zeros(2)), ("logits", io["timestep"].float().expand(2))):
        hidden = model(io["ids"], io["text"], io["pooled"], io["micro_conds"], time)
        close(model.mlm_layer.logits(hidden.flatten(0, 2)).view(2, 8, 8, 20).permute(0, 3, 1, 2), io[name])
    middle = {name.removeprefix("mid."): value for name, value in io.items() if name.startswith("mid.")}
    for name, wanted in middle.items():
        if name.startswith("pos_embed"):
            close(rotations(5, 4, 4, (2, 4, 4), CPU)[name.endswith("sin")], wanted)
        elif name.endswith((".text", ".picture")):
            close(seen[name.rsplit(".", 1)[0]][name.endswith("picture")], wanted)
        else:
            close(seen[name], wanted)
    assert len(middle) == 17


@pytest.mark.parametrize("grid", [(2, 6), (4, 4), (8, 2)])
def test_positions_follow_the_grid(grid: tuple[int, int]) -> None:
    """The reference chooses positions by `height == 1024`: below it, a network with down-sampling gets four times too many and fails."""
    small, large = (rotations(3, *sides, (2, 4, 4), CPU) for sides in (grid, (8, 8)))
    for few, many in zip(small, large, strict=True):
        assert torch.equal(few[3:].view(*grid, 10), many[3:].view(8, 8, 10)[: grid[0], : grid[1]])
    model, io = network(), golden()[2]
    ids = io["ids"].repeat(1, 2, 2)[:, : 2 * grid[0], : 2 * grid[1]]
    assert model(ids, io["text"], io["pooled"], io["micro_conds"], torch.zeros(2)).shape == (2, 2 * grid[0], 2 * grid[1], 20)
    with pytest.raises(ValueError, match="has 4 x 3 codes, wanted multiples of 2; choose another width and height"):
        model(ids[:, :4, :3], io["text"], io["pooled"], io["micro_conds"], torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_time_and_sizes_are_exact_in_every_precision(dtype: torch.dtype) -> None:
    """The reference casts them to the precision of the network: in bfloat16 the first of 48 steps is 47,104 and not 47,000."""
    model, io = network().to(dtype), golden()[2]
    seen: list[Tensor] = []
    model.time_text_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    hidden = model(io["ids"], io["text"], io["pooled"], io["micro_conds"], torch.tensor([47.0, 3.0]))
    assert hidden.dtype == dtype
    assert seen[0].tolist() == [47000.0, 3000.0]


def test_the_published_sizes_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = MeissonicTransformer(MeissonicConfig(downsample=True, upsample=True))
    assert len(model.state_dict()) == 867
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6, 2) == 1006.95
