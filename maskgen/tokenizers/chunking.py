"""Processing long audio in overlapping windows: the frames each window sees and keeps, and how decoded windows are joined."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How a codec splits audio that is longer than one window.

    Args:
        length: Frames that the codec processes at once.
        context: Frames on each inner side of a window that serve as context only; the neighbouring window provides their result.
        fade: Frames on each side of a joint over which decoded neighbours are crossfaded; 0 concatenates them.
    """

    length: int
    context: int
    fade: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.fade <= self.context or self.length <= 2 * self.context:
            raise ValueError(f"windows want 0 <= fade <= context < length / 2, got {self.fade}, {self.context} and {self.length} frames")


@dataclass(frozen=True)
class Span:
    """One window: it sees frames `start` to `stop` and keeps frames `first` to `last`, both ends exclusive."""

    start: int
    stop: int
    first: int
    last: int


def spans(total: int, windows: Windows | None) -> list[Span]:
    """Place windows over `total` frames so that each frame is kept exactly once. The last window is moved back to have its full length.

    Args:
        total: Frames of the whole audio.
        windows: Window settings; None uses a single window.
    """
    if windows is None or total <= windows.length:
        return [Span(0, total, 0, total)]
    found: list[Span] = []
    kept = 0
    while kept < total:
        start = max(0, min(kept - windows.context, total - windows.length))
        stop = start + windows.length
        last = total if stop == total else stop - windows.context
        found.append(Span(start, stop, kept, last))
        kept = last
    return found


def joined(
    places: Sequence[Span], pieces: Sequence[Float[Tensor, "channels _"]], samples_per_frame: int, fade: int
) -> Float[Tensor, "channels samples"]:
    """Join decoded windows, with a linear crossfade over `fade` frames on each side of a joint.

    Args:
        places: Windows that `spans` returned.
        pieces: The samples of each window, (stop - start) * samples_per_frame of them.
        samples_per_frame: Samples per frame.
        fade: See `Windows`.
    """
    whole = pieces[0].new_zeros(len(pieces[0]), places[-1].stop * samples_per_frame)
    width = 2 * fade * samples_per_frame
    rising = (torch.arange(width, device=whole.device) + 0.5) / max(width, 1)
    for place, piece in zip(places, pieces, strict=True):
        inner = place.first > 0
        begin = (place.first - fade) * samples_per_frame if inner else 0
        fresh = piece[:, begin - place.start * samples_per_frame :]
        if inner:
            before = whole[:, begin : begin + width]
            fresh = torch.cat([before * (1 - rising) + fresh[:, :width] * rising, fresh[:, width:]], dim=1)
        whole[:, begin : begin + fresh.shape[1]] = fresh
    return whole
