"""`maskgen evaluate speech` and `maskgen evaluate codec`."""

import argparse
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.decoding_options import add_decoding, decoded_as
from maskgen.cli.evaluate_own import add_own, evaluate_own_speech
from maskgen.cli.options import add_machine, numbers, pipeline_of
from maskgen.data.corpora.demo import AUDIO_TOKENIZER, SPEECH_RAW

if TYPE_CHECKING:
    from maskgen.evaluation.speech.evaluate import RowSet, SpeechRow
    from maskgen.pipelines.text_to_speech import TextToSpeechPipeline

REFERENCE_CLIPS = 3


def add_evaluate_speech(kinds: Any, cache: Path) -> None:
    """Add `evaluate speech` and `evaluate codec`.

    Args:
        kinds: Subparsers of `evaluate`.
        cache: Folder of the judges' findings.
    """
    speech = kinds.add_parser("speech", help="score recordings of yours, or a text-to-speech model on held-out sentences; JSON and HTML")
    add_own(speech, "recordings, each with a .txt of what it says")
    speech.add_argument("--texts", type=Path, metavar="FILE", help="texts of FOLDER: per line a recording's name, a tab, its text")
    speech.add_argument("--speaker", help="speaker of the model that says FOLDER's texts (default: its first)")
    speech.add_argument(
        "--model", help="folder or shipped name (default: heart-16k; with FOLDER the recordings alone are judged where it is left out)"
    )
    add_machine(speech)
    speech.add_argument("--splits", type=lambda text: text.split(","), default=["A", "B"], help="held-out splits (default: A,B)")
    speech.add_argument("--limit", type=int, default=40, help="sentences in total, chosen by the hash of their keys (default: %(default)s)")
    speech.add_argument(
        "--seeds", type=numbers(int), default=[0], metavar="N[,N...]", help="generate every sentence once per seed (default: 0)"
    )
    add_decoding(speech)
    speech.add_argument("--judges", type=lambda text: text.split(","), help="only these judges, for a quick look (default: all)")
    speech.add_argument("--cache", type=Path, default=cache, help="folder of the judges' earlier findings (default: %(default)s)")
    speech.set_defaults(verb=_evaluate_speech)
    codec = kinds.add_parser("codec", help="reconstruction error, speed and code usage of an audio tokenizer; JSON")
    codec.add_argument("--tokenizer", type=Path, default=AUDIO_TOKENIZER, help="folder of the tokenizer (default: %(default)s)")
    codec.add_argument("folder", type=Path, nargs="?", help="your own recordings, or raw shards of them (default: --raw)")
    codec.add_argument("--split", help="split (default: test, or the held-out one that there is)")
    codec.add_argument("--limit", type=int, default=100, help="audio clips (default: %(default)s)")
    codec.set_defaults(verb=_evaluate_codec)
    for parser, out in ((speech, "out/speech"), (codec, "out/codec")):
        parser.add_argument(
            "--raw", type=Path, default=SPEECH_RAW, help="raw shards of captioned speech with speakers (default: %(default)s)"
        )
        parser.add_argument("--out", type=Path, default=Path(out), help="folder of the report (default: %(default)s)")


