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


def add(verbs: Any) -> None:
    """Arguments of `tune`."""
    parser = verbs.add_parser("tune", help="search decode settings on held-out rows: quality against passes; JSON and HTML")
    add_task(parser, "out/tune")
    parser.add_argument(
        "--try",
        dest="tried",
        action="append",
        type=tried,
        required=True,
        metavar="NAME=VALUE,VALUE",
        help="values of a setting, in YAML: --try steps=4,8,[16,8,6] --try sampler=confidence,halton; several times",
    )
    parser.add_argument("--trials", type=int, default=64, metavar="N", help="most settings besides the bundle's own (default: %(default)s)")
    parser.add_argument("--passes-at-most", type=float, metavar="P", help="look only at settings of at most P passes a row")
    parser.add_argument("--apply", action="store_true", help="make the chosen setting the bundle's own")
    parser.set_defaults(verb=tune_settings)


def tried(content: str) -> tuple[str, list[Any]]:
    """NAME=VALUE,VALUE of the command line, the values read as a YAML list.

    Raises:
        argparse.ArgumentTypeError: If it has no such form.
    """
    name, _, values = content.partition("=")
    try:
        found = yaml.safe_load(f"[{values}]")
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"the values of {content!r} are no YAML") from error
    if not name.strip() or not found or any(value is None for value in found):
        raise argparse.ArgumentTypeError(f"{content!r} is no NAME=VALUE,VALUE, for example steps=4,8,12")
    return name.strip().replace("-", "_"), found


def tune_settings(args: argparse.Namespace) -> None:
    """Search decode settings; write `trials.jsonl`, `pareto.json` and `report.html`."""
    if len({name for name, _ in args.tried}) < len(args.tried):
        raise ValueError("a setting is given to --try twice; give all its values at once, for example --try steps=4,8,12")
    if args.trials < 1:
        raise ValueError(f"--trials must be at least 1, got {args.trials}")
    from maskgen.evaluation.tuning.report import write_tune_report
    from maskgen.evaluation.tuning.search import combinations
    from maskgen.evaluation.tuning.trials import Journal
    from maskgen.evaluation.tuning.tune import candidates, tune

    subject = subject_of(args)
    found = candidates(subject.own, combinations(dict(args.tried), args.trials, args.seed))
    scorer, facts = task_of(args, subject)
    rows = len(scorer.keys)
    logger.info("%d settings and the bundle's own, %d rows of split %s; writes to %s", len(found) - 1, rows, args.split, args.out)
    if rows < FEW_ROWS:
        logger.warning("%d rows tell little apart: the cheapest setting within their noise is chosen; use %d or more", rows, FEW_ROWS)
    with TrialBar() as bar:
        tuned = tune(scorer, Journal(args.out / "trials.jsonl", facts), found, args.passes_at_most, bar)
    write_tune_report(args.out, tuned, facts, scorer.measure)
    print(f"{scorer.measure}, {rows} rows of split {args.split}:")
    _print(tuned)
    print(f"wrote {args.out / 'trials.jsonl'}, pareto.json and report.html")
    if args.apply:
        _apply(tuned, subject)


def _print(tuned: "Tuned") -> None:
    """The bundle's own setting, the front and the chosen one."""
    from maskgen.evaluation.tuning.tune import describe

    for place in dict.fromkeys([0, *tuned.front, tuned.chosen]):
        found = tuned.second[place].to_dict()
        mark = "chosen" if place == tuned.chosen else "front" if place in tuned.front else ""
        scores = f"{found['quality']:.4f} ({found['low']:.3f} to {found['high']:.3f}), {found['passes']:.4g} passes"
        print(f"{mark:>7} {scores}, {found['elapsed_s_a_row']:.3f} s a row: {describe(found['changes'])}")


def _apply(tuned: "Tuned", subject: "Subject") -> None:
    """The chosen setting into the bundle."""
    from maskgen.evaluation.tuning.tune import rewrite_generation

    if tuned.chosen == 0:
        print(f"{subject.folder} stays as it is: its own setting was chosen")
        return
    rewrite_generation(subject.folder, subject.modality, tuned.second[tuned.chosen].settings)
    print(f"wrote the chosen setting into {subject.folder / 'bundle.json'}; the weights are untouched")
