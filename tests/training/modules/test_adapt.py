"""A pretrained start: it learns a planted grammar faster, leaves a checkpoint that needs no backbone, and refuses strange shards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders.shards import empty_shards
from builders.training import loader, trainer
from torch import Tensor

from maskgen.io.checkpoint import read_checkpoint, weights
from maskgen.networks.auto import network_of
from maskgen.tokenizers.text import train_bpe
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace
from maskgen.training.modules.adapt import AdaptedTokenModule

transformers: Any = pytest.importorskip("transformers")
WORDS, LENGTH = 40, 12
SPACE = TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=WORDS)])
NEXT = torch.randperm(WORDS, generator=torch.Generator().manual_seed(5))
"""The grammar: after word v comes word NEXT[v], but one word in ten is any word."""


def sentences(rows: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    found = [torch.randint(0, WORDS, (rows,), generator=draw)]
    for _ in range(LENGTH - 1):
        strays = torch.randint(0, WORDS, (rows,), generator=draw)
        found.append(torch.where(torch.rand(rows, generator=draw) < 0.1, strays, NEXT[found[-1]]))
    return torch.stack(found, dim=1)


def batches(count: int, seed: int) -> list[TokenBatch]:
    return [pack([{"text": row[None]} for row in sentences(16, seed + number)], SPACE) for number in range(count)]


def language_model(folder: Path, steps: int) -> str:
    """A tiny GPT-2 after so many steps of next-token prediction on the grammar."""
    torch.manual_seed(0)
    options = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": LENGTH, "bos_token_id": 0, "eos_token_id": 0}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=WORDS, **options))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        text = sentences(16, 1000 + step)
        model(text, labels=text).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return empty_shards(tmp_path_factory.mktemp("shards"), SPACE, {"text": "0" * 64})


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> str:
    return language_model(tmp_path_factory.mktemp("learned"), 120)


def module(shards: str, backbone: str, steps: int, **options: Any) -> AdaptedTokenModule:
    options = {"drop_condition": 0.0, "causal_anneal_steps": steps // 2, "max_steps": steps, "warmup_steps": 2, "lr": 3e-3, **options}
    return AdaptedTokenModule(shards, backbone, **options)


def validated(trained: AdaptedTokenModule, folder: Path, steps: int) -> float:
    """Validation loss after training."""
    running = trainer(folder, steps)
    running.fit(trained, loader(batches(steps, 0)))
    found = running.validate(trained, loader(batches(4, 5000)), verbose=False)
    return float(found[0]["val/loss_text_level0"])


@pytest.mark.slow
def test_a_pretrained_start_learns_the_grammar_better_than_a_random_one_in_equal_steps(shards: str, learned: str, tmp_path: Path) -> None:
    steps = 30
    random = language_model(tmp_path / "random", 0)
    begun = module(shards, learned, steps)
    assert all(part.training for part in begun.modules()), "from_pretrained leaves dropout off"
    ours = validated(begun, tmp_path, steps)
    theirs = validated(module(shards, random, steps), tmp_path, steps)
    assert ours < theirs - 0.3, f"pretrained {ours:.3f}, random {theirs:.3f}"


def test_the_checkpoint_rebuilds_the_network_without_the_backbone(shards: str, learned: str, tmp_path: Path) -> None:
    trained = module(shards, learned, 4)
    running = trainer(tmp_path, 2)
    running.fit(trained, loader(batches(2, 0)))
    running.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = read_checkpoint(tmp_path / "last.ckpt", "masked_transformer")
    assert learned not in str(checkpoint["maskgen"])
    again = network_of(checkpoint["maskgen"]["transformer"], SPACE)
    again.load_state_dict(weights(checkpoint, "model."))
    batch = batches(1, 7)[0]
    with torch.no_grad():
        assert torch.equal(again.eval()(batch), trained.model.eval()(batch))


def test_the_same_seed_trains_the_same_network(shards: str, learned: str, tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        trained = module(shards, learned, 4)
        trainer(tmp_path, 4).fit(trained, loader(batches(4, 0)))
        found.append(trained.model.embed.weight.detach().clone())
    assert torch.equal(*found)


def test_shards_in_other_codes_than_the_backbones_are_refused(shards: str, learned: str, tmp_path: Path) -> None:
    folder = Path(language_model(tmp_path / "words", 0))
    (folder / "tokenizer.json").write_text(train_bpe(["a red heart"], 256).vocabulary)
    with pytest.raises(ValueError, match=r"made by the tokenizer 000000000000…, the backbone .* rebuild: maskgen data tokenize --text"):
        AdaptedTokenModule(shards, str(folder))
