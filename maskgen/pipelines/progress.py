"""The progress bar over the steps of a decode, and the callback in the form that diffusers gives it."""

import dataclasses
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from maskgen.sampling.base import State
from maskgen.tokens.batch import UNKNOWN

logger = logging.getLogger(__name__)
EndOfStep = Callable[[Any, int, int, dict[str, Any]], Mapping[str, Any] | None]
"""`callback_on_step_end(pipeline, step, timestep, callback_kwargs)`."""
TENSOR_INPUTS = ("latents", "codes", "state")
"""What a callback may ask for: "latents" and "codes" are the same, for users of diffusers."""


class StepBar:
    """A bar over the steps of each level, on standard error, in a terminal only unless `disable` says otherwise.

    Args:
        disable: True never shows it, False always; None shows it in a terminal.
    """

    def __init__(self, disable: bool | None = None) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self.bar = Progress(console=console, transient=True, disable=not console.is_terminal if disable is None else disable)

    def __enter__(self) -> "StepBar":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def __call__(self, state: State) -> None:
        if state.step == 1:
            self.task = self.bar.add_task(f"{state.segment.modality} level {state.segment.level}", total=state.steps)
        self.bar.update(self.task, completed=state.step)


def check_callback(callback: Any, inputs: Sequence[str]) -> None:
    """Refuse a callback that cannot be called with four arguments, or asks for what there is not.

    Raises:
        TypeError: If it is no callable of four arguments.
        ValueError: If an input has no such name.
    """
    wanted = "callback_on_step_end takes (pipeline, step, timestep, callback_kwargs), as in diffusers"
    if not callable(callback):
        raise TypeError(f"{wanted}; got {type(callback).__name__}")
    try:
        inspect.signature(callback).bind(None, 0, 0, {})
    except TypeError as error:
        raise TypeError(f"{wanted}; this one takes {inspect.signature(callback)}") from error
    except ValueError:
        logger.debug("the callback %r shows no signature, it is called with four arguments", callback)
    if unknown := sorted(set(inputs) - set(TENSOR_INPUTS)):
        raise ValueError(f"callback_on_step_end_tensor_inputs has {', '.join(unknown)}; there are {', '.join(TENSOR_INPUTS)}")


class CallbackAdapter:
    """Calls a callback of diffusers' form after every step of a decode.

    Args:
        pipeline: Its first argument.
        callback: What is called.
        inputs: Names of what it is given in its last argument: "latents" or "codes", the codes [batch, length] of the level that is decoded
            (-1 where masked, and at cells of other modalities), or "state", the whole state.
    """

    def __init__(self, pipeline: Any, callback: EndOfStep, inputs: Sequence[str]) -> None:
        self.pipeline, self.callback, self.inputs, self.step = pipeline, callback, inputs, 0

    def __call__(self, state: State) -> State | None:
        """One step.

        Returns:
            The state with the codes that the callback put in place of its own, or None where it changed nothing.

        Raises:
            TypeError: If the callback returns something else than a mapping or None.
            ValueError: If new codes have another shape, lie outside the codebook, or leave cells masked after the last step.
        """
        given = {name: state if name == "state" else state.codes.clone() for name in self.inputs}
        answer = self.callback(self.pipeline, self.step, state.steps - state.step, given)
        self.step += 1
        if not isinstance(answer, Mapping | None):
            raise TypeError(f"callback_on_step_end returned a {type(answer).__name__}; return its callback_kwargs or None")
        codes = next((one for name, one in {**given, **(answer or {})}.items() if name != "state" and not state.codes.equal(one)), None)
        return None if codes is None else _with_codes(state, codes)


def _with_codes(state: State, codes: Any) -> State:
    """The state with other codes in its target; cells outside the target stay."""
    size = state.segment.size
    if not isinstance(codes, Tensor) or codes.shape != state.codes.shape or codes.is_floating_point():
        raise ValueError(f"the callback returned codes that are no whole numbers of shape {tuple(state.codes.shape)}")
    codes = torch.where(state.target, codes.to(state.codes), state.codes)
    low, high = int(codes.min()), int(codes.max())
    if low < UNKNOWN or high >= size or (state.step == state.steps and bool((state.target & (codes == UNKNOWN)).any())):
        raise ValueError(
            f"the callback returned codes from {low} to {high}; wanted 0 to {size - 1}, or {UNKNOWN} for masked cells before the last step"
        )
    return dataclasses.replace(state, codes=codes, batch=state.filled(codes), changed=state.changed | (codes != state.codes))
