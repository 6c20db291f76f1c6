"""`maskgen evaluate text`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.decoding_options import add_decoding, decoded_as
from maskgen.cli.options import add_machine, pipeline_of
from maskgen.data.corpora.demo import WORDNET_TOKENS

if TYPE_CHECKING:
    from maskgen.evaluation.text.perplexity import TextBound
    from maskgen.evaluation.text.quality import TextQuality
    from maskgen.pipelines.base import Pipeline
    from maskgen.tokens.batch import Codes

JUDGE_ORDER = 3
"""Order of the n-gram model that scores generated texts."""


def add_evaluate_text(kinds: Any) -> None:
    """Add `evaluate text`.

    Args:
        kinds: Subparsers of `evaluate`.
    """
    parser = kinds.add_parser("text", help="perplexity bound on held-out text, and quality of generated text; JSON")
    parser.add_argument("--model", required=True, help="folder or name of a model that has the modality text")
    add_machine(parser)
    parser.add_argument("--shards", type=Path, default=WORDNET_TOKENS, help="token shards with text (default: %(default)s)")
    parser.add_argument("--split", help="held-out split (default: validation, or the one that there is)")
    parser.add_argument("--target", default="text", help="modality to score (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="number of texts (default: all)")
    parser.add_argument(
        "--masks", type=int, default=16, help="masks per text, the points of the quadrature over the mask rate (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=64, help="batch size (default: %(default)s)")
    parser.add_argument(
        "--behind",
        choices=("cut", "scored"),
        default="cut",
        help="whether cells after the end code are cut off or scored (default: %(default)s)",
    )
    parser.add_argument(
        "--canvas", type=int, default=0, help="number of cells that a text with an end code is padded to (default: its own length)"
    )
    parser.add_argument(
        "--samples", type=int, default=128, help="texts to generate unconditionally; 0 turns this off (default: %(default)s)"
    )
    parser.add_argument("--judge-texts", type=int, default=20_000, help="training texts for the n-gram judge (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the masks and of the generated texts (default: %(default)s)")
    add_decoding(parser)
    parser.add_argument("--out", type=Path, default=Path("out/text"), help="folder of the report (default: %(default)s)")
    parser.set_defaults(verb=_evaluate_text)


def _evaluate_text(args: argparse.Namespace) -> None:
    """Score a text model: perplexity bound and quality of samples."""
    from maskgen.data.loading.samples import held_out_split
    from maskgen.data.shards.store import ShardStore
    from maskgen.evaluation.text.held_out import held_out_texts
    from maskgen.io.files import write_atomic

    args.split = args.split or held_out_split(ShardStore(str(args.shards)).index().counts)
    if args.split == "train":
        raise ValueError("got --split train, wanted a held-out one: a bound on training text says nothing about new text")
    pipeline = pipeline_of(args)
    texts = held_out_texts(str(args.shards), pipeline.space, args.target, args.split, args.limit, args.canvas)
    _check_fingerprint(pipeline, args)
    bound = _bound(pipeline, texts, args)
    low, high = bound.perplexity_interval
    print(f"bound {bound.nats_per_token:.4f} nats a token, perplexity at most {bound.perplexity:.2f} [{low:.2f} {high:.2f}]")
    print(f"{bound.texts} texts, {bound.tokens} tokens, {bound.masks} masks each (error by masks {bound.monte_carlo_error:.4f} nats)")
    report: dict[str, Any] = {
        "model": str(args.model),
        "shards": str(args.shards),
        "split": args.split,
        "behind": args.behind,
        "canvas": args.canvas,
    }
    report |= {"seed": args.seed, "dtype": args.dtype, "bound": bound.to_dict()}
    if args.samples:
        report["samples"] = _samples(pipeline, texts, args)
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out / "text.json", (json.dumps(report, indent=1) + "\n").encode())
    print(f"wrote {args.out / 'text.json'}")


def _check_fingerprint(pipeline: "Pipeline", args: argparse.Namespace) -> None:
    """Refuse shards that another tokenizer than the model's made."""
    from maskgen.data.shards.store import ShardStore
    from maskgen.io.bundle import require_fingerprint

    fingerprint = dict(ShardStore(str(args.shards)).index().fingerprints).get(args.target, "none")
    require_fingerprint(args.target, fingerprint, pipeline.tokenizers[args.target].fingerprint, str(args.model))


def _bound(pipeline: "Pipeline", texts: "list[dict[str, Codes]]", args: argparse.Namespace) -> "TextBound":
    """The bound over all texts, in batches of similar length."""
    import torch

    from maskgen.decoding.logits import model_logits
    from maskgen.evaluation.text.held_out import by_length
    from maskgen.evaluation.text.perplexity import row_bounds, text_bound

    space, generator = pipeline.space, torch.Generator().manual_seed(args.seed)
    logits_fn, segment, end = model_logits(pipeline.model), space.segment(args.target, 0), space.modality(args.target).end
    batches = (batch.to(pipeline.device) for batch in by_length(texts, space, args.batch))
    return text_bound([row_bounds(logits_fn, batch, segment, generator, args.masks, end, args.behind) for batch in batches])


def _samples(pipeline: "Pipeline", texts: "list[dict[str, Codes]]", args: argparse.Namespace) -> dict[str, Any]:
    """Quality of unconditional samples with the lengths of held-out texts, compared with those texts."""
    import torch

    from maskgen.evaluation.text.held_out import held_out_texts
    from maskgen.evaluation.text.quality import NGramModel, text_of, text_quality
    from maskgen.tokens.batch import UNKNOWN

    target, end = args.target, pipeline.space.modality(args.target).end
    settings = decoded_as(pipeline.settings_of(target), args)
    shown = [texts[place % len(texts)][target] for place in range(args.samples)]
    seeds = [args.seed * 1_000_003 + place for place in range(args.samples)]
    made = pipeline.generate([{target: torch.full_like(codes, UNKNOWN)} for codes in shown], target, seeds, settings, batch_size=args.batch)
    known = held_out_texts(str(args.shards), pipeline.space, target, "train", args.judge_texts)
    judge = NGramModel((text_of(sample[target], end) for sample in known), pipeline.space.segment(target, 0).size, JUDGE_ORDER)
    sets = {"generated": made.codes, "held out": shown}
    report: dict[str, Any] = {"settings": settings.to_dict(), "judge": f"{JUDGE_ORDER}-gram of {len(known)} training texts"}
    for name, codes in sets.items():
        quality = text_quality([text_of(one, end) for one in codes], judge.score)
        report[name] = quality.to_dict()
        print(f"{name:>10}: {_line(quality)}")
    return report | {"passes": made.model_calls_per_row, "elapsed_s": made.elapsed_s, "texts": made.media[:16]}


def _line(quality: "TextQuality") -> str:
    """The scores of a set in one line; perplexity never without entropy, since repetition lowers both."""
    return (
        f"entropy {quality.unigram_entropy:.2f} (of a text {quality.text_entropy:.2f}), "
        f"generative perplexity {quality.generative_perplexity:.1f}, distinct-1 {quality.distinct_1:.3f}, "
        f"distinct-2 {quality.distinct_2:.3f}, repetition {quality.repetition:.3f}"
    )
