"""A model bundle as the start of a training: its weights are taken, and what does not fit is refused by name."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.shards import empty_shards

from maskgen.networks.pretrained import load_pretrained
from maskgen.networks.transformer import TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace
from maskgen.training.modules.masked import MaskedTokenModule

SIZES = {"dim": 32, "num_layers": 2, "num_heads": 2}


@pytest.fixture
def shards(tmp_path: Path, tiny_space: TokenSpace, tiny_pipeline: Pipeline) -> str:
    return empty_shards(tmp_path / "shards", tiny_space, {name: one.fingerprint for name, one in tiny_pipeline.tokenizers.items()})


def started(shards: str, start: Path, **sizes: Any) -> MaskedTokenModule:
    return MaskedTokenModule(shards, TransformerConfig(**{**SIZES, **sizes}), [4, 4], start=str(start))


def test_a_bundle_gives_the_weights_that_the_pipeline_has(tiny_bundle: Path, tiny_pipeline: Pipeline) -> None:
    found, wanted = load_pretrained(tiny_bundle).model.state_dict(), tiny_pipeline.model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_training_starts_from_a_bundle_and_trains_all_of_it(tiny_bundle: Path, tiny_pipeline: Pipeline, shards: str) -> None:
    module = started(shards, tiny_bundle, dropout=0.1, rope_scaling="interpolate", rope_factor=2.0)
    wanted = tiny_pipeline.model.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in module.model.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.model.parameters())
    assert module.model.training
    assert (module.model.config.dropout, module.model.config.rope_scaling) == (0.1, "interpolate")


def test_a_tied_head_stays_tied(tmp_path: Path, tiny_pipeline: Pipeline, shards: str) -> None:
    module = MaskedTokenModule(shards, TransformerConfig(**SIZES, tie_head=True), [4, 4])
    tied = Pipeline(module.model, module.space, tiny_pipeline.tokenizers)
    tied.save_pretrained(tmp_path / "tied", half=True)
    again = started(shards, tmp_path / "tied", tie_head=True)
    assert again.model.head is again.model.embed
    assert torch.equal(again.model.embed.weight, module.model.embed.weight.half().float())


def test_another_space_is_refused_with_both_names(tmp_path: Path, tiny_bundle: Path, tiny_text: Any) -> None:
    text = Modality(name="text", kind="text", num_levels=1, codebook_size=tiny_text.codebook_size)
    other = TokenSpace([text, Modality(name="image", kind="image", num_levels=3, codebook_size=16)])
    with pytest.raises(ValueError, match=r"bundle has the token space .*image 2 x 16 .*other have .*image 3 x 16"):
        started(empty_shards(tmp_path / "other", other, {}), tiny_bundle)


def test_other_sizes_are_refused_with_both(tiny_bundle: Path, shards: str) -> None:
    with pytest.raises(ValueError, match=r"bundle has num_layers=2, rope_base=1000\.0, this training has num_layers=3, rope_base=100\.0"):
        started(shards, tiny_bundle, num_layers=3, rope_base=100.0)


def test_further_heads_are_not_heard_at_first_and_learn(tiny_bundle: Path, tiny_pipeline: Pipeline, shards: str) -> None:
    grown = started(shards, tiny_bundle, num_heads=3, head_width=16).model
    assert grown.blocks[0].attention.qkv.weight.shape == (3 * 48, 32)
    assert len(grown.blocks[0].attention.qkv.weight[32:48].unique(dim=0)) == 16  # a new head is no constant
    batch = pack([{"text": torch.arange(5)[None], "image": torch.arange(32).view(2, 4, 4) % 16}], tiny_pipeline.space)
    found = grown(batch)
    torch.testing.assert_close(found, tiny_pipeline.model(batch), atol=1e-6, rtol=1e-5)
    found.square().sum().backward()
    assert grown.blocks[0].attention.out.weight.grad[:, 32:].any()
    with pytest.raises(ValueError, match="bundle has num_heads=2, this training has num_heads=1"):
        started(shards, tiny_bundle, num_heads=1, head_width=16)


def test_modalities_behind_those_of_the_shards_are_left_out(
    tmp_path: Path, tiny_bundle: Path, tiny_space: TokenSpace, tiny_pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    shorter = TokenSpace(tiny_space.modalities[:1])
    folder = empty_shards(tmp_path / "texts", shorter, {"text": tiny_pipeline.tokenizers["text"].fingerprint})
    with caplog.at_level(logging.WARNING):
        module = MaskedTokenModule(folder, TransformerConfig(**SIZES), None, target="text", start=str(tiny_bundle))
    assert not caplog.records
    wanted = tiny_pipeline.model.embed.weight
    assert module.model.embed.weight.shape == (shorter.size, 32)
    assert torch.equal(module.model.embed.weight, wanted[: shorter.size])
    assert torch.equal(module.model.blocks[1].feed.out.weight, tiny_pipeline.model.blocks[1].feed.out.weight)


def test_codes_of_another_tokenizer_are_taken_with_a_warning(
    tmp_path: Path, tiny_bundle: Path, tiny_space: TokenSpace, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        started(empty_shards(tmp_path / "strange", tiny_space, {"text": "0" * 64, "image": "1" * 64}), tiny_bundle)
    assert [record.getMessage().split("another ")[1].split(" ")[0] for record in caplog.records] == ["image", "text"]
