"""Write docs/reference/ from the docstrings, with griffe2md: `uv run python docs/make_reference.py`, or `--check` to compare alone.

Nothing of maskgen is imported: griffe reads the sources.
"""

import argparse
import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
LONGEST_LINE = 140
PAGES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "pipelines": ("Pipelines", "Load, save, move and call a model; what a call returns.", ("maskgen.pipelines",)),
    "decoding": (
        "Settings, guidance and logits",
        "How a target is decoded: settings, guidance, logits processors.",
        (
            "maskgen.decoding.settings",
            "maskgen.decoding.decoder",
            "maskgen.decoding.logits",
            "maskgen.decoding.guidance",
            "maskgen.decoding.logits_processors",
        ),
    ),
    "samplers": (
        "Samplers",
        "Which cells a step keeps; the base class, every sampler, and the checks of the contract.",
        ("maskgen.sampling",),
    ),
    "masking": ("Schedules and masks", "How many cells are masked over a decode, and which in training.", ("maskgen.masking",)),
    "tokens": ("Token space and rows", "Who owns which ids, and rows of cells.", ("maskgen.tokens",)),
    "tokenizers": (
        "Tokenizers",
        "Media in, codes out, and back; the base class, every tokenizer, and the checks of the contract.",
        ("maskgen.tokenizers",),
    ),
    "training": (
        "Training modules",
        "Lightning modules, one a training, and callbacks.",
        ("maskgen.training.modules", "maskgen.training.callbacks"),
    ),
    "data": ("Data modules", "Shards as batches for training.", ("maskgen.data.loading",)),
    "serving": (
        "Serving",
        "The engine, and the HTTP application around it.",
        (
            "maskgen.serving.engine",
            "maskgen.serving.work",
            "maskgen.serving.served",
            "maskgen.serving.app",
            "maskgen.serving.limits",
            "maskgen.serving.keys",
        ),
    ),
    "io": (
        "Bundles and the hub",
        "Models by name, bundles on disk, upload and download.",
        ("maskgen.io.bundle", "maskgen.io.hub", "maskgen.io.shipped"),
    ),
}
"""Title, first sentence and modules (or packages, with all their modules) of each page."""
CONFIG: Any = {
    "show_root_heading": True,
    "show_root_full_path": True,
    "show_root_members_full_path": False,
    "show_object_full_path": False,
    "show_signature_annotations": True,
    "show_if_no_docstring": False,
    "summary": False,
    "heading_level": 2,
    "line_length": LONGEST_LINE,
    "members_order": "source",
    "filters": ["!^_"],
    "docstring_section_style": "list",
    "inherited_members": False,
}


def modules_of(package: Any, name: str) -> list[Any]:
    """The module of a dotted name, then those inside it, by name; private ones are left out."""
    found = package[name.removeprefix("maskgen.")]
    inside = [one for _, one in sorted(found.modules.items()) if not one.name.startswith("_") and not one.is_alias]
    return [found, *(deeper for one in inside for deeper in modules_of(package, one.path))]


def pages() -> dict[str, str]:
    """Text of each page by file name."""
    import griffe
    import griffe2md

    logging.getLogger("griffe").setLevel(logging.ERROR)  # it warns of "Args" whose types stand at the fields of a dataclass
    package = griffe.load("maskgen", search_paths=[str(ROOT)], docstring_parser="google")
    written, index = (
        {},
        ["# API reference", "", "Made from the docstrings by `uv run python docs/make_reference.py`; not edited by hand.", ""],
    )
    for file, (title, sentence, names) in PAGES.items():
        parts = [f"# {title}", sentence]
        for module in (one for name in names for one in modules_of(package, name)):
            if module.docstring is None and not module.classes and not module.functions:
                continue
            for name in [*module.modules]:  # each module has a heading of its own
                module.del_member(name)
            parts.append(griffe2md.render_object_docs(module, {**griffe2md.default_config, **CONFIG}).strip())
        written[f"{file}.md"] = tidy("\n\n".join(parts))
        index.append(f"- [{title}]({file}.md): {sentence}")
    written["README.md"] = "\n".join(index) + "\n"
    return written


def tidy(text: str) -> str:
    """The page without links that lead nowhere on a forge, runs of blank lines and, outside of code, long lines."""
    text = re.sub(r"\[([^][]+)\]\(#[\w.]+\)", r"\1", text)
    text = re.sub(r"<code>(.*?)</code>", r"`\1`", text)
    lines: list[str] = []
    code = False
    for line in text.splitlines():
        code ^= line.startswith("```")
        if code or len(line) <= LONGEST_LINE:
            found = [line.rstrip()]
        else:
            indent = "  " if line.startswith("- ") else ""
            found = wrap(line, LONGEST_LINE, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines += found if found != [""] or (lines and lines[-1]) else []
    return "\n".join(lines).rstrip() + "\n"


def stale(wanted: Mapping[str, str], folder: Path = FOLDER) -> list[str]:
    """Names of the files that are missing, out of date or left over, given the pages of today."""
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    return sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))


def main() -> None:
    """Write the pages, or end with 1 where one is out of date."""
    parser = argparse.ArgumentParser(description="write docs/reference/ from the docstrings")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is out of date")
    if parser.parse_args().check:
        if found := stale(pages()):
            sys.exit(f"out of date: {', '.join(found)}; run: uv run python docs/make_reference.py")
        return
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        path.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
