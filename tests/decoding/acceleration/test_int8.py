import sys

import pytest
import torch
from builders.networks import randomised

from maskgen.decoding.acceleration.int8 import int8
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="image", kind="image", num_levels=2, codebook_size=5),
    ]
)


@pytest.fixture
def model() -> MaskTransformer:
    torch.manual_seed(0)
    made = MaskTransformer(TransformerConfig(dim=64, num_layers=2, num_heads=2), SPACE.size, 2).eval()
    randomised(made, 0.1)
    return made


def test_without_torchao_the_error_names_the_extra(model: MaskTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r"pip install maskgen\[int8\]"):
        int8(model)


@torch.no_grad()
def test_8_bits_stay_near_the_model_and_leave_it_as_it_was(model: MaskTransformer) -> None:
    pytest.importorskip("torchao")
    batch = pack([{"text": torch.tensor([[1, 5, 9]]), "image": torch.arange(18).reshape(2, 3, 3) % 6 - 1}] * 2, SPACE)
    before, weights = model(batch), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = int8(model)
    assert type(small.blocks[0].attention.qkv.weight) is not torch.nn.Parameter, "the product is another one"
    distance = (small(batch) - before).norm() / before.norm()
    assert 0 < distance < 0.05
    assert torch.equal(model(batch), before)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert small.embed.weight.dtype == torch.float32
