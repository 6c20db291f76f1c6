"""The shortcut: exact where it must be, learned where it may be, row for row."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from builders.shards import empty_shards
from torch import Tensor
from torch.utils.data import DataLoader

from maskgen.decoding.acceleration.shortcut import ShortcutModel
from maskgen.decoding.guidance import ConstantGuidance
from maskgen.decoding.logits import TokenModel, guided_model, hide_condition, model_logits
from maskgen.decoding.settings import GenerationSettings
from maskgen.io.checkpoint import read_checkpoint, weights
from maskgen.networks.pretrained import load_pretrained
from maskgen.networks.shortcut import SHORTCUT_KIND, ShortcutBlock, ShortcutConfig
from maskgen.pipelines.base import Pipeline
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, TokenSpace
from maskgen.training.modules.shortcut import ShortcutModule

SMALL = ShortcutConfig(dim=32, inner_dim=16, num_heads=2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, tiny_space: TokenSpace) -> str:
    return empty_shards(tmp_path_factory.mktemp("shards"), tiny_space)


@pytest.fixture(scope="module")
def blank(tiny_space: TokenSpace, tiny_text: TextTokenizer) -> TokenBatch:
    """Rows of uneven length, targets unknown; the second has fewer cells."""
    texts = tiny_text.encode(["a red heart", "a star", "a blue square, 3d style"])
    grids = [(4, 4), (2, 3), (4, 4)]
    rows = [{"text": text, "image": torch.full((2, *grid), -1)} for text, grid in zip(texts, grids, strict=True)]
    return pack(rows, tiny_space)


def planted(config: ShortcutConfig = SMALL) -> ShortcutBlock:
    """A block whose answer is not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = ShortcutBlock(config).eval().requires_grad_(False)
        torch.nn.init.normal_(block.out.weight, std=0.2)
        if block.ratio is not None:
            torch.nn.init.normal_(block.ratio.weight, std=0.2)
    return block


def asked(model: TokenModel, batch: TokenBatch) -> Tensor:
    return model(batch)


def reveal(batch: TokenBatch, cells: int, seed: int) -> TokenBatch:
    """Level 0 of so many masked cells a row drawn at random."""
    draw, ids = torch.Generator().manual_seed(seed), batch.ids.clone()
    for row in range(len(batch)):
        places = (batch.valid[row] & (batch.ids[row, :, 0] == MASK)).nonzero()[:, 0][:cells]
        ids[row, places, 0] = torch.randint(2, 18, (len(places),), generator=draw)
    return batch.with_ids(ids)


def decode(model: TokenModel, batch: TokenBatch, pipeline: Pipeline, scale: float, first_seed: int = 0) -> Tensor:
    logits_fn = guided_model(model, hide_condition((1,)), ConstantGuidance(scale))
    generators = [torch.Generator().manual_seed(first_seed + row) for row in range(len(batch))]
    for segment in pipeline.space.of("image"):
        batch, _ = ConfidenceSampler(steps=4).sample(logits_fn, batch, segment, generators)
    return batch.ids


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_full_pass_every_time_is_exact(tiny_pipeline: Pipeline, blank: TokenBatch, scale: float) -> None:
    fast = ShortcutModel(tiny_pipeline.model, planted(), full_every=1)
    assert torch.equal(decode(fast, blank, tiny_pipeline, scale), decode(tiny_pipeline.model, blank, tiny_pipeline, scale))
    assert fast.model_calls == 8 * len(blank) * (1 if scale == 1 else 2)


