"""The command line: verbs only. torch is imported inside a verb, so that `maskgen --help` is fast."""

import argparse
import contextlib
import io
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from maskgen.pipeline import GenerationOutput, Pipeline

Verb = Callable[[argparse.Namespace], None]
PASSED_ON = ("fit", "validate", "test")
"""Verbs whose arguments LightningCLI parses."""
LARGEST_SCALE = 32


def main(args: Sequence[str] | None = None) -> None:
    """Run one verb. What a user can get wrong ends with one sentence and exit code 2."""
    given = list(sys.argv[1:] if args is None else args)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        if given and given[0] in PASSED_ON:
            from maskgen.training.fit import run

            run(given)
            return
        parsed = _parsed(given)
        parsed.verb(parsed)
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        print(f"maskgen: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _parsed(given: list[str]) -> argparse.Namespace:
    """The arguments; argparse's usage and error become one sentence, but for a call without verb, which wants the usage.

    Raises:
        ValueError: If the arguments cannot be parsed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return build_parser().parse_args(given)
    except SystemExit as stop:
        usage, found, message = said.getvalue().rpartition(": error: ")
        if not found:
            raise
        if message.strip().endswith(("VERB", "WHAT")):
            print(usage.rpartition("\n")[0], file=sys.stderr)
        raise ValueError(f"{message.strip()}; see maskgen --help") from stop


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their arguments."""
    parser = argparse.ArgumentParser(prog="maskgen", description="Masked generative transformers over text, image and audio tokens.")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    generate = verbs.add_parser("generate", help="make pictures from text; edit them").add_subparsers(required=True, metavar="WHAT")
    _add_generate_image(generate.add_parser("image", help="text to image, inpainting, outpainting, variation"))
    for verb in PASSED_ON:
        verbs.add_parser(verb, help=f"{verb} --config X.yaml: LightningCLI", add_help=False)
    data = verbs.add_parser("data", help="build data sets").add_subparsers(required=True, metavar="WHAT")
    _add_data(data)
    evaluate = verbs.add_parser("evaluate", help="score a model or a tokenizer").add_subparsers(required=True, metavar="WHAT")
    _add_evaluate(evaluate)
    export = verbs.add_parser("export", help="turn a checkpoint into a bundle").add_subparsers(required=True, metavar="WHAT")
    _add_export(export)
    return parser


def _add_generate_image(parser: argparse.ArgumentParser) -> None:
    """Arguments of `generate image`."""
    parser.add_argument("prompt", nargs="*", help="one caption or several, each in quotes")
    parser.add_argument(
        "--out", type=Path, default=Path("image.png"), help="PNG to write; with several pictures a sheet, the single ones beside it"
    )
    parser.add_argument("--model", default="emoji-64", help="folder of a model, or the name of a shipped one (default: %(default)s)")
    _add_machine(parser)
    parser.add_argument("--seed", type=int, default=0, help="picture i of a prompt has seed + i (default: %(default)s)")
    parser.add_argument("--num", type=int, default=1, metavar="N", help="pictures a prompt (default: %(default)s)")
    parser.add_argument("--steps", type=_numbers(int), metavar="N[,N...]", help="decode steps, one number a level or the coarsest alone")
    parser.add_argument("--guidance-scale", type=float, help="1 is off")
    parser.add_argument("--guidance-schedule", help="constant, linear or cosine")
    parser.add_argument("--temperature", type=_numbers(float), metavar="T[,T...]", help="divides the logits; 0 takes the likeliest code")
    parser.add_argument("--choice-temperature", type=_numbers(float), metavar="T[,T...]", help="randomness of the confidence order")
    parser.add_argument("--top-k", type=int, help="draw from the K likeliest codes; 0 is all")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest codes that hold this share")
    parser.add_argument("--sampler", help="confidence, halton or random_order")
    parser.add_argument("--negative-prompt", help="what guidance leads away from")
    parser.add_argument("--image", type=Path, help="picture to edit")
    parser.add_argument("--mask", type=Path, help="white where --image is made anew; as large as it")
    parser.add_argument("--strength", type=float, help="share of --image made anew, 0 to 1")
    parser.add_argument("--outpaint", type=_numbers(int), metavar="L,T,R,B", help="pixels to add to --image: left, top, right, bottom")
    parser.add_argument("--gif", type=Path, help="write the decode of the first picture as an animation")
    parser.add_argument("--scale", type=int, default=1, help="enlarge what is written by this factor (default: %(default)s)")
    parser.set_defaults(verb=generate_image)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    """Where and how precisely the model runs."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="precision of the model (default: %(default)s)"
    )


def _pipeline(args: argparse.Namespace) -> "Pipeline":
    """The model that the arguments name, on the machine that they name."""
    import torch

    from maskgen.pipeline import Pipeline

    try:
        device = torch.device(args.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {args.device} is not usable here ({str(error).splitlines()[0]}); use cpu") from error
    return Pipeline.from_pretrained(args.model).to(device, getattr(torch, args.dtype))


def _numbers(kind: type) -> Callable[[str], Any]:
    """A parser of `3` or `3,2,1`."""

    def parse(text: str) -> Any:
        found = [kind(part) for part in text.split(",")]
        return found[0] if len(found) == 1 else found

    parse.__name__ = f"{kind.__name__} or list of {kind.__name__}"
    return parse


def generate_image(args: argparse.Namespace) -> None:
    """Text to image and its edits."""
    _check_writable(args.out, (".png", ".webp", ".jpg", ".jpeg"))
    if args.gif is not None:
        _check_writable(args.gif, (".gif",))
    if not 1 <= args.scale <= LARGEST_SCALE:
        raise ValueError(f"--scale must lie in 1 to {LARGEST_SCALE}, got {args.scale}")
    if args.outpaint is not None and (not isinstance(args.outpaint, list) or len(args.outpaint) != 4):
        raise ValueError("--outpaint needs four numbers: left,top,right,bottom")
    from maskgen.pictures import read_picture

    image, mask = (None if path is None else read_picture(path) for path in (args.image, args.mask))
    pipeline = _pipeline(args)
    with _StepBar() as bar:
        output = pipeline(
            args.prompt or "",
            image=image,
            mask_image=mask,
            strength=args.strength,
            outpaint=None if args.outpaint is None else tuple(args.outpaint),
            negative_prompt=args.negative_prompt,
            num_images_per_prompt=args.num,
            seed=args.seed,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance_scale,
            guidance_schedule=args.guidance_schedule,
            temperature=args.temperature,
            choice_temperature=args.choice_temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            sampler=args.sampler,
            callback_on_step_end=bar,
        )
    _write_images(args, output)
    if args.gif is not None:
        _write_gif(args, pipeline, output)


class _StepBar:
    """A progress bar over the steps of a decode, on a terminal only."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self.bar = Progress(console=console, transient=True, disable=not console.is_terminal)

    def __enter__(self) -> "_StepBar":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def __call__(self, state: Any) -> None:
        name = f"{state.segment.modality} level {state.segment.level}"
        if state.step == 1:
            self.task = self.bar.add_task(name, total=state.steps)
        self.bar.update(self.task, completed=state.step)


def _write_images(args: argparse.Namespace, output: "GenerationOutput") -> None:
    """One picture, or a sheet with the single ones beside it."""
    from maskgen.pictures import contact_sheet

    pictures = [_enlarged(picture, args.scale) for picture in output.images]
    made = f"{output.passes} passes a picture, {output.elapsed_s:.2f} s in the model"
    if len(pictures) == 1:
        pictures[0].save(args.out)
        print(f"wrote {args.out} ({pictures[0].width} x {pictures[0].height}, seed {output.seeds[0]}; {made})")
        return
    for number, picture in enumerate(pictures):
        picture.save(args.out.with_stem(f"{args.out.stem}-{number}"))
    contact_sheet(pictures, args.num if args.num > 1 else min(len(pictures), 8)).save(args.out)
    print(f"wrote {args.out} and {len(pictures)} pictures beside it (seeds {output.seeds[0]} to {output.seeds[-1]}; {made})")


def _write_gif(args: argparse.Namespace, pipeline: "Pipeline", output: "GenerationOutput") -> None:
    """The decode of the first picture, a frame a step."""
    from maskgen.animation import decode_frames

    frames = [_enlarged(frame, args.scale) for frame in decode_frames(pipeline, output)]
    frames[0].save(args.gif, save_all=True, append_images=frames[1:], duration=[120] * (len(frames) - 1) + [1500], loop=0)
    print(f"wrote {args.gif} ({len(frames)} frames)")


def _enlarged(picture: "Image.Image", factor: int) -> "Image.Image":
    from PIL import Image

    return picture if factor == 1 else picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.LANCZOS)


