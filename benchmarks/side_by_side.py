"""What every comparison with a peer shares: runs in turn, medians and ranges, the machine and its peak, a table and JSON."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from maskgen.networks.packed_linear import product

Run = Callable[[], object]
PEAK_SIZES = {"cpu": ((512, 1024, 1024), (1024, 1024, 1024)), "cuda": ((4096, 4096, 4096), (8192, 8192, 8192))}
"""Matrix products whose best rate counts as the peak of the machine."""


@dataclass(frozen=True)
class Comparison:
    """One thing done by both sides, in turn.

    Args:
        what: Name of the thing.
        ours_s: Seconds of each round.
        theirs_s: Seconds of each round, of the same rounds.
        ours_flops: Floating-point operations of one run, 0 if it has no matrix product.
        theirs_flops: Likewise.
    """

    what: str
    ours_s: list[float]
    theirs_s: list[float]
    ours_flops: int = 0
    theirs_flops: int = 0

    @property
    def ratio(self) -> float:
        """How many times as long as ours theirs takes, by the medians."""
        return statistics.median(self.theirs_s) / statistics.median(self.ours_s)

    @property
    def ratios(self) -> list[float]:
        """The same of each round."""
        return [theirs / ours for ours, theirs in zip(self.ours_s, self.theirs_s, strict=True)]

    def to_dict(self, peak: float) -> dict[str, Any]:
        """Plain data for JSON."""
        found: dict[str, Any] = {"what": self.what, "ratio": self.ratio, "ratio_range": [min(self.ratios), max(self.ratios)]}
        for side, seconds, flops in (("ours", self.ours_s, self.ours_flops), ("theirs", self.theirs_s, self.theirs_flops)):
            median = statistics.median(seconds)
            found[side] = {"median_s": median, "range_s": [min(seconds), max(seconds)], "flops": flops}
            found[side]["share_of_peak"] = flops / median / peak if flops else None
        return found


def compare(what: str, ours: Run, theirs: Run, rounds: int, device: str = "cpu") -> Comparison:
    """Run both sides once unmeasured to count their work, then in turn, the one that begins changing from round to round.

    Args:
        what: Name for the table.
        ours: One run of maskgen.
        theirs: One run of the peer.
        rounds: Measured rounds.
        device: Where they run; on CUDA each run is timed until the device is done.
    """
    flops = [flops_of(run) for run in (ours, theirs)]
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            times[side].append(seconds((ours, theirs)[side], device))
    return Comparison(what, *times, *flops)


def seconds(run: Run, device: str = "cpu") -> float:
    """Wall time of one run."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    found: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
    return found


def _linear(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    found = 2 * weight[0] * weight[1]
    for size in x[:-1]:
        found *= size
    return int(found)


def flops_of(run: Run) -> int:
    """Floating-point operations of the matrix products, convolutions and attention in one run; a product of n numbers counts 2 n."""
    uncounted = {
        torch.ops.mkldnn._linear_pointwise: _linear,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    }
    with FlopCounterMode(display=False, custom_mapping=uncounted) as counter:
        run()
    return int(counter.get_total_flops())


def peak_flops(device: str = "cpu", dtype: torch.dtype = torch.float32, seconds_each: float = 0.3) -> float:
    """Best rate of a matrix product on this machine, as it is loaded now, in floating-point operations a second."""
    best = 0.0
    with torch.no_grad():
        for rows, inner, columns in PEAK_SIZES[torch.device(device).type]:
            x, weight = (torch.randn(size, inner, device=device, dtype=dtype) for size in (rows, columns))
            for multiply in (product, functional.linear):
                seconds(lambda multiply=multiply, x=x, weight=weight: multiply(x, weight), device)  # type: ignore[misc]
                end = time.perf_counter() + seconds_each
                while time.perf_counter() < end:
                    elapsed_s = seconds(lambda multiply=multiply, x=x, weight=weight: multiply(x, weight), device)  # type: ignore[misc]
                    best = max(best, 2 * rows * inner * columns / elapsed_s)
    return best


def machine(device: str = "cpu") -> dict[str, Any]:
    """What ran it."""
    facts: dict[str, Any] = {"processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    facts |= {"load": os.getloadavg()[0], "python": platform.python_version(), "torch": torch.__version__}
    if torch.device(device).type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return facts


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def report(title: str, settings: dict[str, Any], comparisons: Sequence[Comparison], peak: float, device: str = "cpu") -> dict[str, Any]:
    """Print the table and return everything as plain data."""
    facts = machine(device)
    print(title)
    print("  " + ", ".join(f"{name} {value}" for name, value in {**settings, **facts}.items()))
    print(f"  peak of a matrix product {peak / 1e9:,.0f} GFLOP/s")
    print(f"  {'':28} {'maskgen, s':>24} {'peer, s':>24} {'ratio':>20} {'share of peak':>16}")
    rows = [comparison.to_dict(peak) for comparison in comparisons]
    for row in rows:
        times = [f"{side['median_s']:.4g} [{side['range_s'][0]:.4g} {side['range_s'][1]:.4g}]" for side in (row["ours"], row["theirs"])]
        ratio = f"{row['ratio']:.2f} [{row['ratio_range'][0]:.2f} {row['ratio_range'][1]:.2f}]"
        shares = [row[side]["share_of_peak"] for side in ("ours", "theirs")]
        share = "" if None in shares else " / ".join(f"{100 * part:.0f} %" for part in shares)
        print(f"  {row['what']:28} {times[0]:>24} {times[1]:>24} {ratio:>20} {share:>16}")
    return {"title": title, "settings": settings, "machine": facts, "peak_flops": peak, "comparisons": rows}


def arguments(description: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    """The options that all comparisons share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="measured runs of each side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch", default="1", help="rows at once; several as 1,8,64")
    parser.add_argument("--json", type=Path, help="write the results here too")
    return parser


def batches(args: argparse.Namespace) -> list[int]:
    """Batch sizes asked for."""
    return [int(size) for size in args.batch.split(",")]


def written(results: Sequence[dict[str, Any]], path: Path | None) -> None:
    """Print the results as JSON, and write them."""
    text = json.dumps(list(results))
    print(text)
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")


def missing(peer: str, error: ImportError, install: str) -> NoReturn:
    """Say what to install and leave with code 2."""
    print(f"{peer} cannot be imported ({error}). Install it beside maskgen, in an environment of its own:\n{install}", file=sys.stderr)
    raise SystemExit(2)
