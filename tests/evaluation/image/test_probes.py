"""Tone, style and retrieval probes on planted data."""

import pytest
import torch

from maskgen.evaluation.image.emoji_style import style_inputs, train_style
from maskgen.evaluation.image.emoji_tone import colour_histogram, predicted_tone, train_tone
from maskgen.evaluation.image.retrieval import RetrievalHeads, retrieval_ranks, train_retrieval

FACES = torch.tensor([[247, 222, 206], [243, 210, 162], [213, 171, 136], [175, 126, 87], [124, 83, 62]], dtype=torch.uint8)


def _faces(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A square of skin on white beside a square of one of 27 dark colours."""
    generator = torch.Generator().manual_seed(seed)
    tones = torch.randint(1, 6, (count,), generator=generator)
    pixels = torch.full((count, 3, 64, 64), 255, dtype=torch.uint8)
    pixels[:, :, 8:24, 8:24] = FACES[tones - 1][:, :, None, None]
    pixels[:, :, 40:56, 30:60] = 32 * torch.randint(0, 3, (count, 3, 1, 1), generator=generator, dtype=torch.uint8)
    return pixels, tones


def test_histogram_counts_colours_whatever_their_place_and_leaves_white_out() -> None:
    pixels = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    pixels[:, 1:, :16] = 0
    pixels[:, :, 16:24] = 31
    histogram = colour_histogram(pixels)
    assert histogram.shape == (1, 512)
    assert histogram[0, 7 * 64].expm1().item() == pytest.approx(16 * 64)
    assert histogram[0, 0].expm1().item() == pytest.approx(8 * 64)
    assert (histogram > 0).sum() == 2
    assert torch.equal(histogram, colour_histogram(pixels.flip(2)))


def test_tone_probe_separates_planted_colours() -> None:
    known, target = _faces(1000, 0)
    probe = train_tone(colour_histogram(known), target, seed=0)
    pixels, tones = _faces(100, 1)
    assert (predicted_tone(probe, colour_histogram(pixels)) == tones).float().mean() > 0.98


def test_tone_probe_of_one_seed_is_one_probe_and_another_seed_is_another() -> None:
    histograms, tones = colour_histogram(_faces(80, 2)[0]), _faces(80, 2)[1]
    weights = [next(train_tone(histograms, tones, seed).parameters()) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_style_probe_separates_planted_features_and_leaves_the_global_generator() -> None:
    generator = torch.Generator().manual_seed(3)
    styles = torch.randint(0, 2, (512,), generator=generator)
    features = torch.randn(512, 6, generator=generator) + 4 * styles[:, None]
    inputs = style_inputs(features, torch.zeros(512, 512))
    state = torch.random.get_rng_state()
    probe = train_style(inputs, styles, num_styles=2, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (probe.predict(inputs) == styles).float().mean() > 0.98


def test_planted_heads_rank_the_own_label_where_it_is_planted() -> None:
    heads = RetrievalHeads(4, 4, dim=4, hidden=8).eval()
    heads.image, heads.text = torch.nn.Sequential(), torch.nn.Sequential()
    gallery = torch.eye(4)
    features = torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.9, 0], [0, 0, 0, 1]])
    rank, label = retrieval_ranks(heads, features, gallery, torch.tensor([0, 1, 3]))
    assert rank.tolist() == [0, 1, 0]
    assert label.tolist() == [0, 2, 3]


def test_equal_scores_count_against_the_picture() -> None:
    heads = RetrievalHeads(4, 4, dim=4, hidden=8).eval()
    heads.image, heads.text = torch.nn.Sequential(), torch.nn.Sequential()
    rank, _ = retrieval_ranks(heads, torch.ones(1, 4), torch.ones(6, 4), torch.tensor([0]))
    assert rank.tolist() == [5]


def test_training_finds_a_planted_pairing_and_repeats_itself() -> None:
    generator = torch.Generator().manual_seed(4)
    labels = torch.randn(12, 16, generator=generator)
    target = torch.arange(240) % 12
    features = labels[target] @ torch.randn(16, 20, generator=generator) + 0.1 * torch.randn(240, 20, generator=generator)
    heads = [train_retrieval(features, labels, target, seed=seed, epochs=8) for seed in (0, 0)]
    rank, _ = retrieval_ranks(heads[0], features, labels, target)
    assert (rank == 0).float().mean() > 0.98
    assert all(torch.equal(one, two) for one, two in zip(heads[0].parameters(), heads[1].parameters(), strict=True))
