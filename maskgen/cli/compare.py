"""`maskgen compare samplers`."""

import argparse
import logging
from pathlib import Path
from typing import Any

from maskgen.cli.options import numbers
from maskgen.cli.tuning_options import TrialBar, add_task, subject_of, task_of

logger = logging.getLogger(__name__)


def add_compare(verbs: Any) -> None:
    """Add `compare samplers`.

    Args:
        verbs: Subparsers of the whole command.
    """
    kinds = verbs.add_parser("compare", help="compare samplers on the same rows").add_subparsers(required=True, metavar="WHAT")
    parser = kinds.add_parser("samplers", help="quality, model calls and seconds of every sampler at several budgets; JSON and Markdown")
    add_task(parser, "out/compare")
    parser.add_argument(
        "--passes", type=numbers(int), default=[4, 8, 12, 16, 32], metavar="N[,N...]", help="step budgets (default: 4,8,12,16,32)"
    )
    parser.add_argument("--samplers", type=lambda text: text.split(","), metavar="A[,B...]", help="only these samplers (default: all)")
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("configs/compare_samplers.yaml"),
        help="YAML with the options of each sampler (default: %(default)s)",
    )
    parser.set_defaults(verb=_compare_samplers)


def _compare_samplers(args: argparse.Namespace) -> None:
    """Score every sampler at every budget; write `compare.jsonl`, `compare.json` and `compare.md`."""
    from maskgen.evaluation.tuning.compare import compare, read_defaults, write_comparison
    from maskgen.evaluation.tuning.trials import Journal

    defaults = read_defaults(args.config, args.samplers or ())
    chosen = {name: defaults[name] for name in args.samplers or defaults}
    budgets = args.passes if isinstance(args.passes, list) else [args.passes]
    if len(set(budgets)) < len(budgets) or min(budgets) < 1:
        raise ValueError(f"--passes must be different numbers of at least 1, got {','.join(map(str, budgets))}")
    subject = subject_of(args)
    scorer, facts = task_of(args, subject)
    rows = len(scorer.keys)
    logger.info("%d samplers at %s steps, %d rows of split %s; writes to %s", len(chosen), budgets, rows, subject.split, args.out)
    with TrialBar() as bar:
        journal = Journal(args.out / "compare.jsonl", facts)
        cells = compare(scorer, journal, subject.own, chosen, budgets, subject.num_levels, bar)
    print(write_comparison(args.out, cells, facts, scorer.measure, rows), end="")
    print(f"wrote {args.out / 'compare.json'}, compare.md and compare.jsonl")
