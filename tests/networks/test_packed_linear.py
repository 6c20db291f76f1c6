"""Products by oneDNN equal those of torch, and stand back where they may not be used."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from maskgen.networks.packed_linear import linear, packed, product
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.batch import TokenBatch


@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 5, 7), (2, 3, 4, 7), (0, 7)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_product_equals_torch(shape: tuple[int, ...], bias: bool) -> None:
    layer, x = nn.Linear(7, 6, bias=bias).requires_grad_(False), torch.randn(shape)
    wanted = functional.linear(x, layer.weight, layer.bias)
    with torch.no_grad():
        torch.testing.assert_close(product(x, layer.weight, layer.bias), wanted)
        torch.testing.assert_close(linear(layer, x), wanted)
        torch.testing.assert_close(product(x.transpose(0, -1).contiguous().transpose(0, -1), layer.weight, layer.bias), wanted)
        torch.testing.assert_close(packed(layer)(x) if x.numel() else wanted, wanted)


def test_product_stands_back_for_gradients_autocast_and_other_precisions() -> None:
    layer, x = nn.Linear(7, 6), torch.randn(4, 7)
    linear(layer, x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(dim=0).expand(6, -1))
    with torch.no_grad():
        assert linear(layer.double(), x.double()).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(layer.float(), x).dtype == torch.bfloat16


def test_a_layer_that_is_more_than_linear_is_called() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    layer, x = Doubled(7, 6), torch.randn(4, 7)
    with torch.no_grad():
        assert torch.equal(linear(layer, x), 2 * functional.linear(x, layer.weight, layer.bias))
        assert torch.equal(packed(nn.Sequential(layer))(x), layer(x))


def test_a_packed_transformer_equals_its_model_which_is_not_changed() -> None:
    model = MaskTransformer(TransformerConfig(dim=32, num_layers=2, num_heads=2), 40, 2)
    before = copy.deepcopy(model.state_dict())
    ids, place = torch.randint(2, 40, (3, 9, 2)), torch.zeros(3, 9, dtype=torch.long)
    coords = torch.randint(9, (3, 9, 3))
    batch = TokenBatch(ids, place + 1, coords, torch.rand(3, 9) < 0.8, place, torch.zeros_like(coords))
    made = packed(model)
    with torch.no_grad():
        torch.testing.assert_close(made(batch), model(batch), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any("qkv" in name for name in made.state_dict())
    assert not made.training
