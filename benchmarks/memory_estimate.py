"""Memory of a training as `maskgen fit --estimate` tells it, beside the most that a real run takes.

Each of three trainings runs two steps in a process of its own with averaged weights. Measured is the most resident memory during the run
minus that before it, after a warm-up with a tiny model, so that imports do not count.

Run:    OMP_NUM_THREADS=1 uv run python benchmarks/memory_estimate.py [--only NAME] [--json out/memory.json]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from maskgen.data.shards.layout import read_layout, write_random_shards
from maskgen.training.runtime.fit import run

CASES: dict[str, dict[str, Any]] = {
    "activations": {"transformer": {"dim": 256, "num_layers": 4, "num_heads": 4}, "rows": 12, "image": [16, 16], "codes": 8192},
    "recomputed, 1,088 cells": {
        "transformer": {"dim": 256, "num_layers": 4, "num_heads": 4},
        "rows": 4,
        "image": [32, 32],
        "codes": 8192,
        "recompute": "blocks",
    },
    "weights": {"transformer": {"dim": 256, "num_layers": 4, "num_heads": 4}, "rows": 2, "image": [8, 8], "codes": 65536},
}
"""Trainings that are measured: one where activations are most, one that recomputes long rows, one where the weights are most."""
TINY: dict[str, Any] = {"transformer": {"dim": 32, "num_layers": 1, "num_heads": 2}, "rows": 2, "image": [4, 4], "codes": 64}
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
"""Settings of the C library that give freed memory back at once, so that resident memory is live memory."""


def configuration(folder: Path, case: dict[str, Any]) -> Path:
    """Write shards and configuration of a case."""
    text = {"kind": "text", "codebook_size": 1000, "end": 0, "shape": [64]}
    layout = {"text": text, "image": {"kind": "image", "codebook_size": case["codes"], "shape": case["image"]}}
    folder.mkdir(parents=True)
    (folder / "layout.yaml").write_text(yaml.safe_dump(layout))
    write_random_shards(folder / "tokens", read_layout(folder / "layout.yaml"), {"train": 64, "A": 2})
    model = {"transformer": case["transformer"], "target": "image", "warmup_steps": 1, "recompute": case.get("recompute", "none")}
    data = {"parts": str(folder / "tokens"), "batch_size": case["rows"], "length_multiple": 64, "validation_rows": 2}
    average = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = {"accelerator": "cpu", "max_steps": 2, "max_epochs": -1, "limit_val_batches": 0, "callbacks": [average], **quiet}
    plain = {
        "model": {"class_path": "maskgen.training.modules.masked.MaskedTokenModule", "init_args": model},
        "data": {"class_path": "maskgen.data.loading.token_data.TokenData", "init_args": data},
        "trainer": trainer,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(plain))
    return folder / "config.yaml"


def resident_bytes(name: str) -> int:
    """A figure of this process in /proc/self/status: VmRSS (now) or VmHWM (the most)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def measured_here(name: str) -> int:
    """Most memory of a training of a case in this process, in bytes, beside what the process had before."""
    with tempfile.TemporaryDirectory() as folder:
        run(["fit", "--config", str(configuration(Path(folder) / "tiny", TINY))])
        path = configuration(Path(folder) / "case", CASES[name])
        Path("/proc/self/clear_refs").write_text("5")  # begins the most of this process anew
        before = resident_bytes("VmRSS")
        run(["fit", "--config", str(path)])
        return resident_bytes("VmHWM") - before


def compared(name: str) -> dict[str, Any]:
    """Estimated and measured bytes of a case, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        found = run(["fit", "--config", str(configuration(Path(folder) / "case", CASES[name])), "--estimate"])
    command = [sys.executable, __file__, "--measure", name]
    done = subprocess.run(command, env={**os.environ, **RETURNED}, check=True, capture_output=True, text=True)
    measured = int(done.stdout.strip().splitlines()[-1])
    return {"name": name, "estimated": found.peak, "measured": measured, "ratio": found.peak / measured}


def main() -> None:
    """Compare every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, help="one case")
    parser.add_argument("--json", type=Path, help="write the results there too")
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(measured_here(args.measure))
        return
    found = [compared(name) for name in ([args.only] if args.only else CASES)]
    for one in found:
        print(f"{one['name']:26} estimated {one['estimated'] / 1e6:8.0f} MB  measured {one['measured'] / 1e6:8.0f} MB  {one['ratio']:.2f}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
