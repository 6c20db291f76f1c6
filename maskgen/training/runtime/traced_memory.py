"""Memory of one training step of a transformer, traced on fake tensors: shapes and lifetimes are real, no number is computed."""

import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from maskgen.networks.attention import attend
from maskgen.networks.recompute import Recompute, recomputed
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.networks.visibility import LONGEST_DENSE, Sight
from maskgen.tokens.space import Segment
from maskgen.training.modules.objective import chunked_cross_entropy


@dataclass(frozen=True)
class StepShape:
    """What one training step computes.

    Args:
        rows: Rows of the batch.
        length: Cells of a row.
        levels: Levels of a cell.
        codes: Level to the number of its codes that are masked.
        masked_attention: Whether some cells of a row do not see each other.
        precision: As the trainer's: "32-true", "bf16-mixed", "bf16-true", ...
    """

    rows: int
    length: int
    levels: int
    codes: Mapping[Segment, int]
    masked_attention: bool
    precision: str

    def of(self, rows: int) -> "StepShape":
        """The same for another number of rows."""
        codes = {segment: -(-count * rows // self.rows) for segment, count in self.codes.items()}
        return dataclasses.replace(self, rows=rows, codes=codes)


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step beside weights, gradients and optimizer.

    Args:
        activations: Kept from the forward to the backward pass.
        attention: Of these, what attention keeps: queries, keys, values, results, scores; 0 where it is computed twice.
        casts: Copies of the weights in half precision that live until the forward pass ends.
        logits: Most that the losses hold at a time, beside the others, in the forward pass.
        backward: Most that the backward pass holds at a time beside the activations and the gradients that are done.
    """

    activations: int
    attention: int
    casts: int
    logits: int
    backward: int

    def peak(self, gradients: int) -> int:
        """Most that a step holds, gradients included: those of the step before live until the backward pass begins."""
        return max(self.activations + self.casts + self.logits + gradients, self.backward + max(self.activations, gradients))


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors made while it lasts that are still alive, and the most that were at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {id(tensor.untyped_storage()) for tensor in _tensors((args, kwargs or {}))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._add(tensor.untyped_storage(), inputs)
        return out

    def _add(self, storage: Any, inputs: set[int]) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known or key in inputs:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _tensors(value: Any) -> list[Tensor]:
    """Tensors in nested tuples, lists and tables."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    return _tensors(list(value.values())) if isinstance(value, dict) else []


def step_memory(config: TransformerConfig, vocab_size: int, num_modalities: int, shape: StepShape, recompute: Recompute) -> StepMemory:
    """Memory of a training step of a `MaskTransformer`, from traces of one and of two blocks: every further block adds the same.

    Args:
        config: Its configuration.
        vocab_size: Ids of its token space.
        num_modalities: Modalities of its token space.
        shape: What the step computes.
        recompute: What it computes twice.
    """
    few = [min(count, config.num_layers) for count in (1, 2)]
    one, two = (_traced(dataclasses.replace(config, num_layers=count), vocab_size, num_modalities, shape, recompute) for count in few)
    more = config.num_layers - few[1]
    return StepMemory(
        activations=two.activations + more * (two.activations - one.activations),
        attention=two.attention + more * (two.attention - one.attention),
        casts=two.casts + more * (two.casts - one.casts),
        logits=two.logits,
        backward=two.backward,
    )


def _traced(config: TransformerConfig, vocab_size: int, num_modalities: int, shape: StepShape, recompute: Recompute) -> StepMemory:
    """Memory of a step of a network of few blocks."""
    with FakeTensorMode(), torch.enable_grad():
        network = MaskTransformer(config, vocab_size, num_modalities).train()
        if shape.precision in ("bf16-true", "16-true"):
            network.to(torch.bfloat16)
        for weight in network.parameters():
            weight.register_post_accumulate_grad_hook(_forget)  # type: ignore[no-untyped-call]
        live = _LiveBytes()
        with live:
            with torch.autocast("cpu", torch.bfloat16, enabled=shape.precision.endswith("-mixed")):
                hidden, attention = _states(network, shape, recompute, live)
                inside = live.peak = live.live
                loss = _loss(network, hidden, shape.codes)
                logits, before = live.peak - inside, live.live
            del hidden
            activations = inside - (before - live.live)
            live.peak = live.live
            loss.backward()  # type: ignore[no-untyped-call]
        return StepMemory(activations, attention, inside - activations, logits, max(0, live.peak - activations))


def _forget(weight: Tensor) -> None:
    weight.grad = None


def _states(network: MaskTransformer, shape: StepShape, recompute: Recompute, live: _LiveBytes) -> tuple[Tensor, int]:
    """Hidden states as `MaskTransformer.forward` computes them, and the bytes that attention keeps."""
    ids = torch.zeros(shape.rows, shape.length, shape.levels, dtype=torch.long)
    modality, coords = ids[..., 0], torch.zeros(shape.rows, shape.length, 3, dtype=torch.long)
    x, rotation = network.start(ids, modality, coords)
    seen: Tensor | Sight | None = None
    if shape.masked_attention and shape.length > LONGEST_DENSE:
        seen = Sight(modality == 0, modality)
    elif shape.masked_attention:
        seen = torch.ones(shape.rows, 1, shape.length, shape.length, dtype=torch.bool)
    kept = 0
    if recompute == "none":
        heads = network.config.num_heads, shape.length, network.config.head_dim
        parts = [torch.zeros(shape.rows, *heads, dtype=x.dtype, requires_grad=True) for _ in range(3)]
        before = live.live
        out = attend(parts[0], parts[1], parts[2], seen)
        kept = live.live - before + sum(part.untyped_storage().nbytes() for part in parts)
        del out, parts
    for block in network.blocks:
        x = recomputed(recompute, block, x, rotation, seen)
    hidden: Tensor = network.norm(x)
    return hidden, kept * len(network.blocks)


def _loss(network: MaskTransformer, hidden: Tensor, codes: Mapping[Segment, int]) -> Tensor:
    """The sum of the losses of masked codes, as `code_losses` computes them."""
    parts = []
    for segment, count in codes.items():
        places = torch.zeros(count, dtype=torch.long)
        parts.append(chunked_cross_entropy(network.logits, hidden.flatten(0, 1)[places], places, segment)[0])
    return torch.cat(parts).sum()


def optimizer_bytes(optimizers: Sequence[torch.optim.Optimizer], weights: Sequence[nn.Parameter]) -> int:
    """Bytes of the states that optimizers hold after a first step; the weights may be fake."""
    for weight in weights:
        weight.grad = torch.empty_like(weight) if weight.requires_grad else None
    for optimizer in optimizers:
        optimizer.step()
    inner = [part for optimizer in optimizers for part in getattr(optimizer, "inner", (optimizer,))]
    kept = {id(tensor.untyped_storage()): tensor.untyped_storage() for one in inner for tensor in _tensors(list(one.state.values()))}
    return int(sum(storage.nbytes() for storage in kept.values()))
