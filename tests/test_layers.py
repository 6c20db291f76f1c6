"""A folder imports only from folders below it; files inside a folder build on each other without circles."""

import ast
from pathlib import Path

import pytest

import maskgen

ROOT = Path(maskgen.__file__).parent
FLOORS = (
    ("version", "io"),
    ("phonetics", "tokens"),
    ("autoencoders", "masking"),
    ("sampling", "networks"),
    ("tokenizers",),
    ("decoding",),
    ("data",),
    ("scoring",),
    ("processors", "interop"),
    ("pipelines",),
    ("training", "evaluation"),
    ("serving",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "maskgen":
            found.add(node.module)
            found |= {name for alias in node.names if (name := f"{node.module}.{alias.name}") in MODULES}
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("maskgen.")}
    return found - {"maskgen"}


def module_of(path: Path) -> str:
    return ".".join(["maskgen", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
MODULES = {module_of(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    folder = module.split(".")[1]
    assert folder in FLOOR_OF, f"{folder} is on no floor: add it to FLOORS and to docs/architecture.md"
    for target in imports_of(path):
        below = target.split(".")[1]
        assert below == folder or FLOOR_OF[below] < FLOOR_OF[folder], f"{module} (floor {FLOOR_OF[folder]}) imports {target}"


def test_there_are_no_import_circles() -> None:
    graph = {module_of(path): imports_of(path) for path in FILES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"import circle: {' -> '.join((*trail, module))}"
        if module not in done:
            for target in graph.get(module, ()):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_a_public_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module_of(path))
    twice = {name: where for name, where in places.items() if len([one for one in where if "skeletons" not in one]) > 1}
    assert not twice, f"public names that are defined more than once: {twice}"


def test_our_tokenizers_folder_does_not_shadow_the_package() -> None:
    import tokenizers

    assert "site-packages" in str(tokenizers.__file__)
    assert not (ROOT.parent / "tokenizers" / "__init__.py").exists()
