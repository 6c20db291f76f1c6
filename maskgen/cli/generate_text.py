"""`maskgen generate text ...` and `maskgen generate image,speech ...`: any direction between text, pictures and sound."""

import argparse
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.decoding_options import add_decoding, decoded_as
from maskgen.cli.options import StepBar, add_machine, check_writable, pipeline_of, placed

if TYPE_CHECKING:
    from maskgen.pipelines.any_to_any import AnyOutput, AnyToAny

MEDIA = ("text", "image", "speech")
ENDINGS = {"text": (".txt", ".json"), "image": (".png", ".webp", ".jpg", ".jpeg"), "speech": (".wav", ".flac", ".ogg", ".mp3")}
DEFAULT_MODEL = "any-64"


def add(kinds: Any) -> None:
    """Arguments of `generate text` and of several media at once.

    Args:
        kinds: Subparsers of `generate`.
    """
    text = kinds.add_parser("text", help="a picture or a recording in words; text with holes filled")
    _add_known(text)
    text.add_argument("--out", type=Path, help="text file to write, or .json with the time of each word (default: print it)")
    text.set_defaults(verb=generate_text)
    names = [",".join(some) for count in (2, 3) for some in permutations(MEDIA, count)]
    several = kinds.add_parser("image,speech", aliases=[name for name in names if name != "image,speech"], help="several media at once")
    _add_known(several)
    several.add_argument("--out", type=Path, default=Path("any"), help="files get this name and their own ending (default: %(default)s)")
    several.set_defaults(verb=generate_several)


def add_alone(parser: argparse.ArgumentParser) -> None:
    """Whether the model that goes every way does all by itself."""
    parser.add_argument(
        "--alone", action="store_true", help="without the specialists that the model's folder names for drawing and speaking"
    )


