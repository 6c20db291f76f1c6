"""`maskgen generate speech ...`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from maskgen.cli import generate_text as anything
from maskgen.cli.decoding_options import add_decoding, decoded_as
from maskgen.cli.options import StepBar, add_machine, check_writable, numbers, pipeline_of

if TYPE_CHECKING:
    from maskgen.pipelines.text_to_speech import SpeechOutput, Voice

ENDINGS = (".wav", ".flac", ".ogg", ".mp3")


def add_speech(parser: argparse.ArgumentParser) -> None:
    """Arguments of `generate speech`."""
    parser.add_argument("text", nargs="?", help="what is said; phonemes between slashes")
    parser.add_argument("--image", type=Path, help="a picture that is spoken of, instead of a text")
    parser.add_argument("--out", type=Path, default=Path("speech.wav"), help="WAV, FLAC, Ogg or MP3 to write (default: %(default)s)")
    parser.add_argument("--model", help="folder of a voice, or the name of a shipped one (default: heart-16k, with --image any-64)")
    anything.add_alone(parser)
    add_machine(parser)
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--num", type=int, default=1, metavar="N", help="takes (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="length of the speech, without any prompt")
    parser.add_argument("--speed", type=float, default=1.0, help="pace; 2 is twice as fast (default: %(default)s)")
    parser.add_argument("--speaker", help="one of the model's speakers")
    parser.add_argument("--voice", type=Path, metavar="SOUND", help="recording whose voice is to speak")
    parser.add_argument("--voice-text", metavar="TEXT", help="what that recording, or the one to continue, says")
    parser.add_argument(
        "--continue", type=Path, dest="continued", metavar="SOUND", help="recording to go on from; it stands before the speech"
    )
    parser.add_argument("--edit", type=Path, metavar="SOUND", help="recording in which --span is replaced by the text")
    parser.add_argument("--span", type=numbers(float), metavar="FROM,TO", help="seconds of --edit that are replaced")
    add_decoding(parser)
    parser.set_defaults(verb=generate_speech)


def generate_speech(args: argparse.Namespace) -> None:
    """Text to speech, in a given voice, after a recording or inside one."""
    check_writable(args.out, ENDINGS)
    given = [name for name, path in (("--voice", args.voice), ("--continue", args.continued), ("--edit", args.edit)) if path is not None]
    if len(given) > 1:
        raise ValueError(f"{given[0]} and {given[1]} do not go together; give one of them")
    if (args.edit is None) != (args.span is None) or (args.span is not None and (not isinstance(args.span, list) or len(args.span) != 2)):
        raise ValueError("--edit and --span go together: --edit clip.wav --span 0.8,1.4")
    if args.edit is not None and (args.num != 1 or args.voice_text is not None or args.speaker is not None):
        raise ValueError("--edit takes neither --num nor --voice-text nor --speaker")
    if (args.text is None) == (args.image is None):
        raise ValueError("give either a text to speak or --image, a picture to speak of")
    _write(args, _spoken_of(args) if args.image is not None else _spoken(args, voice_of(args)))


def _spoken_of(args: argparse.Namespace) -> "SpeechOutput":
    """What the model says of a picture."""
    others = [name for name in ("seconds", "speaker", "voice", "voice_text", "continued", "edit") if getattr(args, name) is not None]
    if others or args.num != 1 or args.speed != 1.0:
        raise ValueError(f"--image speaks of a picture in one take and takes no --{(others or ['num or --speed'])[0].replace('_', '-')}")
    args.model, args.prompt, args.audio = args.model or anything.DEFAULT_MODEL, None, None
    output = anything.made(args, ["speech"], "audio")
    assert output.speech is not None, "speech was asked for"
    print(f"said: {output.text}")
    return output.speech


def voice_of(args: argparse.Namespace) -> "Voice":
    """The voice that the arguments name, on the machine that they name."""
    from maskgen.io.bundle import find_model
    from maskgen.networks.durations import DurationPredictor
    from maskgen.pipelines.text_to_speech import DEFAULT_VOICE, Voice

    args.model = args.model or DEFAULT_VOICE
    folder = find_model(args.model)
    pipeline = pipeline_of(args)
    if not (folder / "durations").is_dir():
        raise ValueError(f"{folder} holds a model that cannot speak (no folder durations); the shipped voice is heart-16k")
    return Voice(pipeline, DurationPredictor.from_bundle(folder / "durations"))


def _spoken(args: argparse.Namespace, voice: "Voice") -> "SpeechOutput":
    """What the voice says."""
    from maskgen.io.audio import read_sound

    settings = decoded_as(voice.pipeline.settings_of("audio"), args)
    with StepBar() as bar:
        if args.edit is not None:
            span = (args.span[0], args.span[1])
            return voice.edit(
                read_sound(args.edit),
                span,
                args.text,
                seconds=args.seconds,
                speed=args.speed,
                seed=args.seed,
                settings=settings,
                callback=bar,
            )
        prompt = args.voice or args.continued
        return voice(
            args.text,
            speaker=args.speaker,
            seconds=args.seconds,
            speed=args.speed,
            prompt=None if prompt is None else read_sound(prompt),
            prompt_text=args.voice_text,
            keep_prompt=args.continued is not None,
            seed=args.seed,
            num=args.num,
            settings=settings,
            callback=bar,
        )


def _write(args: argparse.Namespace, output: "SpeechOutput") -> None:
    """The takes, and what they cost."""
    from maskgen.io.audio import write_sound

    paths = [args.out] if len(output.waves) == 1 else [args.out.with_stem(f"{args.out.stem}-{n}") for n in range(len(output.waves))]
    for path, wave in zip(paths, output.waves, strict=True):
        write_sound(wave, path)
    steps = "+".join(str(count) for count in output.steps)
    for path, wave, seed in zip(paths, output.waves, output.seeds, strict=True):
        print(f"wrote {path} ({wave.samples.shape[1] / wave.sample_rate_hz:.2f} s at {wave.sample_rate_hz} Hz, seed {seed})")
    print(
        f"{len(output.sentences)} sentence{'s' * (len(output.sentences) > 1)}, steps a level {steps}, "
        f"{output.passes_a_row:g} passes a sentence; {output.elapsed_s:.2f} s of work, {output.real_time_factor:.2f} of real time"
    )
    if output.left_out:
        print(f"not spoken: {' '.join(output.left_out[:20])}")
