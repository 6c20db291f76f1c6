"""Likelihoods, zero-shot classification and features: what every pipeline says of media that it did not generate."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from torch import Tensor

from maskgen.decoding.decoder import Helpers
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.published import PublishedNetwork
from maskgen.scoring.estimators import ScoreSettings
from maskgen.scoring.features import Pool, embed_rows
from maskgen.scoring.likelihood import Marks, Score, Scorer
from maskgen.scoring.ranking import Ranked, rank_candidates
from maskgen.tokens.batch import Codes
from maskgen.tokens.space import TokenSpace

T = TypeVar("T")


class Judging(ABC):
    """Scores and features of given media by a model and its tokenizers."""

    model: Any
    space: TokenSpace
    settings: dict[str, GenerationSettings]
    helpers: Helpers

    @abstractmethod
    def encoded(self, row: Mapping[str, Any]) -> dict[str, Codes]:
        """Codes of a row's media; what is a tensor already stays."""

    def score(
        self,
        rows: Sequence[Mapping[str, Any]],
        target: str,
        only: Sequence[Marks | None] | None = None,
        against: Literal["absent"] | Sequence[Mapping[str, Any]] | None = None,
        settings: ScoreSettings | None = None,
    ) -> list[Score]:
        """How likely the model finds a modality of each row, given everything else in the row; `docs/scores.md` has the formulas.

        Args:
            rows: One entry a row: modality to media or Codes, the target among them. UNKNOWN codes are MASK throughout, never scored.
            target: Modality that is scored; the model must have learned to predict it.
            only: Per row what of the target is scored, [*grid] or [level, *grid]; the rest of the target is seen. None scores all.
            against: Another condition whose score is subtracted: "absent", none at all, which gives the pointwise mutual information of
                target and condition; or a row of other modalities for each row.
            settings: Estimator, masks and seed.

        Returns:
            One score a row, each from its own row and the settings alone.

        Raises:
            ValueError: If a modality is unknown, a row lacks the target, or there is nothing to score.
        """
        if isinstance(against, str) and against != "absent":
            raise ValueError(f'against must be "absent", a row for each row, or None, got {against!r}')
        marks = [None] * len(rows) if only is None else only
        others: Sequence[Mapping[str, Any] | None] = [None] * len(rows) if against is None else [{}] * len(rows)
        others = others if against is None or isinstance(against, str) else against
        if not len(rows) == len(marks) == len(others):
            raise ValueError(f"{len(rows)} rows need as many entries of only and against, got {len(marks)} and {len(others)}")
        if any(target in other for other in others if other is not None):
            raise ValueError(f"against is another condition of the same target; leave {target!r} out of it")
        scorer = Scorer(self.model, self.space, target, settings or ScoreSettings(), self.settings.get(target))
        scores = []
        for row, mark, other in zip(rows, marks, others, strict=True):
            codes = self.encoded(row)
            same = {target: codes[target]} if target in codes else {}
            against_codes = None if other is None else {**self.encoded(other), **same}
            scores.append(self._judged(1, partial(scorer, codes, mark, against_codes)))
        return scores

    def classify(
        self,
        known: Mapping[str, Any],
        candidates: Sequence[Mapping[str, Any]],
        target: str,
        only: Marks | None = None,
        against: Literal["absent"] | None = None,
        settings: ScoreSettings | None = None,
    ) -> list[Ranked]:
        """Zero-shot classification: candidates ranked by the score of the row that each makes together with what is known.

        With `classify({"image": picture}, [{"text": "a cat"}, {"text": "a dog"}], "image")` each caption is judged by how likely it makes
        the image. Where the candidates differ in the target itself, `against="absent"` subtracts what makes one likely without a condition.

        Args:
            known: Media or Codes that all candidates share.
            candidates: What each adds to it, for example a caption.
            target: Modality that is scored, of what is known or of the candidates.
            only: As in `score`, for all candidates alike.
            against: As in `score`.
            settings: Estimator, masks and seed.

        Returns:
            The candidates, best first, with probabilities.

        Raises:
            ValueError: If there is no candidate, or one has a modality that is known already.
        """
        if not candidates:
            raise ValueError("found no candidate, wanted at least one to rank")
        twice = sorted({name for candidate in candidates for name in candidate if name in known})
        if twice:
            raise ValueError(f"candidates and what is known both have {', '.join(twice)}; give each modality once")
        shared = self.encoded(known)
        rows = [{**shared, **candidate} for candidate in candidates]
        return rank_candidates(candidates, self.score(rows, target, None if only is None else [only] * len(rows), against, settings))

    def embed(
        self, rows: Sequence[Mapping[str, Any]], layer: int = -1, pool: Pool = "mean", target: str | None = None
    ) -> list[dict[str, Tensor]]:
        """Features of each modality of each row, with nothing masked: hidden states after some of the model's blocks.

        Args:
            rows: One entry a row: modality to media or Codes. Everything in a row is seen, so give an image alone where its features must
                not know its caption.
            layer: Blocks that are run: 0 is the input, -1 all of them and the last norm.
            pool: "mean" averages a modality's cells, "none" keeps them.
            target: Modality that takes the place of the target in a model with `blind_condition`; not read by others.

        Returns:
            Modality to features in float32 on the CPU: [dim], or [*grid, dim] with pool "none". A published network leaves out modalities
            that it computes no states of, such as a prompt that another encoder reads.

        Raises:
            ValueError: If a modality is unknown, or layer or pool does not exist, or nothing in a row has states.
        """
        known = [self.encoded(row) for row in rows]
        return self._judged(len(rows), lambda: embed_rows(self.model, self.space, known, layer, pool, target))

    def _judged(self, rows: int, call: Callable[[], T]) -> T:
        """Result of a call that runs the model. Published networks remember conditions between calls, so they run one call at a time."""
        runner = self.helpers.runner if isinstance(self.model, PublishedNetwork) else None
        return call() if runner is None else runner.apart(rows, call)