def _add_known(parser: argparse.ArgumentParser) -> None:
    """What is known, and how to decode."""
    parser.add_argument("prompt", nargs="?", help="text; [3] is a hole of three codes, for generate text alone")
    parser.add_argument("--image", type=Path, help="a picture")
    parser.add_argument("--audio", type=Path, metavar="SOUND", help="a recording of at most 30 s")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder of a model, or the name of a shipped one (default: %(default)s)")
    add_alone(parser)
    add_machine(parser)
    parser.add_argument("--candidates", type=int, default=1, help="captions or transcripts to decode; the likeliest is kept (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    add_decoding(parser)


def any_to_any(args: argparse.Namespace, default: str = DEFAULT_MODEL) -> "AnyToAny":
    """The model that the arguments name, on the machine that they name."""
    from maskgen.io.bundle import find_model
    from maskgen.networks.durations import DurationPredictor
    from maskgen.pipelines.any_to_any import AnyToAny, Specialists

    folder = find_model(args.model or default)
    pipeline = pipeline_of(args, default)
    if not (folder / "durations").is_dir():
        raise ValueError(f"{folder} holds a model that does not go every way (no folder durations); {DEFAULT_MODEL} does")
    specialists = Specialists() if args.alone else Specialists.beside(folder)
    for one in specialists.pipelines:
        placed(one, args)
    return AnyToAny(pipeline, DurationPredictor.from_bundle(folder / "durations"), specialists)


def made(args: argparse.Namespace, targets: list[str], decoded: str | None = None, directly: bool = False) -> "AnyOutput":
    """What the model makes of what is known.

    Args:
        args: Arguments.
        targets: Media asked for.
        decoded: Modality that the decoding arguments mean; None refuses them.
        directly: Draw a sound from its own cells, not from the words heard in it.
    """
    from maskgen.io.audio import read_sound
    from maskgen.io.images import read_picture

    image = None if args.image is None else read_picture(args.image)
    sound = None if args.audio is None else read_sound(args.audio)
    model = any_to_any(args)
    settings = {}
    if decoded is not None:
        settings[decoded] = decoded_as(model.decoder_of(decoded, directly).settings_of(decoded), args)
    prompt = args.prompt if isinstance(args.prompt, str) or args.prompt is None else " ".join(args.prompt) or None
    with StepBar() as bar:
        return model(
            targets,
            text=prompt,
            image=image,
            sound=sound,
            directly=directly,
            candidates=getattr(args, "candidates", 1),
            seed=args.seed,
            settings=settings,
            callback=bar,
        )


def generate_text(args: argparse.Namespace) -> None:
    """A caption, a transcript, or a text whose holes are filled."""
    if args.out is not None:
        check_writable(args.out, ENDINGS["text"])
    if args.prompt is not None:
        text = _filled(args)
    else:
        output = made(args, ["text"], "transcript" if args.audio is not None else "text")
        text = output.text or ""
        if args.out is not None and args.out.suffix == ".json":
            _write_times(args, output)
            return
    if args.out is None:
        print(text)
        return
    from maskgen.io.files import write_atomic

    write_atomic(args.out, f"{text}\n".encode())
    print(f"wrote {args.out}: {text}")


def _filled(args: argparse.Namespace) -> str:
    """The text with its holes filled, beside a picture if one is given."""
    from maskgen.io.images import read_picture
    from maskgen.io.letterbox import letterbox
    from maskgen.tokenizers.image import ImageTokenizer
    from maskgen.tokenizers.text import TextTokenizer, with_holes

    if args.audio is not None:
        raise ValueError("a text with holes goes with --image or alone; leave out --audio")
    picture = None if args.image is None else read_picture(args.image)
    pipeline = pipeline_of(args)
    tokenizer = pipeline.tokenizers.get("text")
    if not isinstance(tokenizer, TextTokenizer) or "text" not in pipeline.settings:
        raise ValueError(f"the model {args.model} does not write text; {DEFAULT_MODEL} does")
    known: dict[str, Any] = {"text": with_holes(args.prompt, tokenizer)}
    if picture is not None:
        drawing = pipeline.tokenizers.get("image")
        if not isinstance(drawing, ImageTokenizer):
            raise ValueError(f"the model {args.model} does not look at pictures; leave out --image or take {DEFAULT_MODEL}")
        known["image"] = letterbox(picture, drawing.size)
    with StepBar() as bar:
        output = pipeline.generate([known], "text", [args.seed], decoded_as(pipeline.settings_of("text"), args), callback=bar)
    return str(output.media[0])


def _write_times(args: argparse.Namespace, output: "AnyOutput") -> None:
    """The words with their times."""
    import json

    from maskgen.io.files import write_atomic

    if output.transcript is None:
        raise ValueError("a caption has no times; give --out a name that ends with .txt")
    words = [
        {"start_s": round(start, 3), "word": word} for word, start in zip(output.transcript.words, output.transcript.starts_s, strict=True)
    ]
    write_atomic(args.out, f"{json.dumps({'text': output.text, 'words': words, 'seconds': output.transcript.seconds})}\n".encode())
    print(f"wrote {args.out}: {output.text}")


def generate_several(args: argparse.Namespace) -> None:
    """Several media of one call, each in a file of its own."""
    targets = args.what.split(",")
    changed = [name for name in ("steps", "guidance_scale", "temperature", "sampler") if getattr(args, name) is not None]
    if changed or args.set:
        raise ValueError(f"--{(changed or ['set'])[0].replace('_', '-')} means one modality; make the media one after the other to set it")
    output = made(args, targets)
    if output.text is not None and "text" in targets:
        from maskgen.io.files import write_atomic

        write_atomic(args.out.with_suffix(".txt"), f"{output.text}\n".encode())
        print(f"wrote {args.out.with_suffix('.txt')}: {output.text}")
    if output.image is not None:
        output.image.save(args.out.with_suffix(".png"))
        print(f"wrote {args.out.with_suffix('.png')} ({output.image.width} x {output.image.height})")
    if output.speech is not None:
        from maskgen.io.audio import write_sound

        wave = output.speech.waves[0]
        write_sound(wave, args.out.with_suffix(".wav"))
        print(f"wrote {args.out.with_suffix('.wav')} ({wave.samples.shape[1] / wave.sample_rate_hz:.2f} s): {output.text}")
    print(f"{', '.join(output.steps)}; {output.passes:g} passes, {output.elapsed_s:.2f} s in the model")
