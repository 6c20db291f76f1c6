"""`maskgen score`, `maskgen evaluate zeroshot` and `maskgen evaluate probe`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.options import add_machine, numbers, pipeline_of

if TYPE_CHECKING:
    from PIL import Image

    from maskgen.pipelines.base import Pipeline
    from maskgen.scoring.likelihood import Ranked, ScoreSettings

RAW = Path("data/emoji/build/raw")


def add(verbs: Any) -> None:
    """Arguments of `score`."""
    parser = verbs.add_parser("score", help="rank captions by how likely they make a picture, or texts by how likely a sound says them")
    parser.add_argument("candidates", nargs="+", metavar="TEXT", help="captions or what may be said, each in quotes")
    parser.add_argument("--image", type=Path, help="picture that captions are judged by; letterboxed to the model's size")
    parser.add_argument(
        "--audio", type=Path, metavar="SOUND", help="recording that texts are judged by, in one pass; --json gives the words' times"
    )
    parser.add_argument("--model", help="folder of a model, or the name of a shipped one (default: emoji-64, with --audio any-64)")
    add_machine(parser)
    _add_estimate(parser, 16)
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parser.set_defaults(verb=score)


def add_evaluations(kinds: Any) -> None:
    """Arguments of `evaluate zeroshot` and `evaluate probe`."""
    zero_shot = kinds.add_parser("zeroshot", help="name held-out pictures by likelihood, beside chance; JSON")
    zero_shot.add_argument("--candidates", type=int, default=10, help="captions of each picture, all of its style (default: %(default)s)")
    zero_shot.add_argument("--limit", type=int, default=40, help="pictures (default: %(default)s)")
    _add_estimate(zero_shot, 8)
    zero_shot.set_defaults(verb=evaluate_zero_shot)
    probe = kinds.add_parser("probe", help="linear probes on a model's features, beside pixels and an untrained model; JSON")
    probe.add_argument("--layer", type=int, default=-1, help="blocks that are run; -1 is all (default: %(default)s)")
    probe.add_argument("--rows", type=int, default=2000, help="training rows (default: %(default)s)")
    probe.add_argument("--limit", type=int, default=500, help="held-out rows (default: %(default)s)")
    probe.add_argument("--seed", type=int, default=0, help="of the untrained model (default: %(default)s)")
    probe.set_defaults(verb=evaluate_probe)
    for parser, out in ((zero_shot, "out/zeroshot"), (probe, "out/probe")):
        parser.add_argument("--model", default="emoji-64")
        add_machine(parser)
        parser.add_argument("--split", default="A", help="held-out split (default: %(default)s)")
        parser.add_argument("--raw", type=Path, default=RAW, help="raw shards (default: %(default)s)")
        parser.add_argument("--out", type=Path, default=Path(out), help="folder of the report (default: %(default)s)")


def _add_estimate(parser: argparse.ArgumentParser, samples: int) -> None:
    """How a likelihood of pictures is estimated."""
    parser.set_defaults(samples_by_default=samples)
    parser.add_argument("--estimator", choices=("elbo", "pseudo"), default="elbo", help="docs/scores.md tells them apart")
    parser.add_argument("--samples", type=int, default=samples, help="masks a level of elbo, an even number (default: %(default)s)")
    parser.add_argument("--folds", type=int, help="parts of pseudo; by default one code at a time")
    parser.add_argument("--levels", type=numbers(int), metavar="N[,N...]", help="levels that are scored (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the masks, the same for all captions (default: %(default)s)")


def _estimate(args: argparse.Namespace) -> "ScoreSettings":
    from maskgen.scoring.likelihood import ScoreSettings

    levels = None if args.levels is None else args.levels if isinstance(args.levels, list) else [args.levels]
    return ScoreSettings(estimator=args.estimator, samples=args.samples, folds=args.folds, levels=levels, seed=args.seed)


def score(args: argparse.Namespace) -> None:
    """Captions ranked by a picture, or texts by a sound."""
    if (args.image is None) == (args.audio is None):
        raise ValueError(f"found {'neither' if args.image is None else 'both'} of --image and --audio, wanted one to judge the texts by")
    if args.audio is not None:
        _score_said(args)
        return
    from maskgen.io.images import read_picture

    args.model = args.model or "emoji-64"
    settings, picture = _estimate(args), read_picture(args.image)
    pipeline = pipeline_of(args)
    picture = _fitted(picture, pipeline)
    captions = [{"text": pipeline.text_codes(text)["text"]} for text in args.candidates]
    found = pipeline.classify({"image": picture}, captions, "image", settings=settings)
    if args.json:
        print(json.dumps([_entry(one, args.candidates) for one in found], indent=2))
        return
    print(" probability   log-likelihood   a code   caption")
    for one in found:
        total = f"{one.score.total:.1f} ± {one.score.standard_error:.1f}"
        print(f"{one.probability:12.4f} {total:>16} {one.score.mean:8.3f}   {args.candidates[one.place]}")
    print(f"nats over {sum(found[0].score.codes)} codes, {found[0].score.passes} passes a caption")


def _score_said(args: argparse.Namespace) -> None:
    """Texts ranked by a recording."""
    from maskgen.cli.generate_text import DEFAULT_MODEL, any_to_any
    from maskgen.io.audio import read_sound

    usual = {"estimator": "elbo", "samples": args.samples_by_default, "folds": None, "levels": None, "seed": 0}
    if changed := [name for name, value in usual.items() if getattr(args, name) != value]:
        raise ValueError(f"--{changed[0]} is for --image: what is said is judged in one pass, without random masks")
    sound = read_sound(args.audio)
    args.model, args.alone = args.model or DEFAULT_MODEL, True
    found = any_to_any(args).which(sound, args.candidates)
    if args.json:
        print(json.dumps([_said(one, args.candidates) for one in found], indent=2, ensure_ascii=False))
        return
    print(" probability   log-likelihood   text")
    for one in found:
        print(f"{one.probability:12.4f} {one.score.total:>16.1f}   {args.candidates[one.place]}")
    print(f"nats over {found[0].score.codes[0]} slots, one pass for all")


def _said(one: "Ranked", texts: list[str]) -> dict[str, Any]:
    """A ranked text as plain data; one that does not fit into the sound has neither likelihood nor times."""
    said, entry = one.candidate["transcript"], {"text": texts[one.place], "probability": one.probability}
    if said is None:  # JSON has no -inf
        return {**entry, "log_likelihood": None, "words": None}
    words = [{"start_s": round(start, 3), "word": word} for word, start in zip(said.words, said.starts_s, strict=True)]
    return {**entry, "log_likelihood": one.score.total, "words": words}


def _fitted(picture: "Image.Image", pipeline: "Pipeline") -> "Image.Image":
    """The picture at the model's size, letterboxed where it has another."""
    from maskgen.io.letterbox import letterbox
    from maskgen.tokenizers.image import ImageTokenizer

    tokenizer = pipeline.tokenizers["image"]
    return letterbox(picture, tokenizer.size) if isinstance(tokenizer, ImageTokenizer) and picture.size != tokenizer.size else picture


