"""Parts of a self-contained HTML page: tables, images, audio players, bars."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from PIL import Image

STYLE = """body{font:14px system-ui,sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse;margin:1em 0}
td,th{padding:.25em .7em;border-bottom:1px solid #ccc;text-align:right}td:first-child,th:first-child{text-align:left}
td.text{text-align:left}img{image-rendering:pixelated;border:1px solid #ddd}.right{color:#060}.wrong{color:#b00}small{color:#666}
figure{display:inline-block;margin:.4em;max-width:13em;vertical-align:top}figcaption{font-size:11px;color:#444}
.bar{display:inline-block;height:.8em;background:#69c}"""


def page(title: str, body: str) -> str:
    """A whole page."""
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{text(title)}</title><style>{STYLE}</style>{body}</html>\n'


def text(content: str) -> str:
    """Text that cannot be markup."""
    return html.escape(content)


def table(titles: Sequence[str], lines: Sequence[Sequence[str]], last: str = "") -> str:
    """An HTML table of ready cells; `last` is the class of the last column."""
    head = "".join(f"<th>{text(title)}</th>" for title in titles)
    rows = []
    for line in lines:
        cells = [f"<td>{cell}</td>" for cell in line[:-1]] + [f'<td class="{last}">{line[-1]}</td>']
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def image(picture: Image.Image, side: int = 80) -> str:
    """An image embedded in the page; `side` is its longer side in screen pixels."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    scale = side / max(picture.size)
    wide, high = (max(1, round(extent * scale)) for extent in picture.size)
    return f'<img width="{wide}" height="{high}" alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def sound(content: bytes, kind: str = "audio/flac") -> str:
    """An audio player with the file embedded in the page."""
    return f'<audio controls preload="none" src="data:{kind};base64,{base64.b64encode(content).decode()}"></audio>'


def waveform(samples: np.ndarray, wide: int = 200, high: int = 48) -> str:
    """Lowest and highest sample of each screen column of a mono wave `[samples]` in [-1, 1]."""
    edges = np.linspace(0, len(samples), min(wide, max(1, len(samples))) + 1).astype(int)
    columns = [samples[low : max(low + 1, end)] for low, end in pairwise(edges)]
    middle = high / 2
    spans = [(middle - middle * float(column.max()), middle - middle * float(column.min()) + 0.5) for column in columns]
    lines = "".join(f"M{x},{top:.1f}V{bottom:.1f}" for x, (top, bottom) in enumerate(spans))
    return f'<svg width="{wide}" height="{high}" style="border:1px solid #ddd"><path d="{lines}" stroke="#369" fill="none"/></svg>'


def bars(counts: Mapping[str, int]) -> str:
    """A bar a name, as long as its count; the longest is 20 em."""
    most = max(counts.values(), default=1) or 1
    widths = {name: 20 * count / most for name, count in counts.items()}
    lines = [[text(name), f"{counts[name]:,}", f'<span class="bar" style="width:{width:.2f}em"></span>'] for name, width in widths.items()]
    return table(["", "count", ""], lines, last="text")


def figure(content: str, caption: str) -> str:
    """Something to look at with its caption below."""
    return f"<figure>{content}<figcaption>{text(caption)}</figcaption></figure>"
