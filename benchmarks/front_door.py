"""How tidy the source tree is: rooms, long files and functions, names defined twice, import circles, long lines in docs.

Run:  uv run python benchmarks/front_door.py [--repo FOLDER] [--json] [--list] [--tests]
Compares any two checkouts: run it once for each. It reads files only; nothing of the checkout is imported, except with --tests.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "maskgen"
LONGEST_FILE = 300
LONGEST_FUNCTION = 60
LONGEST_DOCS_LINE = 160
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def rooms(repo: Path) -> list[str]:
    """Folders and Python files at the root of the package, without caches and marker files."""
    inside = (repo / PACKAGE).iterdir()
    return sorted(path.name for path in inside if path.suffix == ".py" or (path.is_dir() and not path.name.startswith(("_", "."))))


def long_files(repo: Path) -> list[str]:
    """Files of the package of more than LONGEST_FILE lines, with their lines."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _sources(repo)}
    return [f"{path.relative_to(repo)}: {lines}" for path, lines in lengths.items() if lines > LONGEST_FILE]


def long_functions(repo: Path) -> list[str]:
    """Functions and methods of more than LONGEST_FUNCTION lines from `def` to the last line; the docstring counts, decorators don't."""
    found = []
    for path in _sources(repo):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                found += [f"{path.relative_to(repo)}: {node.name}, {lines}"] if lines > LONGEST_FUNCTION else []
    return found


def twins(repo: Path) -> list[str]:
    """Public functions and classes that two or more files define at their top level, with the files."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in _sources(repo):
        names = {node.name for node in _tree(path).body if isinstance(node, Definition) and not node.name.startswith("_")}
        for name in names:
            places[name].append(str(path.relative_to(repo / PACKAGE)))
    return [f"{name}: {', '.join(files)}" for name, files in sorted(places.items()) if len(files) > 1]


def circles(repo: Path) -> list[str]:
    """Import circles between modules of the package: one for each import that closes a circle in a walk along the imports."""
    graph, done, found = imports(repo), set[str](), list[str]()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            found.append(" > ".join((*trail[trail.index(module) :], module)))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())
    return found


def upward_arrows(repo: Path) -> list[str] | None:
    """Imports that do not point to a lower floor, by the FLOORS in the checkout's own tests/test_layers.py; None if it has none."""
    floor_of = floors(repo)
    if floor_of is None:
        return None
    found = []
    for module, targets in imports(repo).items():
        above = module.split(".")[1]
        for target in sorted(targets):
            below = target.split(".")[1]
            if above != below and floor_of.get(below, len(floor_of)) >= floor_of.get(above, -1):
                found.append(f"{module} > {target}")
    return found


def floors(repo: Path) -> dict[str, int] | None:
    """Folder or file at the root of the package to its floor, read from tests/test_layers.py without importing it."""
    path = repo / "tests/test_layers.py"
    for node in _tree(path).body if path.is_file() else ():
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == "FLOORS" for target in targets):
            rows = ast.literal_eval(node.value)  # type: ignore[union-attr]
            return {name.removesuffix("/*"): floor for floor, names in enumerate(rows) for name in names}
    return None


def imports(repo: Path) -> dict[str, set[str]]:
    """Module of the package to the modules of the package that it imports, inside functions too."""
    modules = {_module(repo, path): path for path in _sources(repo) if path != repo / PACKAGE / "__init__.py"}
    graph = {}
    for module, path in modules.items():
        found = set[str]()
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= parts if parts <= modules.keys() else {node.module, *parts}
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[module] = found & modules.keys() - {module}
    return graph


def long_docs_lines(repo: Path) -> list[str]:
    """Lines of more than LONGEST_DOCS_LINE characters in README.md and docs/*.md, but for the log and table rows."""
    found = []
    for path in [repo / "README.md", *sorted((repo / "docs").glob("*.md"))]:
        if path.name == "log.md" or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if len(line) > LONGEST_DOCS_LINE and not line.lstrip().startswith("|"):
                found.append(f"{path.relative_to(repo)}:{number}: {len(line)}")
    return found


def collected_tests(repo: Path) -> int:
    """Tests that pytest collects in the checkout, slow ones included; its own package is imported.

    Raises:
        ValueError: If pytest cannot collect them.
    """
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", "not gpu"]
    run = subprocess.run(command, cwd=repo, env={**os.environ, "PYTHONPATH": str(repo)}, capture_output=True, text=True)
    if run.returncode:
        raise ValueError(f"pytest could not collect the tests of {repo}: {run.stdout[-500:]}")
    return sum("::" in line for line in run.stdout.splitlines())


def measured(repo: Path) -> dict[str, list[str] | None]:
    """Every count with what it counts; None where the checkout cannot be measured.

    Raises:
        ValueError: If the folder is no checkout of maskgen.
    """
    if not (repo / PACKAGE / "__init__.py").is_file():
        raise ValueError(f"found no {PACKAGE}/__init__.py in {repo}, wanted a checkout of maskgen")
    return {
        f"rooms at the root of {PACKAGE}/": rooms(repo),
        f"files over {LONGEST_FILE} lines": long_files(repo),
        f"functions over {LONGEST_FUNCTION} lines": long_functions(repo),
        "public names defined twice": twins(repo),
        "import circles": circles(repo),
        "upward arrows": upward_arrows(repo),
        f"docs lines over {LONGEST_DOCS_LINE} characters": long_docs_lines(repo),
    }


def _sources(repo: Path) -> Iterator[Path]:
    """Python files of the package, in order."""
    yield from sorted((repo / PACKAGE).rglob("*.py"))


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _module(repo: Path, path: Path) -> str:
    return ".".join(path.relative_to(repo).with_suffix("").parts).removesuffix(".__init__")


def main() -> None:
    """Print the counts as a table or as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repo", type=Path, default=Path(__file__).parents[1], help="checkout to measure (default: this one)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parser.add_argument("--list", action="store_true", help="name everything that is counted")
    parser.add_argument("--tests", action="store_true", help="count the tests as well; imports the checkout")
    args = parser.parse_args()
    found = measured(args.repo.resolve())
    counts = {name: None if places is None else len(places) for name, places in found.items()}
    if args.tests:
        counts["tests"] = collected_tests(args.repo.resolve())
    if args.json:
        print(json.dumps({"counts": counts, **({"places": found} if args.list else {})}, indent=2))
        return
    for name, count in counts.items():
        print(f"{name:<36} {'-' if count is None else count:>5}")
        for place in (found.get(name) or ()) if args.list else ():
            print(f"    {place}")


if __name__ == "__main__":
    main()
