"""Ranks candidates by their log-likelihood."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from maskgen.scoring.likelihood import Score


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A candidate with its score and probability.

    Args:
        place: Its index in the input list.
        candidate: The candidate as passed in.
        probability: Its posterior probability among the candidates, with a uniform prior.
        score: Its score.
    """

    place: int
    candidate: Mapping[str, Any]
    probability: float
    score: Score


def rank_candidates(candidates: Sequence[Mapping[str, Any]], scores: Sequence[Score]) -> list[Ranked]:
    """Candidates in descending order of score, with their probabilities; ties keep the input order."""
    totals = torch.tensor([score.total for score in scores], dtype=torch.float64)
    shares = totals.softmax(dim=0).tolist()
    order = sorted(range(len(scores)), key=lambda place: (-scores[place].total, place))
    return [Ranked(place=place, candidate=candidates[place], probability=shares[place], score=scores[place]) for place in order]
