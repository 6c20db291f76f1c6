"""Progress, previews and interruption: what a node does after every step of a decode."""

from collections.abc import Callable
from typing import Any

from maskgen import Pipeline
from maskgen.serving.events import picture_of_state

WHOLE = 100
"""Progress is shown in percent."""
LARGEST_PREVIEW = 512
"""Longest side of a preview in pixels."""


class Watch:
    """A callback for `callback_on_step_end` that moves ComfyUI's progress bar, sends previews and stops when the user asks for it.

    Outside of ComfyUI it does nothing. Every decode of a chain moves the bar from 0 to 100 percent.

    Args:
        decoder_of: The pipeline that decodes a modality.
        previews: Previews of the first image at most, for each decode, evenly spread.
    """

    def __init__(self, decoder_of: Callable[[str], Pipeline], previews: int = 0) -> None:
        self.decoder_of, self.previews, self.shown = decoder_of, previews, 0
        self.bar = _progress_bar()

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the pipeline's call."""
        return {"callback_on_step_end": self, "callback_on_step_end_tensor_inputs": ("state",)}

    def __call__(self, pipeline: Any, step: int, timestep: int, given: dict[str, Any]) -> None:
        """One step.

        Raises:
            InterruptProcessingException: ComfyUI's own, if the user pressed stop.
        """
        stop_if_interrupted()
        if self.bar is None:
            return
        state = given["state"]
        modality = state.segment.modality
        artist = self.decoder_of(modality)
        done = (state.segment.level + state.levels * state.step / state.steps) / len(artist.space.of(modality))
        preview = None
        if modality == "image" and self._is_due(done):
            preview = ("JPEG", picture_of_state(artist, state), LARGEST_PREVIEW)
        self.bar.update_absolute(round(WHOLE * done), WHOLE, preview)

    def _is_due(self, done: float) -> bool:
        """Whether a preview is shown at this share of a decode; a new decode begins to count again."""
        place = int(done * (self.previews + 1))
        before, self.shown = self.shown, place if done < 1 else 0
        return before < place <= self.previews


def stop_if_interrupted() -> None:
    """Raise ComfyUI's exception if the user pressed stop.

    Raises:
        InterruptProcessingException: ComfyUI's own.
    """
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted
    except ImportError:
        return
    throw_exception_if_processing_interrupted()


def _progress_bar() -> Any:
    """ComfyUI's progress bar; None outside of it."""
    try:
        from comfy.utils import ProgressBar
    except ImportError:
        return None
    return ProgressBar(WHOLE)
