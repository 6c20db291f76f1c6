"""`maskgen score`: rank captions by an image, or texts by an audio clip."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.options import add_machine, numbers, pipeline_of

if TYPE_CHECKING:
    from maskgen.scoring.estimators import ScoreSettings
    from maskgen.scoring.ranking import Ranked

IMAGE_MODEL = "emoji-64"
AUDIO_MODEL = "any-64"


def add_score(verbs: Any) -> None:
    """Add `score`.

    Args:
        verbs: Subparsers of the whole command.
    """
    parser = verbs.add_parser("score", help="rank captions by their likelihood for an image, or transcripts for an audio clip")
    parser.add_argument("candidates", nargs="+", metavar="TEXT", help="captions or transcripts, each in quotes")
    parser.add_argument("--image", type=Path, help="image to rank captions for; letterboxed to the model's size")
    parser.add_argument(
        "--audio", type=Path, metavar="SOUND", help="audio file to rank transcripts for, in one model call; --json adds word times"
    )
    parser.add_argument("--model", help=f"folder or shipped name (default: {IMAGE_MODEL}; with --audio {AUDIO_MODEL})")
    add_machine(parser)
    add_estimate(parser, 16)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(verb=score, alone=True)


def add_estimate(parser: argparse.ArgumentParser, samples: int) -> None:
    """Add the arguments that set how the likelihood of an image is estimated.

    Args:
        parser: Parser of a verb.
        samples: Default of `--samples`.
    """
    parser.set_defaults(samples_by_default=samples)
    parser.add_argument("--estimator", choices=("elbo", "pseudo"), default="elbo", help="docs/scores.md describes both")
    parser.add_argument("--samples", type=int, default=samples, help="masks per level for elbo, an even number (default: %(default)s)")
    parser.add_argument("--folds", type=int, help="parts for pseudo (default: one code at a time)")
    parser.add_argument("--levels", type=numbers(int), metavar="N[,N...]", help="levels to score (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the masks, the same for all captions (default: %(default)s)")


def estimate_of(args: argparse.Namespace) -> "ScoreSettings":
    """The estimator that the arguments of `add_estimate` describe.

    Raises:
        ValueError: If a setting is out of range.
    """
    from maskgen.scoring.estimators import ScoreSettings

    levels = None if args.levels is None else args.levels if isinstance(args.levels, list) else [args.levels]
    return ScoreSettings(estimator=args.estimator, samples=args.samples, folds=args.folds, levels=levels, seed=args.seed)


def score(args: argparse.Namespace) -> None:
    """Rank captions by an image, or transcripts by an audio clip."""
    if (args.image is None) == (args.audio is None):
        raise ValueError(f"got {'neither' if args.image is None else 'both'} of --image and --audio; give one to rank the texts for")
    if args.audio is not None:
        _score_audio(args)
    else:
        _score_image(args)


def _score_image(args: argparse.Namespace) -> None:
    """Captions ranked by an image."""
    from maskgen.io.images import read_picture
    from maskgen.processors.image import letterboxed
    from maskgen.processors.labels import label_codes

    settings, picture = estimate_of(args), read_picture(args.image)
    pipeline = pipeline_of(args, "TextToImagePipeline", default=IMAGE_MODEL)
    picture = letterboxed(picture, pipeline.tokenizers["image"], pipeline.grids.get("image"))
    labelled = "text" not in pipeline.tokenizers
    captions = [label_codes(pipeline.tokenizers, text) if labelled else pipeline.text_codes(text) for text in args.candidates]
    ranking = pipeline.classify({"image": picture}, captions, "image", settings=settings)
    if args.json:
        print(json.dumps([_entry(one, args.candidates) for one in ranking], indent=2))
        return
    print(" probability   log-likelihood   a code   caption")
    for one in ranking:
        total = f"{one.score.total:.1f} ± {one.score.standard_error:.1f}"
        print(f"{one.probability:12.4f} {total:>16} {one.score.mean:8.3f}   {args.candidates[one.place]}")
    print(f"nats over {sum(ranking[0].score.codes)} codes, {ranking[0].score.model_calls} model calls per caption")


def _score_audio(args: argparse.Namespace) -> None:
    """Transcripts ranked by an audio clip."""
    from maskgen.io.audio import read_sound

    usual = {"estimator": "elbo", "samples": args.samples_by_default, "folds": None, "levels": None, "seed": 0}
    if changed := [name for name, value in usual.items() if getattr(args, name) != value]:
        raise ValueError(f"--{changed[0]} is for --image: transcripts are scored in one model call, without random masks")
    sound = read_sound(args.audio)
    ranking = pipeline_of(args, "AnyToAnyPipeline", default=AUDIO_MODEL).align(sound, args.candidates)
    if args.json:
        print(json.dumps([_audio_entry(one, args.candidates) for one in ranking], indent=2, ensure_ascii=False))
        return
    print(" probability   log-likelihood   text")
    for one in ranking:
        print(f"{one.probability:12.4f} {one.score.total:>16.1f}   {args.candidates[one.place]}")
    print(f"nats over {ranking[0].score.codes[0]} slots, one pass for all")


def _audio_entry(one: "Ranked", texts: list[str]) -> dict[str, Any]:
    """A ranked transcript as plain data; one that does not fit into the clip has neither likelihood nor times."""
    transcript, entry = one.candidate["transcript"], {"text": texts[one.place], "probability": one.probability}
    if transcript is None:  # JSON has no -inf
        return {**entry, "log_likelihood": None, "words": None}
    words = [{"start_s": round(start, 3), "word": word} for word, start in zip(transcript.words, transcript.starts_s, strict=True)]
    return {**entry, "log_likelihood": one.score.total, "words": words}


def _entry(one: "Ranked", captions: list[str]) -> dict[str, Any]:
    """A ranked caption as plain data; an unknown standard error is null."""
    error = one.score.standard_error
    return {
        "caption": captions[one.place],
        "probability": one.probability,
        "log_likelihood": one.score.total,
        "standard_error": error if error == error else None,
        "levels": list(one.score.levels),
        "codes": list(one.score.codes),
        "passes": one.score.model_calls,
    }
