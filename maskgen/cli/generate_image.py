"""`maskgen generate ...`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli import generate_text as anything
from maskgen.cli.decoding_options import add_decoding, decoded_as
from maskgen.cli.generate_speech import add_speech
from maskgen.cli.options import StepBar, add_machine, check_writable, numbers, pipeline_of

if TYPE_CHECKING:
    from PIL import Image

    from maskgen.pipelines.base import GenerationOutput, Pipeline

LARGEST_SCALE = 32


def add(verbs: Any) -> None:
    """Arguments of `generate ...`."""
    generate = verbs.add_parser("generate", help="make text, pictures and speech from each other; edit them")
    kinds = generate.add_subparsers(required=True, metavar="WHAT", dest="what")
    _add_image(kinds.add_parser("image", help="text to image, inpainting, outpainting, variation"))
    add_speech(kinds.add_parser("speech", help="text or a picture to speech, in a given voice, after a recording or inside one"))
    anything.add(kinds)


def _add_image(parser: argparse.ArgumentParser) -> None:
    """Arguments of `generate image`."""
    parser.add_argument("prompt", nargs="*", help="one caption or several, each in quotes")
    parser.add_argument(
        "--out", type=Path, default=Path("image.png"), help="PNG to write; with several pictures a sheet, the single ones beside it"
    )
    parser.add_argument("--model", help="folder of a model, or the name of a shipped one (default: emoji-64, with --audio any-64)")
    anything.add_alone(parser)
    add_machine(parser)
    parser.add_argument("--seed", type=int, default=0, help="picture i of a prompt has seed + i (default: %(default)s)")
    parser.add_argument("--num", type=int, default=1, metavar="N", help="pictures a prompt (default: %(default)s)")
    add_decoding(parser)
    parser.add_argument("--negative-prompt", help="what guidance leads away from")
    parser.add_argument(
        "--audio", type=Path, metavar="SOUND", help='recording of what is to be drawn; a prompt says what it does not: "flat style"'
    )
    parser.add_argument("--directly", action="store_true", help="draw --audio from its own cells, not from its words as a caption")
    parser.add_argument("--image", type=Path, help="picture to edit")
    parser.add_argument("--mask", type=Path, help="white where --image is made anew; as large as it")
    parser.add_argument("--strength", type=float, help="share of --image made anew, 0 to 1")
    parser.add_argument("--outpaint", type=numbers(int), metavar="L,T,R,B", help="pixels to add to --image: left, top, right, bottom")
    parser.add_argument("--gif", type=Path, help="write the decode of the first picture as an animation")
    parser.add_argument("--scale", type=int, default=1, help="enlarge what is written by this factor (default: %(default)s)")
    parser.set_defaults(verb=generate_image)


def generate_image(args: argparse.Namespace) -> None:
    """Text to image and its edits."""
    check_writable(args.out, (".png", ".webp", ".jpg", ".jpeg"))
    if args.gif is not None:
        check_writable(args.gif, (".gif",))
    if not 1 <= args.scale <= LARGEST_SCALE:
        raise ValueError(f"--scale must lie in 1 to {LARGEST_SCALE}, got {args.scale}")
    if args.outpaint is not None and (not isinstance(args.outpaint, list) or len(args.outpaint) != 4):
        raise ValueError("--outpaint needs four numbers: left,top,right,bottom")
    if args.audio is not None:
        _draw_sound(args)
        return
    if args.directly:
        raise ValueError("--directly draws a recording from its own cells and none is given; add --audio SOUND or leave it out")
    from maskgen.io.images import read_picture

    args.model = args.model or "emoji-64"
    image, mask = (None if path is None else read_picture(path) for path in (args.image, args.mask))
    pipeline = pipeline_of(args)
    with StepBar() as bar:
        output = pipeline(
            args.prompt or "",
            image=image,
            mask_image=mask,
            strength=args.strength,
            outpaint=None if args.outpaint is None else tuple(args.outpaint),
            negative_prompt=args.negative_prompt,
            num_images_per_prompt=args.num,
            seed=args.seed,
            settings=decoded_as(pipeline.settings_of("image"), args),
            callback_on_step_end=bar,
        )
    _write_images(args, output)
    if args.gif is not None:
        _write_gif(args, pipeline, output)


def _draw_sound(args: argparse.Namespace) -> None:
    """A picture of a recording."""
    edits = [name for name in ("image", "mask", "strength", "outpaint", "negative_prompt", "gif") if getattr(args, name) is not None]
    if len(args.prompt) > 1 or edits or args.num != 1:
        found = "several prompts" if len(args.prompt) > 1 else f"--{(edits or ['num'])[0].replace('_', '-')}"
        raise ValueError(f"--audio and {found} do not go together: the recording says what is drawn, one picture at a time")
    if args.prompt and not args.prompt[0].strip():
        raise ValueError('the prompt beside --audio is empty; say what the recording does not ("flat style") or leave it out')
    args.model = args.model or anything.DEFAULT_MODEL
    output = anything.made(args, ["image"], "image", args.directly)
    assert output.image is not None, "a picture was asked for"
    picture = _enlarged(output.image, args.scale)
    picture.save(args.out)
    said = [one for one in (output.text, args.prompt[0] if args.prompt else None) if one is not None]
    heard = f" of {' and '.join(map(repr, said))}" if said else ""
    print(f"wrote {args.out}{heard} ({picture.width} x {picture.height}, seed {args.seed}; {output.passes:g} passes)")


def _write_images(args: argparse.Namespace, output: "GenerationOutput") -> None:
    """One picture, or a sheet with the single ones beside it."""
    from maskgen.io.images import contact_sheet

    pictures = [_enlarged(picture, args.scale) for picture in output.images]
    made = f"{output.passes_a_row:g} passes a picture, {output.elapsed_s:.2f} s in the model"
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
    from maskgen.processors.animation import decode_frames

    made = decode_frames(pipeline.tokenizers["image"], output.codes[0], output.trajectories, output.images[0])
    frames = [_enlarged(frame, args.scale) for frame in made]
    frames[0].save(args.gif, save_all=True, append_images=frames[1:], duration=[120] * (len(frames) - 1) + [1500], loop=0)
    print(f"wrote {args.gif} ({len(frames)} frames)")


def _enlarged(picture: "Image.Image", factor: int) -> "Image.Image":
    from PIL import Image

    return picture if factor == 1 else picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.LANCZOS)