def test_an_untrained_block_is_reuse_of_the_last_full_pass(tiny_pipeline: Pipeline, blank: TokenBatch) -> None:
    fast = ShortcutModel(tiny_pipeline.model, ShortcutBlock(SMALL).eval(), full_every=3)
    states = [blank]
    for seed in range(4):
        states.append(reveal(states[-1], 2, seed))
    found = [asked(fast, state) for state in states]
    exact = [asked(tiny_pipeline.model, state) for state in states]
    last_full = [0, 0, 0, 3, 3]
    for row in (0, 2):
        for step, full in enumerate(last_full):
            torch.testing.assert_close(found[step][row], exact[full][row], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(exact[0][0], exact[1][0], atol=1e-3)


@pytest.mark.parametrize("modulate", [True, False])
def test_the_block_sees_new_codes_their_place_and_how_much_is_masked(tiny_pipeline: Pipeline, blank: TokenBatch, modulate: bool) -> None:
    config = ShortcutConfig(dim=32, inner_dim=16, num_heads=2, modulate=modulate)
    block, hidden = planted(config), asked(tiny_pipeline.model, blank)
    token = torch.randn(hidden.shape[-1], generator=torch.Generator().manual_seed(0))
    tokens, changed = token.expand_as(hidden), torch.zeros_like(blank.valid)  # the same everywhere: only its place tells
    place = int(blank.valid[0].sum()) - 3
    changed[0, place] = True

    def answer(tokens: Tensor, changed: Tensor, ratio: float) -> Tensor:
        ratios = torch.full((len(blank),), ratio)
        found: Tensor = block(hidden, tokens, changed, blank, ratios)
        return found

    base = answer(tokens, changed, 0.5)
    assert bool(base.isfinite().all()), "rows without a new code must not divide by zero"
    assert not torch.allclose(base[0], answer(-tokens, changed, 0.5)[0])
    assert not torch.allclose(base[0], answer(tokens, changed.roll(1, dims=1), 0.5)[0])
    torch.testing.assert_close(base[1:], answer(-tokens, changed, 0.5)[1:])
    assert torch.allclose(base, answer(tokens, changed, 1.0)) != modulate


def test_a_row_is_the_same_alone_and_in_a_batch(tiny_pipeline: Pipeline, blank: TokenBatch) -> None:
    """Rows of other lengths end earlier, and a rewritten code sends its own row alone to a full pass."""
    states = [blank, reveal(blank, 3, 0)]
    states.append(reveal(states[-1], 3, 1))
    rewritten = states[-1].ids.clone()
    place = int((blank.ids[0, :, 0] == MASK).nonzero()[0])
    rewritten[0, place, 0] = MASK
    states.append(states[-1].with_ids(rewritten))
    states.append(reveal(states[-1], 2, 2))
    together = ShortcutModel(tiny_pipeline.model, planted(), full_every=4)
    found = [asked(together, state) for state in states]
    for row in range(len(blank)):
        solo = ShortcutModel(tiny_pipeline.model, planted(), full_every=4)
        for step, state in enumerate(states):
            own = state.alone(row)
            length = own.ids.shape[1]
            torch.testing.assert_close(found[step][row, :length], asked(solo, own)[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[3][0], asked(tiny_pipeline.model, states[3])[0], rtol=1e-4, atol=1e-4)


def test_another_prompt_is_never_answered_from_the_last_one(tiny_pipeline: Pipeline, blank: TokenBatch) -> None:
    fast, prompt = ShortcutModel(tiny_pipeline.model, planted(), full_every=100), blank.ids.clone()
    asked(fast, blank)
    prompt[:, 0, 0] += 1
    other = blank.with_ids(prompt)
    torch.testing.assert_close(asked(fast, other), asked(tiny_pipeline.model, other))
    hidden = other.hide(other.cells(1))  # the ids stay; only who is seen changes
    torch.testing.assert_close(asked(fast, hidden), asked(tiny_pipeline.model, hidden))


def test_a_pass_of_the_block_counts_as_its_share(tiny_pipeline: Pipeline, blank: TokenBatch) -> None:
    fast = ShortcutModel(tiny_pipeline.model, planted(), full_every=2)
    numbers = [sum(weight.numel() for weight in part.parameters()) for part in (fast.block, tiny_pipeline.model.blocks)]
    whole = blank.rows(torch.tensor([0, 2]))
    decode(fast, whole, tiny_pipeline, 1.0)
    assert fast.model_calls == pytest.approx(2 * (4 + 4 * numbers[0] / numbers[1]))


def module(shards: str, bundle: Path, **options: Any) -> ShortcutModule:
    torch.manual_seed(0)
    settings = GenerationSettings(steps=(3, 2), guidance_scale=2.0)
    return ShortcutModule(shards, str(bundle), settings, inner_dim=16, num_heads=2, **{"warmup_steps": 2, "max_steps": 100, **options})


def test_moves_are_consecutive_exact_passes_of_one_decode(
    shards: str, tiny_bundle: Path, tiny_pipeline: Pipeline, blank: TokenBatch
) -> None:
    moves = module(shards, tiny_bundle).moves(blank, torch.Generator().manual_seed(0))
    assert bool((moves.before != moves.after.ids).flatten(1).any(dim=1).all())
    assert bool((moves.before[moves.before != moves.after.ids] == MASK).all())
    for ids, hidden in ((moves.before, moves.hidden), (moves.after.ids, moves.wanted)):
        torch.testing.assert_close(tiny_pipeline.model(moves.after.with_ids(ids)), hidden, rtol=1e-4, atol=1e-4)
    assert len(moves.before) == 4 * 2 * len(blank), "five passes are four steps, in both views of guidance"


def test_training_beats_reuse_and_leaves_the_model_alone(
    shards: str, tiny_bundle: Path, tiny_pipeline: Pipeline, blank: TokenBatch, tmp_path: Path
) -> None:
    trained = module(shards, tiny_bundle, updates=8, max_steps=48, lr=1e-2)
    loader: DataLoader[Any] = DataLoader([blank] * 6, batch_size=None)  # type: ignore[arg-type]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}
    run = L.Trainer(max_steps=48, accelerator="cpu", default_root_dir=tmp_path, check_val_every_n_epoch=1, **quiet)
    run.fit(trained, loader, DataLoader([blank], batch_size=None))  # type: ignore[arg-type]
    assert run.global_step == 48
    assert float(run.callback_metrics["val/share_of_reuse"]) < 0.9
    wanted = tiny_pipeline.model.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in trained._generator[0].state_dict().items())

    run.save_checkpoint(tmp_path / "block.ckpt")
    checkpoint = read_checkpoint(tmp_path / "block.ckpt", SHORTCUT_KIND)
    assert all(name.startswith("block.") for name in checkpoint["state_dict"])
    block = ShortcutBlock.of(checkpoint["maskgen"]["block"], weights(checkpoint, "block."))
    block.save(tmp_path / "bundle", checkpoint["maskgen"]["generator"])
    again = ShortcutBlock.from_bundle(tmp_path / "bundle", load_pretrained(tiny_bundle).weights)
    halved = {name: tensor.half().float() for name, tensor in trained.block.state_dict().items()}
    assert all(torch.equal(tensor, halved[name]) for name, tensor in again.state_dict().items())
    with pytest.raises(ValueError, match="was trained on a model with weights"):
        ShortcutBlock.from_bundle(tmp_path / "bundle", "0" * 64)


def test_a_block_of_another_width_or_no_full_pass_is_refused(tiny_pipeline: Pipeline) -> None:
    with pytest.raises(ValueError, match="hidden states of width 16, the model has 32"):
        ShortcutModel(tiny_pipeline.model, ShortcutBlock(ShortcutConfig(dim=16, inner_dim=16)))
    with pytest.raises(ValueError, match="full_every must be at least 1"):
        ShortcutModel(tiny_pipeline.model, planted(), full_every=0)


def test_the_wrapper_is_a_token_model(tiny_pipeline: Pipeline, blank: TokenBatch) -> None:
    fast = ShortcutModel(tiny_pipeline.model, planted())
    assert isinstance(fast, TokenModel)
    segment = tiny_pipeline.space.segment("image", 0)
    cells = blank.cells(segment.index)
    torch.testing.assert_close(
        model_logits(fast)(blank, cells, segment, 0.0), model_logits(tiny_pipeline.model)(blank, cells, segment, 0.0)
    )
