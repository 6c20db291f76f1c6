"""Drawings of emoji from npm packages, and their rendering: letterboxed on white, never stretched."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from maskgen.data.corpora import npm

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" '
    'xmlns:xlink="http://www.w3.org/1999/xlink" width="{size}" height="{size}" viewBox="{box}">{body}</svg>'
)

Length = int | float


@dataclass(frozen=True, kw_only=True)
class DrawingSource:
    """One style of the recipe.

    Args:
        family: Drawing family; styles of one family share their drawings.
        kind: "iconify" (SVG bodies in icons.json) or "webp" (a file per code point).
        package: npm package.
        version: Exact version.
        sha256: Digest of the tarball.
        chars: Style whose chars.json names the drawings; None is its own.
    """

    family: str
    kind: str
    package: str
    version: str
    sha256: str
    chars: str | None = None

    def tarball(self, folder: Path) -> Path:
        """The verified tarball, downloaded if need be."""
        return npm.fetch(self.package, self.version, self.sha256, folder)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """An image to render: an SVG body with its view box (x, y, width, height), or the bytes of a raster file."""

    body: str = ""
    box: tuple[Length, Length, Length, Length] = (0, 0, 1, 1)
    flipped: bool = False
    raster: bytes = b""


def code_points(text: str) -> str:
    """Upper-case code points joined by "-", padded to four digits, without the presentation selector FE0F."""
    parts = text.upper().replace("_", "-").split("-")
    return "-".join(part.zfill(4) for part in parts if part != "FE0F")


def drawings(styles: Mapping[str, DrawingSource], style: str, folder: Path) -> dict[str, Drawing]:
    """Every drawing of a style by code points.

    Args:
        styles: All styles of the recipe.
        style: Name of the style.
        folder: Folder of tarballs.

    Returns:
        Code points (see `code_points`) to drawing.

    Raises:
        ValueError: If the source's kind is unknown or its package cannot be downloaded.
    """
    source = styles[style]
    if source.kind == "webp":
        files = npm.read_members(source.tarball(folder), lambda name: name.endswith(".webp"))
        return {code_points(Path(name).stem): Drawing(raster=content) for name, content in files.items()}
    if source.kind != "iconify":
        raise ValueError(f"style {style!r} has kind {source.kind!r}, wanted iconify or webp; mend the recipe")
    icons = _json(source.tarball(folder), "icons.json")
    chars = _json(styles[source.chars or style].tarball(folder), "chars.json")
    known = icons["icons"].keys() | icons.get("aliases", {}).keys()
    return {code_points(code): _drawing(icons, name) for code, name in chars.items() if name in known}


def _json(tarball: Path, name: str) -> dict[str, Any]:
    """One JSON file of a package."""
    plain: dict[str, Any] = json.loads(npm.read_members(tarball, lambda found: found == name)[name])
    return plain


def _drawing(icons: Mapping[str, Any], name: str) -> Drawing:
    """A drawing by name; aliases are followed and their flips applied."""
    icon, flipped = icons["icons"].get(name), False
    while icon is None:
        alias = icons["aliases"][name]
        if alias.get("rotate") or alias.get("vFlip"):
            raise ValueError(
                f"alias {name!r} of {icons['prefix']} is turned or flipped upside down, which is not supported; drop it in the recipe"
            )
        flipped ^= bool(alias.get("hFlip"))
        name = alias["parent"]
        icon = icons["icons"].get(name)
    values = {"left": 0, "top": 0, "width": icons.get("width", 16), "height": icons.get("height", 16), **icon}
    box = (values["left"], values["top"], values["width"], values["height"])
    return Drawing(body=icon["body"], box=box, flipped=flipped)


def render_drawing(drawing: Drawing, size: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """Render a drawing; its long side fills the square, the rest is white.

    Args:
        drawing: The drawing.
        size: Side in pixels.

    Returns:
        RGB pixels, rows = columns = size.
    """
    return letterboxed_raster(drawing.raster, size) if drawing.raster else rasterise(drawing, size)


def rasterise(drawing: Drawing, size: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """Render an SVG drawing with resvg, which letterboxes by the view box and blends on white.

    Raises:
        ValueError: If resvg-py is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise ValueError("drawing SVG needs resvg-py: pip install maskgen[data]") from error
    left, top, width, height = drawing.box
    flip = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{drawing.body}</g>'
    svg = SVG.format(size=size, box=f"{left} {top} {width} {height}", body=flip if drawing.flipped else drawing.body)
    png = resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", width=size, height=size, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png)), formats=["PNG"]).convert("RGB"))


def letterboxed_raster(raster: bytes, size: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """A raster file on white. It is resized (Lanczos) after blending, so that hidden colours don't leave dark fringes."""
    picture = Image.open(io.BytesIO(raster), formats=["WEBP", "PNG"]).convert("RGBA")
    side = max(picture.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(canvas.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))
