"""Scores of sets of texts are their definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskgen.evaluation.text.quality import END, NGramModel, distinct, entropy, text_of, text_quality

TEXTS = st.lists(st.lists(st.integers(0, 4), max_size=8), min_size=1, max_size=6)


@given(texts=TEXTS, order=st.integers(1, 4), asked=st.lists(st.integers(0, 6), max_size=3))
def test_the_judges_probabilities_sum_to_one_after_anything(texts: list[list[int]], order: int, asked: list[int]) -> None:
    judge = NGramModel(texts, 7, order)
    total = sum(judge.probability(tuple(asked[: order - 1]), token) for token in [*range(7), END])
    assert total == pytest.approx(1.0)


def test_the_judge_prefers_what_it_read() -> None:
    judge = NGramModel([[0, 1, 2]] * 20, 50)
    (known, tokens), (other, _) = judge.score([[0, 1, 2]]), judge.score([[2, 1, 0]])
    assert tokens == 4
    assert known < 1.0 < other


def test_a_unigram_judge_is_witten_bell_by_hand() -> None:
    judge = NGramModel([[0, 0, 1]], 3, order=1)  # 4 runs with the end, 3 kinds; uniform over 3 codes and the end
    assert judge.probability((), 0) == pytest.approx((2 + 3 * 0.25) / 7)
    assert judge.probability((), 2) == pytest.approx(3 * 0.25 / 7)


def test_one_word_said_again_is_told_by_entropy_and_repetition_not_by_perplexity() -> None:
    judge = NGramModel([[3, 3, 3, 3, 3, 3], [0, 1, 2, 4, 5, 6]], 10, order=2)
    dull, varied = text_quality([[3] * 6] * 2, judge.score), text_quality([[0, 1, 2, 4, 5, 6]] * 2, judge.score)
    assert dull.generative_perplexity < 2
    assert dull.unigram_entropy == dull.text_entropy == 0
    assert dull.repetition == pytest.approx(0.8)
    assert varied.repetition == 0
    assert varied.text_entropy == pytest.approx(math.log(6))
    assert (dull.distinct_1, varied.distinct_1) == (1 / 12, 0.5)
    assert varied.texts == 2
    assert varied.tokens == 12


def test_scores_by_hand() -> None:
    assert entropy([1, 1, 2, 2]) == pytest.approx(math.log(2))
    assert distinct([[1, 2, 1, 2], [1]], 2) == pytest.approx(2 / 3)
    assert distinct([[1]], 2) == 1.0


def test_a_text_ends_at_its_first_end_and_must_be_finished() -> None:
    assert text_of(torch.tensor([[4, 5, 9, 9]]), 9) == [4, 5]
    assert text_of(torch.tensor([[4, 5]]), 9) == [4, 5]
    with pytest.raises(ValueError, match="1 of 2 cells"):
        text_of(torch.tensor([[4, -1]]))
    with pytest.raises(ValueError, match="no text with a token"):
        text_quality([[]], NGramModel([[0]], 2).score)
