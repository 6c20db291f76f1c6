"""What a large build costs: plans a million synthetic samples for real, and extends that and measured rates to a billion.

Run:    uv run python benchmarks/build_cost.py --rate 200 --bytes 3400 --workers 64 --dollars 0.05
"""

import argparse
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from maskgen.data.build.plan import plan_recipe
from maskgen.data.build.raw_shards import RawOutput
from maskgen.data.build.recipe import ImageRecipe, Recipe
from maskgen.data.sources.handles import InlinePart
from maskgen.data.sources.items import Item, Source


def planned(count: int, shard_samples: int) -> tuple[int, float, float]:
    """Shards, seconds and bytes of memory a sample of planning that many samples of a folder."""

    class Synthetic(Source):
        """Samples that exist in name alone."""

        weight = 1.0

        def items(self) -> Iterator[Item]:
            part = InlinePart(b"")
            for number in range(count):
                yield Item(
                    key=f"picture-{number:09d}", parts={"image": part}, attributes={}, split=None, identity=f"pictures/{number}.jpg:20000"
                )

    import maskgen.data.build.plan as plan

    recipe = Recipe(
        name="large", sources=({"kind": "folder", "path": "."},), image=ImageRecipe(size=64), shard_samples=shard_samples, root=Path(".")
    )
    listing, plan.read_sources = plan.read_sources, lambda specs, root: [Synthetic()]  # type: ignore[assignment]
    try:
        tracemalloc.start()
        start = time.perf_counter()
        shards = len(plan_recipe(recipe, RawOutput()).shards)
        elapsed_s, memory = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        plan.read_sources = listing
    return shards, elapsed_s, memory / count


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", type=int, default=200_000, help="samples that are really planned")
    parser.add_argument("--rate", type=float, required=True, help="samples a second of one worker, from benchmarks/building.py")
    parser.add_argument("--bytes", type=float, required=True, help="bytes a sample in the shards")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--dollars", type=float, default=0.05, help="dollars an hour of one worker")
    parser.add_argument("--shard-samples", type=int, default=10_000)
    args = parser.parse_args()
    shards, elapsed_s, memory = planned(args.plan, args.shard_samples)
    print(
        f"planned {args.plan:,} samples in {shards} shards: {1e6 * elapsed_s / args.plan:.0f} us and {memory:.0f} bytes of memory a sample"
    )
    for count in (10**6, 10**9):
        hours = count / args.rate / args.workers / 3600
        worker_hours = hours * args.workers
        print(
            f"{count:>13,} samples: {-(-count // args.shard_samples):,} shards, {count * args.bytes / 1e9:,.1f} GB, "
            f"{worker_hours:,.1f} worker hours = {hours:,.2f} h on {args.workers} workers, {worker_hours * args.dollars:,.2f} dollars; "
            f"planning {count * elapsed_s / args.plan / 60:,.1f} min and {count * memory / 1e9:,.1f} GB on one machine"
        )


if __name__ == "__main__":
    main()
