"""`maskgen evaluate zeroshot` and `maskgen evaluate probe`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.options import add_machine, pipeline_of
from maskgen.cli.score import add_estimate, estimate_of
from maskgen.data.corpora.demo import EMOJI_RAW

if TYPE_CHECKING:
    from maskgen.pipelines.base import Pipeline


def add_evaluate_scores(kinds: Any) -> None:
    """Add `evaluate zeroshot` and `evaluate probe`.

    Args:
        kinds: Subparsers of `evaluate`.
    """
    zero_shot = kinds.add_parser("zeroshot", help="classify held-out images by the likelihood of captions, compared with chance; JSON")
    zero_shot.add_argument("--candidates", type=int, default=10, help="captions per image, all of its style (default: %(default)s)")
    zero_shot.add_argument("--limit", type=int, default=40, help="images (default: %(default)s)")
    add_estimate(zero_shot, 8)
    zero_shot.set_defaults(verb=_evaluate_zero_shot)
    probe = kinds.add_parser("probe", help="linear probes on a model's features, compared with pixels and an untrained model; JSON")
    probe.add_argument("--layer", type=int, default=-1, help="transformer blocks to run; -1 is all (default: %(default)s)")
    probe.add_argument("--rows", type=int, default=2000, help="training rows (default: %(default)s)")
    probe.add_argument("--limit", type=int, default=500, help="held-out rows (default: %(default)s)")
    probe.add_argument("--seed", type=int, default=0, help="seed of the untrained model (default: %(default)s)")
    probe.set_defaults(verb=_evaluate_probe)
    for parser, out in ((zero_shot, "out/zeroshot"), (probe, "out/probe")):
        parser.add_argument("--model", default="emoji-64", help="folder or shipped name (default: %(default)s)")
        add_machine(parser)
        parser.add_argument("--split", default="A", help="held-out split (default: %(default)s)")
        parser.add_argument(
            "--raw", type=Path, default=EMOJI_RAW, help="raw shards with the fields of the emoji corpus (default: %(default)s)"
        )
        parser.add_argument("--out", type=Path, default=Path(out), help="folder of the report (default: %(default)s)")


def _evaluate_zero_shot(args: argparse.Namespace) -> None:
    """Zero-shot classification of held-out images."""
    from dataclasses import asdict

    from maskgen.evaluation.image.zero_shot import evaluate_zero_shot

    settings = estimate_of(args)
    pipeline = pipeline_of(args)

    def totals(picture: Any, captions: Any) -> list[float]:
        (codes,) = pipeline.tokenizers["image"].encode([picture])
        rows = [{"image": codes, **pipeline.text_codes(text)} for text in captions]
        return [one.total for one in pipeline.score(rows, "image", settings=settings)]

    facts = {"model": str(args.model), "dtype": args.dtype, "settings": asdict(settings)}
    report = evaluate_zero_shot(args.raw, args.out, totals, args.split, args.limit, args.candidates, facts)
    images = f"{report['pictures']} images of split {report['split']}, {report['candidates']} captions each"
    tops = ", ".join(f"top-{n} {report[f'top_{n}']:.3f} (chance {report[f'top_{n}_chance']:.3f})" for n in (1, 5))
    tone = "" if report["tone"] is None else f", tone {report['tone']:.3f} (chance {report['tone_chance']:.3f})"
    print(f"{images}: {tops}{tone}; {report['elapsed_s']:.0f} s")
    print(f"wrote {args.out / 'zeroshot.json'}")


def _evaluate_probe(args: argparse.Namespace) -> None:
    """Linear probes on the features of a model and of the same architecture untrained."""
    from maskgen.evaluation.image.linear_probe import evaluate_probe

    pipeline = pipeline_of(args)

    def features(of: "Pipeline") -> Any:
        import torch

        return lambda pictures: torch.stack([row["image"] for row in of.embed([{"image": one} for one in pictures], args.layer)])

    facts = {"model": str(args.model), "dtype": args.dtype, "layer": args.layer, "seed": args.seed}
    kinds = {"model": features(pipeline), "untrained": features(_untrained(pipeline, args.seed))}
    report = evaluate_probe(args.raw, args.out, kinds, args.split, args.rows, args.limit, facts)
    for name, scores in report["attributes"].items():
        parts = [f"{kind} {scores[kind]['accuracy']:.3f}" for kind in (*kinds, "pixels")]
        print(
            f"{name:>8} ({scores['classes']} classes, {scores['held_out']} rows): {', '.join(parts)}, commonest {scores['commonest']:.3f}"
        )
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
