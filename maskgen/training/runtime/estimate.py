"""Memory, largest batch, floating-point operations and hours of a training, before it starts."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from maskgen.masking.masks import draw_masks
from maskgen.masking.tasks import draw_tasks
from maskgen.networks.auto import new_network
from maskgen.networks.recompute import Recompute
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.networks.visibility import visible
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import Segment
from maskgen.tokens.unpadding import unpad
from maskgen.training.modules.any_to_any import AnyToAnyModule
from maskgen.training.modules.base import GeneratorModule
from maskgen.training.modules.masked import MaskedTokenModule
from maskgen.training.runtime.traced_memory import StepMemory, StepShape, optimizer_bytes, step_memory

GB = 10**9
H100_FLOPS = 989e12
"""Peak of one H100 SXM in bfloat16 without sparsity, FLOP/s."""
UTILISATION = 0.4
"""Share of the peak that the hours assume."""


@dataclass(frozen=True)
class Estimate:
    """Cost of a training.

    Args:
        parameters: Number of weights.
        weights: Bytes of the weights.
        optimizer: Bytes of the optimizer's states.
        average: Bytes of the averaged weights.
        step: Memory of a step with the configuration's own recomputation.
        other_steps: The same with other recomputation.
        batch: Rows of a step as the configuration has it.
        steps: Steps of the training.
        flops: Floating-point operations of one step; a product of n numbers counts 2 n.
        largest: GB of memory to the largest batch that fits, if it was asked for.
    """

    parameters: int
    weights: int
    optimizer: int
    average: int
    step: StepMemory
    other_steps: Mapping[str, StepMemory]
    batch: int
    steps: int
    flops: float
    largest: Mapping[float, int]

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on the batch, without gradients."""
        return self.weights + self.optimizer + self.average

    @property
    def peak(self) -> int:
        """Most bytes at a time."""
        return self.fixed + self.step.peak(self.weights)

    def hours(self, gpus: int) -> float:
        """Hours on so many H100 at `UTILISATION` of their peak."""
        return self.flops * self.steps / (gpus * UTILISATION * H100_FLOPS) / 3600

    @property
    def headline(self) -> str:
        """The estimate in one line, as the configurations in configs/scale quote it."""
        return (
            f"{self.parameters / 1e6:,.0f} M parameters, batch {self.batch}, {self.steps:,} steps: {self.flops * self.steps:.1e} FLOP, "
            f"{self.peak / GB:.0f} GB, {self.hours(1):,.0f} h on 1 H100 and {self.hours(8):,.0f} h on 8 at {UTILISATION:.0%} of peak"
        )

    @property
    def table(self) -> str:
        """Memory per part, one line each, and what follows from it."""
        step, rows = self.step, {"weights": self.weights, "gradients": self.weights, "optimizer": self.optimizer}
        rows |= {"averaged weights": self.average, "activations": step.activations, "  of it attention": step.attention}
        rows |= {"weights in half precision": step.casts, "logits": step.logits}
        lines = [f"{name:26} {size / GB:9.3f} GB" for name, size in rows.items() if size]
        lines += [f"{'activations a row':26} {step.activations / self.batch / GB:9.4f} GB", f"{'peak':26} {self.peak / GB:9.3f} GB"]
        lines += [
            f"{'peak with recompute: ' + name:34} {(self.fixed + other.peak(self.weights)) / GB:.3f} GB"
            for name, other in self.other_steps.items()
        ]
        lines += [f"largest batch in {size:g} GB: {rows or 'none'}" for size, rows in self.largest.items()]
        return "\n".join([*lines, f"{self.flops:.3e} FLOP a step", self.headline])


