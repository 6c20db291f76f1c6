"""`maskgen tune`."""

import argparse
import logging
from typing import TYPE_CHECKING, Any

import yaml

from maskgen.cli.tuning_options import TrialBar, add_task, subject_of, task_of

if TYPE_CHECKING:
    from maskgen.cli.tuning_options import Subject
    from maskgen.evaluation.tuning.tune import Tuned

logger = logging.getLogger(__name__)
FEW_ROWS = 50


def add_tune(verbs: Any) -> None:
    """Add `tune`.

    Args:
        verbs: Subparsers of the whole command.
    """
    parser = verbs.add_parser("tune", help="search generation settings on held-out rows: quality against model calls; JSON and HTML")
    add_task(parser, "out/tune")
    parser.add_argument(
        "--try",
        dest="tried",
        action="append",
        type=_tried,
        required=True,
        metavar="NAME=VALUE,VALUE",
        help="values of a setting, in YAML: --try steps=4,8,[16,8,6] --try sampler=confidence,halton; repeatable",
    )
    parser.add_argument(
        "--trials", type=int, default=64, metavar="N", help="maximum number of settings besides the bundle's own (default: %(default)s)"
    )
    parser.add_argument("--passes-at-most", type=float, metavar="P", help="consider only settings of at most P model calls per row")
    parser.add_argument("--apply", action="store_true", help="write the chosen setting into the bundle")
    parser.set_defaults(verb=_tune)


def _tried(content: str) -> tuple[str, list[Any]]:
    """Parse NAME=VALUE,VALUE; the values are a YAML list.

    Raises:
        argparse.ArgumentTypeError: If it has another form.
    """
    name, _, values = content.partition("=")
    try:
        parsed = yaml.safe_load(f"[{values}]")
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"the values of {content!r} are not valid YAML") from error
    if not name.strip() or not parsed or any(value is None for value in parsed):
        raise argparse.ArgumentTypeError(f"{content!r} is not NAME=VALUE,VALUE; write for example steps=4,8,12")
    return name.strip().replace("-", "_"), parsed


def _tune(args: argparse.Namespace) -> None:
    """Search generation settings; write `trials.jsonl`, `pareto.json` and `report.html`."""
    if len({name for name, _ in args.tried}) < len(args.tried):
        raise ValueError("a setting is given to --try twice; give all its values at once, for example --try steps=4,8,12")
    if args.trials < 1:
        raise ValueError(f"--trials must be at least 1, got {args.trials}")
    from maskgen.evaluation.tuning.report import write_tune_report
    from maskgen.evaluation.tuning.search import combinations
    from maskgen.evaluation.tuning.trials import Journal
    from maskgen.evaluation.tuning.tune import candidates, tune

    subject = subject_of(args)
    settings = candidates(subject.own, combinations(dict(args.tried), args.trials, args.seed))
    scorer, facts = task_of(args, subject)
    rows = len(scorer.keys)
    logger.info("%d settings and the bundle's own, %d rows of split %s; writes to %s", len(settings) - 1, rows, subject.split, args.out)
    if rows < FEW_ROWS:
        logger.warning(
            "%d rows are too few to separate similar settings: the cheapest one within the noise is chosen; use %d rows or more",
            rows,
            FEW_ROWS,
        )
    with TrialBar() as bar:
        tuned = tune(scorer, Journal(args.out / "trials.jsonl", facts), settings, args.passes_at_most, bar)
    write_tune_report(args.out, tuned, facts, scorer.measure)
    print(f"{scorer.measure}, {rows} rows of split {subject.split}:")
    _print(tuned)
    print(f"wrote {args.out / 'trials.jsonl'}, pareto.json and report.html")
    if args.apply:
        _apply(tuned, subject)


def _print(tuned: "Tuned") -> None:
    """Print the bundle's own setting, the Pareto front and the chosen setting."""
    from maskgen.evaluation.tuning.tune import describe

    for place in dict.fromkeys([0, *tuned.front, tuned.chosen]):
        trial = tuned.second[place].to_dict()
        mark = "chosen" if place == tuned.chosen else "front" if place in tuned.front else ""
        scores = f"{trial['quality']:.4f} ({trial['low']:.3f} to {trial['high']:.3f}), {trial['passes']:.4g} model calls"
        print(f"{mark:>7} {scores}, {trial['elapsed_s_a_row']:.3f} s per row: {describe(trial['changes'])}")


def _apply(tuned: "Tuned", subject: "Subject") -> None:
    """Write the chosen setting into the bundle."""
    from maskgen.evaluation.tuning.tune import rewrite_generation

    if tuned.chosen == 0:
        print(f"{subject.folder} is unchanged: its own setting was chosen")
        return
    rewrite_generation(subject.folder, subject.modality, tuned.second[tuned.chosen].settings)
    print(f"wrote the chosen setting into {subject.folder / 'bundle.json'}; the weights are unchanged")
