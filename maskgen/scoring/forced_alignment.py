"""Forced alignment: score candidate transcripts against an audio clip and time their words."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.decoding.logits import model_logits
from maskgen.networks.auto import Network
from maskgen.scoring.ctc import place_codes
from maskgen.scoring.likelihood import Score
from maskgen.scoring.ranking import Ranked, rank_candidates
from maskgen.tokenizers.transcript import Transcript, TranscriptTokenizer
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.packing import pack
from maskgen.tokens.space import TokenSpace


class ForcedAligner:
    """Scores candidate transcripts against an audio clip in one model call, however many there are.

    All slots of the transcript are masked in that call; a text's likelihood sums over every way to place its codes in the slots. The slots
    are treated as independent given the audio, so the language probability of a text doesn't count: pass plausible transcripts.

    Args:
        model: The masked transformer.
        space: Its token space, with the modalities "audio" and "transcript".
        scribe: Transcript tokenizer.

    Raises:
        ValueError: If the space lacks one of the two modalities.
    """

    def __init__(self, model: Network, space: TokenSpace, scribe: TranscriptTokenizer) -> None:
        names = [modality.name for modality in space.modalities]
        if missing := [name for name in ("audio", "transcript") if name not in names]:
            raise ValueError(f"this model cannot align words: it has {', '.join(names)} and lacks {', '.join(missing)}; try any-64")
        self.model, self.space, self.scribe = model, space, scribe

    @torch.no_grad()
    def __call__(self, audio: Codes, texts: Sequence[str]) -> list[Ranked]:
        """Ranks candidate transcripts of an audio clip, the most probable first, with the start times of their words.

        Args:
            audio: Codes of the clip [levels, frames].
            texts: Candidate transcripts. Case is ignored if the vocabulary is caseless; punctuation counts.

        Returns:
            Each text with its probability among the texts, and as `candidate` {"transcript": its words with their start times}. A text
            with more codes than the clip has slots gets likelihood -inf and no transcript.

        Raises:
            ValueError: If there is no text, one has no word, or none fits into the clip.
        """
        spelled = [[code for word in text.split() for code in self.scribe.spelled(word)] for text in texts]
        count = self.scribe.slots(audio.shape[1])
        if not all(spelled) or not any(len(codes) <= count for codes in spelled):
            found = (
                "no text" if not texts else "a text without a word" if not all(spelled) else f"{len(min(spelled, key=len))} codes or more"
            )
            raise ValueError(
                f"found {found}, wanted texts that may be said, one at least of no more than the {count} codes that fit into the "
                f"{audio.shape[1] / self.scribe.frames_per_s:.2f} s of the clip"
            )
        slots = torch.full((1, count), UNKNOWN)
        batch = pack([{"audio": audio, "transcript": slots}], self.space).to(self.model.embed.weight.device)
        cells = batch.cells(self.space.index("transcript"))
        logits = model_logits(self.model)(batch, cells, self.space.segment("transcript", 0), 0.0)
        table = logits.float().log_softmax(dim=-1)
        judged = [self._judged(table, codes) for codes in spelled]
        return rank_candidates([{"transcript": transcript} for transcript, _ in judged], [score for _, score in judged])

    def _judged(self, table: Float[Tensor, "slots codes"], codes: Sequence[int]) -> tuple[Transcript | None, Score]:
        """Alignment of one text to the slots."""
        if len(codes) > len(table):
            return None, _score(-math.inf, len(table))
        found = place_codes(table, codes, self.scribe.empty)
        grid = torch.full((1, len(table)), self.scribe.empty)
        grid[0, list(found.places)] = torch.tensor(codes)
        return self.scribe.decode([grid])[0], _score(found.log_likelihood, len(table))


def _score(log_likelihood: float, slots: int) -> Score:
    """Score of a transcript: its likelihood, which is exact (no random masks)."""
    return Score(levels=(log_likelihood,), codes=(slots,), standard_error=0.0, model_calls=1)