def _check_writable(path: Path, endings: tuple[str, ...]) -> None:
    """Refuse an output that cannot be written, before any work is done."""
    import os

    if path.suffix.lower() not in endings:
        raise ValueError(f"cannot write {path}: its name must end in {' or '.join(endings)}")
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ValueError(f"cannot write {path}: give a file name in an existing folder that you may write to")


def _add_data(verbs: Any) -> None:
    """Arguments of `data ...`."""
    build = verbs.add_parser("build", help="build raw shards from a recipe")
    build.add_argument("recipe", type=Path)
    build.add_argument("--out", type=Path, help="build folder (default: build/ beside the recipe)")
    build.set_defaults(verb=data_build)
    tokenize = verbs.add_parser("tokenize", help="turn raw shards into token shards")
    tokenize.add_argument("raw", type=Path, help="folder of raw shards")
    tokenize.add_argument("--out", type=Path, required=True)
    tokenize.add_argument("--text", type=Path, default=Path("tokenizers/text-bpe/bundle"), help="text tokenizer (default: %(default)s)")
    tokenize.add_argument(
        "--image", type=Path, default=Path("tokenizers/image-emoji64/bundle"), help="image tokenizer (default: %(default)s)"
    )
    tokenize.set_defaults(verb=data_tokenize)
    text = verbs.add_parser("text-tokenizer", help="train a BPE text tokenizer from a recipe")
    text.add_argument("recipe", type=Path)
    text.set_defaults(verb=data_text_tokenizer)


