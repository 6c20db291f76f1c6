"""MaskGCT's three networks as one over a token space of phones, semantic codes and acoustic codes."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.interop.maskgct_stages import PHONES, AcousticStage, SemanticStage, time_of, visible_first
from maskgen.networks.published import PublishedConfig, PublishedNetwork
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import MASK, Segment, TokenSpace

PHONEMES, HEARD, SEMANTIC, VOICE, AUDIO = "phonemes", "heard", "semantic", "voice", "audio"
"""Modalities of the family: phones of all that is said, semantic codes of the recording and of the speech, acoustic codes of both."""
SEMANTIC_STEPS, ACOUSTIC_STEPS = 25, (25, 10, 1)
"""Steps of the published decode; the last number serves all finer levels."""


class MaskGCTNetwork(PublishedNetwork):
    """Semantic codes from phones, then acoustic codes from semantic codes.

    A row with acoustic cells is one of the second stage, any other one of the first. `heard` and `voice` are the codes of a recording,
    one pair a frame; hidden cells of them, and of the phones, are as if they were not there. Semantic codes are no condition that guidance
    leads away from: the second stage reads them also where they are hidden, so that both views of guidance are told the same.

    The hidden states of a row belong to the coarsest level with an unknown code, so levels are decoded one by one.

    Args:
        semantic: The network of the first stage.
        coarse: The network of acoustic level 0.
        fine: The network of the finer levels.
        space: Token space with the five modalities.
        semantic_steps: Steps of the published decode of the first stage, the scale of the time.
        acoustic_steps: Steps a level of the second stage; the last number serves all finer levels.

    Raises:
        ValueError: If the networks and the space do not belong together.

    Source: MaskGCT, arXiv:2409.00750. Differs: the time of each row is read off its share of masked cells, on the scale of the published
    steps: the times of the reference in a new decode of so many steps, and a time for edits and for any other sampler. There may be more
    phones than codes of the recording, where the reference fails.
    """

    def __init__(
        self,
        semantic: SemanticStage,
        coarse: AcousticStage,
        fine: AcousticStage,
        space: TokenSpace,
        semantic_steps: int = SEMANTIC_STEPS,
        acoustic_steps: Sequence[int] = ACOUSTIC_STEPS,
    ) -> None:
        super().__init__()
        self.semantic, self.coarse, self.fine, self.space = semantic, coarse, fine, space
        self.semantic_steps, self.acoustic_steps = semantic_steps, tuple(acoustic_steps)
        self.levels, code = space.of(AUDIO), space.of(SEMANTIC)[0].size
        found = (fine.config.num_levels, fine.config.codebook_size, coarse.config.codebook_size, fine.config.semantic_codes)
        wanted = (len(self.levels), self.levels[0].size, self.levels[0].size, code)
        if (*found, semantic.config.semantic_codes) != (*wanted, code) or coarse.config.num_levels != 1 or self._phones().size != PHONES:
            raise ValueError(
                f"the networks have (levels, codes, codes of level 0, semantic codes) {found}, the tokenizers {wanted}; "
                "copy the whole folder of the model"
            )
        self.config = PublishedConfig(max(one.config.trunk.dim for one in (semantic, coarse, fine)), rescales_states=True)

    def _phones(self) -> Segment:
        return self.space.of(PHONEMES)[0]

    @property
    def embed(self) -> nn.Embedding:
        """The table of semantic codes, which tells device and precision."""
        return self.semantic.cond_emb

    def forward(
        self, batch: TokenBatch, context: Bool[Tensor, "batch length"] | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every visible cell that a row's stage sees, 0 elsewhere; as wide as the widest stage that the batch needs.

        Raises:
            ValueError: If a row has several samples, a phone or a semantic code that the second stage needs is unknown, or recording and
                speech do not have one semantic code an acoustic cell.
        """
        if context is not None or window is not None:
            raise ValueError("MaskGCT sees whole rows; leave windows and blind conditions off")
        if bool(batch.document.any()):
            raise ValueError("MaskGCT reads one sample a row, and the batch has several; pack them apart")
        codes = self._local(batch)
        second = batch.cells(self.space.index(AUDIO)).any(dim=1)
        level = self._level(batch)
        parts = list[tuple[Tensor, Tensor]]()
        if bool((~second).any()):
            parts.append((~second, self._first(batch.rows(~second), codes[~second])))
        for rows, stage in ((second & (level == 0), self.coarse), (second & (level > 0), self.fine)):
            if bool(rows.any()):
                parts.append((rows, self._second(stage, batch.rows(rows), codes[rows], level[rows])))
        width = max((states.shape[-1] for _, states in parts), default=self.config.dim)
        hidden = torch.zeros(*batch.modality.shape, width, dtype=self.embed.weight.dtype, device=batch.ids.device)
        for rows, states in parts:
            hidden[rows, :, : states.shape[-1]] = states
        return hidden

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the semantic codes, or of one acoustic level: affine in `hidden`, so guidance may mix hidden states.

        Raises:
            ValueError: If other ids are asked for.
        """
        if offset == self.space.of(SEMANTIC)[0].offset:
            found: Tensor = self.semantic.to_logit(hidden[:, : self.semantic.config.trunk.dim])
            return found
        level = next((one.level for one in self.levels if (one.offset, one.size) == (offset, size)), None)
        if level is None:
            raise ValueError("MaskGCT generates semantic and audio codes; take one of these as the target")
        stage = self.fine if level else self.coarse
        found = stage.to_logits[level](hidden[:, : stage.config.trunk.dim])
        return found

    def _local(self, batch: TokenBatch) -> Int[Tensor, "batch length level"]:
        """Codes local to their segments; -1 where unknown, and at levels that a modality lacks."""
        found = torch.full_like(batch.ids, -1)
        for modality in self.space.modalities:
            for segment in self.space.of(modality.name):
                ids = batch.ids[..., segment.level]
                known = (batch.modality == segment.index) & (ids != MASK)
                found[..., segment.level] = torch.where(known, ids - segment.offset, found[..., segment.level])
        return found

    def _level(self, batch: TokenBatch) -> Int[Tensor, " batch"]:
        """The coarsest acoustic level of each row with an unknown code; the last one where all are known."""
        ours = batch.modality == self.space.index(AUDIO)
        masked = (ours[..., None] & (batch.ids[..., : len(self.levels)] == MASK)).any(dim=1)
        return torch.where(masked.any(dim=1), masked.long().argmax(dim=1), len(self.levels) - 1)

    def _first(self, batch: TokenBatch, codes: Int[Tensor, "batch length level"]) -> Float[Tensor, "batch length dim"]:
        """Hidden states of rows of the first stage."""
        stage, code = self.semantic, codes[..., 0]
        phones = batch.cells(self.space.index(PHONEMES))
        if bool((phones & (code < 0)).any()):
            raise ValueError('MaskGCT has no mask for phones; give all of them, and settings with null "absent" or "alone"')
        target = batch.modality == self.space.index(SEMANTIC)
        written = (batch.cells(self.space.index(HEARD))) | (target & batch.valid)
        vectors = torch.zeros(*code.shape, stage.config.trunk.dim, dtype=self.embed.weight.dtype, device=code.device)
        vectors[phones], vectors[written] = stage.phones(code[phones]), stage.codes(code[written])
        steps = torch.full((len(batch),), self.semantic_steps, device=code.device)
        time = time_of((target & (code < 0)).sum(dim=1), target.sum(dim=1), steps)
        return _through(stage, vectors, phones | written, time)

    def _second(
        self, stage: AcousticStage, batch: TokenBatch, codes: Int[Tensor, "batch length level"], level: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden states of rows of the second stage, all by one network."""
        vectors = torch.zeros(*batch.modality.shape, stage.config.trunk.dim, dtype=self.embed.weight.dtype, device=codes.device)
        visible = torch.zeros_like(batch.valid)
        for spoken, told in ((VOICE, HEARD), (AUDIO, SEMANTIC)):
            ours, theirs = batch.modality == self.space.index(spoken), batch.modality == self.space.index(told)
            seen = ours & batch.valid
            if spoken == VOICE and not bool(seen.any()):
                continue
            semantic = codes[..., 0][theirs]
            counts, wanted = theirs.sum(dim=1).tolist(), ours.sum(dim=1).tolist()
            if counts != wanted:
                raise ValueError(f"rows have {counts} codes of {told} and {wanted} cells of {spoken}; give one a cell")
            if bool((semantic < 0).any()):
                raise ValueError(f"codes of {told} are unknown; generate semantic before audio, with settings whose null is not masked")
            whole = torch.full_like(codes[..., 0], 0)
            whole[ours] = semantic
            rows = seen.nonzero()[:, 0]
            vectors[seen] = stage.codes(codes[seen]) + stage.condition(whole[seen], level[rows])
            visible |= seen
        target = batch.modality == self.space.index(AUDIO)
        masked = codes.gather(2, level[:, None, None].expand(-1, codes.shape[1], 1))[..., 0] < 0
        published = torch.tensor(self.acoustic_steps, device=codes.device)
        steps = published[level.clamp(max=len(published) - 1)]
        time = time_of((target & masked).sum(dim=1), target.sum(dim=1), steps)
        return _through(stage, vectors, visible, time)


def _through(
    stage: SemanticStage | AcousticStage,
    vectors: Float[Tensor, "batch length dim"],
    visible: Bool[Tensor, "batch length"],
    time: Float[Tensor, " batch"],
) -> Float[Tensor, "batch length dim"]:
    """Hidden states of a stage's trunk where the visible cells stand; 0 elsewhere."""
    compact, seen, order = visible_first(vectors, visible)
    states = stage.diff_estimator(compact, time, seen).masked_fill(~seen[..., None], 0)
    return torch.zeros_like(vectors).scatter(1, order[..., None].expand_as(states), states)
