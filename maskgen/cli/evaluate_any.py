"""`maskgen evaluate any`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.options import add_machine, add_specialists, pipeline_of
from maskgen.data.corpora.demo import EMOJI_RAW, SPEECH_RAW

if TYPE_CHECKING:
    from maskgen.evaluation.any_to_any import HeldOutSentence

HELD_OUT = "A"
SPEECH_FIELDS = ("captions", "label", "phonemes", "durations", "durations_per_s")
CANDIDATES = 20
"""Transcripts of a recogniser that the model rescores."""


def add_evaluate_any(kinds: Any, cache: Path) -> None:
    """Add `evaluate any`.

    Args:
        kinds: Subparsers of `evaluate`.
        cache: Folder of trained evaluators.
    """
    parser = kinds.add_parser("any", help="every direction between text, images and speech, on held-out combinations; JSON")
    parser.add_argument("--model", help="name, folder or hub id of a model (default: any-64)")
    add_specialists(parser)
    add_machine(parser)
    parser.add_argument("--limit", type=int, default=40, help="number of images, and of sentences (default: %(default)s)")
    parser.add_argument(
        "--only",
        action="append",
        metavar="DIRECTION",
        help='score this direction only, for example "speech > image"; repeatable (default: all)',
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first row (default: %(default)s)")
    parser.add_argument("--raw", type=Path, default=EMOJI_RAW, help="raw shards with the fields of the emoji corpus (default: %(default)s)")
    parser.add_argument("--speech", type=Path, default=SPEECH_RAW, help="raw shards of speech about the same labels (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/any"), help="folder of the report (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=cache, help="folder of trained evaluators (default: %(default)s)")
    parser.set_defaults(verb=_evaluate_any)


def _evaluate_any(args: argparse.Namespace) -> None:
    """Score every direction of a model on split A."""
    from maskgen.evaluation.any_to_any import DIRECTIONS, evaluate_any_to_any
    from maskgen.evaluation.image.corpus import read_corpus
    from maskgen.evaluation.speech.asr import pocketsphinx, whisper_base, whisper_tiny_english
    from maskgen.evaluation.tuning.judges import picture_scores

    if args.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {args.limit}")
    if wrong := sorted(set(args.only or ()) - set(DIRECTIONS)):
        raise ValueError(f"got --only {', '.join(wrong)}, wanted one of {', '.join(map(repr, DIRECTIONS))}")
    model = pipeline_of(args, "AnyToAnyPipeline", args.specialists)
    corpora = read_corpus(args.raw)
    if HELD_OUT not in corpora:
        raise ValueError(
            f"{args.raw} has the splits {', '.join(corpora)}, wanted {HELD_OUT}, held-out combinations; build the corpus again"
        )
    sentences = _sentences(args, model.speech.codec.sample_rate_hz)
    listeners: dict[str, Any] = {"whisper base": whisper_base(), "whisper tiny.en": whisper_tiny_english()}
    pictures = _about(corpora[HELD_OUT], [one.label for one in sentences])
    judge, only = picture_scores(corpora, args.cache), args.only or DIRECTIONS
    proposers = {"pocketsphinx": pocketsphinx(CANDIDATES)}
    report = evaluate_any_to_any(model, pictures, sentences, listeners, judge, args.out, args.seed, only, proposers)
    for name, part in report.items():
        if isinstance(part, dict):
            print(f"{name}:")
            _print(part["scores"], "  ")
    print(f"wrote {args.out / 'directions.json'}")


def _sentences(args: argparse.Namespace, sample_rate_hz: int) -> "list[HeldOutSentence]":
    """Held-out sentences of the speech corpus, with the label that each is about and the times of its words.

    Raises:
        ValueError: If the shards are missing, or their rows lack a field.
    """
    from maskgen.data.build.token_shards import timed_words
    from maskgen.evaluation.any_to_any import HeldOutSentence
    from maskgen.evaluation.speech.codec import held_out_sounds

    rows = held_out_sounds(args.speech, HELD_OUT, sample_rate_hz, args.limit)
    if lacking := [field for field in SPEECH_FIELDS if any(not meta.get(field) for meta, _ in rows)]:
        raise ValueError(
            f"rows of {args.speech} have no {' and no '.join(lacking)}; sentences about pictures with timed phonemes are wanted, "
            "as data/speech/recipe.yaml makes them"
        )
    return [HeldOutSentence(meta["captions"][0], wave, meta["label"], timed_words(meta).starts_s) for meta, wave in rows]


def _about(corpus: Any, labels: list[str]) -> Any:
    """One picture of each label, in the order of the labels."""
    rows = sorted(range(len(corpus.rows)), key=lambda place: corpus.rows[place].hash)
    first = {corpus.rows[place].label: place for place in reversed(rows)}
    return corpus.pick([first[label] for label in dict.fromkeys(labels) if label in first])


def _print(scores: Any, indent: str) -> None:
    """Scores as an indented list."""
    for name, value in scores.items():
        if isinstance(value, dict):
            print(f"{indent}{name}: " + ", ".join(f"{key} {number:.3f}" for key, number in value.items() if number is not None))
        else:
            print(f"{indent}{name} {value:.3f}" if isinstance(value, float) else f"{indent}{name} {value}")