def estimated(
    module: GeneratorModule[Any], batch: TokenBatch, precision: str, steps: int, averaged: bool, sizes_gb: Sequence[float] = ()
) -> Estimate:
    """Cost of a training with a `MaskedTokenModule` or an `AnyToAnyModule` of a plain transformer.

    Activations and logits come from traces of one and of two blocks on fake tensors (`step_memory`); compiled blocks keep less. What the
    machine itself takes (the CUDA context, cached blocks, data) is not part of it.

    Args:
        module: The module, made on fake tensors or not.
        batch: One batch of its data.
        precision: As the trainer's.
        steps: Steps of the training.
        averaged: Whether averaged weights are kept.
        sizes_gb: Sizes of memory in GB (10^9 bytes) to find the largest batch for.

    Raises:
        ValueError: If the module trains another network, or merges cells or reads features, or the training has no length.
    """
    network = module.model
    if not isinstance(module, MaskedTokenModule | AnyToAnyModule) or not isinstance(network, MaskTransformer):
        raise ValueError(
            f"--estimate knows MaskedTokenModule and AnyToAnyModule with a plain transformer, got {type(module).__name__} with "
            f"{type(network).__name__}; estimate a plain transformer of the same size"
        )
    if network.config.compress > 1 or module.space.feature_width:
        raise ValueError("--estimate does not know compress and features of text encoders; estimate without them")
    if steps < 1:
        raise ValueError(f"--estimate needs the length of the training, got max_steps {steps}; set trainer.max_steps")
    shape, config = step_shape(module, batch, precision), network.config
    parameters = sum(weight.numel() for weight in network.parameters())
    weights = parameters * (2 if precision.endswith("-true") and "16" in precision else 4)
    optimizer = _optimizer(module, config)
    kinds: dict[str, Recompute] = {"none": "none", "elementwise": "elementwise", "blocks": "blocks"}
    size = network.vocab_size, network.num_modalities
    own = step_memory(config, *size, shape, network.recompute)
    others = {name: step_memory(config, *size, shape, kind) for name, kind in kinds.items() if kind != network.recompute}
    fixed = weights + optimizer + averaged * weights
    rows_in = len(batch) / shape.rows
    """Rows of the data in a row of the network, which packs them."""

    def peak(rows: int) -> int:
        return fixed + step_memory(config, *size, shape.of(max(1, math.ceil(rows / rows_in))), network.recompute).peak(weights)

    largest = {limit: largest_batch(peak, limit * GB) for limit in sizes_gb}
    flops = step_flops(config, shape, network.recompute)
    return Estimate(parameters, weights, optimizer, averaged * weights, own, others, len(batch), steps, flops, largest)


def largest_batch(peak: Any, limit: float) -> int:
    """Largest number of rows whose peak lies within the limit in bytes; 0 if one row does not fit. The peak grows in a straight line.

    Args:
        peak: Number of rows to bytes.
        limit: Bytes.
    """
    if peak(1) > limit:
        return 0
    few, many = peak(8), peak(16)
    rows = max(1, int(8 + (limit - few) * 8 / max(many - few, 1)))
    while rows > 1 and peak(rows) > limit:
        rows -= max(1, rows // 50)
    return rows


def step_shape(module: MaskedTokenModule | AnyToAnyModule, batch: TokenBatch, precision: str) -> StepShape:
    """What a training step of a module computes on a batch, with the masks of seed 0."""
    draw, codes = torch.Generator().manual_seed(0), dict[Segment, int]()
    if isinstance(module, MaskedTokenModule):
        masked = draw_masks(
            batch, module.segments, module.schedule, module.level_weights, module.drop_condition, draw, groups=module.groups
        )
        seen, found = masked.batch, {module.target: masked.cells}
    else:
        drawn = draw_tasks(batch, module.space, module.tasks, module.targets, module.drop_condition, draw)
        seen = unpad(drawn.batch, module.fold_length, module.fold_rows).batch
        found = {name: asked.masked.cells for name, asked in drawn.asked.items()}
    for name, cells in found.items():
        counts = cells.sum(dim=(0, 1)).tolist()
        codes |= {segment: counts[segment.level] for segment in module.space.of(name) if counts[segment.level]}
    rows, length, levels = seen.ids.shape
    apart = bool(module.model.config.blind_condition) or visible(seen.valid, seen.document) is not None
    return StepShape(rows, length, levels, codes, apart, precision)


def step_flops(config: TransformerConfig, shape: StepShape, recompute: Recompute) -> float:
    """Floating-point operations of the matrix products of one training step: the backward pass costs twice the forward pass.

    Attention is counted over all pairs of a row. "blocks" computes the blocks once more, "elementwise" no product with weights.
    """
    heads = config.num_heads * config.head_dim
    linear = 2 * config.dim * (4 * heads + 3 * config.inner_dim)
    attention = 4 * heads * shape.length
    blocks = shape.rows * shape.length * config.num_layers * (linear + attention)
    head = sum(2 * config.dim * segment.size * count for segment, count in shape.codes.items())
    return float(blocks * (4 if recompute == "blocks" else 3) + 3 * head)


def _optimizer(module: GeneratorModule[Any], config: TransformerConfig) -> int:
    """Bytes of the optimizer's states, from networks of one and of two blocks."""
    whole, found = module.model, []
    for count in (1, 2):
        with FakeTensorMode():
            module.model = new_network(dataclasses.replace(config, num_layers=count), module.space)
            made = module.configure_optimizers()
            optimizers = [made["optimizer"]] if isinstance(made, dict) else [made]
            found.append(optimizer_bytes(optimizers, list(module.model.parameters())))
    module.model = whole
    return found[0] + (config.num_layers - 1) * (found[1] - found[0])


def fake_module(make: Any) -> nn.Module:
    """A module whose weights have shapes and no memory, so that any size can be made on any machine.

    Args:
        make: Makes the module.
    """
    with FakeTensorMode():
        made: nn.Module = make()
    return made
