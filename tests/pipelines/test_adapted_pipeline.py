"""A pipeline around an adapted backbone: saved, moved and loaded without the backbone's folder, it writes the same texts."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.adapted import AdaptedTransformer, adapt
from maskgen.networks.pretrained import load_pretrained
from maskgen.pipelines.base import Pipeline
from maskgen.scoring.estimators import ScoreSettings
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, TokenSpace

transformers: Any = pytest.importorskip("transformers")
SETTINGS = GenerationSettings(steps=(3,), guidance_scale=2.0)


@pytest.fixture
def pipeline(tmp_path: Path, tiny_text: TextTokenizer, tiny_space: TokenSpace) -> Pipeline:
    torch.manual_seed(0)
    options = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=300, **options)).save_pretrained(tmp_path / "gpt2")
    text = TransformersTextTokenizer(tiny_text.vocabulary)
    model = adapt(str(tmp_path / "gpt2"), tiny_space)
    shutil.rmtree(tmp_path / "gpt2")
    image = tiny_space.modality("image")
    return Pipeline(model, tiny_space, {"text": text}, {"text": SETTINGS, "image": SETTINGS}, {"text": (8,), image.name: (4, 4)})


def test_an_adapted_pipeline_comes_back_without_its_backbone(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "model", half=False)
    again = Pipeline.from_pretrained(tmp_path / "model")
    assert isinstance(again.model, AdaptedTransformer)
    image = torch.randint(0, 16, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    made = [one.generate([{"image": image}, {}], "text", [1, 2]) for one in (pipeline, again)]
    assert made[0].media == made[1].media
    assert all(map(torch.equal, made[0].codes, made[1].codes))
    alone = again.generate([{"image": image}], "text", [1])
    assert torch.equal(alone.codes[0], made[0].codes[0])


def test_half_precision_loads(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "model", half=True)
    assert Pipeline.from_pretrained(tmp_path / "model").generate([{}], "text", [1]).codes[0].shape == (1, 8)


def test_what_needs_our_own_blocks_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need maskgen's own transformer"):
        pipeline.generate([{}], "text", [1], SETTINGS.changed(refresh=2))
    pipeline.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="is an adapted backbone"):
        load_pretrained(tmp_path / "model")


def test_features_are_those_of_the_cells_and_a_score_is_that_of_naive_masks(pipeline: Pipeline) -> None:
    text = torch.tensor([[5, 6, 7, 8]])
    (found,) = pipeline.embed([{"text": text}], pool="none")
    batch = pack([{"text": text}], pipeline.space)
    assert isinstance(pipeline.model, AdaptedTransformer)
    wanted = pipeline.model.states(batch)[0]
    assert torch.equal(found["text"], wanted)
    assert not torch.equal(wanted, pipeline.model(batch)[0])
    with pytest.raises(ValueError, match="features of its last layer, -1, alone; got 1"):
        pipeline.embed([{"text": text}], layer=1)
    (score,) = pipeline.score([{"text": text}], "text", settings=ScoreSettings(estimator="pseudo"))
    segment, total = pipeline.space.segment("text", 0), 0.0
    for cell in range(4):
        ids = batch.ids.clone()
        ids[0, cell, 0] = MASK
        hidden = pipeline.model(batch.with_ids(ids))[0, cell]
        total += float(pipeline.model.logits(hidden[None], segment.offset, segment.size).log_softmax(dim=-1)[0, text[0, cell]])
    assert score.total == pytest.approx(total, abs=1e-4)