def _evaluate_speech(args: argparse.Namespace) -> None:
    """Score a text-to-speech model."""
    if args.folder is not None:
        evaluate_own_speech(args)
        return
    args.model = args.model or "heart-16k"
    from maskgen.evaluation.own import require_fields
    from maskgen.evaluation.speech.codec import held_out_sounds
    from maskgen.evaluation.speech.evaluate import RowSet, SpeechRow, evaluate_speech
    from maskgen.evaluation.speech.judges import JUDGES

    voice = pipeline_of(args, "TextToSpeechPipeline")
    codec = voice.processor.codec
    utterances = [
        one for split in args.splits for one in held_out_sounds(args.raw, split, codec.sample_rate_hz, args.limit + REFERENCE_CLIPS)
    ]
    utterances.sort(key=lambda one: hashlib.sha256(one[0]["key"].encode()).hexdigest())
    require_fields([meta for meta, _ in utterances], ("captions", "speaker"), args.raw, "maskgen evaluate speech FOLDER")
    rows = [
        SpeechRow(key=meta["key"], text=meta["captions"][0], reference=wave, speaker=meta["speaker"])
        for meta, wave in utterances[: args.limit]
    ]
    if len(utterances) < args.limit + REFERENCE_CLIPS:
        raise ValueError(
            f"splits {','.join(args.splits)} have {len(utterances)} sentences; {REFERENCE_CLIPS} are kept as references; lower --limit"
        )
    clips = {
        speaker: [wave for meta, wave in utterances[args.limit :] if meta["speaker"] == speaker][:REFERENCE_CLIPS]
        for speaker in {row.speaker for row in rows}
    }
    settings = decoded_as(voice.settings_of("audio"), args, codec.num_levels)
    row_sets = {"codec": RowSet(waves=[codec.decode(codec.encode([row.reference]), [row.reference.samples.shape[1]])[0] for row in rows])}
    for seed in args.seeds if isinstance(args.seeds, list) else [args.seeds]:
        row_sets[f"generated seed {seed}"] = _generated(voice, rows, seed, settings)
    facts = {
        "model": str(args.model),
        "splits": args.splits,
        "settings": settings.to_dict(),
        "dtype": args.dtype,
    }
    report = evaluate_speech(rows, row_sets, clips, args.out, judges=args.judges or tuple(JUDGES), cache=args.cache, facts=facts)
    for name, row_set in report["row_sets"].items():
        print(f"{name:>18}: " + ", ".join(f"{score} {_number(value)}" for score, value in row_set["scores"].items() if _number(value)))
    print(f"wrote {args.out / 'report.json'} and report.html")


def _number(value: Any) -> str:
    """A score as text; empty if it is not a single number."""
    value = value.get("mean", value.get("value")) if isinstance(value, dict) else value
    return f"{value:.3f}" if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _generated(voice: "TextToSpeechPipeline", rows: "list[SpeechRow]", seed: int, settings: Any) -> "RowSet":
    """Every sentence generated once, with one call each so that its time can be measured."""
    from maskgen.evaluation.speech.evaluate import RowSet

    waves, elapsed_s = [], []
    for row in rows:
        started_s = time.perf_counter()
        waves.append(voice(row.text, speaker=row.speaker, seed=seed, settings=settings).audio[0])
        elapsed_s.append(time.perf_counter() - started_s)
    return RowSet(waves=waves, elapsed_s=elapsed_s)


def _evaluate_codec(args: argparse.Namespace) -> None:
    """Score an audio tokenizer."""
    from maskgen.evaluation.speech.codec import evaluate_codec
    from maskgen.tokenizers.audio_base import SoundTokenizer
    from maskgen.tokenizers.auto import load_tokenizer

    tokenizer = load_tokenizer(args.tokenizer)
    if not isinstance(tokenizer, SoundTokenizer):
        raise ValueError(f"{args.tokenizer} holds a tokenizer of {tokenizer.kind}, wanted an audio codec; give another --tokenizer")
    report = evaluate_codec(tokenizer, args.folder or args.raw, args.out, args.split, args.limit)
    speeds = " and ".join(f"{verb}s {report[f'{verb}_times_real_time']:.0f} x real time" for verb in ("encode", "decode"))
    print(f"{report['bits_per_s']:.0f} bit/s, {report['frames_per_s']:g} frames/s; {speeds}")
    print(f"log-mel difference {report['mel']:.3f}, spectral distance {report['spectral']:.3f} over {report['seconds']:.0f} s")
    for level, scores in enumerate(report["levels"]):
        print(f"level {level}: {scores['used']:.1%} of codes used, perplexity {scores['perplexity']:.0f}, {scores['survival']:.1%} survive")
    print(f"wrote {args.out / 'codec.json'}")
