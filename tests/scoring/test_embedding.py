"""Features: the model's own hidden states, of each row alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from maskgen.networks.transformer import MaskTransformer
from maskgen.pipelines.base import Pipeline
from maskgen.scoring.features import embed_rows, hidden_states
from maskgen.tokens.packing import pack

GRID = torch.arange(24).reshape(2, 3, 4) % 16
ROW = {"text": "a red heart", "image": GRID}


@torch.no_grad()
def test_the_last_layer_is_the_model_s_output_and_the_others_lead_to_it(tiny_pipeline: Pipeline) -> None:
    model, codes = tiny_pipeline.model, {**tiny_pipeline.text_codes("a red heart"), "image": GRID}
    batch = pack([codes], tiny_pipeline.space)
    whole = model(batch)
    entered: list[torch.Tensor] = []
    watches = [block.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0])) for block in model.blocks]
    hidden_states(model, batch)
    for watch in watches:
        watch.remove()
    assert torch.equal(hidden_states(model, batch), whole)
    assert torch.equal(hidden_states(model, batch, 2), whole)
    for layer in (0, 1):
        assert torch.equal(hidden_states(model, batch, layer), entered[layer])
        assert torch.equal(hidden_states(model, batch, layer - 3), entered[layer])
    (cells,) = tiny_pipeline.embed([codes], pool="none")
    assert torch.equal(cells["image"], whole[0, -12:].reshape(3, 4, -1))
    assert torch.equal(cells["text"], whole[0, :-12])


def test_mean_is_the_mean_of_the_cells_and_the_same_to_the_last_bit_in_any_company(tiny_pipeline: Pipeline) -> None:
    rows = [ROW, {"text": "a"}, {"image": torch.zeros(2, 4, 4, dtype=torch.long)}]
    together = tiny_pipeline.embed(rows, layer=1)
    assert [set(one) for one in together] == [set(row) for row in rows]
    for row, found in zip(rows, together, strict=True):
        (alone,), (cells,) = tiny_pipeline.embed([row], layer=1), tiny_pipeline.embed([row], layer=1, pool="none")
        for name in row:
            assert torch.equal(found[name], alone[name])
            torch.testing.assert_close(found[name], cells[name].flatten(0, -2).mean(dim=0))


def test_rows_that_go_together_give_the_same_features_but_for_rounding(tiny_pipeline: Pipeline) -> None:
    model = tiny_pipeline.model
    double = MaskTransformer(model.config, tiny_pipeline.space.size, 2).double()
    double.load_state_dict(model.state_dict())
    codes = [{**tiny_pipeline.text_codes(text), "image": GRID} for text in ("a", "a red heart, flat style")]
    for together, alone in zip(embed_rows(double, tiny_pipeline.space, codes), tiny_pipeline.embed(codes), strict=True):
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_a_condition_that_is_blind_sees_nothing_of_the_target_here_either(tiny_pipeline: Pipeline) -> None:
    space = tiny_pipeline.space
    model = MaskTransformer(replace(tiny_pipeline.model.config, blind_condition=True), space.size, 2).eval()
    codes = {**tiny_pipeline.text_codes("a red heart"), "image": GRID}
    with pytest.raises(ValueError, match="say which modality is the target"):
        embed_rows(model, space, [codes])
    one, two = embed_rows(model, space, [codes, {**codes, "image": GRID.flip(1)}], 1, "mean", "image")
    assert torch.equal(one["text"], two["text"])
    assert not torch.equal(one["image"], two["image"])


@pytest.mark.parametrize(
    ("row", "options", "sentence"),
    [
        (ROW, {"layer": 3}, "layers 0 .its input. to 2"),
        (ROW, {"layer": -4}, "got -4"),
        ({}, {}, "row 0 has no cell"),
        ({"sound": GRID}, {}, "no modality 'sound'"),
    ],
)
def test_bad_calls_are_refused_with_a_sentence(
    tiny_pipeline: Pipeline, row: dict[str, Any], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny_pipeline.embed([row], **options)
