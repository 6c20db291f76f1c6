"""From rows of a TokenBatch to the cells of 4M's encoder and decoder: text by spans, images by places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.interop.fourm_model import FourM, FourMCells, FourMDomain, FourMEmbedding
from maskgen.tokenizers.pixels import colours_of
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.space import MASK, Segment, TokenSpace

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class FourMMarks:
    """Codes with a meaning in all sequences of a 4M; the defaults are those of the published vocabulary.

    Args:
        end: Code that ends a text.
        first_sentinel: Code of `[S_0]`; hole k of a text, from 1, is written `[S_k]`.
        num_sentinels: Codes from `[S_0]` on.
    """

    end: int = 3
    first_sentinel: int = 4
    num_sentinels: int = 200

    def hole(self, number: int) -> int:
        """Code of a hole.

        Raises:
            ValueError: If there are not so many.
        """
        if not 1 <= number < self.num_sentinels:
            raise ValueError(f"a text has {number} holes, 4M's vocabulary has names for {self.num_sentinels - 1}; fill some of them first")
        return self.first_sentinel + number


@dataclass(frozen=True)
class FourMSpans:
    """A text as 4M reads it: what is visible with a sentinel for each hole, and the holes one after the other.

    Args:
        visible: Codes for the encoder.
        asked: Codes for the decoder, UNKNOWN where nothing is written yet; each tells the code behind it.
        before: Place in `asked` before each cell of the text, which predicts it; -1 for a cell that the encoder reads.
    """

    visible: Sequence[int]
    asked: Sequence[int]
    before: Sequence[int]


def spans_of(codes: Sequence[int], marks: FourMMarks) -> FourMSpans:
    """The spans of a text.

    A known text is visible with its end. A text that is known up to a cell and unknown from there on, as while one is written, is one hole:
    what is known is written in the decoder, as in the authors' decode. Otherwise every run of unknown cells is a hole of the visible text.

    Args:
        codes: Codes of a text, UNKNOWN where they are asked for.
        marks: Codes with a meaning.
    """
    unknown = [place for place, code in enumerate(codes) if code == UNKNOWN]
    if not unknown:
        stop = codes.index(marks.end) if marks.end in codes else len(codes)
        return FourMSpans([*codes[:stop], marks.end], [], [-1] * len(codes))
    if len(unknown) == len(codes) - unknown[0]:
        return FourMSpans([marks.hole(1)], [marks.hole(1), *codes], range(len(codes)))
    visible, asked, before = list[int](), list[int](), list[int]()
    for place, code in enumerate(codes):
        if code != UNKNOWN:
            visible.append(code)
            before.append(-1)
            continue
        if not place or codes[place - 1] != UNKNOWN:
            number = sum(1 for one in unknown if one <= place and (one == 0 or codes[one - 1] != UNKNOWN))
            visible.append(marks.hole(number))
            asked.append(marks.hole(number))
        before.append(len(asked) - 1)
        asked.append(UNKNOWN)
    if codes[-1] != UNKNOWN:
        tail = visible[-(len(codes) - 1 - unknown[-1]) :]
        kept = tail[: tail.index(marks.end)] if marks.end in tail else tail
        visible = [*visible[: len(visible) - len(tail)], *kept, marks.end]
    return FourMSpans(visible, asked, before)


@dataclass(frozen=True)
class _Part:
    """Some cells of one half of the network.

    Args:
        rows: Row of each, ascending.
        tokens: What they hold.
        places: Position and modality.
        cells: Column in the batch of the cell that each answers for; -1 for none.
        kind: Number of the modality.
        causal: Whether each sees only those before it.
        open: Whether others see it.
    """

    rows: Int[Tensor, " cells"]
    tokens: Tensor
    places: Tensor
    cells: Int[Tensor, " cells"]
    kind: int
    causal: bool
    open: Bool[Tensor, " cells"]


@dataclass(frozen=True)
class FourMRows:
    """A batch as 4M reads it.

    Args:
        seen: Cells of the encoder.
        asked: Cells of the decoder.
        visible: Which of the decoder's cells each of them sees.
        slots: Cell of the decoder that answers for each cell of the batch; -1 for none.
    """

    seen: FourMCells
    asked: FourMCells
    visible: Bool[Tensor, "batch asked asked"]
    slots: Int[Tensor, "batch length"]


class FourMReader:
    """Arranges rows of a token space for a 4M.

    Every cell of a grid that the decoder makes is asked for: unknown ones see each other, a known one sees them and itself, so that the
    logits of known cells are those of a cell that was left out. Cells of a text that the encoder reads have none.

    Args:
        model: The network, whose embeddings are used.
        space: The token space.
        names: Modality of the space to its published name.
        marks: Codes with a meaning in texts.
    """

    def __init__(self, model: FourM, space: TokenSpace, names: Mapping[str, str], marks: FourMMarks) -> None:
        self.model, self.marks = model, marks
        domains = {one.name: one for one in model.config.domains}
        self.domains = [(domains[names[one.name]], space.of(one.name)) for one in space.modalities]

    def __call__(self, batch: TokenBatch) -> FourMRows:
        """Both halves of a batch.

        Raises:
            ValueError: If a row holds several samples, a cell lies outside its modality's grid, or a text is too long.
        """
        if bool(batch.document.any()):
            raise ValueError("4M reads one sample a row, and the batch has several; pack them apart")
        seen, asked = list[_Part](), list[_Part]()
        for domain, segments in self.domains:
            if not bool((batch.modality == segments[0].index).any()):
                continue
            if domain.shape == "sequence":
                self._sequence(batch, domain, segments[0], seen, asked)
            else:
                self._grid(batch, domain, segments, seen, asked)
        inside, _, _ = self._joined(seen, batch)
        queries, slots, visible = self._joined(asked, batch)
        return FourMRows(inside, queries, visible, slots)

    def _grid(self, batch: TokenBatch, domain: FourMDomain, segments: Sequence[Segment], seen: list[_Part], asked: list[_Part]) -> None:
        """Cells of an image: known ones for the encoder, all for the decoder."""
        cells = batch.cells(segments[0].index)
        places = batch.coords[..., 1] * domain.side + batch.coords[..., 2]
        if bool((batch.coords[..., 1:][cells] >= domain.side).any()):
            raise ValueError(f"{domain.name} has cells outside of its {domain.side} x {domain.side} places; use images of the model's size")
        known = cells & (batch.ids[..., : len(segments)] != MASK).all(dim=-1)
        if domain.reads:
            embedding = self.model.reader(domain.name)
            found = batch.ids[..., : len(segments)][known] - torch.tensor([one.offset for one in segments], device=known.device)
            tokens = embedding.token_emb(found[:, 0]) if domain.coded else embedding.proj(standardised(found).to(embedding.mod_emb.dtype))
            seen.append(_part(known, tokens, embedding.at(places[known]), len(seen)))
        if domain.writes:
            embedding = self.model.writer(domain.name)
            at = embedding.at(places[cells])
            asked.append(_part(cells, self.model.mask_token[0].expand_as(at), at, len(asked), ~known[cells]))

    def _sequence(self, batch: TokenBatch, domain: FourMDomain, segment: Segment, seen: list[_Part], asked: list[_Part]) -> None:
        """Cells of a text. One that is hidden as a whole is one hole for the encoder, as in the authors' guidance."""
        ours = batch.modality == segment.index
        ids = batch.ids[..., 0] - segment.offset
        ids = ids.masked_fill(batch.ids[..., 0] == MASK, UNKNOWN)
        visible, holes, columns, rows = list[list[int]](), list[list[int]](), list[list[int]](), list[int]()
        for row in ours.any(dim=1).nonzero()[:, 0].tolist():
            cells = (ours[row] & batch.valid[row]).nonzero()[:, 0]
            spans = spans_of(ids[row, cells].tolist(), self.marks) if len(cells) else FourMSpans([self.marks.hole(1)], [], [])
            if max(len(spans.visible), len(spans.asked)) > domain.places:
                raise ValueError(f"a text of {domain.name} has {len(cells)} codes, 4M has places for {domain.places}; shorten it")
            answers = [-1] * len(spans.asked)
            for place, before in zip(cells.tolist(), spans.before, strict=True):
                if before >= 0:
                    answers[before] = place
            rows.append(row)
            visible.append(list(spans.visible))
            holes.append(list(spans.asked))
            columns.append(answers)
        device = batch.ids.device
        if domain.reads:
            nothing = [[-1] * len(text) for text in visible]
            seen.append(self._text(self.model.reader(domain.name), rows, visible, nothing, len(seen), device))
        if domain.writes:
            asked.append(self._text(self.model.writer(domain.name), rows, holes, columns, len(asked), device))

    def _text(
        self,
        embedding: FourMEmbedding,
        rows: Sequence[int],
        codes: Sequence[Sequence[int]],
        columns: Sequence[Sequence[int]],
        kind: int,
        device: torch.device,
    ) -> _Part:
        """Codes of texts as cells; what is not written yet is the mask token."""
        ids = torch.tensor([code for text in codes for code in text], dtype=torch.long, device=device)
        at = torch.tensor([place for text in codes for place in range(len(text))], dtype=torch.long, device=device)
        where = torch.tensor([row for row, text in zip(rows, codes, strict=True) for _ in text], dtype=torch.long, device=device)
        answers = torch.tensor([place for text in columns for place in text], dtype=torch.long, device=device)
        tokens = torch.where((ids == UNKNOWN)[:, None], self.model.mask_token[0], embedding.token_emb(ids.clamp(min=0)))
        return _Part(where, tokens, embedding.at(at), answers, kind, True, torch.ones_like(ids, dtype=torch.bool))

    def _joined(
        self, parts: Sequence[_Part], batch: TokenBatch
    ) -> tuple[FourMCells, Int[Tensor, "batch length"], Bool[Tensor, "batch cells cells"]]:
        """Cells of all modalities in rows, the place of each cell of the batch among them, and what sees what."""
        device, token = batch.ids.device, self.model.mask_token[0]
        rows = torch.cat([part.rows for part in parts] or [torch.zeros(0, dtype=torch.long, device=device)])
        order = rows.argsort(stable=True)
        rows = rows[order]
        counts = torch.bincount(rows, minlength=len(batch))
        column = torch.arange(len(rows), device=device) - (counts.cumsum(0) - counts)[rows]
        width = max(1, int(counts.max()) if len(counts) else 0)

        def laid(values: Sequence[Tensor], fill: int = 0) -> Tensor:
            joined = torch.cat([*values])[order] if len(rows) else torch.zeros(0, dtype=torch.long, device=device)
            found = joined.new_full((len(batch), width, *joined.shape[1:]), fill)
            found[rows, column] = joined
            return found

        valid = torch.zeros(len(batch), width, dtype=torch.bool, device=device)
        valid[rows, column] = True
        kind = laid([torch.full_like(part.rows, part.kind) for part in parts], -1)
        causal = laid([torch.full_like(part.open, part.causal) for part in parts]).bool()
        shown = laid([part.open for part in parts]).bool()
        own = torch.eye(width, dtype=torch.bool, device=device)
        visible = (kind[:, :, None] == kind[:, None, :]) & (~causal[:, None, :] | own.cumsum(dim=1).bool().T) & (shown[:, None, :] | own)
        slots = torch.full(batch.modality.shape, -1, dtype=torch.long, device=device)
        answers = torch.cat([part.cells for part in parts] or [rows])[order]
        slots[rows[answers >= 0], answers[answers >= 0]] = column[answers >= 0]
        if not len(rows):
            nothing = token.new_zeros(len(batch), width, token.shape[-1])
            return FourMCells(nothing, nothing, valid), slots, visible
        return FourMCells(laid([part.tokens for part in parts]), laid([part.places for part in parts]), valid), slots, visible


def standardised(codes: Int[Tensor, "cells pixels"]) -> Float[Tensor, "cells numbers"]:
    """Pixels of patches as the network sees them: numbers of ImageNet's colours, the channel last."""
    mean, std = (torch.tensor(one, device=codes.device) for one in (IMAGENET_MEAN, IMAGENET_STD))
    return ((colours_of(codes) / 255 - mean) / std).flatten(1)


def _part(cells: Bool[Tensor, "batch length"], tokens: Tensor, places: Tensor, kind: int, shown: Tensor | None = None) -> _Part:
    """Chosen cells of a batch as a part."""
    rows, columns = cells.nonzero().unbind(dim=1)
    return _Part(rows, tokens, places, columns, kind, False, torch.ones_like(rows, dtype=torch.bool) if shown is None else shown)