def data_build(args: argparse.Namespace) -> None:
    """Raw shards from a recipe."""
    from maskgen.data.emoji import build_emoji

    index = build_emoji(args.recipe, args.out)
    print("built " + ", ".join(f"{count} {split}" for split, count in sorted(index.counts.items())))


def data_tokenize(args: argparse.Namespace) -> None:
    """Token shards from raw shards."""
    from maskgen.data.build import tokenize
    from maskgen.pipeline import load_tokenizer

    index = tokenize(args.raw, args.out, {"text": load_tokenizer(args.text), "image": load_tokenizer(args.image)})
    print(f"wrote {sum(index.counts.values())} samples to {args.out}")


def data_text_tokenizer(args: argparse.Namespace) -> None:
    """A text tokenizer from a recipe."""
    from maskgen.data.text_corpus import train_text_tokenizer

    tokenizer = train_text_tokenizer(args.recipe)
    print(f"trained {tokenizer.codebook_size} codes, fingerprint {tokenizer.fingerprint[:12]}")


def _add_evaluate(verbs: Any) -> None:
    """Arguments of `evaluate ...`."""
    cache = Path("~/.cache/maskgen/evaluators").expanduser()
    image = verbs.add_parser("image", help="scores on held-out captions beside ceiling and floor; JSON and HTML")
    image.add_argument("--model", default="emoji-64")
    _add_machine(image)
    image.add_argument("--guidance-scale", type=float)
    image.add_argument("--steps", type=_numbers(int), metavar="N[,N...]")
    image.add_argument("--temperature", type=_numbers(float), metavar="T[,T...]")
    image.add_argument("--choice-temperature", type=_numbers(float), metavar="T[,T...]")
    image.add_argument("--sampler")
    image.add_argument("--seeds", type=_numbers(int), default=[0, 1, 2], metavar="N,N,N", help="evaluator seeds")
    image.set_defaults(verb=evaluate_image)
    tokenizer = verbs.add_parser("tokenizer", help="reconstruction error, code usage, survival of codes; JSON and a sheet")
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
    from maskgen.evaluation.image import evaluate_image_model

    pipeline = _pipeline(args)
    changes = {"steps": args.steps, "guidance_scale": args.guidance_scale, "temperature": args.temperature}
    settings = pipeline.settings["image"].changed(**changes, choice_temperature=args.choice_temperature, sampler=args.sampler)
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
    from maskgen.evaluation.tokenizer_report import evaluate_tokenizer as judge
    from maskgen.pipeline import load_tokenizer

    report = judge(load_tokenizer(args.tokenizer), args.raw, args.out, splits=args.splits, limit=args.limit)
    print(f"PSNR {report['psnr_db']:.2f} dB, L1 {report['l1']:.4f}, SSIM {report['ssim']:.3f} over {report['pictures']} pictures")
    for level, found in enumerate(report["levels"]):
        print(f"level {level}: {found['used']:.1%} of codes used, perplexity {found['perplexity']:.0f}, {found['survival']:.1%} survive")


