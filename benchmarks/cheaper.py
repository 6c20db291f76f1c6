"""What each cheaper way of decoding saves and costs: pictures of held-out captions, the same seeds, all ways in turn.

Run:  uv run --extra eval --extra int8 python benchmarks/cheaper.py --rows 200
Needs data/emoji/build/raw (uv run maskgen data build data/emoji/recipe.yaml). Quality is judged as in `maskgen evaluate image`; time is
that of the processor in the model and the sampler, so other work on the machine hardly counts.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from maskgen.decoding.settings import GenerationSettings
from maskgen.evaluation.image.corpus import Row, read_corpus
from maskgen.evaluation.tuning.judges import picture_scores, retrieval_judge
from maskgen.pipelines.base import Pipeline

WAYS: dict[str, dict[str, Any]] = {
    "the bundle's own": {},
    "guidance on the second half alone": {"guidance_schedule": "interval", "guidance_interval": [0.5, 1.0]},
    "refresh 2": {"refresh": 2},
    "refresh 4": {"refresh": 4},
    "merge a quarter": {"merge": 0.25},
    "int8": {},
    "packed weights": {},
    "shortcut 2": {"shortcut": 2},
    "half of the steps": {"steps": [8, 4, 3]},
    "critic's order, 6 steps": {"guidance_scale": 1.0, "steps": [3, 2, 1], "sampler": "critic"},
    "plain MaskGIT, 12 passes": {"guidance_scale": 1.0, "steps": [6, 3, 3]},
    "plain MaskGIT, 4 passes": {"guidance_scale": 1.0, "steps": [2, 1, 1]},
    "first-hitting order, 4 passes": {"guidance_scale": 1.0, "steps": [2, 1, 1], "sampler": "first_hitting"},
}


@dataclass
class Way:
    """One way of decoding and what was found of it.

    Args:
        pipeline: The model.
        settings: How it decodes.
        pictures: What it drew.
        passes: Passes of each row.
        times_s: Processor time of each block of rows.
    """

    pipeline: Pipeline
    settings: GenerationSettings
    pictures: list[Any] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)


def ways_of(model: str, student: str | None, dtype: torch.dtype, wanted: Sequence[str] = ()) -> dict[str, Way]:
    """All ways that the model, and a distilled student where one is named, can go, or those wanted beside the bundle's own."""
    plain = Pipeline.from_pretrained(model).to(dtype=dtype)
    found = {}
    for name, changes in WAYS.items():
        if name not in wanted and wanted and name != next(iter(WAYS)):
            continue
        if ("shortcut" in changes and plain.helpers.shortcut is None) or (
            changes.get("sampler") == "critic" and plain.helpers.critic is None
        ):
            continue
        if name == "packed weights" and dtype != torch.float32:
            continue
        pipeline = plain
        if name == "int8":
            pipeline = Pipeline.from_pretrained(model).to(dtype=dtype).enable_int8()
        elif name == "packed weights":
            pipeline = Pipeline.from_pretrained(model).enable_packed_weights()
        found[name] = Way(pipeline, plain.settings_of("image").changed(**changes))
    if student is not None:
        taught = Pipeline.from_pretrained(student).to(dtype=dtype)
        for name, steps in (("distilled student, 8 passes", [4, 2, 2]), ("distilled student, 4 passes", [2, 1, 1])):
            found[name] = Way(taught, plain.settings_of("image").changed(guidance_scale=1.0, steps=steps))
    return found


def draw(ways: dict[str, Way], rows: Sequence[Row], block: int) -> None:
    """Every way draws every row, block by block, each block by all ways."""
    for start in tqdm(range(0, len(rows), block)):
        part = rows[start : start + block]
        for way in ways.values():
            known = [way.pipeline.text_codes(row.caption) for row in part]
            began_s = time.process_time()
            made = way.pipeline.generate(known, "image", list(range(start, start + len(part))), way.settings)
            way.times_s.append(time.process_time() - began_s)
            way.pictures += made.media
            way.passes += made.model_calls


def main() -> None:
    """Draw, judge, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-64")
    parser.add_argument("--student", help="folder of a model made by configs/distill_emoji64.yaml")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--block", type=int, default=20, help="rows of a turn (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", default=[], metavar="WAY", help="some ways only, by their names, beside the bundle's own")
    parser.add_argument("--split", default="A")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--raw", type=Path, default=Path("data/emoji/build/raw"))
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/maskgen/evaluators").expanduser())
    args = parser.parse_args()
    corpora = read_corpus(args.raw)
    rows = corpora[args.split].limited(args.rows).rows
    if odd := set(args.ways) - WAYS.keys():
        parser.error(f"there is no way {odd.pop()!r}; there are {', '.join(WAYS)}")
    ways = ways_of(args.model, args.student, getattr(torch, args.dtype), args.ways)
    if missing := set(args.ways) - ways.keys():
        parser.error(f"{args.model} has no trained network for {missing.pop()!r}, or it is not for {args.dtype}; see configs/")
    draw(ways, rows, args.block)
    look, judge = picture_scores(corpora, args.cache, (0, 1, 2)), retrieval_judge(corpora, (0, 1, 2), args.cache)
    first = next(iter(ways.values()))
    base = np.array(judge(rows, first.pictures))
    print(f"{len(rows)} rows of split {args.split}, {args.dtype}, {len(first.times_s)} turns; judged by three evaluator seeds")
    print("| way | passes | time, times less | R@5 | tone | style | mean reciprocal rank | less by |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, way in ways.items():
        scores, quality = look(rows, way.pictures), np.array(judge(rows, way.pictures))
        less, error = (base - quality).mean(), (base - quality).std(ddof=1) / len(rows) ** 0.5
        ratios = [own / times for own, times in zip(first.times_s, way.times_s, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} [{min(ratios):.2f} {max(ratios):.2f}]"
        change = "" if way is first else f"{less:+.3f} ± {error:.3f}"
        print(
            f"| {name} | {np.mean(way.passes):.1f} | {ratio} | {scores['recall_at_5']:.3f} | {scores['tone']:.3f} | "
            f"{scores['style']:.3f} | {quality.mean():.3f} | {change} |"
        )


if __name__ == "__main__":
    main()
