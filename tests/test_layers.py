"""A file imports only from lower floors, or from base.py of its own folder."""

import ast
from pathlib import Path

import pytest

import maskgen

ROOT = Path(maskgen.__file__).parent
FLOORS: list[list[str]] = [
    ["files", "canvas", "media_limits", "sound_headers"],
    ["bundle", "guidance", "dense", "alignment"],
    ["space", "schedule", "model", "checkpoint", "pictures", "sounds", "phonetics/*"],
    ["nets/*"],
    ["batch", "draw", "pretrained"],
    ["tokenizers/*", "rowwise", "folding", "passes/*", "lora"],
    ["masking", "sampling/*", "logits", "tricks", "data/*", "editing", "critic", "attention", "embedding"],
    ["generation", "grouped", "tasks"],
    ["decoding", "scoring"],
    ["training/*", "pipeline", "evaluation/*", "interop/*"],
    ["animation", "voice", "finetuning", "joining", "averaging", "hearing"],
    ["anything"],
    ["verbs/*"],
    ["cli", "ui"],
    ["__main__"],
]
INSIDE_FOLDER = {"nets", "data", "training", "evaluation", "tokenizers", "verbs", "phonetics", "passes"}
"""Folders whose files build on each other; there the imports must only be free of circles."""


def floor_of(module: str) -> int:
    parts = module.split(".")[1:]
    for floor, names in enumerate(FLOORS):
        if parts[0] in names or f"{parts[0]}/*" in names:
            return floor
    raise AssertionError(f"{module} is on no floor: add it to FLOORS and to docs/architecture.md")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "maskgen":
            found |= {f"{node.module}.{alias.name}" if node.module == "maskgen" else node.module for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("maskgen.")}
    return found


def module_of(path: Path) -> str:
    return ".".join(["maskgen", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    folder = module.split(".")[1]
    for target in imports_of(path):
        same_folder = target.split(".")[1] == folder and (ROOT / folder).is_dir()
        if same_folder:
            allowed = target.endswith(".base") or folder in INSIDE_FOLDER or path.name == "__init__.py"
        else:
            allowed = floor_of(target) < floor_of(module)
        assert allowed, f"{module} (floor {floor_of(module)}) imports {target} (floor {floor_of(target)})"


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


def test_our_tokenizers_folder_does_not_shadow_the_package() -> None:
    import tokenizers

    assert "site-packages" in str(tokenizers.__file__)
    assert not (ROOT.parent / "tokenizers" / "__init__.py").exists()
