"""`maskgen generate text`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.decoding_options import add_decoding, call_options
from maskgen.cli.options import add_machine, add_specialists, need_audio, pipeline_of
from maskgen.cli.outputs import TEXT_ENDINGS, add_outputs, check_writable

if TYPE_CHECKING:
    from maskgen.tokenizers.transcript import Transcript


def add_generate_text(kinds: Any) -> None:
    """Arguments of `generate text`."""
    parser = kinds.add_parser("text", help="captions of images, transcripts of recordings, texts with holes filled")
    parser.add_argument("prompt", nargs="?", help="a text with holes; [3] is a hole of three codes; a message to a chat model")
    parser.add_argument("--image", type=Path, help="an image to caption")
    parser.add_argument("--audio", type=Path, help="a recording of at most 30 s to transcribe")
    parser.add_argument("--length", type=int, help="most tokens of an answer, or of a text that is written from nothing")
    parser.add_argument("--model", help="name, folder or hub id of a model (default: any-64)")
    add_specialists(parser)
    add_machine(parser)
    parser.add_argument("--candidates", type=int, default=1, help="captions or transcripts to decode; the likeliest is kept (default: 1)")
    add_outputs(parser, "texts")
    add_decoding(parser)
    parser.add_argument("--out", type=Path, help="text file to write, or .json with the time of each word (default: print)")
    parser.set_defaults(verb=generate_text)


def generate_text(args: argparse.Namespace) -> None:
    """A caption, a transcript, a text whose holes are filled, or one from nothing."""
    if args.out is not None:
        check_writable(args.out, TEXT_ENDINGS)
    given = [name for name in ("prompt", "image", "audio", "length") if getattr(args, name) is not None]
    if len(given) != 1 and ("audio" in given or not given):
        raise ValueError(
            f"give a text with holes or a message, --image, --audio or --length, got {' and '.join(given) or 'none'}; --audio stands alone"
        )
    if args.out is not None and args.out.suffix == ".json" and args.audio is None:
        raise ValueError("a caption has no times; give --out a name that ends with .txt")
    need_audio(args.audio)
    texts, transcripts = _heard(args) if args.audio is not None else (_written(args), [])
    if args.out is None:
        print("\n".join(texts))
        return
    from maskgen.io.files import write_atomic

    lines = [_with_times(one) for one in transcripts] if args.out.suffix == ".json" else texts
    write_atomic(args.out, "".join(f"{line}\n" for line in lines).encode())
    print(f"wrote {args.out}: {' | '.join(texts)}")


def _heard(args: argparse.Namespace) -> "tuple[list[str], list[Transcript]]":
    """Transcripts of a recording."""
    from maskgen.processors.media import as_audio

    clip = as_audio(args.audio)
    pipeline = pipeline_of(args, "AnyToAnyPipeline")
    output = pipeline(
        target="text",
        audio=clip,
        candidates=args.candidates,
        seed=args.seed,
        num_outputs=args.num_outputs,
        **call_options(args, pipeline.settings_of("transcript")),
    )
    return output.texts, output.transcripts


def _written(args: argparse.Namespace) -> list[str]:
    """Captions of an image, texts with their holes filled, or texts from nothing."""
    from maskgen.processors.media import as_image

    picture = None if args.image is None else as_image(args.image)
    pipeline = pipeline_of(args, "TextGenerationPipeline")
    if "text" not in pipeline.settings:
        raise ValueError(f"the model {args.model} does not write text, it generates {', '.join(pipeline.settings)}; any-64 does")
    common = {"seed": args.seed, "num_outputs": args.num_outputs, **call_options(args, pipeline.settings_of("text"))}
    if args.prompt is None and picture is not None and type(pipeline).__name__ == "AnyToAnyPipeline":
        if args.length is not None:
            raise ValueError(
                "--length is for texts from nothing and for answers; the captions of this model end by themselves, leave it out"
            )
        captions: list[str] = pipeline(target="text", image=picture, candidates=args.candidates, **common).texts
        return captions
    if args.candidates != 1:
        raise ValueError("--candidates is for captions and transcripts of an any-to-any model; leave it out")
    texts: list[str] = pipeline(args.prompt, image=picture, length=args.length, **common).texts
    return texts


def _with_times(transcript: "Transcript") -> str:
    """A transcript with the time of each word, as JSON."""
    words = [{"start_s": round(start, 3), "word": word} for word, start in zip(transcript.words, transcript.starts_s, strict=True)]
    return json.dumps({"text": transcript.text, "words": words, "seconds": transcript.seconds})
