"""`maskgen generate image`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.decoding_options import add_decoding, call_options
from maskgen.cli.options import add_machine, add_specialists, need_audio, numbers, pipeline_of
from maskgen.cli.outputs import IMAGE_ENDINGS, add_outputs, add_scale, check_scale, check_writable, enlarged, write_images

if TYPE_CHECKING:
    from collections.abc import Mapping

    from maskgen.pipelines.base import Pipeline
    from maskgen.pipelines.outputs import GenerationOutput
    from maskgen.tokenizers.base import Tokenizer


MICRO = ("original_size", "crop", "aesthetic_score")
"""Micro-conditions."""


def add_generate_image(kinds: Any) -> None:
    """Arguments of `generate image`."""
    parser = kinds.add_parser("image", help="text or speech to image, inpainting, outpainting, variation")
    parser.add_argument("prompt", nargs="*", help="one caption or several, each in quotes")
    parser.add_argument(
        "--out", type=Path, default=Path("image.png"), help="PNG to write; with several images a sheet, and the single ones next to it"
    )
    parser.add_argument("--model", help="name, folder or hub id of a model (default: emoji-64, with --audio any-64)")
    add_specialists(parser)
    add_machine(parser)
    add_outputs(parser, "images a prompt")
    add_decoding(parser)
    parser.add_argument(
        "--label",
        action="append",
        help="class of a class-conditional model, by name or number, or ATTRIBUTE=NAME; repeat for several images",
    )
    parser.add_argument("--unconditional", action="store_true", help="draw without any condition; a model without text does so by itself")
    parser.add_argument("--negative-prompt", help="what guidance leads away from")
    parser.add_argument("--width", type=int, help="pixels of a new image, a multiple of the model's cell (default: the model's own)")
    parser.add_argument("--height", type=int, help="as --width")
    parser.add_argument(
        "--original-size", type=numbers(int), metavar="W,H", help="size of the picture to imitate; for models trained with it"
    )
    parser.add_argument("--crop", type=numbers(int), metavar="LEFT,TOP", help="corner of the crop to imitate; for models trained with it")
    parser.add_argument("--aesthetic-score", type=float, help="score to imitate, 0 to 10; for models trained with it (aMUSEd, Meissonic)")
    parser.add_argument("--audio", type=Path, help='recording of what is drawn; a prompt says what it does not: "flat style"')
    parser.add_argument(
        "--source", choices=("words", "audio"), help="draw --audio from the words heard in it, or from its own cells (default: words)"
    )
    parser.add_argument("--image", type=Path, help="image to edit")
    parser.add_argument("--mask-image", type=Path, help="white where --image is regenerated; as large as it")
    parser.add_argument("--strength", type=float, help="share of --image that is regenerated, 0 to 1")
    parser.add_argument("--outpaint", type=numbers(int), metavar="L,T,R,B", help="pixels to add to --image: left, top, right, bottom")
    parser.add_argument("--gif", type=Path, help="write the decode of the first image as an animation")
    add_scale(parser)
    parser.set_defaults(verb=generate_image)


def generate_image(args: argparse.Namespace) -> None:
    """Text or speech to image, and edits of images."""
    check_writable(args.out, IMAGE_ENDINGS)
    if args.gif is not None:
        check_writable(args.gif, (".gif",))
    check_scale(args.scale)
    if args.outpaint is not None and (not isinstance(args.outpaint, list) or len(args.outpaint) != 4):
        raise ValueError("--outpaint needs four numbers: left,top,right,bottom")
    if args.audio is not None:
        _draw_audio(args)
        return
    if args.source is not None:
        raise ValueError("--source says how a recording is drawn and none is given; add --audio or leave it out")
    from maskgen.processors.media import as_image, as_mask

    image = None if args.image is None else as_image(args.image)
    mask = None if args.mask_image is None else as_mask(args.mask_image)
    pipeline = pipeline_of(args, "TextToImagePipeline")
    output = pipeline(
        args.prompt or None,
        label=_labels(args.label, pipeline.tokenizers),
        unconditional=args.unconditional,
        image=image,
        mask_image=mask,
        strength=args.strength,
        outpaint=args.outpaint,
        negative_prompt=args.negative_prompt,
        width=args.width,
        height=args.height,
        original_size=args.original_size,
        crop=args.crop,
        aesthetic_score=args.aesthetic_score,
        num_outputs=args.num_outputs,
        seed=args.seed,
        **call_options(args, pipeline.settings_of("image")),
    )
    images = [enlarged(one, args.scale) for one in output.images]
    seeds = f"seed {output.seeds[0]}" if len(images) == 1 else f"seeds {output.seeds[0]} to {output.seeds[-1]}"
    cost = f"{output.model_calls_per_row:g} model calls an image, {output.elapsed_s:.2f} s in the model"
    said = write_images(images, args.out, args.num_outputs if args.num_outputs > 1 else min(len(images), 8))
    print(f"{said}{', ' if len(images) == 1 else ''}{seeds}; {cost})")
    if args.gif is not None:
        _write_gif(args, pipeline, output)


def _labels(given: list[str] | None, tokenizers: "Mapping[str, Tokenizer]") -> Any:
    """Labels as the pipeline takes them: NAME, or ATTRIBUTE=NAME of a model with several attributes, whose entries make one label."""
    if given is None:
        return None
    names = [name for name, one in tokenizers.items() if one.kind == "attribute" and name != "micro"]
    pairs = [one.partition("=") for one in given]
    if len(names) > 1 and all(equals and name in names for name, equals, _ in pairs):
        return {name: value for name, _, value in pairs}
    return given


def _draw_audio(args: argparse.Namespace) -> None:
    """An image of a recording."""
    other = ("label", "image", "mask_image", "strength", "outpaint", "negative_prompt", "gif", "width", "height", *MICRO)
    edits = [name for name in other if getattr(args, name) is not None] + ["unconditional"] * args.unconditional
    if len(args.prompt) > 1 or edits:
        wrong = "several prompts" if len(args.prompt) > 1 else f"--{edits[0].replace('_', '-')}"
        raise ValueError(f"--audio and {wrong} do not go together: the recording says what is drawn")
    if args.prompt and not args.prompt[0].strip():
        raise ValueError('the prompt next to --audio is empty; say what the recording does not ("flat style") or leave it out')
    need_audio(args.audio)
    from maskgen.processors.media import as_audio

    clip = as_audio(args.audio)
    pipeline = pipeline_of(args, "AnyToAnyPipeline", args.specialists)
    source = args.source or "words"
    output = pipeline(
        args.prompt[0] if args.prompt else None,
        target="image",
        audio=clip,
        source=source,
        seed=args.seed,
        num_outputs=args.num_outputs,
        **call_options(args, pipeline.decoder_of("image", source == "audio").settings_of("image")),
    )
    images = [enlarged(one, args.scale) for one in output.images]
    said = write_images(images, args.out, min(len(images), 8))
    of = " and ".join(repr(one) for one in (output.text, *args.prompt) if one is not None)
    seeds = f"seed {args.seed}" if len(images) == 1 else f"seeds {output.seeds[0]} to {output.seeds[-1]}"
    print(f"{said}{', ' if len(images) == 1 else ''}{seeds}; {output.model_calls:g} model calls){f' of {of}' if of else ''}")


def _write_gif(args: argparse.Namespace, pipeline: "Pipeline", output: "GenerationOutput") -> None:
    """The decode of the first image, a frame a step."""
    from maskgen.io.images import write_animation
    from maskgen.processors.animation import decode_frames

    shown = decode_frames(pipeline.tokenizers["image"], output.codes[0], output.trajectories, output.images[0])
    frames = [enlarged(frame, args.scale) for frame in shown]
    write_animation(frames, args.gif, [120] * (len(frames) - 1) + [1500])
    print(f"wrote {args.gif} ({len(frames)} frames)")
