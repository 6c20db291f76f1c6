"""The critic's training: it finds what the generator drew, its labels are as written, and the generator stays as it is."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.shards import empty_shards
from builders.training import loader, trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from maskgen.io.bundle import save_bundle
from maskgen.masking.masks import draw_masks
from maskgen.networks.critic import SelfCritic, TokenCritic, critic_scores, critic_states, export_critic, load_critic
from maskgen.networks.pretrained import load_pretrained
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace
from maskgen.training.modules.critic import CriticModule, area_under_curve

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=8),
        Modality(name="image", kind="image", num_levels=2, codebook_size=8),
    ]
)
TINY = TransformerConfig(dim=32, num_layers=1, num_heads=2)
PRINTS = {"text": "a" * 64, "image": "b" * 64}


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained generator, whose draws are all but uniform."""
    folder = tmp_path_factory.mktemp("generator")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskTransformer(TINY, SPACE.size, 2)
    config = {"space": SPACE.to_dict(), "transformer": dataclasses.asdict(TINY), "fingerprints": PRINTS, "grids": {}, "tokenizers": {}}
    save_bundle(folder, "pipeline", {**config, "generation": {}}, model.state_dict())
    return str(folder)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return empty_shards(tmp_path_factory.mktemp("shards"), SPACE, PRINTS)


IMAGES = [torch.tensor([colour, (colour + 3) % 8])[:, None, None].expand(2, 3, 3) for colour in range(8)]
COLOURS = pack([{"text": torch.tensor([[colour]]), "image": image} for colour, image in enumerate(IMAGES)], SPACE)


def plain(rows: int, seed: int = 0) -> TokenBatch:
    """Pictures of one colour a level; the caption names the colour of level 0, and level 1 follows it."""
    return COLOURS.rows(torch.randint(0, 8, (rows,), generator=torch.Generator().manual_seed(seed)))


def module(generator: str, shards: str, **options: Any) -> CriticModule:
    torch.manual_seed(0)
    return CriticModule(generator, shards, **{"max_steps": 100, "warmup_steps": 2, **options})


def learned(critic: CriticModule, steps: int, rows: int = 64) -> float:
    """AUC on new rows after some steps of its own optimizer."""
    made = critic.configure_optimizers()
    for step in range(steps):
        scores, fake = critic.judged(plain(rows, step), critic.level_weights, 0.0, step)
        made["optimizer"].zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(scores, fake.float()).backward()
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    with torch.no_grad():
        return float(area_under_curve(*critic.judged(plain(256, 10_000), critic.level_weights, 0.0, 10_000)))


def test_a_token_critic_learns_to_find_wrong_codes(generator: str, shards: str) -> None:
    critic = module(generator, shards, labels="wrong", lr=1e-2, max_steps=40)
    assert learned(critic, 0) < 0.7
    assert learned(critic, 40) > 0.95


def test_a_critic_may_start_from_the_generator_s_weights(generator: str, shards: str) -> None:
    critic = module(generator, shards, start="generator")
    made, batch = critic._generator[0], plain(4)
    assert torch.equal(critic_states(critic.critic.get_submodule("trunk"), batch, 2), critic_states(made, batch, 2))
    scores, _ = critic.judged(batch, critic.level_weights, 0.0, 0)
    scores.sum().backward()
    assert all(parameter.grad is None for parameter in made.parameters())
    elsewhere = module(generator, shards)
    assert not torch.allclose(critic_states(elsewhere.critic.get_submodule("trunk"), batch, 2), critic_states(made, batch, 2))


@pytest.mark.parametrize("kind", ["token", "self"])
def test_the_gradient_never_reaches_the_generator(generator: str, shards: str, kind: Any) -> None:
    critic = module(generator, shards, kind=kind)
    frozen = critic._generator[0].requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    scores, _ = critic.judged(plain(8), critic.level_weights, 0.0, 0)
    scores.sum().backward()
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.state_dict().items())
    assert critic.critic.score.weight.grad is not None
    own = {id(parameter) for group in critic.configure_optimizers()["optimizer"].param_groups for parameter in group["params"]}
    assert own.isdisjoint(map(id, frozen.parameters()))
    assert not any("generator" in name for name in critic.state_dict())


@pytest.mark.parametrize("labels", ["drawn", "wrong"])
def test_labels_are_as_written(generator: str, shards: str, labels: Any) -> None:
    """Rows, levels and cells one by one: drawn is what was masked, wrong only where the drawn code is another."""
    critic, batch = module(generator, shards, labels=labels), plain(12)
    _, fake = critic.judged(batch, [1.0, 1.0], 0.0, 5)
    masked = draw_masks(batch, critic.segments, critic.schedule, [1.0, 1.0], 0.0, torch.Generator().manual_seed(5))
    filled, _ = critic.filled(masked, torch.Generator().manual_seed(5))
    expected = []
    for row in range(12):
        level = int(masked.level[row])
        for place in range(1, 10):
            drawn = bool(masked.cells[row, place, level])
            wrong = bool(filled.ids[row, place, level] != batch.ids[row, place, level])
            assert drawn or not wrong
            expected.append(drawn if labels == "drawn" else wrong)
    assert fake.tolist() == expected
    assert len(set(masked.level.tolist())) == 2
    assert (filled.ids[..., 0][masked.level == 0] != 1).all()
    assert (filled.ids[..., 1][(masked.level == 0)][:, 1:] == 1).all(), "finer levels are still to come and stay hidden"


