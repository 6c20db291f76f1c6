"""Held-out texts come whole, ended and by length; a text model is judged from the command line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.shards import empty_shards

from maskgen.cli.main import main
from maskgen.data.shards.format import json_bytes, npy_bytes, write_shard
from maskgen.data.shards.manifest import Index, write_index
from maskgen.decoding.settings import GenerationSettings
from maskgen.evaluation.text.held_out import LengthLaw, by_length, ended, held_out_texts
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokens.space import Modality, TokenSpace

SIZE = 3
SPACE = TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=SIZE)])


def test_lengths_have_a_law_that_sums_to_one_and_knows_what_it_saw() -> None:
    law = LengthLaw([3, 3, 3, 5])
    assert sum(math.exp(-law.nats(length)) for length in range(1, 400)) == pytest.approx(1.0)
    assert law.nats(3) < law.nats(5) < law.nats(4)


def test_batches_are_of_like_length_and_lose_no_text() -> None:
    rows = [{"text": torch.zeros(1, length, dtype=torch.long)} for length in (5, 1, 4, 2, 3)]
    assert [batch.valid.sum(dim=1).tolist() for batch in by_length(rows, SPACE, 2)] == [[1, 2], [3, 4], [5]]


def test_shards_of_another_space_are_refused(tmp_path: Path) -> None:

    empty_shards(tmp_path, SPACE)
    other = TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=9)])
    with pytest.raises(ValueError, match="give the shards that the model was trained on"):
        held_out_texts(str(tmp_path), other, "text")


def test_a_text_has_one_end_and_more_where_a_canvas_is_to_be_filled() -> None:
    assert ended(torch.tensor([[4, 5]]), 9).tolist() == [[4, 5, 9]]
    assert ended(torch.tensor([[4, 5, 9, 9]]), 9).tolist() == [[4, 5, 9]]
    assert ended(torch.tensor([[4, 5]]), 9, 6).tolist() == [[4, 5, 9, 9, 9, 9]]
    assert ended(torch.tensor([[4, 5, 6]]), 9, 2).tolist() == [[4, 5, 6, 9]]


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory, tiny_text: TextTokenizer) -> tuple[str, str]:
    """A folder of a text model whose logits are all alike, and token shards for it."""
    folder = tmp_path_factory.mktemp("text")
    space = TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=tiny_text.codebook_size)])
    model = MaskTransformer(TransformerConfig(dim=16, num_layers=1, num_heads=1), space.size, 1)
    torch.nn.init.zeros_(model.head.weight)
    settings = {"text": GenerationSettings(sampler="ancestral", steps=(3,))}
    Pipeline(model, space, {"text": tiny_text}, settings).save_pretrained(folder / "model")
    (folder / "tokens").mkdir()
    rows = [(f"row-{row}", tiny_text.encode([f"a red heart {'star ' * row}"])[0].numpy().astype(np.int16)) for row in range(6)]
    shards = [
        write_shard(
            folder / "tokens" / f"{split}-000000.tar",
            split,
            [(key, {"json": json_bytes({}), "text.npy": npy_bytes(codes)}) for key, codes in rows],
        )
        for split in ("train", "validation")
    ]
    prints = {"text": tiny_text.fingerprint}
    write_index(folder / "tokens", Index(kind="tokens", shards=tuple(shards), space=space.to_dict(), fingerprints=prints))
    return str(folder / "model"), str(folder / "tokens")


def test_the_verb_writes_the_bound_and_the_samples(
    text_model: tuple[str, str], tiny_text: TextTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokens = text_model
    main(
        ["evaluate", "text", "--model", model, "--shards", tokens, "--masks", "4", "--samples", "3", "--batch", "2", "--out", str(tmp_path)]
    )
    found = json.loads((tmp_path / "text.json").read_text())
    assert found["bound"]["nats_per_token"] == pytest.approx(math.log(tiny_text.codebook_size), rel=1e-3)
    assert found["bound"]["texts"] == 6
    assert found["samples"]["held out"]["tokens"] == found["samples"]["generated"]["tokens"]
    told = capsys.readouterr().out
    assert "perplexity at most" in told
    assert told.count("entropy") == 2


def test_the_verb_refuses_the_training_split_and_other_shards(text_model: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    model, tokens = text_model
    with pytest.raises(SystemExit):
        main(["evaluate", "text", "--model", model, "--shards", tokens, "--split", "train"])
    assert "wanted a held-out one" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "text", "--model", model, "--shards", tokens + "-missing"])
