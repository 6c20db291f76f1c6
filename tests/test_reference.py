"""The API reference: every public folder has a page, and pages hold no links that lead nowhere."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import maskgen

ROOT = Path(maskgen.__file__).parents[1]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """docs/make_reference.py as a module."""
    pytest.importorskip("griffe2md")
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_reference"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(tool: ModuleType) -> dict[str, str]:
    made: dict[str, str] = tool.pages()
    return made


def test_every_page_is_in_the_index_and_names_its_modules(tool: ModuleType, pages: dict[str, str]) -> None:
    assert set(re.findall(r"\]\((\w+\.md)\)", pages["README.md"])) == set(pages) - {"README.md"}
    for file, (title, _, modules) in tool.PAGES.items():
        assert pages[f"{file}.md"].startswith(f"# {title}\n")
        assert all(f"`{name}" in pages[f"{file}.md"] for name in modules)


@pytest.mark.parametrize("name", ["Sampler", "ConfidenceSampler", "Tokenizer", "GenerationSettings", "MaskedTokenModule", "local_folder"])
def test_public_names_have_a_heading(pages: dict[str, str], name: str) -> None:
    assert any(f"### `{name}`" in text for text in pages.values())


def test_pages_are_plain_markdown(tool: ModuleType, pages: dict[str, str]) -> None:
    for text in pages.values():
        assert "](#" not in text
        assert "<code>" not in text
        assert "\n\n\n" not in text
        assert not re.search(r"^#+ `_(?!_)", text, re.M), "private names are left out"


def test_tidy_wraps_text_and_leaves_code(tool: ModuleType) -> None:
    text = tool.tidy("- **a** (<code>[Int](#x.Int)[[Tensor](#y)]</code>) – " + "word " * 40 + "\n\n\n\n```python\n" + "x" * 200 + "\n```\n")
    first, second, empty, *code = text.splitlines()
    assert first.startswith("- **a** (`Int[Tensor]`) – word")
    assert second.startswith("  word")
    assert (empty, code) == ("", ["```python", "x" * 200, "```"])


def test_the_pages_are_fresh(tool: ModuleType, pages: dict[str, str]) -> None:
    assert tool.stale(pages) == [], "run: uv run python docs/make_reference.py"
