"""`maskgen evaluate speech` and `maskgen evaluate codec`."""

import argparse
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.decoding_options import add_decoding, decoded_as
from maskgen.cli.generate_speech import voice_of
from maskgen.cli.options import add_machine, numbers

if TYPE_CHECKING:
    from maskgen.evaluation.speech.evaluate import RowSet, SpeechRow
    from maskgen.pipelines.text_to_speech import Voice

RAW = Path("data/speech/build/raw")
REFERENCE_CLIPS = 3


def add_listening(kinds: Any, cache: Path) -> None:
    """Arguments of `evaluate speech` and `evaluate codec`."""
    speech = kinds.add_parser("speech", help="a voice on held-out sentences beside its teacher and its codec; JSON and HTML")
    speech.add_argument("--model", default="heart-16k")
    add_machine(speech)
    speech.add_argument("--splits", type=lambda text: text.split(","), default=["A", "B"], help="held-out splits (default: A,B)")
    speech.add_argument("--limit", type=int, default=40, help="sentences in all, by the hash of their keys (default: %(default)s)")
    speech.add_argument("--seeds", type=numbers(int), default=[0], metavar="N[,N...]", help="a take of every sentence a seed (default: 0)")
    add_decoding(speech)
    speech.add_argument("--judges", type=lambda text: text.split(","), help="some of the judges only, for a quick look")
    speech.add_argument("--cache", type=Path, default=cache, help="what the judges found before (default: %(default)s)")
    speech.set_defaults(verb=evaluate_speech)
    codec = kinds.add_parser("codec", help="what an audio tokenizer loses and costs, and how it uses its codes; JSON")
    codec.add_argument("--tokenizer", type=Path, default=Path("tokenizers/audio-speech16k/bundle"))
    codec.add_argument("--split", default="test", help="held-out split (default: %(default)s)")
    codec.add_argument("--limit", type=int, default=100, help="sounds (default: %(default)s)")
    codec.set_defaults(verb=evaluate_codec)
    for parser, out in ((speech, "out/speech"), (codec, "out/codec")):
        parser.add_argument("--raw", type=Path, default=RAW, help="raw shards (default: %(default)s)")
        parser.add_argument("--out", type=Path, default=Path(out), help="folder of the report (default: %(default)s)")


def evaluate_speech(args: argparse.Namespace) -> None:
    """Scores of a voice."""
    from maskgen.evaluation.speech.codec import held_out_sounds
    from maskgen.evaluation.speech.evaluate import RowSet, SpeechRow
    from maskgen.evaluation.speech.evaluate import evaluate_speech as judge
    from maskgen.evaluation.speech.judges import JUDGES

    voice = voice_of(args)
    codec = voice.codec
    found = [one for split in args.splits for one in held_out_sounds(args.raw, split, codec.sample_rate_hz, args.limit + REFERENCE_CLIPS)]
    found.sort(key=lambda one: hashlib.sha256(one[0]["key"].encode()).hexdigest())
    rows = [
        SpeechRow(key=meta["key"], text=meta["captions"][0], reference=wave, speaker=meta["speaker"]) for meta, wave in found[: args.limit]
    ]
    if len(found) < args.limit + REFERENCE_CLIPS:
        raise ValueError(
            f"splits {','.join(args.splits)} have {len(found)} sentences; {REFERENCE_CLIPS} are kept as references, ask for fewer"
        )
    clips = {
        speaker: [wave for meta, wave in found[args.limit :] if meta["speaker"] == speaker][:REFERENCE_CLIPS]
        for speaker in {row.speaker for row in rows}
    }
    settings = decoded_as(voice.pipeline.settings_of("audio"), args)
    row_sets = {"codec": RowSet(waves=[codec.decode(codec.encode([row.reference]), [row.reference.samples.shape[1]])[0] for row in rows])}
    for seed in args.seeds if isinstance(args.seeds, list) else [args.seeds]:
        row_sets[f"generated seed {seed}"] = _spoken(voice, rows, seed, settings)
    facts = {
        "model": str(args.model),
        "splits": args.splits,
        "settings": settings.to_dict(),
        "dtype": args.dtype,
    }
    report = judge(rows, row_sets, clips, args.out, judges=args.judges or tuple(JUDGES), cache=args.cache, facts=facts)
    for name, row_set in report["row_sets"].items():
        print(f"{name:>18}: " + ", ".join(f"{score} {_number(value)}" for score, value in row_set["scores"].items() if _number(value)))
    print(f"wrote {args.out / 'report.json'} and report.html")


def _number(value: Any) -> str:
    """A score as text; empty for what is no single number."""
    value = value.get("mean", value.get("value")) if isinstance(value, dict) else value
    return f"{value:.3f}" if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _spoken(voice: "Voice", rows: "list[SpeechRow]", seed: int, settings: Any) -> "RowSet":
    """Every sentence said once, one call each, so that its time is its own."""
    from maskgen.evaluation.speech.evaluate import RowSet

    waves, elapsed_s = [], []
    for row in rows:
        started_s = time.perf_counter()
        waves.append(voice(row.text, speaker=row.speaker, seed=seed, settings=settings).waves[0])
        elapsed_s.append(time.perf_counter() - started_s)
    return RowSet(waves=waves, elapsed_s=elapsed_s)


def evaluate_codec(args: argparse.Namespace) -> None:
    """What a codec loses."""
    from maskgen.evaluation.speech.codec import evaluate_codec as judge
    from maskgen.tokenizers.audio_base import SoundTokenizer
    from maskgen.tokenizers.auto import load_tokenizer

    tokenizer = load_tokenizer(args.tokenizer)
    if not isinstance(tokenizer, SoundTokenizer):
        raise ValueError(f"{args.tokenizer} holds a tokenizer of {tokenizer.kind}, wanted an audio codec")
    report = judge(tokenizer, args.raw, args.out, args.split, args.limit)
    speeds = " and ".join(f"{verb}s {report[f'{verb}_times_real_time']:.0f} x real time" for verb in ("encode", "decode"))
    print(f"{report['bits_per_s']:.0f} bit/s, {report['frames_per_s']:g} frames/s; {speeds}")
    print(f"log-mel difference {report['mel']:.3f}, spectral distance {report['spectral']:.3f} over {report['seconds']:.0f} s")
    for level, found in enumerate(report["levels"]):
        print(f"level {level}: {found['used']:.1%} of codes used, perplexity {found['perplexity']:.0f}, {found['survival']:.1%} survive")
    print(f"wrote {args.out / 'codec.json'}")
