"""`maskgen evaluate image FOLDER` and `maskgen evaluate speech FOLDER`: a model, or recordings alone, judged on a user's own set."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.decoding_options import decoded_as
from maskgen.cli.options import pipeline_of

if TYPE_CHECKING:
    from maskgen.evaluation.own import OwnSet

VOICE_CLIPS = 3
FEWEST_WORDS = 200


def add_own(parser: argparse.ArgumentParser, what: str) -> None:
    """Arguments that name a user's own set.

    Args:
        parser: Parser of a kind of `evaluate`.
        what: What the folder holds, for the help.
    """
    parser.add_argument("folder", type=Path, nargs="?", help=f"your own {what}, or raw shards of them (default: the demo corpus)")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="judge this share of FOLDER's files, the same ones that maskgen finetune --held-out keeps back (default: all files)",
    )
    parser.add_argument("--split", help="split of FOLDER to judge (default: the held-out one)")


def evaluate_own_image(args: argparse.Namespace) -> None:
    """Judge a model's pictures for the captions of a user's set."""
    from maskgen.evaluation.image.own import FEWEST_FOR_DISTANCE, FEWEST_PAIRS, evaluate_own_pictures
    from maskgen.evaluation.own import own_set

    pictures = own_set(args.folder, "image", held_out=args.held_out, split=args.split, limit=args.limit)
    pipeline = pipeline_of(args, "TextToImagePipeline")
    settings, tokenizer = decoded_as(pipeline.settings_of("image"), args, len(pipeline.space.of("image"))), pipeline.tokenizers["image"]

    def generate(captions: list[str], seeds: list[int]) -> Any:
        return pipeline.generate([pipeline.text_codes(text) for text in captions], "image", seeds, settings).media

    report = evaluate_own_pictures(
        pictures,
        args.out,
        generate=generate,
        reconstruct=lambda images: tokenizer.decode(tokenizer.encode(images)),
        size=generate([next(row.texts[0] for row in pictures.judged if row.texts)], [0])[0].width,
        fit=args.fit,
        cache=args.cache,
    )
    count = report["pictures"]
    print(f"{count} pictures of split {report['split']}, {report['training_pictures']} training pictures; chance of R@1 {1 / count:.3f}")
    for name, scores in report["row_sets"].items():
        print(f"{name:>15}: " + ", ".join(f"{score} {value:.3f}" for score, value in scores.items() if value is not None))
    if count < FEWEST_PAIRS:
        print(f"fewer than {FEWEST_PAIRS} pictures: one picture is {1 / count:.0%} of a share; look at {args.out / 'pictures.png'} instead")
    elif count < FEWEST_FOR_DISTANCE:
        print(f"fewer than {FEWEST_FOR_DISTANCE} pictures: no Frechet distance, and shares are {0.5 / count**0.5:.0%} off by chance")
    print(f"wrote {args.out / 'report.json'} and pictures.png")


def evaluate_own_speech(args: argparse.Namespace) -> None:
    """Judge recordings and, where `--model` is given, a model that says their texts."""
    from maskgen.evaluation.own import own_set
    from maskgen.evaluation.speech.evaluate import RowSet, SpeechRow, evaluate_speech
    from maskgen.evaluation.speech.judges import JUDGES

    own = own_set(args.folder, "audio", held_out=args.held_out, split=args.split, texts=args.texts)
    said = [one for one in own.judged if one.texts]
    if not said:
        raise ValueError(f"no recording of {args.folder} has a text; put a .txt of the same name beside each, or give --texts FILE")
    clips, judged = _voice_clips(own, said)
    judged = judged[: args.limit]
    rows: list[Any] = [SpeechRow(key=one.key, text=one.texts[0], reference=_mono(one.media), speaker="own") for one in judged]
    judges = args.judges or tuple(name for name in JUDGES if name != "speaker" or clips)
    row_sets, facts = {}, {"folder": str(args.folder), "split": own.split, "model": args.model}
    if args.model is not None:
        voice = pipeline_of(args, "TextToSpeechPipeline")
        codec = voice.processor.codec
        settings = decoded_as(voice.settings_of("audio"), args, codec.num_levels)
        row_sets["codec"] = RowSet(waves=[codec.decode(codec.encode([row.reference]))[0] for row in rows])
        for seed in args.seeds if isinstance(args.seeds, list) else [args.seeds]:
            waves = [voice(row.text, speaker=args.speaker, seed=seed, settings=settings).audio[0] for row in rows]
            row_sets[f"generated seed {seed}"] = RowSet(waves=waves)
        facts |= {"settings": settings.to_dict(), "dtype": args.dtype}
    report = evaluate_speech(
        rows, row_sets, {"own": clips}, args.out, judges=judges, cache=args.cache, facts=facts, reference_name="recordings"
    )
    for name, row_set in report["row_sets"].items():
        print(f"{name:>18}: " + ", ".join(part for score, value in row_set["scores"].items() if (part := _with_interval(score, value))))
    if not clips:
        print(f"no speaker similarity: it needs {VOICE_CLIPS} recordings beside those that are judged")
    if report["words"] < FEWEST_WORDS:
        print(f"{report['words']} words: under {FEWEST_WORDS}, a word error rate is off by several hundredths; see the intervals")
    print(f"wrote {args.out / 'report.json'} and report.html")


def _voice_clips(own: "OwnSet", said: list[Any]) -> tuple[list[Any], list[Any]]:
    """Reference clips of the voice, from what is not judged, and the samples to judge."""
    others = own.training or (said[-VOICE_CLIPS:] if len(said) >= 3 * VOICE_CLIPS else [])
    clips = sorted(others, key=lambda one: one.hash)[:VOICE_CLIPS]
    if len(clips) < VOICE_CLIPS:
        return [], said
    return [_mono(one.media) for one in clips], [one for one in said if one not in clips]


def _mono(wave: Any) -> Any:
    """A recording with one channel: judges and codecs take no more."""
    from maskgen.io.audio import fit_audio

    return fit_audio(wave, wave.sample_rate_hz, 1)[0]


def _with_interval(name: str, value: Any) -> str:
    """A score with its 95 % interval; empty if there is none."""
    if isinstance(value, dict) and "value" in value:
        return f"{name} {value['value']:.3f} [{value['low']:.3f} {value['high']:.3f}]"
    return f"{name} {value:.3f}" if isinstance(value, float) else ""
