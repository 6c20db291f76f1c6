"""Builds the emoji corpus: rows from emojibase, images of five styles in three drawing families, captions, splits, raw shards."""

import gzip
import hashlib
import json
import logging
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from maskgen.data.corpora import npm
from maskgen.data.corpora.emoji_captions import captions
from maskgen.data.corpora.emoji_drawings import Drawing, DrawingSource, code_points, drawings, render_drawing
from maskgen.data.corpora.emoji_splits import HeldOut, concept_of, held_out
from maskgen.data.shards.format import json_bytes, png_bytes, write_shard
from maskgen.data.shards.manifest import Index, write_index
from maskgen.io.files import write_atomic

logger = logging.getLogger(__name__)
SPLITS = ("train", "A", "B", "C", "D", "E")


@dataclass(frozen=True, kw_only=True)
class EmojiRecipe:
    """Content of data/emoji/recipe.yaml.

    Args:
        name: Name of the corpus.
        size: Side in pixels.
        shard_rows: Maximum number of rows per shard.
        licence: Licences of the sources.
        captions: Package of labels: package, version, sha256.
        styles: Style name to its source.
        other_domain: Styles of split E, for evaluation only.
        sample: Labels whose rows of all styles are kept in the repository.
    """

    name: str
    size: int
    shard_rows: int
    licence: str
    captions: Mapping[str, str]
    styles: Mapping[str, DrawingSource]
    other_domain: Mapping[str, DrawingSource] = field(default_factory=dict)
    sample: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 1024 or self.shard_rows < 1:
            raise ValueError(f"size must lie in [8, 1024] and shard_rows be at least 1, got {self.size} and {self.shard_rows}")


def read_emoji_recipe(path: Path) -> EmojiRecipe:
    """Read the recipe of the emoji corpus.

    Raises:
        ValueError: If a key is unknown or missing.
    """
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        for name in ("styles", "other_domain"):
            plain[name] = {style: DrawingSource(**values) for style, values in plain.get(name, {}).items()}
        return EmojiRecipe(**plain)
    except TypeError as error:
        raise ValueError(f"{path}: {error}; the keys are those of EmojiRecipe and DrawingSource") from error


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One entry of emojibase; `base` is the label without skin tone, `tone` is 0 for none or several."""

    label: str
    base: str
    tone: int
    hexcode: str
    group: str
    subgroup: str
    tags: tuple[str, ...]


def read_emoji(tarball: Path) -> list[Emoji]:
    """Every labelled emoji with its skin tone variants, in emojibase order, without letters and components."""
    files = npm.read_members(tarball, lambda name: name in ("en/data.json", "meta/groups.json"))
    groups, entries = json.loads(files["meta/groups.json"]), json.loads(files["en/data.json"])
    return [
        Emoji(
            label=variant["label"],
            base=entry["label"],
            tone=tone if isinstance(tone := variant.get("tone", 0), int) else 0,
            hexcode=code_points(variant["hexcode"]),
            group=groups["groups"].get(str(entry.get("group")), "component"),
            subgroup=groups["subgroups"].get(str(entry.get("subgroup")), "component"),
            tags=tuple(entry.get("tags", ())),
        )
        for entry in entries
        for variant in (entry, *entry.get("skins", ()))
    ]


@dataclass(frozen=True, kw_only=True)
class EmojiRow:
    """One row of the corpus before rendering: key, drawing and metadata."""

    key: str
    drawing: Drawing
    meta: dict[str, Any]


def rows_of(recipe: EmojiRecipe, downloads: Path) -> tuple[list[EmojiRow], HeldOut]:
    """All rows of the recipe with their splits, and the held-out values.

    Args:
        recipe: The recipe.
        downloads: Folder of tarballs.

    Returns:
        Rows in the order of styles and emojibase, and the held-out tones, genders, families and concepts.
    """
    emoji = read_emoji(npm.fetch(**recipe.captions, folder=downloads))
    styles = {**recipe.styles, **recipe.other_domain}
    drawn = {style: drawings(styles, style, downloads) for style in styles}
    held = held_out((e.base, e.tone, styles[style].family) for style in recipe.styles for e in emoji if e.hexcode in drawn[style])
    rows = []
    for style, source in styles.items():
        for e in emoji:
            if e.hexcode in drawn[style]:
                split = held.split_of(e.base, e.tone, source.family) if style in recipe.styles else "E"
                rows.append(
                    EmojiRow(
                        key=f"{style}-{e.hexcode.lower()}", drawing=drawn[style][e.hexcode], meta=_meta(e, style, source.family, split)
                    )
                )
    return rows, held


def _meta(emoji: Emoji, style: str, family: str, split: str) -> dict[str, Any]:
    """The row's JSON, as docs/data.md defines it."""
    return {
        "label": emoji.label,
        "tone": emoji.tone,
        "style": style,
        "family": family,
        "concept": concept_of(emoji.base),
        "base": emoji.base,
        "group": emoji.group,
        "subgroup": emoji.subgroup,
        "tags": list(emoji.tags),
        "hexcode": emoji.hexcode,
        "captions": captions(emoji.label, style, emoji.tags, f"{style}-{emoji.hexcode}"),
        "split": split,
    }


