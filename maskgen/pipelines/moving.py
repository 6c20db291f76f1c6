"""Device, precision and ways to run the model faster."""

from abc import ABC
from dataclasses import replace
from typing import Any, TypeVar

import torch

from maskgen.decoding.acceleration.compiled import CompiledModel
from maskgen.decoding.acceleration.int8 import int8
from maskgen.decoding.decoder import Helpers
from maskgen.networks.packed_linear import is_packed, packed
from maskgen.networks.towers import TowerTransformer
from maskgen.pipelines.machine import as_device, as_dtype, move_all
from maskgen.tokenizers.base import Tokenizer

Moved = TypeVar("Moved", bound="Moving")


class Moving(ABC):
    """A model with its helpers, tokenizers and specialists on one device."""

    model: Any
    helpers: Helpers
    tokenizers: dict[str, Tokenizer]
    specialists: dict[str, Any]
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the model."""
        dtype: torch.dtype = self.model.embed.weight.dtype
        return dtype

    def to(self: Moved, *place: torch.device | str | torch.dtype, device: torch.device | str | None = None, dtype: Any = None) -> Moved:
        """Move model, helpers, tokenizers and specialists to a device, or change the precision of the models.

        `to("cuda")`, `to(torch.float16)`, `to("cuda", torch.bfloat16)`. Sampling noise stays float64 on the CPU, so seeds mean the same
        everywhere. Tokenizers keep their precision, which decides codes; durations are numbers on the CPU and stay there.

        Raises:
            ValueError: If the weights were packed, or the device cannot be used; the pipeline then stays as it was.
            TypeError: If an argument is neither a device nor a dtype.
        """
        self._require_plain("to()")
        for one in place:
            if isinstance(one, torch.dtype):
                dtype = one
            elif isinstance(one, (str, torch.device)):
                device = one
            else:
                raise TypeError(f"to() takes a device and a dtype, got {one!r}")
        target, precision = as_device(self.device if device is None else device), self.dtype if dtype is None else as_dtype(dtype, device)
        every = [self, *self.specialists.values()]
        for one in every:
            one._require_plain("to()")
        parts = [part for one in every for part in (one.model, one.helpers.critic, one.helpers.shortcut, *one.tokenizers.values())]
        precise = [part for one in every for part in (one.model, one.helpers.shortcut)]
        move_all([part for part in parts if hasattr(part, "to")], target, [part for part in precise if part is not None], precision)
        for one in every:
            one.device = target
        return self

    def enable_compile(self: Moved, mode: str | None = None, multiple: int = 32) -> Moved:
        """Run the model through torch.compile: few static shapes, each compiled at its first use; "reduce-overhead" records CUDA graphs.

        Compiled kernels round differently, so a seed gives another output than before, the same one alone and in any batch on a CPU.

        Args:
            mode: Of torch.compile.
            multiple: Rows are padded to a multiple of so many cells.

        Raises:
            ValueError: If the network has towers, whose share of the cells differs from row to row, or the weights were packed.
        """
        self._require_plain("enable_compile()")
        if isinstance(self.model, TowerTransformer):
            raise ValueError("a network with towers has no static shapes to compile; leave compile off")
        self.helpers = replace(self.helpers, compiled=CompiledModel(self.model, multiple, mode=mode))
        return self

    def enable_packed_weights(self: Moved) -> Moved:
        """Store the model's weights in oneDNN's layout: faster in float32 on a CPU, equal but for rounding.

        Call this last: packed weights can't be moved to another device, saved or compiled. Measured in `docs/samplers.md`.

        Raises:
            ValueError: If PyTorch has no oneDNN, or the model is compiled, not in float32 or not on a CPU.
        """
        weight = self.model.embed.weight
        if self.helpers.compiled is not None or weight.dtype != torch.float32 or weight.device.type != "cpu":
            raise ValueError("weights are packed in float32 on a CPU and without compile; leave enable_packed_weights() out")
        if not is_packed(self.model):
            self.model = packed(self.model)
        return self

    def enable_int8(self: Moved) -> Moved:
        """Run the model's matrix products on 8-bit integers; approximate. Needs torchao: `pip install maskgen[int8]`.

        Raises:
            ValueError: If the weights were packed.
            ImportError: If torchao is missing.
        """
        self._require_plain("enable_int8()")
        self.model = int8(self.model)
        return self

    def _require_plain(self, call: str) -> None:
        """Refuse what packed weights cannot do."""
        if is_packed(self.model):
            raise ValueError(f"packed weights are for decoding alone; call {call} before enable_packed_weights(), or load the model again")
