"""`maskgen generate any`: several media of one call."""

import argparse
from pathlib import Path
from typing import Any

from maskgen.cli.decoding_options import add_decoding, call_options
from maskgen.cli.options import add_machine, add_specialists, need_audio, pipeline_of
from maskgen.cli.outputs import add_outputs, check_writable, numbered, write_audio

MEDIA = {"text": ".txt", "image": ".png", "audio": ".wav"}
"""Targets to the endings of their files."""


def add_generate_any(kinds: Any) -> None:
    """Arguments of `generate any`."""
    parser = kinds.add_parser("any", help="several media at once from a text, an image or a recording")
    parser.add_argument("prompt", nargs="?", help="a text")
    parser.add_argument("--target", required=True, metavar="MEDIUM[,MEDIUM...]", help=f"what is generated: some of {', '.join(MEDIA)}")
    parser.add_argument("--image", type=Path, help="an image")
    parser.add_argument("--audio", type=Path, help="a recording of at most 30 s")
    parser.add_argument("--source", choices=("words", "audio"), default="words", help="as in generate image (default: %(default)s)")
    parser.add_argument("--model", help="name, folder or hub id of a model (default: any-64)")
    add_specialists(parser)
    add_machine(parser)
    parser.add_argument("--candidates", type=int, default=1, help="captions or transcripts to decode; the likeliest is kept (default: 1)")
    add_outputs(parser, "outputs")
    add_decoding(parser)
    parser.add_argument("--out", type=Path, default=Path("any"), help="files get this name and their own ending (default: %(default)s)")
    parser.set_defaults(verb=generate_any)


def generate_any(args: argparse.Namespace) -> None:
    """Several media, each in a file of its own."""
    targets = args.target.split(",")
    if wrong := [name for name in targets if name not in MEDIA]:
        raise ValueError(f"--target names {', '.join(wrong)}; choose some of {', '.join(MEDIA)}")
    for name in targets:
        check_writable(args.out.with_suffix(MEDIA[name]), (MEDIA[name],))
    need_audio(args.audio)
    from maskgen.processors.media import as_audio, as_image

    picture = None if args.image is None else as_image(args.image)
    clip = None if args.audio is None else as_audio(args.audio)
    pipeline = pipeline_of(args, "AnyToAnyPipeline", args.specialists)
    decoded = "transcript" if targets == ["text"] and clip is not None else targets[0]
    output = pipeline(
        args.prompt,
        target=targets,
        image=picture,
        audio=clip,
        source=args.source,
        candidates=args.candidates,
        seed=args.seed,
        num_outputs=args.num_outputs,
        **call_options(args, pipeline.decoder_of(decoded, args.source == "audio").settings_of(decoded)),
    )
    if "text" in targets:
        from maskgen.io.files import write_atomic

        for path, text in zip(numbered(args.out.with_suffix(".txt"), len(output.texts)), output.texts, strict=True):
            write_atomic(path, f"{text}\n".encode())
            print(f"wrote {path}: {text}")
    if "image" in targets:
        from maskgen.io.images import write_picture

        for path, image in zip(numbered(args.out.with_suffix(".png"), len(output.images)), output.images, strict=True):
            write_picture(image, path)
            print(f"wrote {path} ({image.width} x {image.height})")
    if "audio" in targets:
        for line, text in zip(write_audio(output.audio, args.out.with_suffix(".wav")), output.texts, strict=True):
            print(f"{line}): {text}")
    print(f"{', '.join(output.steps)}; {output.model_calls:g} model calls, {output.elapsed_s:.2f} s in the model")
