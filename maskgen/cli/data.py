"""`maskgen data ...`: build data sets, turn them into tokens, look for damage."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from maskgen.cli.options import named_folder


def add(verbs: Any) -> None:
    """Adds `data` and what belongs to it.

    Args:
        verbs: Subparsers of the whole command.
    """
    data = verbs.add_parser("data", help="build data sets").add_subparsers(required=True, metavar="WHAT")
    build = data.add_parser("build", help="build shards from a recipe or a folder of media; goes on where it was stopped")
    build.add_argument("recipe", type=Path, help="YAML, or a folder of media")
    build.add_argument("--out", type=Path, help="folder of the shards (default: build/ beside the recipe)")
    build.add_argument("--text", type=Path, help="text tokenizer: makes token shards, over the recipe's tokenizers")
    build.add_argument("--image", type=Path, help="image tokenizer: makes token shards, over the recipe's tokenizers")
    build.add_argument("--max-bad", type=float, metavar="SHARE", help="share of bad samples at which the build stops, over the recipe's")
    build.set_defaults(verb=data_build)
    tokenize = data.add_parser("tokenize", help="turn raw shards into token shards; goes on where it was stopped")
    tokenize.add_argument("raw", type=Path, help="folder of raw shards")
    tokenize.add_argument("--out", type=Path, required=True)
    tokenize.add_argument("--text", type=Path, default=Path("tokenizers/text-bpe/bundle"), help="text tokenizer (default: %(default)s)")
    tokenize.add_argument(
        "--image", type=Path, default=Path("tokenizers/image-emoji64/bundle"), help="image tokenizer (default: %(default)s)"
    )
    tokenize.add_argument(
        "--tokenizer",
        action="append",
        type=named_folder,
        metavar="NAME=FOLDER",
        help="a modality and the folder of its tokenizer, in the order of the token space; several times, instead of --text and --image",
    )
    tokenize.set_defaults(verb=data_tokenize)
    for parser in (build, tokenize):
        parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core, or one a GPU)")
        parser.add_argument(
            "--engine", choices=("local", "ray"), default="local", help="local processes, or a Ray cluster (default: local)"
        )
        parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where tokenizers run (default: %(default)s)")
        parser.add_argument("--restart", action="store_true", help="remove the shards of another build that lie in the folder")
    check = data.add_parser("verify", help="look for damage in a folder of shards")
    check.add_argument("folder", type=Path)
    check.add_argument("--full", action="store_true", help="read every byte and every sample, not sizes alone")
    check.set_defaults(verb=data_verify)
    sheet = data.add_parser("inspect", help="a page on what a folder of shards holds: counts, lengths, code usage, pictures, waveforms")
    sheet.add_argument("folder", type=Path)
    sheet.add_argument("--out", type=Path, default=Path("out/inspect"), help="folder of the page (default: %(default)s)")
    sheet.add_argument("--image", type=Path, help="image tokenizer, to show the pictures of token shards")
    sheet.add_argument("--shown", type=int, default=32, help="samples a split to show (default: %(default)s)")
    sheet.set_defaults(verb=data_inspect)
    texts = data.add_parser("speech-texts", help="gather the sentences of the speech corpus")
    texts.add_argument("recipe", type=Path)
    texts.set_defaults(verb=data_speech_texts)
    text = data.add_parser("text-tokenizer", help="train a BPE text tokenizer from a recipe")
    text.add_argument("recipe", type=Path)
    text.set_defaults(verb=data_text_tokenizer)
    phones = data.add_parser("phoneme-tokenizer", help="build a phoneme tokenizer from a recipe")
    phones.add_argument("recipe", type=Path)
    phones.set_defaults(verb=data_phoneme_tokenizer)


def data_build(args: argparse.Namespace) -> None:
    """Shards from a recipe: raw ones, or tokens if it names tokenizers."""
    from maskgen.data.build.recipe import read_yaml

    if not args.recipe.is_dir() and "styles" in read_yaml(args.recipe):
        _build_emoji(args)
        return
    from dataclasses import replace

    from maskgen.data.build.engine import run
    from maskgen.data.build.plan import plan_recipe
    from maskgen.data.build.recipe import read_recipe

    if args.out is None and args.recipe.is_dir():
        raise ValueError(f"give --out: the shards of the folder {args.recipe} must not lie inside it")
    recipe = read_recipe(args.recipe)
    if args.max_bad is not None:
        recipe = replace(recipe, max_bad=args.max_bad)
    named = {name: str(folder.resolve()) for name, folder in (("text", args.text), ("image", args.image)) if folder is not None}
    if named:
        recipe = replace(recipe, tokenizers={**recipe.tokenizers, **named})
    plan = plan_recipe(recipe, _output(recipe, args.device))
    with _Bar("building", plan.samples) as bar:
        index = run(plan, args.out or args.recipe.parent / "build", _runner(args), args.restart, bar)
    print("built " + ", ".join(f"{count} {split}" for split, count in sorted(index.counts.items())))


def _build_emoji(args: argparse.Namespace) -> None:
    """The emoji corpus, which has a builder of its own."""
    from maskgen.data.corpora.emoji import build_emoji

    index = build_emoji(args.recipe, args.out, args.workers)
    print("built " + ", ".join(f"{count} {split}" for split, count in sorted(index.counts.items())))


def _output(recipe: Any, device: str) -> Any:
    """What a recipe wants written; torch is loaded for tokens only."""
    if not recipe.tokenizers:
        from maskgen.data.build.raw_shards import RawOutput

        return RawOutput()
    from maskgen.data.build.token_shards import token_output

    return token_output({name: recipe.tokenizer_folder(name) for name in recipe.tokenizers}, device=device)


def _runner(args: argparse.Namespace) -> Any:
    """The processes or actors that the arguments ask for: one a core, or one a GPU."""
    from maskgen.data.build.workers import Processes

    if args.engine == "ray":
        from maskgen.data.build.ray_engine import RayWorkers

        return RayWorkers(args.workers or os.cpu_count() or 1, gpus_each=float(args.device == "cuda"))
    if args.device == "cuda":
        import torch

        gpus = torch.cuda.device_count()
        if args.workers is not None and args.workers > gpus:
            raise ValueError(f"--workers {args.workers} are more than the {gpus} GPUs of this machine; each worker takes one")
        return Processes(args.workers or max(1, gpus))
    return Processes((os.cpu_count() or 1) if args.workers is None else args.workers)


class _Bar:
    """A bar over the samples of a build, with rate and time left, on a terminal only."""

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
    """Token shards from raw shards."""
    from maskgen.data.shards.manifest import read_index

    total = sum(read_index(args.raw).counts.values())
    from maskgen.data.build.tokenize import tokenize

    with _Bar("tokenising", total) as bar:
        folders = dict(args.tokenizer or [("text", args.text), ("image", args.image)])
        index = tokenize(args.raw, args.out, folders, report=bar, runner=_runner(args), restart=args.restart, device=args.device)
    print(f"wrote {sum(index.counts.values())} samples to {args.out}")


def data_verify(args: argparse.Namespace) -> None:
    """One sentence a damage, or a summary.

    Raises:
        ValueError: If anything is damaged.
    """
    from maskgen.data.build.verify import verify

    found = verify(args.folder, args.full)
    for sentence in found.damages[:-1]:
        print(f"maskgen: error: {sentence}", file=sys.stderr)
    if found.damages:
        raise ValueError(found.damages[-1])
    assert found.index is not None, "a folder without damage has an index"
    for sentence in (*found.notes, *(f"not in the index: {name}" for name in found.strays)):
        print(sentence)
    counts = ", ".join(f"{count} {split}" for split, count in found.index.counts.items())
    extent = "every byte was read" if args.full else "sizes and hashes of the small files were checked, --full reads every byte"
    print(f"{args.folder} is whole: {len(found.index.shards)} {found.index.kind} shards, {counts} ({extent})")


def data_inspect(args: argparse.Namespace) -> None:
    """A page on what a folder of shards holds."""
    from maskgen.evaluation.inspect import inspect_shards
    from maskgen.pipelines.base import load_tokenizer

    tokenizers = {} if args.image is None else {"image": load_tokenizer(args.image)}
    report = inspect_shards(args.folder, args.out, tokenizers, args.shown)
    for split, found in report["splits"].items():
        lengths = ", ".join(f"{name} {spread['median']:.4g}" for name, spread in found["lengths"].items())
        print(f"{split}: {found['samples_counted']} samples counted; medians: {lengths or 'none'}")
    print(f"wrote {args.out / 'inspect.html'} and inspect.json")


def data_speech_texts(args: argparse.Namespace) -> None:
    """The sentences of the speech corpus."""
    from maskgen.data.corpora.speech_texts import write_speech_texts

    print(f"wrote {write_speech_texts(args.recipe)}")


def data_text_tokenizer(args: argparse.Namespace) -> None:
    """A text tokenizer from a recipe."""
    from maskgen.data.corpora.text_tokenizer import train_text_tokenizer

    tokenizer = train_text_tokenizer(args.recipe)
    print(f"trained {tokenizer.codebook_size} codes, fingerprint {tokenizer.fingerprint[:12]}")


def data_phoneme_tokenizer(args: argparse.Namespace) -> None:
    """A phoneme tokenizer from a recipe."""
    from maskgen.data.corpora.phoneme_tokenizer import build_phoneme_tokenizer

    tokenizer = build_phoneme_tokenizer(args.recipe)
    print(f"built {len(tokenizer.symbols)} symbols, fingerprint {tokenizer.fingerprint[:12]}")