def test_the_draw_follows_the_generator_and_its_temperature(generator: str, shards: str) -> None:
    critic = module(generator, shards, temperature=0.0)
    masked = draw_masks(plain(6), critic.segments, critic.schedule, [1.0, 0.0], 0.0, torch.Generator().manual_seed(0))
    _, codes = critic.filled(masked, torch.Generator().manual_seed(0))
    model, here, seen = critic._generator[0], masked.cells[..., 0], masked.batch
    hidden = model(seen)
    assert torch.equal(codes[..., 0][here], model.logits(hidden[here], critic.segments[0].offset, 8).argmax(-1))
    assert (codes[..., 0][~here] == 0).all()


@pytest.mark.parametrize("kind", ["token", "self"])
def test_a_trained_critic_is_exported_and_scores_the_same(generator: str, shards: str, tmp_path: Path, kind: Any) -> None:
    critic = module(generator, shards, kind=kind, max_steps=3, warmup_steps=1)
    saving = ModelCheckpoint(dirpath=tmp_path, save_last=True, save_top_k=0)
    run = trainer(tmp_path, 3, saving, limit_val_batches=1)
    run.fit(critic, loader([plain(4, seed) for seed in range(3)]), loader([plain(4, 9)]))
    names = {"loss", "accuracy", "auc"}
    assert {f"val/{name}_critic_image_level{level}" for name in names for level in (0, 1)} <= set(run.callback_metrics)
    assert {"train/loss_critic_image", "train/accuracy_critic_image"} <= set(run.callback_metrics)
    export_critic(tmp_path / "last.ckpt", tmp_path / "bundle")
    found = load_pretrained(generator)
    read = load_critic(tmp_path / "bundle", found.model, found.weights)
    assert isinstance(read, TokenCritic if kind == "token" else SelfCritic)
    for segment in SPACE.of("image"):
        ours = critic_scores(critic.critic)(plain(2), segment)
        torch.testing.assert_close(critic_scores(read)(plain(2), segment), ours, rtol=1e-2, atol=1e-2)
        assert ours.std() > 0
    if kind == "self":
        with pytest.raises(ValueError, match="is a self-critic of the generator with weights"):
            load_critic(tmp_path / "bundle", found.model, "0" * 64)
        with pytest.raises(ValueError, match="stands on its generator's hidden states; give generator"):
            load_critic(tmp_path / "bundle")


@pytest.mark.parametrize("see_condition", [True, False])
def test_rows_are_scored_to_the_same_bits_alone_and_in_a_batch(see_condition: bool) -> None:
    torch.manual_seed(0)
    critic = TokenCritic(TransformerConfig(dim=96, num_layers=2, num_heads=3), SPACE, "image", see_condition)
    sizes = [(1, 6), (37, 3), (3, 5), (2, 2)]
    samples = [{"text": torch.ones(1, words, dtype=torch.long), "image": torch.full((2, n, n), n)} for words, n in sizes]
    score, segment = critic_scores(critic), SPACE.segment("image", 1)
    together = score(pack(samples, SPACE), segment)
    for row, sample in enumerate(samples):
        alone = score(pack([sample], SPACE), segment)[0]
        assert torch.equal(together[row, : len(alone)], alone)
    other = [{**sample, "text": sample["text"] + 1} for sample in samples]
    images = pack(samples, SPACE).cells(segment.index)
    assert torch.equal(score(pack(other, SPACE), segment)[images], together[images]) != see_condition


def test_a_critic_refuses_what_it_has_not_learned_to_judge() -> None:
    score = critic_scores(TokenCritic(TINY, SPACE, "image"))
    unrolled = dataclasses.replace(SPACE.segment("image", 0), offset=2)
    for segment in (SPACE.segment("text", 0), unrolled):
        with pytest.raises(ValueError, match="the critic judges single levels of image"):
            score(plain(1), segment)


def test_shards_with_other_codes_are_refused(generator: str, tmp_path: Path) -> None:
    other = TokenSpace([*SPACE.modalities, Modality(name="audio", kind="audio", num_levels=1, codebook_size=4)])
    with pytest.raises(ValueError, match="token space"):
        CriticModule(generator, empty_shards(tmp_path / "space", other, PRINTS))
    with pytest.raises(ValueError, match=r"made with the image tokenizer cccccccccccc…, .* was trained with bbbbbbbbbbbb…"):
        CriticModule(generator, empty_shards(tmp_path / "prints", SPACE, {**PRINTS, "image": "c" * 64}))
    with pytest.raises(ValueError, match="a self-critic is one linear layer on its generator"):
        CriticModule(generator, empty_shards(tmp_path / "good", SPACE, PRINTS), kind="self", transformer=TINY)
    with pytest.raises(ValueError, match="a self-critic is one linear layer on its generator"):
        CriticModule(generator, empty_shards(tmp_path / "good", SPACE, PRINTS), kind="self", start="generator")
    with pytest.raises(ValueError, match="a critic that starts from the generator has its sizes"):
        CriticModule(generator, empty_shards(tmp_path / "good", SPACE, PRINTS), start="generator", transformer=TINY)


def test_area_under_the_curve_counts_pairs_and_ties_as_halves() -> None:
    scores = torch.tensor([1.0, 3.0, 3.0, 2.0, 0.0, 3.0])
    positive = torch.tensor([False, True, True, False, True, False])
    pairs = [(s > o) + 0.5 * (s == o) for s in scores[positive] for o in scores[~positive]]
    assert float(area_under_curve(scores, positive)) == pytest.approx(float(sum(pairs)) / len(pairs))
