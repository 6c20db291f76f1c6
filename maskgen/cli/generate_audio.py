"""`maskgen generate audio`."""

import argparse
from pathlib import Path
from typing import Any

from maskgen.cli.decoding_options import add_decoding, call_options
from maskgen.cli.options import add_machine, need_audio, numbers, pipeline_of
from maskgen.cli.outputs import AUDIO_ENDINGS, add_outputs, check_writable, write_audio


def add_generate_audio(kinds: Any) -> None:
    """Arguments of `generate audio`."""
    parser = kinds.add_parser("audio", help="text to music or sounds, after a recording or inside one")
    parser.add_argument("prompt", nargs="+", help="what the audio sounds like, one text or several, each in quotes")
    parser.add_argument("--model", required=True, help="folder or hub id of a model, such as facebook/magnet-small-10secs")
    parser.add_argument("--out", type=Path, default=Path("audio.wav"), help="WAV, FLAC, Ogg or MP3 to write (default: %(default)s)")
    add_machine(parser)
    add_outputs(parser, "outputs a text")
    parser.add_argument("--seconds", type=float, help="length of what is generated (default: as the model was trained)")
    parser.add_argument("--negative-prompt", help="what guidance leads away from")
    parser.add_argument("--audio", type=Path, help="recording to continue; with --span-s, to edit")
    parser.add_argument("--span-s", type=numbers(float), metavar="FROM,TO", help="seconds of --audio that are generated anew")
    add_decoding(parser)
    parser.set_defaults(verb=generate_audio)


def generate_audio(args: argparse.Namespace) -> None:
    """Text to music and sounds."""
    check_writable(args.out, AUDIO_ENDINGS)
    need_audio(args.out if args.out.suffix.lower() != ".wav" else None, args.audio)
    if args.span_s is not None and (not isinstance(args.span_s, list) or len(args.span_s) != 2):
        raise ValueError("--span-s needs two numbers: --span-s 0.8,1.4")
    from maskgen.processors.media import as_audio

    clip = None if args.audio is None else as_audio(args.audio)
    pipeline = pipeline_of(args, "TextToAudioPipeline")
    output = pipeline(
        args.prompt,
        seconds=args.seconds,
        negative_prompt=args.negative_prompt,
        audio=clip,
        span_s=args.span_s,
        seed=args.seed,
        num_outputs=args.num_outputs,
        **call_options(args, pipeline.settings_of("audio")),
    )
    for line, seed in zip(write_audio(output.audio, args.out), output.seeds, strict=True):
        print(f"{line}, seed {seed})")
    print(f"{output.generation.model_calls_per_row:g} model calls an output; {output.generation.elapsed_s:.2f} s of work")
