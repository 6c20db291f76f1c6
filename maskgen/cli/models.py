"""`maskgen models [NAME]`: which models there are, what they make, their licences and the memory that they need."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskgen.interop.catalogue import ModelRecord

COLUMNS = ("model", "makes", "M params", "float32", "bfloat16", "download", "code", "weights", "commercial use")
EXAMPLES = {
    "text to image": 'generate image "a red heart" --model {} --out picture.png',
    "class to image": "generate image --label 207 --model {} --out picture.png",
    "text to speech": 'generate speech "Good morning." --model {} --out speech.wav',
    "text": 'generate text "Write a line about spring." --model {}',
}
"""Commands to try, by the first thing that a model makes."""


def add_models(verbs: Any) -> None:
    """Add `models`.

    Args:
        verbs: Subparsers of the whole command.
    """
    parser = verbs.add_parser("models", help="list models: what they make, licences, size and the memory that they need")
    parser.add_argument("name", nargs="?", metavar="NAME", help="one model in depth: a shipped name, a hub id, a family or a folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(verb=show_models)


def show_models(args: argparse.Namespace) -> None:
    """Print the table of all models, or one model in depth."""
    from maskgen.interop.catalogue import model_records, records_of

    records = model_records() if args.name is None else records_of(args.name)
    if args.json:
        print(json.dumps([asdict(one) for one in records], indent=2))
    elif args.name is None:
        print(table_of(records))
        print("\nGB of the weights; activations come on top. One model in depth: maskgen models NAME")
    else:
        print("\n\n".join(in_depth(one) for one in records))


def table_of(records: "Sequence[ModelRecord]") -> str:
    """One line a model under its family, in columns."""
    rows = [COLUMNS, *(row_of(one) for one in records)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    lines, family = ["  ".join(cell.ljust(width) for cell, width in zip(COLUMNS, widths, strict=True)).rstrip()], ""
    for row, one in zip(rows[1:], records, strict=True):
        if one.family != family:
            lines.append(f"{one.family}:")
            family = one.family
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return "\n".join(lines)


def row_of(record: "ModelRecord") -> tuple[str, ...]:
    """Cells of one model, in the order of `COLUMNS`."""
    name = f"  {record.name}" + (f" ({record.variant})" if record.variant else "")
    sizes = [_gb(record.float32_gb), _gb(record.bfloat16_gb), "here" if record.download_gb == 0 else _gb(record.download_gb)]
    million = "-" if record.million is None else f"{record.million:,.0f}"
    return (name, ", ".join(record.makes) or "-", million, *sizes, record.code_licence, record.weights_licence, record.commercial)


def in_depth(record: "ModelRecord") -> str:
    """One model in depth, a line a fact, and a command to try."""
    from maskgen.io.hub import cached_folder
    from maskgen.io.memory import machine_memory_bytes

    memory = machine_memory_bytes()
    fits = ""
    if memory is not None and record.float32_gb is not None:
        room = "more than this machine's" if record.float32_gb * 1e9 > memory else "this machine has"
        fits = f"; {room} {memory / 1e9:.1f} GB"
    cached = cached_folder(record.name) if record.download_gb != 0 else None
    download = "none, it is here" if record.download_gb == 0 else _gb(record.download_gb)
    if record.download_gb is None:
        download = "the hub tells its size before the download" if "/" in record.name else record.source
    facts = {
        "family": record.family,
        "makes": ", ".join(record.makes) or "-",
        "licence of the code": record.code_licence,
        "licence of the weights": record.weights_licence,
        "commercial use": record.commercial,
        "parameters": "-" if record.million is None else f"{record.million:,.1f} million, all networks together",
        "memory": f"{_gb(record.float32_gb)} in float32, {_gb(record.bfloat16_gb)} in bfloat16, and activations{fits}",
        "download": download if cached is None else f"in the cache: {cached}",
        "source": record.source,
    }
    known = [EXAMPLES[one] for one in record.makes if one in EXAMPLES]
    if known:
        facts["try"] = "maskgen " + known[0].format(record.name) + (f" --variant {record.variant}" if record.variant else "")
    width = max(map(len, facts)) + 2
    lines = [f"  {name.ljust(width)}{value}" for name, value in facts.items()]
    return "\n".join([record.name + (f" ({record.variant})" if record.variant else ""), *lines])


def _gb(size: float | None) -> str:
    """A size in GB; small ones to two places."""
    if size is None:
        return "-"
    return f"{size:.2f} GB" if size < 1 else f"{size:.1f} GB"
