"""`maskgen generate speech`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.decoding_options import add_decoding, call_options
from maskgen.cli.options import add_machine, add_specialists, need_audio, numbers, pipeline_of
from maskgen.cli.outputs import AUDIO_ENDINGS, add_outputs, check_writable, write_audio

if TYPE_CHECKING:
    from maskgen.pipelines.outputs import SpeechOutput


def add_generate_speech(kinds: Any) -> None:
    """Arguments of `generate speech`."""
    parser = kinds.add_parser("speech", help="text or an image to speech, in a given voice, after a recording or inside one")
    parser.add_argument("prompt", nargs="*", help="what is said, one text or several, each in quotes; phonemes between slashes")
    parser.add_argument("--image", type=Path, help="an image that is described, instead of a text")
    parser.add_argument("--out", type=Path, default=Path("speech.wav"), help="WAV, FLAC, Ogg or MP3 to write (default: %(default)s)")
    parser.add_argument("--model", help="name, folder or hub id of a voice (default: heart-16k, with --image any-64)")
    add_specialists(parser)
    add_machine(parser)
    add_outputs(parser, "takes a text")
    parser.add_argument("--seconds", type=float, help="length of the speech, without any recording")
    parser.add_argument("--speed", type=float, help="pace; 2 is twice as fast (default: 1)")
    parser.add_argument("--speaker", help="one of the model's speakers; for OmniVoice a description of the voice")
    parser.add_argument("--language", metavar="CODE", help="language of the text, such as en, for voices that speak several")
    parser.add_argument("--audio", type=Path, help="recording to continue; with --span-s, to edit")
    parser.add_argument("--span-s", type=numbers(float), metavar="FROM,TO", help="seconds of --audio that are replaced by the text")
    parser.add_argument(
        "--audio-prompt", type=Path, help="recording as context; a model trained on many voices takes up its voice, heart-16k does not"
    )
    parser.add_argument("--audio-text", metavar="TEXT", help="what the recording says; helps")
    add_decoding(parser)
    parser.set_defaults(verb=generate_speech)


def generate_speech(args: argparse.Namespace) -> None:
    """Text to speech, continuations, edits, and descriptions of images."""
    check_writable(args.out, AUDIO_ENDINGS)
    need_audio(args.out if args.out.suffix.lower() != ".wav" else None, args.audio, args.audio_prompt)
    if args.span_s is not None and (not isinstance(args.span_s, list) or len(args.span_s) != 2):
        raise ValueError("--span-s needs two numbers: --span-s 0.8,1.4")
    if bool(args.prompt) == (args.image is not None):
        raise ValueError("give either a text to speak or --image, an image to describe")
    _write(args, _described(args) if args.image is not None else _spoken(args))


def _described(args: argparse.Namespace) -> "list[SpeechOutput]":
    """What the model says of an image."""
    others = ("seconds", "speed", "speaker", "language", "audio", "span_s", "audio_prompt", "audio_text")
    if wrong := [name for name in others if getattr(args, name) is not None]:
        raise ValueError(f"--image is described in the model's own words and pace; it takes no --{wrong[0].replace('_', '-')}")
    from maskgen.processors.media import as_image

    picture = as_image(args.image)
    pipeline = pipeline_of(args, "AnyToAnyPipeline", args.specialists)
    options = call_options(args, pipeline.decoder_of("audio").settings_of("audio"))
    output = pipeline(target="audio", image=picture, seed=args.seed, num_outputs=args.num_outputs, **options)
    for text in output.texts:
        print(f"said: {text}")
    made: list[SpeechOutput] = output.speech
    return made


def _spoken(args: argparse.Namespace) -> "list[SpeechOutput]":
    """What a voice says."""
    from maskgen.processors.media import as_audio

    clip, lead = (None if path is None else as_audio(path) for path in (args.audio, args.audio_prompt))
    pipeline = pipeline_of(args, "TextToSpeechPipeline")
    if args.language is not None and not {"prompt", "phonemes"} & set(pipeline.tokenizers):
        raise ValueError(f"{args.model or 'this voice'} speaks one language; leave --language out, or give a voice that speaks several")
    output = pipeline(
        args.prompt,
        seconds=args.seconds,
        speed=1.0 if args.speed is None else args.speed,
        speaker=args.speaker,
        audio=clip,
        span_s=args.span_s,
        audio_prompt=lead,
        audio_text=args.audio_text,
        seed=args.seed,
        num_outputs=args.num_outputs,
        **({} if args.language is None else {"language": args.language}),
        **call_options(args, pipeline.settings_of("audio")),
    )
    return [output]


def _write(args: argparse.Namespace, outputs: "list[SpeechOutput]") -> None:
    """The takes, and what they cost."""
    seeds = [seed for output in outputs for seed in output.seeds]
    for line, seed in zip(write_audio([wave for output in outputs for wave in output.audio], args.out), seeds, strict=True):
        print(f"{line}, seed {seed})")
    count, first = sum(len(one) for output in outputs for one in output.sentences), outputs[0]
    elapsed_s, length_s = sum(output.elapsed_s for output in outputs), sum(output.seconds for output in outputs)
    print(
        f"{count} sentence{'s' * (count > 1)}, steps a level {'+'.join(map(str, first.steps))}, {first.model_calls_per_row:g} model calls "
        f"a sentence; {elapsed_s:.2f} s of work, {elapsed_s / length_s:.2f} of real time"
    )
    if left_out := [character for output in outputs for character in output.left_out]:
        print(f"not spoken: {' '.join(left_out[:20])}")
