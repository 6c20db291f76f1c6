"""Which calls of a network share a forward pass, and that pass: only where no bit of any answer changes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maskgen.decoding.together import agrees, note_agreement
from maskgen.networks.joined import ForwardCall, RoundingKinds, joined_hidden
from maskgen.networks.transformer import MaskTransformer
from maskgen.tokens.batch import stack

MOST_CELLS = 1024
"""Cells of one pass on a CPU, where larger ones save nothing and keep the other requests waiting."""
TRIES = 16
"""Passes after which a network whose products seldom round alike is no longer measured."""


class Joining:
    """Decides which calls of one network go through one forward pass, and runs it.

    In float32 on a CPU the answer of a request must keep the bits that it has alone. There the calls of a `MaskTransformer` of any
    lengths go together where its products round alike (`RoundingKinds`), and those of other networks where rows have equal lengths and
    the first pass of the shape gave the same bits together and alone (`maskgen.decoding.together`). Elsewhere all of them go together.

    Args:
        model: The network.
        max_rows: Rows of one pass.
    """

    def __init__(self, model: Any, max_rows: int) -> None:
        weight: Tensor = model.embed.weight
        self.model, self.max_rows = model, max_rows
        self.on_cpu = weight.device.type == "cpu"
        self.exact = self.on_cpu and weight.dtype == torch.float32
        self.any_length = isinstance(model, MaskTransformer) and not model.config.blind_condition and model.config.compress == 1
        self._kinds = RoundingKinds(model) if self.exact and self.any_length else None
        self._tried = self._alike = 0

    def chosen(self, calls: Sequence[ForwardCall]) -> list[int]:
        """Places of the calls that go into the next pass: the first one, and those that can join it, in their order."""
        if not self.any_length:
            return self._equal(calls)
        kind = self._kind(calls[0])
        if self._kinds is not None and (kind is None or (self._tried >= TRIES and self._alike * 4 < self._tried)):
            return [0]
        found, rows, cells = [0], len(calls[0].batch), calls[0].num_cells
        for place, call in enumerate(calls[1:], 1):
            fits = rows + len(call.batch) <= self.max_rows and (not self.on_cpu or cells + call.num_cells <= MOST_CELLS)
            if fits and self._kind(call) == kind:
                found.append(place)
                rows, cells = rows + len(call.batch), cells + call.num_cells
        while len(found) > 1 and not self._rounds_as(kind, sum(calls[place].num_cells for place in found)):
            found.pop()
        return found

    def run(self, calls: Sequence[ForwardCall]) -> list[Tensor]:
        """Hidden states of each of the chosen calls."""
        if len(calls) == 1:
            return [called_alone(self.model, calls[0])]
        key = ("served", len(calls)) if self.any_length else ("served", *_form(calls))
        measured = agrees(self.model, key) if self.exact else True
        if measured:
            return self._together(calls)
        found = [called_alone(self.model, call) for call in calls]
        if measured is None:
            note_agreement(self.model, key, found, self._together(calls))
        return found

    def _together(self, calls: Sequence[ForwardCall]) -> list[Tensor]:
        """Hidden states of the calls by one pass."""
        if self.any_length:
            return joined_hidden(self.model, calls)
        windows = [call.window for call in calls if call.window is not None]
        joint = ForwardCall(stack(*(call.batch for call in calls)), torch.cat(windows) if windows else None)
        return list(torch.split(called_alone(self.model, joint), [len(call.batch) for call in calls]))

    def _kind(self, call: ForwardCall) -> int | None:
        """How the products of a call round; 0 where that does not count."""
        return 0 if self._kinds is None else self._kinds.of(call.num_cells)

    def _rounds_as(self, kind: int | None, cells: int) -> bool:
        """Whether products over so many cells round as those of this kind."""
        if self._kinds is None:
            return True
        same = self._kinds.of(cells) == kind
        self._tried, self._alike = self._tried + 1, self._alike + same
        return same

    def _equal(self, calls: Sequence[ForwardCall]) -> list[int]:
        """Places of the calls of the first one's form; where bits count a power of two of them, so that few shapes are compared."""
        form, rows, found = _form(calls[:1]), 0, list[int]()
        for place, call in enumerate(calls):
            if _form([call]) == form and (not found or rows + len(call.batch) <= self.max_rows):
                found.append(place)
                rows += len(call.batch)
        return found[: 1 << (len(found).bit_length() - 1)] if self.exact else found


def called_alone(model: nn.Module, call: ForwardCall) -> Tensor:
    """Hidden states of one call by a pass of its own."""
    hidden: Tensor = model(call.batch) if call.window is None else model(call.batch, window=call.window)
    return hidden


def _form(calls: Sequence[ForwardCall]) -> tuple[Any, ...]:
    """What decides the shapes inside a pass over calls of equal form: rows, length, levels, and the visible cells of each modality."""
    first = calls[0]
    visible = (first.batch.modality * first.batch.valid).flatten().bincount().tolist()
    one_document = bool((first.batch.document == first.batch.document[:, :1]).all())
    return len(calls), tuple(first.batch.ids.shape), first.window is not None, one_document, bool(first.batch.valid.all()), *visible