def _add_export(verbs: Any) -> None:
    """Arguments of `export ...`."""
    tokenizer = verbs.add_parser("image-tokenizer", help="checkpoint of an image autoencoder to a tokenizer bundle")
    tokenizer.add_argument("checkpoint", type=Path)
    tokenizer.add_argument("--out", type=Path, required=True)
    tokenizer.add_argument("--size", type=int, default=64, help="pixels a side of the training pictures (default: %(default)s)")
    tokenizer.add_argument("--levels", type=int, help="keep only this many residual levels, the coarsest")
    tokenizer.set_defaults(verb=export_image_tokenizer)
    model = verbs.add_parser("model", help="checkpoint of a masked transformer, with its tokenizers, to a model bundle")
    model.add_argument("checkpoint", type=Path)
    model.add_argument("--out", type=Path, required=True)
    model.add_argument("--text", type=Path, default=Path("tokenizers/text-bpe/bundle"))
    model.add_argument("--image", type=Path, default=Path("tokenizers/image-emoji64/bundle"))
    model.add_argument("--generation", type=Path, help="YAML of generation settings: target modality to GenerationSettings")
    model.set_defaults(verb=export_model)


def export_image_tokenizer(args: argparse.Namespace) -> None:
    """An image tokenizer bundle."""
    from maskgen.tokenizers.image import ImageTokenizer

    tokenizer = ImageTokenizer.from_checkpoint(args.checkpoint, (args.size, args.size))
    fingerprint = (tokenizer if args.levels is None else tokenizer.coarser(args.levels)).save(args.out, half=True)
    print(f"wrote {args.out}, fingerprint {fingerprint[:12]}")


def export_model(args: argparse.Namespace) -> None:
    """A model bundle that refers to its tokenizers' bundles."""
    from maskgen.generation import read_settings
    from maskgen.pipeline import Pipeline, load_tokenizer

    places = {"text": args.text, "image": args.image}
    settings = read_settings(args.generation) if args.generation else {}
    pipeline = Pipeline.from_checkpoint(args.checkpoint, {name: load_tokenizer(place) for name, place in places.items()}, settings)
    fingerprint = pipeline.save_pretrained(args.out, tokenizers=places)
    print(f"wrote {args.out}, fingerprint {fingerprint[:12]}")
