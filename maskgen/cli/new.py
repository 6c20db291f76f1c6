"""`maskgen new`: a sampler, a tokenizer or a modality of your own, as a skeleton that works and its test."""

import argparse
import sys
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from typing import Any

from maskgen.io.files import write_atomic

SKELETONS = Path(__file__).parent / "skeletons"
FILES = {
    "sampler": {"{name}.py": "sampler.py.txt", "test_{name}.py": "test_sampler.py.txt"},
    "tokenizer": {"{name}.py": "tokenizer.py.txt", "test_{name}.py": "test_tokenizer.py.txt"},
    "modality": {"{name}.py": "tokenizer.py.txt", "{name}.md": "notes_modality.md.txt", "test_{name}.py": "test_modality.py.txt"},
}
"""Files of each kind, and the skeletons that they are made from."""


def add_new(verbs: Any) -> None:
    """Adds `new`.

    Args:
        verbs: Subparsers of the whole command.
    """
    parser = verbs.add_parser("new", help="write a sampler, a tokenizer or a modality of your own, with its test")
    parser.add_argument("kind", metavar="KIND", choices=FILES, help="sampler, tokenizer or modality")
    parser.add_argument("name", help="name of the module, in lower case, for example surest_first")
    parser.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="where the files go; made if missing (default: here)")
    parser.set_defaults(verb=new)


def new(args: argparse.Namespace) -> None:
    """Write the files of one kind; their test passes as it is."""
    written = write_skeleton(args.kind, args.name, args.into)
    test = next(path for path in written if path.name.startswith("test_"))
    print(f"wrote {', '.join(str(path) for path in written)}; run the test with: pytest {test}")


def write_skeleton(kind: str, name: str, folder: Path | str) -> list[Path]:
    """Write a module of your own and its test.

    Args:
        kind: A key of `FILES`.
        name: Name of the module in lower case; "surest_first" gives `surest_first.py` with the class SurestFirstSampler.
        folder: Made if missing.

    Returns:
        The files.

    Raises:
        ValueError: If the kind is unknown, the name is no such name or is taken by another module, or a file exists; nothing is written.
    """
    if kind not in FILES:
        raise ValueError(f"there is no skeleton of a {kind!r}; choose one of {', '.join(FILES)}")
    _check_name(name)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give another --into")
    words = {"CLASS": "".join(part.capitalize() for part in name.split("_")), "NAME": name}
    files = {folder / file.format(name=name): SKELETONS / skeleton for file, skeleton in FILES[kind].items()}
    for path in files:
        if path.exists():
            raise ValueError(f"{path} exists already and is kept; give another name or another --into")
    if name in sys.stdlib_module_names or find_spec(name) is not None:
        raise ValueError(f"{name!r} is the name of another module, which would be hidden; give another name")
    folder.mkdir(parents=True, exist_ok=True)
    for path, skeleton in files.items():
        text = skeleton.read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(word, value)
        write_atomic(path, text.encode())
    return list(files)


def _check_name(name: str) -> None:
    """Refuses what cannot be the name of a module and of its test.

    Raises:
        ValueError: If the name is no identifier in lower case, a keyword, or that of a test.
    """
    fits = name.isascii() and name.isidentifier() and name == name.lower() and name[0].isalpha()
    if not fits or iskeyword(name) or name.startswith("test_"):
        raise ValueError(f"{name!r} is no name for a module; wanted lower-case letters, digits and _, for example surest_first")
