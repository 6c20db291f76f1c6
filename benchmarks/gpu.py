"""What only a GPU shows, as JSON: share of the peak of a training step, decode times, and every test that is marked gpu.

Run:    bash benchmarks/gpu.sh                   # at most ten minutes; prints JSON and writes it to $OUT/gpu.json (out/gpu.json)
        bash benchmarks/gpu.sh --dry             # the same path with tiny sizes on a CPU, without the tests
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lengths import SPACE, decode, rows
from side_by_side import machine, peak_flops, seconds

from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import MASK
from maskgen.training.modules.objective import chunked_cross_entropy
from maskgen.training.modules.optim import MuonAdamW, split_parameters
from maskgen.training.runtime.estimate import step_flops
from maskgen.training.runtime.traced_memory import StepShape

SIZES = {
    "300m": (TransformerConfig(dim=1024, num_layers=24, num_heads=16), {256: 128, 1024: 32}),
    "tiny": (TransformerConfig(dim=64, num_layers=1, num_heads=1), {64: 2, 256: 1}),
}
"""Configuration, and rows of a batch by cells of a row."""
TESTS_S, ALL_S = 240, 540
"""Longest time of the tests, and of everything, in seconds."""


def training(config: TransformerConfig, cells: int, count: int, device: str, rounds: int) -> dict[str, Any]:
    """Times of whole training steps in bfloat16 autocast, compiled on a GPU, and their share of the peak of a matrix product."""
    torch.manual_seed(0)
    model = MaskTransformer(config, SPACE.size, 1).to(device)
    one = rows(cells)
    batch = TokenBatch(one.ids, one.modality, one.coords, one.valid, torch.zeros_like(one.document), one.extent).repeat(count).to(device)
    here, segment = torch.arange(cells, device=device).expand(count, -1) % 2 == 0, SPACE.segment("image", 0)
    masked, wanted = batch.with_ids(torch.where(here[..., None], MASK, batch.ids)), batch.ids[..., 0][here] - segment.offset
    forward = torch.compile(model, dynamic=False) if device == "cuda" else model
    optimizer = MuonAdamW(*split_parameters(model))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss, _ = chunked_cross_entropy(model.logits, forward(masked)[here], wanted, segment)
        loss.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    for _ in range(min(3, rounds)):
        step()
    taken = sorted(seconds(step, device) for _ in range(rounds))
    flops = step_flops(config, StepShape(count, cells, 1, {segment: int(here.sum())}, False, "bf16-mixed"), "none")
    peak, median = peak_flops(device, torch.bfloat16), taken[len(taken) // 2]
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else None
    found = {"cells": cells, "rows": count, "median_s": median, "range_s": [taken[0], taken[-1]], "flops": flops, "peak_bytes": memory}
    return found | {"peak_flops": peak, "share_of_peak": flops / median / peak if peak else None}


def decodes(config: TransformerConfig, cells: int, device: str) -> dict[str, Any]:
    """Times of one decode of a row in bfloat16 on a GPU, in float32 on a CPU."""
    torch.manual_seed(0)
    model = MaskTransformer(config, SPACE.size, 1).to(device, torch.bfloat16 if device == "cuda" else torch.float32).eval()
    batch = rows(cells).to(device)
    decode(model, batch)
    taken = sorted(seconds(lambda: decode(model, batch), device) for _ in range(3))
    return {"cells": cells, "median_s": taken[1], "range_s": [taken[0], taken[-1]]}


def marked_tests() -> dict[str, Any]:
    """Run every test that is marked gpu."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "--maxfail=50", "tests"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TESTS_S)
    except subprocess.TimeoutExpired as stop:
        return {"passed": False, "said": f"stopped after {TESTS_S} s", "tail": str(stop.stdout or "")[-4000:]}
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"passed": done.returncode == 0, "said": lines[-1] if lines else "", "failed": failed}


def attempted(call: Any) -> Any:
    """What a part gives, or its error in one line: one part that breaks must not hide the others."""
    try:
        return call()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"}


def main() -> None:
    """Run all parts and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="tiny sizes on a CPU, without the tests")
    args = parser.parse_args()
    if not args.dry and not torch.cuda.is_available():
        parser.error("no CUDA device here; --dry tries the script on a CPU")
    device, begun = ("cpu" if args.dry else "cuda"), time.perf_counter()
    config, sizes = SIZES["tiny" if args.dry else "300m"]
    found: dict[str, Any] = {"machine": machine(device), "dry": args.dry, "training": [], "decode": []}
    for cells, count in sizes.items():
        found["training"].append(attempted(lambda cells=cells, count=count: training(config, cells, count, device, 2 if args.dry else 10)))
        found["decode"].append(attempted(lambda cells=cells: decodes(config, cells, device)))
    if not args.dry:
        left = ALL_S - (time.perf_counter() - begun)
        found["tests"] = attempted(marked_tests) if left > TESTS_S else {"passed": False, "said": "left out: no time"}
    found["elapsed_s"] = time.perf_counter() - begun
    text = json.dumps(found, indent=1)
    place = Path(os.environ.get("OUT", "out"))
    place.mkdir(parents=True, exist_ok=True)
    (place / "gpu.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
