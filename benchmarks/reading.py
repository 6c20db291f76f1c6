"""Rate of reading token shards: maskgen in shuffled order beside plain webdataset in file order, in one run.

Run:    uv run python benchmarks/reading.py
        uv run python benchmarks/reading.py --ranks 8      # as many real processes, each with its share of one order
"""

import argparse
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset

from maskgen.data.loading.order import ShuffledOrder
from maskgen.data.loading.rows import ShardRows
from maskgen.data.loading.samples import TokenRows
from maskgen.data.shards.format import json_bytes, npy_bytes, write_shard
from maskgen.data.shards.manifest import ShardEntry
from maskgen.tokens.space import Modality, TokenSpace

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=4096),
        Modality(name="image", kind="image", num_levels=3, codebook_size=1024),
    ]
)


def shards(folder: Path, count: int, each: int) -> list[ShardEntry]:
    """Token shards as a build writes them: 3 x 8 x 8 image codes, 6 captions, a json."""
    draw = np.random.default_rng(0)

    def sample(number: int) -> tuple[str, dict[str, bytes]]:
        captions, image = draw.integers(0, 4096, (6, 16), np.int16), draw.integers(0, 1024, (3, 8, 8), np.int16)
        meta = {"label": f"picture number {number}", "captions": ["a caption of six words"] * 6, "style": "flat", "tone": 0}
        return f"row-{number:08d}", {"text.npy": npy_bytes(captions), "image.npy": npy_bytes(image), "json": json_bytes(meta)}

    return [
        write_shard(folder / f"train-{shard:06d}.tar", "train", (sample(shard * each + row) for row in range(each)))
        for shard in range(count)
    ]


def ours(folder: Path, entries: list[ShardEntry]) -> Iterator[object]:
    """Tensors of one caption and the picture, in shuffled order: what training reads."""
    rows = TokenRows(ShardRows(lambda entry: folder / entry.name, entries), SPACE)
    order = ShuffledOrder([entry.count for entry in entries], 0)
    yield from (rows[draw] for draw in order.draws(0, len(order)))


def rank_seconds(folder: Path, entries: list[ShardEntry], rank: int, ranks: int, start: Any, found: Any) -> None:
    """One rank of a training: its share of the draws of one shuffled order, timed from the moment when all ranks are ready."""
    rows = TokenRows(ShardRows(lambda entry: folder / entry.name, entries), SPACE)
    order = ShuffledOrder([entry.count for entry in entries], 0)
    draws = list(order.draws(0, len(order)))[rank::ranks]
    start.wait()
    begin, cpu = time.perf_counter(), time.process_time()
    for draw in draws:
        rows[draw]
    found.put((len(draws), time.perf_counter() - begin, time.process_time() - cpu))


def with_ranks(folder: Path, entries: list[ShardEntry], ranks: int) -> str:
    """Rate of all ranks together, and of the slowest rank, in samples a second."""
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(ranks), context.Queue()
    processes = [context.Process(target=rank_seconds, args=(folder, entries, rank, ranks, start, found)) for rank in range(ranks)]
    for process in processes:
        process.start()
    parts = [found.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    counts, elapsed, cpu = zip(*parts, strict=True)
    total = sum(entry.count for entry in entries)
    assert sum(counts) == total, f"{sum(counts)} samples came"
    return (
        f"{ranks} ranks on {os.cpu_count()} cores: {total / max(elapsed):,.0f} samples/s together, slowest rank "
        f"{min(count / seconds for count, seconds in zip(counts, elapsed, strict=True)):,.0f}; "
        f"{total / sum(cpu):,.0f} samples a second of processor time"
    )


def theirs(folder: Path, entries: list[ShardEntry]) -> Iterator[object]:
    """The same tensors from webdataset with its usual shuffle buffer."""
    draw = random.Random(0)

    def tensors(sample: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        caption = sample["text.npy"][draw.randrange(6)]
        codes = {"text": caption[caption >= 0][None], "image": sample["image.npy"]}
        return {name: torch.from_numpy(array.astype(np.int64)) for name, array in codes.items()}

    yield from webdataset.WebDataset(_paths(folder, entries), shardshuffle=100, seed=0).shuffle(1000).decode().map(tensors)


def our_fields(folder: Path, entries: list[ShardEntry]) -> Iterator[object]:
    """Every field decoded, json too, in file order."""
    rows = ShardRows(lambda entry: folder / entry.name, entries)
    yield from (rows.read(row, ("text.npy", "image.npy", "json")) for row in range(len(rows)))


def their_fields(folder: Path, entries: list[ShardEntry]) -> Iterator[object]:
    """Every field decoded by webdataset, in file order."""
    yield from webdataset.WebDataset(_paths(folder, entries), shardshuffle=False).decode()


def _paths(folder: Path, entries: list[ShardEntry]) -> list[str]:
    return [str(folder / entry.name) for entry in entries]


Reader = Callable[[Path, list[ShardEntry]], Iterator[object]]
PAIRS: dict[str, tuple[Reader, Reader]] = {
    "shuffled training tensors": (ours, theirs),
    "every field in file order": (our_fields, their_fields),
}


def main() -> None:
    """Measure each reader several times in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--each", type=int, default=1000, help="samples a shard")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=0, help="read with this many processes instead of beside webdataset")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entries = shards(folder, args.shards, args.each)
        total = args.shards * args.each
        for _ in range(args.rounds if args.ranks else 0):
            print(with_ranks(folder, entries, args.ranks))
        if args.ranks:
            return
        for what, pair in PAIRS.items():
            found = [statistics.median(times) for times in zip(*(_round(pair, folder, entries) for _ in range(args.rounds)), strict=True)]
            own, other = (total / seconds for seconds in found)
            print(f"{what}: maskgen {own:,.0f} samples/s, webdataset {other:,.0f}; {own / other:.1f} x (medians of {args.rounds} rounds)")


def _round(pair: tuple[Reader, Reader], folder: Path, entries: list[ShardEntry]) -> list[float]:
    """Seconds of both readers, one after the other."""
    times = []
    for read in pair:
        start = time.perf_counter()
        found = sum(1 for _ in read(folder, entries))
        times.append(time.perf_counter() - start)
        assert found == sum(entry.count for entry in entries), f"{found} samples came"
    return times


if __name__ == "__main__":
    main()