def _entry(one: "Ranked", captions: list[str]) -> dict[str, Any]:
    """A ranked caption as plain data; a standard error that is not known is null."""
    error = one.score.standard_error
    return {
        "caption": captions[one.place],
        "probability": one.probability,
        "log_likelihood": one.score.total,
        "standard_error": error if error == error else None,
        "levels": list(one.score.levels),
        "codes": list(one.score.codes),
        "passes": one.score.passes,
    }


def evaluate_zero_shot(args: argparse.Namespace) -> None:
    """Zero-shot classification of held-out pictures."""
    from dataclasses import asdict

    from maskgen.evaluation.image.zero_shot import evaluate_zero_shot as judge

    settings = _estimate(args)
    pipeline = pipeline_of(args)

    def totals(picture: Any, captions: Any) -> list[float]:
        (codes,) = pipeline.tokenizers["image"].encode([picture])
        rows = [{"image": codes, **pipeline.text_codes(text)} for text in captions]
        return [one.total for one in pipeline.score(rows, "image", settings=settings)]

    facts = {"model": str(args.model), "dtype": args.dtype, "settings": asdict(settings)}
    report = judge(args.raw, args.out, totals, args.split, args.limit, args.candidates, facts)
    told = f"{report['pictures']} pictures of split {report['split']}, {report['candidates']} captions each"
    tops = ", ".join(f"top-{n} {report[f'top_{n}']:.3f} (chance {report[f'top_{n}_chance']:.3f})" for n in (1, 5))
    tone = "" if report["tone"] is None else f", tone {report['tone']:.3f} (chance {report['tone_chance']:.3f})"
    print(f"{told}: {tops}{tone}; {report['elapsed_s']:.0f} s")
    print(f"wrote {args.out / 'zeroshot.json'}")


def evaluate_probe(args: argparse.Namespace) -> None:
    """Linear probes on the features of a model and of the same one untrained."""
    from maskgen.evaluation.image.linear_probe import evaluate_probe as judge

    pipeline = pipeline_of(args)

    def features(of: "Pipeline") -> Any:
        import torch

        return lambda pictures: torch.stack([row["image"] for row in of.embed([{"image": one} for one in pictures], args.layer)])

    facts = {"model": str(args.model), "dtype": args.dtype, "layer": args.layer, "seed": args.seed}
    kinds = {"model": features(pipeline), "untrained": features(_untrained(pipeline, args.seed))}
    report = judge(args.raw, args.out, kinds, args.split, args.rows, args.limit, facts)
    for name, found in report["attributes"].items():
        parts = [f"{kind} {found[kind]['accuracy']:.3f}" for kind in (*kinds, "pixels")]
        print(f"{name:>8} ({found['classes']} classes, {found['held_out']} rows): {', '.join(parts)}, commonest {found['commonest']:.3f}")
    print(f"wrote {args.out / 'probe.json'} ({report['elapsed_s']:.0f} s)")


def _untrained(pipeline: "Pipeline", seed: int) -> "Pipeline":
    """The same pipeline around a transformer of the same sizes with random weights."""
    from dataclasses import asdict

    import torch

    from maskgen.networks.auto import network_of
    from maskgen.pipelines.base import Pipeline

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network_of(asdict(pipeline.model.config), pipeline.space)
    weight = pipeline.model.embed.weight
    return Pipeline(model, pipeline.space, pipeline.tokenizers).to(weight.device, weight.dtype)
