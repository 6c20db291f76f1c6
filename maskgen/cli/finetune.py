"""`maskgen finetune ...` and `maskgen merge-adapter ...`."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskgen.training.finetune import Finetuned


def add_finetune(verbs: Any) -> None:
    """Arguments of both."""
    parser = verbs.add_parser("finetune", help="fine-tune a model on a folder of captioned images or of recordings")
    parser.add_argument(
        "folder", type=Path, help="images, or audio files, each with a .txt of the same name; texts alone for LLaDA and its like"
    )
    parser.add_argument("--model", default="emoji-64", help="folder, shipped name or hub id of the model (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new model; tokens and checkpoints go to OUT.work")
    parser.add_argument(
        "--lora", type=int, metavar="RANK", help="train an adapter of this rank instead of all weights; needs maskgen[finetune]"
    )
    parser.add_argument("--alpha", type=float, default=0.0, help="scale of the adapter (default: twice the rank)")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="samples per step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=0.0, help="highest learning rate (default: 3e-4, for an adapter 2e-3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of masks, order and adapter (default: %(default)s)")
    parser.add_argument("--speaker", help="name of the speaker in a folder of recordings (default: the folder's name)")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the samples to measure the loss on (default: %(default)s)",
    )
    parser.add_argument(
        "--fit", choices=("letterbox", "crop"), default="letterbox", help="how images that aren't square are fitted (default: %(default)s)"
    )
    parser.add_argument(
        "--max-bad", type=float, default=0.1, metavar="SHARE", help="share of bad samples above which it stops (default: %(default)s)"
    )
    parser.add_argument("--checkpoint-steps", type=int, default=50, help="steps between two checkpoints (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default: %(default)s)")
    parser.add_argument("--restart", action="store_true", help="start over and delete what an earlier run left in OUT.work")
    parser.set_defaults(verb=run_finetune)
    merge = verbs.add_parser("merge-adapter", help="merge an adapter into the model that it was trained on")
    merge.add_argument("adapter", type=Path, help="folder of the adapter: OUT/adapter of maskgen finetune --lora")
    merge.add_argument("--model", help="folder or shipped name of that model (default: the name recorded in the adapter)")
    merge.add_argument("--out", type=Path, required=True, help="folder of the new model")
    merge.set_defaults(verb=run_merge_adapter)


def run_finetune(args: argparse.Namespace) -> None:
    """Fine-tune a model on a folder, print the losses and what to try next."""
    check_numbers(args)
    from maskgen.interop.fetching import fetched
    from maskgen.networks.lora import LoraSettings
    from maskgen.training.finetune_folder import FolderSettings, finetune, media_of, work_folder
    from maskgen.training.finetune_run import FinetuneSettings

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # three trainers, each with the same lines about devices and services
    media = media_of(args.folder)
    fetched(args.model)
    settings = FinetuneSettings(
        steps=args.steps,
        batch_size=args.batch_size,
        lr=args.lr,
        lora=None if args.lora is None else LoraSettings(rank=args.lora, alpha=args.alpha),
        checkpoint_steps=args.checkpoint_steps,
        seed=args.seed,
        device=args.device,
    )
    reading = FolderSettings(held_out=args.held_out, fit=args.fit, max_bad=args.max_bad, speaker=args.speaker)
    kind = "all weights" if args.lora is None else f"an adapter of rank {args.lora}"
    print(f"training {kind} of {args.model} for {args.steps} steps on {args.folder}; checkpoints go to {work_folder(args.out)}", flush=True)
    made = finetune(args.folder, args.model, args.out, settings, reading, args.restart)
    print(f"{_done(made, args.steps)}; held-out loss: {compared(made.run.before, made.run.after)}")
    if made.adapter is not None:
        print(f"wrote {args.out / 'adapter'}, the adapter alone")
    print(f"wrote {args.out}; try: maskgen generate {_example(media, args)}")


def _done(made: "Finetuned", steps: int) -> str:
    """What this start has trained."""
    if made.run.steps == 0:
        return f"nothing was left to train: an earlier run on the same files did all {steps} steps"
    resumed = "" if made.run.steps == steps else f" ({made.run.steps} of {steps} steps; an earlier run did the others)"
    return f"trained {made.trained:,} numbers in {made.run.elapsed_s:.0f} s{resumed}"


def check_numbers(args: argparse.Namespace) -> None:
    """Check the numbers, with errors that name the options.

    Raises:
        ValueError: If a number is out of range.
    """
    if args.lora is not None and args.lora < 1:
        raise ValueError(f"--lora must be at least 1, got {args.lora}; leave it out to train all weights")
    if args.alpha and args.lora is None:
        raise ValueError("--alpha scales an adapter; give --lora with it")
    for name in ("steps", "batch_size", "checkpoint_steps"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")


def compared(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Held-out losses before and after, level by level, as text."""
    if not before:
        return "none, because nothing was held out"
    return ", ".join(f"{name.replace('_', ' ')} {before[name]:.3f} -> {after[name]:.3f}" for name in before)


def _example(media: str, args: argparse.Namespace) -> str:
    """A command to try next."""
    if media == "image":
        return f'image "a caption like yours" --model {args.out} --out picture.png'
    if media == "text":
        return f'text "Hello." --model {args.out}'
    return f'speech "Good morning." --model {args.out} --speaker {args.speaker or args.folder.resolve().name} --out speech.wav'


def run_merge_adapter(args: argparse.Namespace) -> None:
    """Merge an adapter into its base and write the model."""
    from maskgen.training.finetune_folder import merge_adapter

    name = merge_adapter(args.adapter, args.model, args.out)
    print(f"wrote {args.out}: {name} with {args.adapter}")
