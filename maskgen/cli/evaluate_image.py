"""`maskgen evaluate ...`."""

import argparse
from pathlib import Path
from typing import Any

from maskgen.cli.decoding_options import add_decoding, decoded_as
from maskgen.cli.evaluate_any import add_directions
from maskgen.cli.evaluate_speech import add_listening
from maskgen.cli.evaluate_text import add_text
from maskgen.cli.options import add_machine, numbers, pipeline_of
from maskgen.cli.score import add_evaluations


def add(verbs: Any) -> None:
    """Arguments of `evaluate ...`."""
    kinds = verbs.add_parser("evaluate", help="score a model or a tokenizer").add_subparsers(required=True, metavar="WHAT")
    cache = Path("~/.cache/maskgen/evaluators").expanduser()
    add_listening(kinds, cache)
    add_evaluations(kinds)
    add_text(kinds)
    add_directions(kinds, cache)
    image = kinds.add_parser("image", help="scores on held-out captions beside ceiling and floor; JSON and HTML")
    image.add_argument("--model", default="emoji-64")
    add_machine(image)
    add_decoding(image)
    image.add_argument("--seeds", type=numbers(int), default=[0, 1, 2], metavar="N,N,N", help="evaluator seeds")
    image.set_defaults(verb=evaluate_image)
    tokenizer = kinds.add_parser("tokenizer", help="reconstruction error, code usage, survival of codes; JSON and a sheet")
    tokenizer.add_argument("--tokenizer", type=Path, default=Path("tokenizers/image-emoji64/bundle"))
    tokenizer.set_defaults(verb=evaluate_tokenizer)
    for parser, out in ((image, "out/evaluation"), (tokenizer, "out/tokenizer")):
        parser.add_argument("--raw", type=Path, default=Path("data/emoji/build/raw"), help="raw shards (default: %(default)s)")
        parser.add_argument("--out", type=Path, default=Path(out), help="folder of the report (default: %(default)s)")
        parser.add_argument(
            "--splits", type=lambda text: text.split(","), default=["A"], help="held-out splits, for example A,B (default: A)"
        )
        parser.add_argument("--limit", type=int, help="only this many rows a split, for a quick look")
        parser.add_argument("--cache", type=Path, default=cache, help="trained evaluators (default: %(default)s)")


def evaluate_image(args: argparse.Namespace) -> None:
    """Scores of a text-to-image model."""
    from maskgen.evaluation.image.evaluate import evaluate_image_model

    pipeline = pipeline_of(args)
    settings = decoded_as(pipeline.settings_of("image"), args)
    tokenizer = pipeline.tokenizers["image"]
    report = evaluate_image_model(
        args.raw,
        args.out,
        generate=lambda captions, seeds: (
            pipeline.generate([pipeline.text_codes(text) for text in captions], "image", seeds, settings).media
        ),
        reconstruct=lambda pictures: tokenizer.decode(tokenizer.encode(pictures)),
        splits=args.splits,
        seeds=args.seeds if isinstance(args.seeds, list) else [args.seeds],
        limit=args.limit,
        cache=args.cache,
    )
    _print_scores(report)
    print(f"wrote {args.out / 'report.json'} and report.html")


def _print_scores(report: dict[str, Any]) -> None:
    """The main scores of each row set."""
    for split, found in report["splits"].items():
        for name, row_set in found["row_sets"].items():
            scores = row_set["scores"]["all"]
            parts = [f"{measure} {value['mean']:.3f}" for measure, value in scores.items() if isinstance(value, dict)]
            print(f"split {split} {name:>14}: {', '.join(parts)}")


def evaluate_tokenizer(args: argparse.Namespace) -> None:
    """What an image tokenizer loses."""
    from maskgen.evaluation.image.tokenizer import evaluate_tokenizer as judge
    from maskgen.pipelines.base import load_tokenizer

    report = judge(load_tokenizer(args.tokenizer), args.raw, args.out, splits=args.splits, limit=args.limit)
    print(f"PSNR {report['psnr_db']:.2f} dB, L1 {report['l1']:.4f}, SSIM {report['ssim']:.3f} over {report['pictures']} pictures")
    for level, found in enumerate(report["levels"]):
        print(f"level {level}: {found['used']:.1%} of codes used, perplexity {found['perplexity']:.0f}, {found['survival']:.1%} survive")
