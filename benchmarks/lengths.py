"""Processor time and memory of one training step and of one decode at growing numbers of cells, beside the arithmetic, on one thread.

Rows are pictures alone, half of whose cells belong to another document, so that attention is masked. The mask column is the largest
tensor of truth values that a step makes, for a row.

Run:    OMP_NUM_THREADS=1 uv run python benchmarks/lengths.py [--cells 256 1024 4096] [--dim 256 --layers 4] [--json out/lengths.json]
"""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from maskgen.decoding.logits import model_logits
from maskgen.networks.recompute import Recompute
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, TokenSpace
from maskgen.training.modules.objective import chunked_cross_entropy
from maskgen.training.modules.optim import MuonAdamW, split_parameters
from maskgen.training.runtime.estimate import step_flops
from maskgen.training.runtime.traced_memory import StepShape

SPACE = TokenSpace([Modality(name="image", kind="image", num_levels=1, codebook_size=1024)])
STEPS = 4
"""Steps of a decode."""


class _LargestMask(TorchDispatchMode):
    """Elements of the largest tensor of truth values."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dtype == torch.bool:
            self.elements = max(self.elements, out.numel())
        return out


def rows(cells: int) -> TokenBatch:
    """One picture of so many cells in two documents."""
    side = math.isqrt(cells)
    batch = pack([{"image": torch.randint(1024, (1, side, side), generator=torch.Generator().manual_seed(0))}], SPACE)
    return dataclasses.replace(batch, document=(torch.arange(cells) >= cells // 2).long()[None])


def step(model: MaskTransformer, optimizer: MuonAdamW, batch: TokenBatch) -> None:
    """One training step with half of the cells masked."""
    here = torch.arange(batch.ids.shape[1])[None] % 2 == 0
    masked = batch.with_ids(torch.where(here[..., None], MASK, batch.ids))
    segment = SPACE.segment("image", 0)
    optimizer.zero_grad()
    loss, _ = chunked_cross_entropy(model.logits, model(masked)[here], batch.ids[..., 0][here] - segment.offset, segment)
    loss.mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def decode(model: MaskTransformer, batch: TokenBatch) -> None:
    """One decode of all cells."""
    blank = batch.with_ids(torch.full_like(batch.ids, MASK))
    ConfidenceSampler(steps=STEPS).sample(model_logits(model), blank, SPACE.segment("image", 0), [torch.Generator().manual_seed(0)])


def peak_bytes() -> int:
    """Most resident memory of this process since it was cleared."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def measured(cells: int, config: TransformerConfig, recompute: Recompute) -> dict[str, Any]:
    """Processor seconds, most memory and largest mask of one step and one decode."""
    torch.manual_seed(0)
    model, batch = MaskTransformer(config, SPACE.size, 1), rows(cells)
    model.recompute = recompute
    optimizer = MuonAdamW(*split_parameters(model))
    shape = StepShape(1, cells, 1, {SPACE.segment("image", 0): cells // 2}, True, "32-true")
    found: dict[str, Any] = {"cells": cells, "step_flops": step_flops(config, shape, recompute)}
    step(model, optimizer, rows(64))  # states of the optimizer, first calls
    for name, call in (("step", lambda: step(model, optimizer, batch)), ("decode", lambda: decode(model.eval(), batch))):
        Path("/proc/self/clear_refs").write_text("5")
        before, start = peak_bytes(), time.process_time()
        call()
        found |= {f"{name}_s": time.process_time() - start, f"{name}_bytes": peak_bytes() - before}
    with _LargestMask() as largest:  # type: ignore[no-untyped-call]
        decode(model, batch)
    found["mask_bytes"] = largest.elements
    return found


def main() -> None:
    """Measure each length in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--recompute", choices=["none", "elementwise", "blocks"], default="none")
    parser.add_argument("--json", type=Path, help="write the results there too")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(1)
        config = TransformerConfig(dim=args.dim, num_layers=args.layers, num_heads=args.dim // 64 or 1)
        print(json.dumps(measured(args.one, config, args.recompute)))
        return
    found = []
    sizes = ["--dim", str(args.dim), "--layers", str(args.layers), "--recompute", args.recompute]
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    names = f"{'step, s':>9} {'of first':>9} {'arithmetic':>11} {'step, MB':>9}"
    print(f"{'cells':>6} {names} {'decode, s':>10} {'decode, MB':>11} {'mask, MB':>9}")
    for cells in args.cells:
        command = [sys.executable, __file__, "--one", str(cells), *sizes]
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        one = json.loads(done.stdout.strip().splitlines()[-1])
        found.append(one)
        growth, flops = one["step_s"] / found[0]["step_s"], one["step_flops"] / found[0]["step_flops"]
        times = f"{one['step_s']:>9.2f} {growth:>9.1f} {flops:>11.1f} {one['step_bytes'] / 1e6:>9.0f}"
        print(f"{cells:>6} {times} {one['decode_s']:>10.2f} {one['decode_bytes'] / 1e6:>11.0f} {one['mask_bytes'] / 1e6:>9.2f}", flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
