import pytest
import torch
from torch import Tensor

from maskgen.networks.attention import explicit_attention
from maskgen.networks.transformer import MaskTransformer, TransformerConfig, rope_frequencies, rotate
from maskgen.tokens.batch import TokenBatch, stack
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
    return MaskTransformer(TransformerConfig(dim=32, num_layers=2, num_heads=2), SPACE.size, 2).eval()


def hidden(model: MaskTransformer, batch: TokenBatch) -> Tensor:
    with torch.no_grad():
        return model(batch)


def sample(words: int, rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(words * 10 + rows)
    return {
        "text": torch.randint(0, 11, (1, words), generator=generator),
        "image": torch.randint(-1, 5, (2, rows, 2), generator=generator),
    }


def test_padding_never_changes_a_row(model: MaskTransformer) -> None:
    alone = pack([sample(2, 2)], SPACE)
    together = pack([sample(2, 2), sample(5, 3)], SPACE)
    length = alone.ids.shape[1]
    assert torch.allclose(hidden(model, alone)[0], hidden(model, together)[0, :length], atol=1e-5)
    noisy = together.with_ids(torch.where(together.valid[..., None], together.ids, 7))
    assert torch.equal(hidden(model, noisy)[0, :length], hidden(model, together)[0, :length])


def test_a_hidden_condition_equals_an_absent_one(model: MaskTransformer) -> None:
    batch = pack([sample(3, 2)], SPACE)
    without = pack([{"image": sample(3, 2)["image"]}], SPACE)
    hidden_text = batch.hide(batch.cells(1))
    assert torch.allclose(hidden(model, hidden_text)[0, 3:], hidden(model, without)[0], atol=1e-5)


def test_documents_in_one_row_never_see_each_other(model: MaskTransformer) -> None:
    first, second = pack([sample(2, 2)], SPACE), pack([sample(4, 3)], SPACE)
    joined = TokenBatch(
        *(torch.cat([getattr(first, name), getattr(second, name)], dim=1) for name in ("ids", "modality", "coords", "valid")),
        torch.cat([torch.zeros_like(first.document), torch.ones_like(second.document)], dim=1),
        torch.cat([first.extent, second.extent], dim=1),
    )
    apart = torch.cat([hidden(model, first), hidden(model, second)], dim=1)
    assert torch.allclose(hidden(model, joined), apart, atol=1e-5)


def test_attention_depends_on_relative_places_only() -> None:
    config = TransformerConfig(dim=64, num_heads=2)
    frequencies = rope_frequencies(config)
    assert (frequencies > 0).sum(dim=0).tolist() == [1] * 16, "each pair turns with one axis"
    query, key = torch.randn(1, 1, 1, 32), torch.randn(1, 1, 1, 32)

    def score(at: list[int], other: list[int]) -> Tensor:
        turned = []
        for vector, place in ((query, at), (key, other)):
            angles = torch.tensor(place, dtype=torch.float) @ frequencies
            turned.append(rotate(vector, (angles.cos()[None, None, None], angles.sin()[None, None, None])))
        return (turned[0] * turned[1]).sum()

    assert torch.allclose(score([1, 2, 3], [4, 0, 5]), score([11, 7, 4], [14, 5, 6]), atol=1e-4)
    assert not torch.allclose(score([1, 2, 3], [4, 0, 5]), score([1, 2, 3], [4, 1, 5]), atol=1e-3)


def test_explicit_attention_equals_sdpa() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 5, 8)
    seen = torch.rand(2, 1, 5, 5) > 0.4
    seen |= torch.eye(5, dtype=torch.bool)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    assert torch.allclose(explicit_attention(query, key, value, seen), expected, atol=1e-5)


def test_logits_cover_one_level_alone(model: MaskTransformer) -> None:
    segment = SPACE.segment("image", 1)
    states = hidden(model, pack([sample(2, 2)], SPACE))[0]
    logits = model.logits(states, segment.offset, segment.size)
    assert torch.allclose(logits, (states @ model.head.weight.T)[:, segment.offset : segment.offset + segment.size], atol=1e-5)


def test_training_and_inference_agree(model: MaskTransformer) -> None:
    batch = stack(pack([sample(2, 2)], SPACE), pack([sample(5, 3)], SPACE))
    trained = model(batch)
    assert torch.allclose(trained[batch.valid], hidden(model, batch)[batch.valid], atol=1e-5)


@pytest.mark.parametrize("sizes", [{"dim": 30, "num_heads": 4}, {"dim": 12, "num_heads": 4}, {"rope_split": (0, 0, 0)}])
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="got"):
        TransformerConfig(**sizes)  # type: ignore[arg-type]
