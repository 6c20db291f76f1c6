from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from torch import Tensor

from maskgen.decoding.acceleration.compiled import CompiledModel, rounded_up
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="image", kind="image", num_levels=2, codebook_size=5),
    ]
)


def transformer(**options: bool) -> MaskTransformer:
    torch.manual_seed(0)
    return MaskTransformer(TransformerConfig(dim=32, num_layers=2, num_heads=2, **options), SPACE.size, 2).eval()


def rows(count: int, words: int) -> TokenBatch:
    def sample(row: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(row * 100 + words)
        text = torch.randint(0, 11, (1, words + row % 2), generator=generator)
        return {"text": text, "image": torch.randint(-1, 5, (2, 2, 2), generator=generator)}

    return pack([sample(row) for row in range(count)], SPACE)


def check(model: MaskTransformer, passes: CompiledModel, shapes: list[tuple[int, int]], accuracy: float) -> None:
    before = []
    for count, words in shapes:
        batch = rows(count, words)
        hidden = passes(batch)
        before.append((hidden, hidden.clone()))
        with torch.no_grad():
            expected = model(batch)
            torch.testing.assert_close(hidden[batch.valid], expected[batch.valid], atol=accuracy, rtol=accuracy)
    assert all(torch.equal(now, then) for now, then in before), "an answer is not written over by a later pass"


@pytest.fixture
def untyped() -> Iterator[None]:
    """The shape checker of the tests is not for torch to trace."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_padding_and_cutting_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskgen.decoding.acceleration.compiled.compiled", lambda model, mode, backend: model)
    model = transformer()
    passes = CompiledModel(model, multiple=4)
    check(model, passes, [(count, words) for count in (1, 2, 3, 5) for words in (1, 3, 4, 7, 11)], 1e-5)
    assert passes.shapes == {(count, length) for count in (1, 2, 4, 8) for length in (8, 12, 16)}, "few shapes"


def test_a_window_is_padded_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskgen.decoding.acceleration.compiled.compiled", lambda model, mode, backend: model)
    model, batch, window = transformer(), rows(3, 6), torch.tensor([1, 0, 2])
    with torch.no_grad():
        expected = model(batch, window=window)
    assert not torch.allclose(expected, model(batch), atol=1e-3)
    torch.testing.assert_close(CompiledModel(model, multiple=4)(batch, window=window)[batch.valid], expected[batch.valid])


@pytest.mark.slow
@pytest.mark.usefixtures("untyped")
def test_each_shape_is_compiled_once_and_more_of_them_than_torch_allows() -> None:
    made = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        made.append(graph)
        return graph.forward

    model = transformer()
    passes = CompiledModel(model, multiple=2, batches=[2, 6], backend=backend)
    check(model, passes, [(count, words) for count in (1, 2, 3) for words in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)], 1e-5)
    assert len(made) == len(passes.shapes) > 8


def test_batches_are_padded_to_the_next_size() -> None:
    assert [rounded_up(count, None) for count in (1, 2, 3, 4, 5, 33)] == [1, 2, 4, 4, 8, 64]
    assert [rounded_up(count, [6, 1, 2]) for count in (1, 2, 3, 6)] == [1, 2, 6, 6]
    with pytest.raises(ValueError, match="a batch has 7 rows, the largest compiled size is 6"):
        rounded_up(7, [6, 1, 2])


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple must be at least 1"):
        CompiledModel(transformer(), multiple=0)
    with pytest.raises(ValueError, match="batches name a size"):
        CompiledModel(transformer(), batches=[])
    with pytest.raises(ValueError, match="PrefixCacheModel"):
        CompiledModel(transformer(blind_condition=True))


@pytest.mark.slow
@pytest.mark.usefixtures("untyped")
def test_inductor_equals_the_plain_model() -> None:
    model = transformer()
    check(model, CompiledModel(model, multiple=8), [(1, 2), (2, 7), (1, 3)], 1e-4)


@pytest.mark.gpu
@pytest.mark.usefixtures("untyped")
def test_cuda_graphs_equal_the_plain_model() -> None:
    model = transformer().cuda()
    passes = CompiledModel(model, multiple=8, mode="reduce-overhead")
    for count, words in ((1, 2), (2, 7)) * 4:
        batch = rows(count, words).to("cuda")
        with torch.no_grad():
            expected = model(batch)
        torch.testing.assert_close(passes(batch)[batch.valid], expected[batch.valid], atol=1e-3, rtol=1e-3)
