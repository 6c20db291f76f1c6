"""Candidates rank_candidates by their log-likelihood."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from maskgen.scoring.likelihood import Score


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One candidate in its place.

    Args:
        place: Its place in the list that was given.
        candidate: As it was given.
        probability: Its share of the candidates' likelihoods: Bayes' rule with every candidate equally probable before.
        score: Its score.
    """

    place: int
    candidate: Mapping[str, Any]
    probability: float
    score: Score


def rank_candidates(candidates: Sequence[Mapping[str, Any]], scores: Sequence[Score]) -> list[Ranked]:
    """Candidates by falling score, with their probabilities; of equal ones the earlier comes first."""
    totals = torch.tensor([score.total for score in scores], dtype=torch.float64)
    shares = totals.softmax(dim=0).tolist()
    order = sorted(range(len(scores)), key=lambda place: (-scores[place].total, place))
    return [Ranked(place=place, candidate=candidates[place], probability=shares[place], score=scores[place]) for place in order]
