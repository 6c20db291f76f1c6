"""Write the table of sizes and licences in docs/interop.md from the records of the families: `uv run python docs/make_models.py`."""

from pathlib import Path

from maskgen.interop.catalogue import model_records

PAGE = Path(__file__).resolve().parent / "interop.md"
BEGIN, END = "<!-- written by docs/make_models.py -->\n", "<!-- end of the table -->\n"
HEAD = (
    "| model | million parameters | float32, GB | bfloat16, GB | download, GB | licence of the code | licence of the weights | "
    "commercial use |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def table() -> str:
    """The table of all models, as Markdown."""
    rows = []
    for one in model_records():
        name = f"`{one.name}`" + (f" ({one.variant})" if one.variant else "")
        sizes = [f"{size:.1f}" if size >= 1 else f"{size:.2f}" for size in (one.float32_gb or 0, one.bfloat16_gb or 0)]
        download = "ships" if one.download_gb == 0 else "-" if one.download_gb is None else f"{one.download_gb:.1f}"
        cells = [name, f"{one.million or 0:,.0f}", *sizes, download, one.code_licence, one.weights_licence, one.commercial]
        rows.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(rows)


def page() -> str:
    """The page with the table of today."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
