"""A style that no model has seen, for docs/finetuning.md: blueprints of the shipped sample, and how much paper a model draws.

Run:    uv run python benchmarks/blueprint.py draw --out data/blueprint/build
        uv run python benchmarks/blueprint.py judge --model emoji-64 --model my-model
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from maskgen.data.shards.format import read_split_shard
from maskgen.data.shards.manifest import read_index

SAMPLE = Path(__file__).parents[1] / "data" / "emoji" / "sample"
HELD_OUT = ("a woman farmer with medium skin", "an avocado")
PAPER, INK = np.array([31, 78, 153.0]), np.array([240, 246, 255.0])
SUBJECTS = (
    "a slice of pizza",
    "a cat face",
    "a soccer ball",
    "a house",
    "thumbs up with medium skin",
    "a sailboat",
    "a woman astronaut with dark skin",
    "a birthday cake",
)
"""What is drawn to judge; none of them is among the blueprints."""
NEAR = 32
"""Largest difference in a channel at which a pixel has the colour of the paper."""


def blueprint(picture: Image.Image) -> Image.Image:
    """White lines on blue: the outline of what is darker or lighter than its surroundings."""
    large = (
        picture.convert("L").resize((4 * picture.width, 4 * picture.height), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(3))
    )
    rows, columns = np.gradient(np.asarray(large, np.float64))
    edge = Image.fromarray(np.clip(np.hypot(rows, columns) * 22, 0, 255).astype(np.uint8))
    line = np.asarray(ImageOps.autocontrast(edge).resize(picture.size, Image.Resampling.BOX), np.float64)[..., None] / 255
    return Image.fromarray((PAPER + (INK - PAPER) * line**0.8).round().astype(np.uint8))


def draw(out: Path) -> int:
    """Writes a picture, a caption and a split for each picture of the sample, and gives their number."""
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for entry in read_index(SAMPLE).shards:
        for key, sample in read_split_shard(SAMPLE, entry):
            label = sample["json"]["captions"][0].rpartition(",")[0]
            blueprint(Image.fromarray(sample["png"])).save(out / f"{key}.png")
            (out / f"{key}.txt").write_text(f"{label}, blueprint style\nblueprint style, {label}\n", encoding="utf-8")
            split = "validation" if label in HELD_OUT else "train"
            (out / f"{key}.json").write_text(json.dumps({"split": split}), encoding="utf-8")
            count += 1
    return count


def paper_share(picture: Image.Image) -> float:
    """Share of the pixels that have the colour of the paper; other blues, which the word "blue" brings anyway, do not count."""
    return float((np.abs(np.asarray(picture.convert("RGB"), np.float64) - PAPER).max(axis=-1) <= NEAR).mean())


def judge(models: list[str], sheet: Path | None) -> None:
    """Prints the mean share of paper in what each model draws with and without the new style word."""
    from maskgen.io.images import contact_sheet
    from maskgen.pipelines.base import Pipeline

    shown = []
    for name in models:
        pipeline = Pipeline.from_pretrained(name)
        for style in ("blueprint", "flat"):
            made = pipeline([f"{subject}, {style} style" for subject in SUBJECTS], seed=0).images
            print(f"{name}: {style} style, {100 * np.mean([paper_share(picture) for picture in made]):.1f} % of the pixels are paper")
            shown += made
    if sheet is not None:
        contact_sheet(shown, len(SUBJECTS)).save(sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    drawing = verbs.add_parser("draw")
    drawing.add_argument("--out", type=Path, default=Path("data/blueprint/build"))
    judging = verbs.add_parser("judge")
    judging.add_argument("--model", action="append", required=True)
    judging.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    if args.verb == "draw":
        print(f"wrote {draw(args.out)} blueprints with captions to {args.out}")
    else:
        judge(args.model, args.sheet)


if __name__ == "__main__":
    main()
