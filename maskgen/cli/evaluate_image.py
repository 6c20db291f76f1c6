"""`maskgen evaluate ...`: all its kinds, and here `evaluate image` and `evaluate tokenizer`."""

import argparse
from pathlib import Path
from typing import Any

from maskgen.cli.decoding_options import add_decoding, decoded_as
from maskgen.cli.evaluate_any import add_evaluate_any
from maskgen.cli.evaluate_own import add_own, evaluate_own_image
from maskgen.cli.evaluate_scores import add_evaluate_scores
from maskgen.cli.evaluate_speech import add_evaluate_speech
from maskgen.cli.evaluate_text import add_evaluate_text
from maskgen.cli.options import add_machine, numbers, pipeline_of
from maskgen.data.corpora.demo import EMOJI_RAW, IMAGE_TOKENIZER


def add_evaluate(verbs: Any) -> None:
    """Add `evaluate` and its kinds.

    Args:
        verbs: Subparsers of the whole command.
    """
    kinds = verbs.add_parser("evaluate", help="score a model or a tokenizer").add_subparsers(required=True, metavar="WHAT")
    cache = Path("~/.cache/maskgen/evaluators").expanduser()
    add_evaluate_speech(kinds, cache)
    add_evaluate_scores(kinds)
    add_evaluate_text(kinds)
    add_evaluate_any(kinds, cache)
    image = kinds.add_parser(
        "image", help="score a text-to-image model on held-out captions, of your own pictures or of the demo corpus; JSON and HTML"
    )
    add_own(image, "pictures, each with a .txt of captions")
    image.add_argument(
        "--fit", choices=("letterbox", "crop"), default="letterbox", help="how FOLDER's pictures are fitted (default: %(default)s)"
    )
    image.add_argument("--model", default="emoji-64", help="folder or shipped name (default: %(default)s)")
    add_machine(image)
    add_decoding(image)
    image.add_argument("--seeds", type=numbers(int), default=[0, 1, 2], metavar="N,N,N", help="seeds of the evaluators (default: 0,1,2)")
    image.set_defaults(verb=_evaluate_image)
    tokenizer = kinds.add_parser(
        "tokenizer", help="reconstruction error, code usage and code stability of an image tokenizer; JSON and a contact sheet"
    )
    tokenizer.add_argument("--tokenizer", type=Path, default=IMAGE_TOKENIZER, help="folder of the tokenizer (default: %(default)s)")
    tokenizer.add_argument("folder", type=Path, nargs="?", help="your own pictures, or raw shards of them (default: --raw)")
    tokenizer.set_defaults(verb=_evaluate_tokenizer)
    for parser, out in ((image, "out/evaluation"), (tokenizer, "out/tokenizer")):
        parser.add_argument(
            "--raw", type=Path, default=EMOJI_RAW, help="raw shards with the fields of the emoji corpus (default: %(default)s)"
        )
        parser.add_argument("--out", type=Path, default=Path(out), help="folder of the report (default: %(default)s)")
        parser.add_argument(
            "--splits",
            type=lambda text: text.split(","),
            help="held-out splits, for example A,B (default: A, or the one that there is)",
        )
        parser.add_argument("--limit", type=int, help="rows per split, for a quick look (default: all)")
        parser.add_argument("--cache", type=Path, default=cache, help="folder of trained evaluators (default: %(default)s)")


def _evaluate_image(args: argparse.Namespace) -> None:
    """Score a text-to-image model."""
    if args.folder is not None:
        evaluate_own_image(args)
        return
    from maskgen.evaluation.image.evaluate import evaluate_image_model

    pipeline = pipeline_of(args, "TextToImagePipeline")
    settings = decoded_as(pipeline.settings_of("image"), args, len(pipeline.space.of("image")))
    tokenizer = pipeline.tokenizers["image"]
    report = evaluate_image_model(
        args.raw,
        args.out,
        generate=lambda captions, seeds: (
            pipeline.generate([pipeline.text_codes(text) for text in captions], "image", seeds, settings).media
        ),
        reconstruct=lambda pictures: tokenizer.decode(tokenizer.encode(pictures)),
        splits=args.splits or ["A"],
        seeds=args.seeds if isinstance(args.seeds, list) else [args.seeds],
        limit=args.limit,
        cache=args.cache,
    )
    _print_scores(report)
    print(f"wrote {args.out / 'report.json'} and report.html")


def _print_scores(report: dict[str, Any]) -> None:
    """The main scores of each row set."""
    for split, part in report["splits"].items():
        for name, row_set in part["row_sets"].items():
            scores = row_set["scores"]["all"]
            parts = [f"{measure} {value['mean']:.3f}" for measure, value in scores.items() if isinstance(value, dict)]
            print(f"split {split} {name:>14}: {', '.join(parts)}")


def _evaluate_tokenizer(args: argparse.Namespace) -> None:
    """Score an image tokenizer."""
    from maskgen.evaluation.image.tokenizer import evaluate_tokenizer
    from maskgen.tokenizers.auto import load_tokenizer

    tokenizer = load_tokenizer(args.tokenizer)
    report = evaluate_tokenizer(tokenizer, args.folder or args.raw, args.out, splits=args.splits, limit=args.limit)
    print(f"PSNR {report['psnr_db']:.2f} dB, L1 {report['l1']:.4f}, SSIM {report['ssim']:.3f} over {report['pictures']} pictures")
    for level, scores in enumerate(report["levels"]):
        print(f"level {level}: {scores['used']:.1%} of codes used, perplexity {scores['perplexity']:.0f}, {scores['survival']:.1%} survive")