def pictures(rows: list[EmojiRow], size: int, processes: int | None = None) -> Iterator[np.ndarray]:
    """Pixels of every row in order, rendered by one process per core; one process means this one."""
    jobs = [row.drawing for row in rows]
    if processes == 1:
        yield from (render_drawing(job, size) for job in jobs)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(render_drawing, jobs, [size] * len(jobs), chunksize=32)


def without_twins(rows: list[EmojiRow], pixels: Iterable[np.ndarray]) -> Iterator[tuple[EmojiRow, np.ndarray, str]]:
    """Row, pixels and their sha256; of equal images in one style only the one with the shortest label is kept.

    The shortest, because many islands use the flag of their country.
    """
    pictures = [(row, picture, hashlib.sha256(picture.tobytes()).hexdigest()) for row, picture in zip(rows, pixels, strict=True)]
    kept: dict[tuple[str, str], EmojiRow] = {}
    for row, _, digest in sorted(pictures, key=lambda item: len(item[0].meta["label"])):
        kept.setdefault((row.meta["style"], digest), row)
    return (item for item in pictures if kept[item[0].meta["style"], item[2]] is item[0])


def build_emoji(recipe_path: Path, build: Path | None = None, processes: int | None = None) -> Index:
    """Build the raw shards of the corpus, `records/` to commit, and `sample/`, the rows that are kept in the repository.

    Args:
        recipe_path: The recipe.
        build: Output folder; None is `build` next to the recipe.
        processes: Rendering processes; None is one per core.

    Returns:
        The index, as written to `raw/index.json`.

    Raises:
        ValueError: If a package cannot be downloaded or the recipe is wrong.
    """
    recipe, build = read_emoji_recipe(recipe_path), build or recipe_path.parent / "build"
    rows, held = rows_of(recipe, build / "downloads")
    logger.info("rendering %d pictures of %d styles at %d px into %s", len(rows), len(recipe.styles), recipe.size, build / "raw")
    kept: list[Kept] = []
    for row, picture, digest in without_twins(rows, pictures(rows, recipe.size, processes)):
        kept.append(Kept(row, digest, {"png": png_bytes(picture), "json": json_bytes(row.meta)}))
    index = write_raw(build / "raw", kept, recipe)
    write_raw(build / "sample", [one for one in kept if one.row.meta["label"] in recipe.sample], recipe)
    write_records(build / "records", kept, held, len(rows), recipe.size)
    logger.info("wrote %d pictures (%d exact duplicates dropped): %s", len(kept), len(rows) - len(kept), index.counts)
    return index


class Kept(NamedTuple):
    """A row to write, with the sha256 of its RGB bytes and its shard members."""

    row: EmojiRow
    digest: str
    members: dict[str, bytes]


def write_raw(folder: Path, kept: Sequence[Kept], recipe: EmojiRecipe) -> Index:
    """Write the shards of every split that has rows, then the index."""
    entries = []
    for split in SPLITS:
        ordered = sorted((one.row.key, one.members) for one in kept if one.row.meta["split"] == split)
        for number, start in enumerate(range(0, len(ordered), recipe.shard_rows)):
            part = ordered[start : start + recipe.shard_rows]
            entries.append(write_shard(folder / f"{split}-{number:06d}.tar", split, part))
    index = Index(kind="raw", shards=tuple(entries), about={"name": recipe.name, "size": recipe.size})
    write_index(folder, index)
    return index


def write_records(folder: Path, kept: Sequence[Kept], held: HeldOut, before: int, size: int) -> None:
    """Write splits.json (held-out values, counts) and manifest.jsonl.gz (sha256 of each image's RGB bytes), to be committed."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = [one.row.meta for one in kept]
    by_style = Counter((row["style"], row["split"]) for row in meta)
    plain = {
        "held_out": held.to_dict(),
        "pairs_before_duplicates": before,
        "pairs": len(kept),
        "pairs_by_style": {
            style: {split: by_style[style, split] for split in SPLITS if by_style[style, split]}
            for style in Counter(row["style"] for row in meta)
        },
        "labels": {split: len({row["label"] for row in meta if row["split"] == split}) for split in SPLITS},
    }
    write_atomic(folder / "splits.json", (json.dumps(plain, indent=1, ensure_ascii=False) + "\n").encode())
    lines = [{"key": one.row.key, "split": one.row.meta["split"], "size": size, "rgb_sha256": one.digest} for one in kept]
    text = "".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda line: str(line["key"])))
    write_atomic(folder / "manifest.jsonl.gz", gzip.compress(text.encode(), mtime=0))
