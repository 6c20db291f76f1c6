"""`maskgen data ...`: build data sets, tokenize them, check and inspect them."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.options import named_folder
from maskgen.data.corpora.demo import IMAGE_TOKENIZER, TEXT_TOKENIZER, builder_of
from maskgen.io.shipped import working_copy

if TYPE_CHECKING:
    from maskgen.data.shards.manifest import Index


def add_data(verbs: Any) -> None:
    """Add `data` and its kinds.

    Args:
        verbs: Subparsers of the whole command.
    """
    data = verbs.add_parser("data", help="build data sets").add_subparsers(required=True, metavar="WHAT")
    build = data.add_parser("build", help="build shards from a recipe or a folder of media; resumes an interrupted build")
    build.add_argument("recipe", type=Path, help="YAML recipe, or a folder of media")
    build.add_argument("--out", type=Path, help="folder of the shards (default: build/ next to the recipe)")
    build.add_argument("--text", type=Path, help="text tokenizer: build token shards with it, overrides the recipe")
    build.add_argument("--image", type=Path, help="image tokenizer: build token shards with it, overrides the recipe")
    build.add_argument(
        "--max-bad", type=float, metavar="SHARE", help="share of bad samples above which the build fails, overrides the recipe"
    )
    build.set_defaults(verb=data_build)
    tokenize = data.add_parser("tokenize", help="turn raw shards into token shards; resumes an interrupted run")
    tokenize.add_argument("raw", type=Path, help="folder of raw shards")
    tokenize.add_argument("--out", type=Path, required=True, help="folder of the token shards")
    tokenize.add_argument("--text", type=Path, default=TEXT_TOKENIZER, help="text tokenizer (default, a shipped one: %(default)s)")
    tokenize.add_argument("--image", type=Path, default=IMAGE_TOKENIZER, help="image tokenizer (default, a shipped one: %(default)s)")
    tokenize.add_argument(
        "--tokenizer",
        action="append",
        type=named_folder,
        metavar="NAME=FOLDER",
        help="modality and folder of its tokenizer, in the order of the token space; repeatable, replaces --text and --image",
    )
    tokenize.set_defaults(verb=data_tokenize)
    for parser in (build, tokenize):
        parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core, or one per GPU)")
        parser.add_argument(
            "--engine", choices=("local", "ray"), default="local", help="run on local processes or on a Ray cluster (default: %(default)s)"
        )
        parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of the tokenizers (default: %(default)s)")
        parser.add_argument("--restart", action="store_true", help="delete the shards of another build in the output folder")
    check = data.add_parser("verify", help="check a folder of shards for damage")
    check.add_argument("folder", type=Path)
    check.add_argument("--full", action="store_true", help="read every byte and every sample, not only sizes")
    check.set_defaults(verb=data_verify)
    sheet = data.add_parser("inspect", help="write an HTML page about a folder of shards: counts, lengths, code usage, images, waveforms")
    sheet.add_argument("folder", type=Path)
    sheet.add_argument("--out", type=Path, default=Path("out/inspect"), help="folder of the page (default: %(default)s)")
    sheet.add_argument("--image", type=Path, help="image tokenizer that decodes the images of token shards")
    sheet.add_argument("--shown", type=int, default=32, help="samples to show per split (default: %(default)s)")
    sheet.set_defaults(verb=data_inspect)
    texts = data.add_parser("speech-texts", help="collect the sentences of the demo speech corpus")
    texts.add_argument("recipe", type=Path)
    texts.set_defaults(verb=data_speech_texts)
    text = data.add_parser("text-tokenizer", help="train a BPE text tokenizer from a recipe")
    text.add_argument("recipe", type=Path)
    text.set_defaults(verb=data_text_tokenizer)
    labels = data.add_parser("labels", help="write the tokenizer of the classes that the sources of a recipe have")
    labels.add_argument("recipe", type=Path)
    labels.add_argument("--field", default="label", help="attribute that holds the class (default: %(default)s)")
    labels.add_argument("--out", type=Path, required=True, help="folder of the tokenizer, which the recipe names as label")
    labels.set_defaults(verb=data_labels)
    phones = data.add_parser("phoneme-tokenizer", help="build a phoneme tokenizer from a recipe")
    phones.add_argument("recipe", type=Path)
    phones.set_defaults(verb=data_phoneme_tokenizer)


def data_build(args: argparse.Namespace) -> None:
    """Build shards from a recipe: token shards if it names tokenizers, otherwise raw shards."""
    path = working_copy(args.recipe)
    if (builder := builder_of(path)) is not None:
        _print_counts(builder(path, args.out, args.workers))
        return
    from dataclasses import replace

    from maskgen.data.build.engine import run_build
    from maskgen.data.build.plan import plan_recipe
    from maskgen.data.build.recipe import read_recipe

    if args.out is None and path.is_dir():
        raise ValueError(f"give --out: shards can't be written inside {path}, the folder that they are built from")
    recipe = read_recipe(path)
    if args.max_bad is not None:
        recipe = replace(recipe, max_bad=args.max_bad)
    named = {name: str(folder.resolve()) for name, folder in (("text", args.text), ("image", args.image)) if folder is not None}
    if named:
        recipe = replace(recipe, tokenizers={**recipe.tokenizers, **named})
    plan = plan_recipe(recipe, _output(recipe, args.device))
    with _Bar("building", plan.samples) as bar:
        index = run_build(plan, args.out or path.parent / "build", _runner(args), args.restart, bar)
    _print_counts(index)


def _print_counts(index: "Index") -> None:
    """One line with the samples of each split."""
    print("built " + ", ".join(f"{count} {split}" for split, count in sorted(index.counts.items())))


def _output(recipe: Any, device: str) -> Any:
    """The output that a recipe asks for; torch is imported for tokens only."""
    if not recipe.tokenizers:
        from maskgen.data.build.raw_shards import RawOutput

        return RawOutput()
    from maskgen.data.build.token_shards import token_output

    return token_output({name: recipe.tokenizer_folder(name) for name in recipe.tokenizers}, device=device)


def _runner(args: argparse.Namespace) -> Any:
    """The processes or actors that the arguments ask for; by default one per core, or one per GPU."""
    from maskgen.data.build.workers import Processes

    if args.engine == "ray":
        from maskgen.data.build.ray_engine import RayWorkers

        return RayWorkers(args.workers or os.cpu_count() or 1, gpus_each=float(args.device == "cuda"))
    if args.device == "cuda":
        import torch

        gpus = torch.cuda.device_count()
        if args.workers is not None and args.workers > gpus:
            raise ValueError(f"--workers {args.workers} exceeds the {gpus} GPUs of this machine; each worker needs one")
        return Processes(args.workers or max(1, gpus))
    return Processes((os.cpu_count() or 1) if args.workers is None else args.workers)


class _Bar:
    """A progress bar over the samples of a build, with rate and time left; shown on a terminal only."""

    def __init__(self, name: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task(name, total=total, rate="")

    def __enter__(self) -> "_Bar":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def __call__(self, samples: int) -> None:
        self.bar.advance(self.task, samples)
        speed = self.bar.tasks[0].speed
        self.bar.update(self.task, rate=f"{speed:.0f}/s" if speed else "")


def data_tokenize(args: argparse.Namespace) -> None:
    """Turn raw shards into token shards."""
    from maskgen.data.shards.manifest import read_index

    total = sum(read_index(args.raw).counts.values())
    from maskgen.data.build.tokenize import tokenize

    with _Bar("tokenising", total) as bar:
        folders = dict(args.tokenizer or [("text", args.text), ("image", args.image)])
        index = tokenize(args.raw, args.out, folders, report=bar, runner=_runner(args), restart=args.restart, device=args.device)
    print(f"wrote {sum(index.counts.values())} samples to {args.out}")


def data_verify(args: argparse.Namespace) -> None:
    """Print one sentence per damage, or a summary.

    Raises:
        ValueError: If anything is damaged; with the last sentence.
    """
    from maskgen.data.build.verify import verify

    result = verify(args.folder, args.full)
    for sentence in result.damages[:-1]:
        print(f"maskgen: error: {sentence}", file=sys.stderr)
    if result.damages:
        raise ValueError(result.damages[-1])
    assert result.index is not None, "a folder without damage has an index"
    for sentence in (*result.notes, *(f"not in the index: {name}" for name in result.strays)):
        print(sentence)
    counts = ", ".join(f"{count} {split}" for split, count in result.index.counts.items())
    extent = "every byte was read" if args.full else "sizes and hashes of the small files were checked, --full reads every byte"
    print(f"{args.folder} is whole: {len(result.index.shards)} {result.index.kind} shards, {counts} ({extent})")


def data_inspect(args: argparse.Namespace) -> None:
    """Write an HTML page about a folder of shards."""
    from maskgen.evaluation.inspect import inspect_shards
    from maskgen.tokenizers.auto import load_tokenizer

    tokenizers = {} if args.image is None else {"image": load_tokenizer(args.image)}
    report = inspect_shards(args.folder, args.out, tokenizers, args.shown)
    for split, part in report["splits"].items():
        lengths = ", ".join(f"{name} {spread['median']:.4g}" for name, spread in part["lengths"].items())
        print(f"{split}: {part['samples_counted']} samples counted; medians: {lengths or 'none'}")
    print(f"wrote {args.out / 'inspect.html'} and inspect.json")


def data_speech_texts(args: argparse.Namespace) -> None:
    """Collect the sentences of the demo speech corpus."""
    from maskgen.data.corpora.speech_texts import write_speech_texts

    print(f"wrote {write_speech_texts(working_copy(args.recipe))}")


def data_text_tokenizer(args: argparse.Namespace) -> None:
    """Train a text tokenizer from a recipe."""
    from maskgen.data.corpora.text_tokenizer import train_text_tokenizer

    tokenizer = train_text_tokenizer(working_copy(args.recipe))
    print(f"trained {tokenizer.codebook_size} codes, fingerprint {tokenizer.fingerprint[:12]}")


def data_labels(args: argparse.Namespace) -> None:
    """Write the tokenizer of a data set's classes."""
    from maskgen.data.build.labels import label_tokenizer
    from maskgen.data.build.recipe import read_recipe

    tokenizer = label_tokenizer(read_recipe(args.recipe), args.field)
    fingerprint = tokenizer.save(args.out)
    print(f"wrote {args.out}: {len(tokenizer.values)} classes, fingerprint {fingerprint[:12]}")


def data_phoneme_tokenizer(args: argparse.Namespace) -> None:
    """Build a phoneme tokenizer from a recipe."""
    from maskgen.data.corpora.phoneme_tokenizer import build_phoneme_tokenizer

    tokenizer = build_phoneme_tokenizer(working_copy(args.recipe))
    print(f"built {len(tokenizer.symbols)} symbols, fingerprint {tokenizer.fingerprint[:12]}")
