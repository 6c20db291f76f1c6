"""What a folder of shards holds, as a page to look at: counts, lengths, code usage, images, audio clips."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maskgen.data.build.engine import REJECTS_FILE
from maskgen.data.loading.order import fixed_subset
from maskgen.data.loading.rows import ShardRows
from maskgen.data.loading.samples import caption_codes
from maskgen.data.shards.codes import require_integers
from maskgen.data.shards.manifest import Index, read_index
from maskgen.data.shards.vectors import lengths_of
from maskgen.evaluation.html import bars, figure, image, page, sound, table, text, waveform
from maskgen.evaluation.image.tokenizer import code_usage
from maskgen.io.audio import mixed_down
from maskgen.io.files import write_atomic, write_text
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.space import Kind, TokenSpace

MOST_VALUES = 40
"""An attribute with more values than this is summed up by their number."""
MOST_REASONS = 20


@dataclass
class Census:
    """What the rows of one split hold.

    Args:
        rows: Samples looked at.
        fields: Field of a sample to how many have it.
        attributes: Name in the json to counts of its values.
        captions: Captions a sample to samples.
        lengths: What is measured to its values.
        codes: Modality and level to the codes seen.
    """

    rows: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    attributes: dict[str, Counter[str]] = field(default_factory=dict)
    captions: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, list[int | float]] = field(default_factory=dict)
    codes: dict[tuple[str, int], list[np.ndarray]] = field(default_factory=dict)


def inspect_shards(
    folder: Path, out: Path, tokenizers: Mapping[str, Tokenizer] | None = None, shown: int = 32, limit: int = 5000
) -> dict[str, Any]:
    """Writes `inspect.html` and `inspect.json`.

    Args:
        folder: Raw or token shards with index.json.
        out: Folder of the report, made when missing.
        tokenizers: Modality name to tokenizer; with them token shards are shown as media.
        shown: Samples per split to show, the same ones always.
        limit: Samples a split to count, the same ones always; images are never decoded for counting.

    Returns:
        What is in `inspect.json`.

    Raises:
        ValueError: If the shards are damaged, or a tokenizer is not the one that made them.
    """
    index = read_index(folder)
    _require_fingerprints(index, tokenizers or {})
    report: dict[str, Any] = {"folder": str(folder), "kind": index.kind, "about": dict(index.about), "splits": {}}
    parts = [f"<h1>{text(folder.name)}: {text(index.kind)} shards</h1>", _shards_html(index), _rejects_html(folder)]
    for split, count in index.counts.items():
        rows = ShardRows(lambda entry: folder / entry.name, index.of(split))
        chosen = some(rows, range(count), limit)
        census = take_census(rows, chosen, index)
        report["splits"][split] = census_summary(census, index)
        parts += [f"<h2>{text(split)}: {count:,} samples</h2>", _census_html(report["splits"][split])]
        parts += [show(rows, row, index, tokenizers or {}) for row in some(rows, chosen, shown)]
    out.mkdir(parents=True, exist_ok=True)
    write_text(json.dumps(report, indent=1), out / "inspect.json")
    write_atomic(out / "inspect.html", page(f"{folder.name}: {index.kind} shards", "".join(parts)).encode())
    return report


def some(rows: ShardRows, numbers: Sequence[int], most: int) -> list[int]:
    """At most so many of the rows, the same ones always."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[place] for place, _ in fixed_subset([rows.key(row) for row in numbers], most)]


def _require_fingerprints(index: Index, tokenizers: Mapping[str, Tokenizer]) -> None:
    """Refuses a tokenizer that would show other media than were put in."""
    for name, tokenizer in tokenizers.items():
        made = index.fingerprints.get(name)
        if made is not None and made != tokenizer.fingerprint:
            raise ValueError(f"the shards' {name} codes were made with tokenizer {made}, given was {tokenizer.fingerprint}; give that one")


def take_census(rows: ShardRows, chosen: Sequence[int], index: Index) -> Census:
    """Counts over the chosen rows."""
    census = Census(rows=len(chosen))
    kinds = {modality.name: modality.kind for modality in _modalities(index)}
    for row in chosen:
        sizes = rows.sizes(row)
        census.fields.update(name for name in sizes if name != "json")
        _count_json(census, rows.meta(row))
        for name, kind in kinds.items():
            if f"{name}.npy" in sizes:
                array = rows.field(row, f"{name}.npy")
                if kind == "features":
                    census.lengths.setdefault(f"{name} cells", []).extend(lengths_of(array).tolist())
                    continue
                require_integers(array, name, rows.key(row))
                _count_codes(census, name, kind, array)
    return census


def _modalities(index: Index) -> Sequence[Any]:
    """Modalities of token shards."""
    return TokenSpace.from_dict(dict(index.space)).modalities if index.space is not None else ()


def _count_json(census: Census, meta: Mapping[str, Any]) -> None:
    """Attributes, captions and seconds of one sample."""
    captions = meta.get("captions", [])
    census.captions[str(len(captions))] += 1
    if captions:
        census.lengths.setdefault("words a caption", []).append(len(str(captions[0]).split()))
    for name, value in meta.items():
        if name == "seconds":
            census.lengths.setdefault("seconds", []).append(float(value))
        elif isinstance(value, (str, int, float)):
            census.attributes.setdefault(name, Counter())[str(value)] += 1


def _count_codes(census: Census, name: str, kind: Kind, array: np.ndarray) -> None:
    """Lengths and codes of one modality of one sample; of text, every caption."""
    if kind == "text":
        captions = [caption_codes(array, number) for number in range(len(array))]
        census.lengths.setdefault(f"{name} codes", []).extend(caption.shape[1] for caption in captions)
        array = np.concatenate(captions, axis=1)
    else:
        census.lengths.setdefault(f"{name} cells", []).append(float(np.prod(array.shape[1:])))
    for level, codes in enumerate(array):
        census.codes.setdefault((name, level), []).append(np.asarray(codes).ravel())


def census_summary(census: Census, index: Index) -> dict[str, Any]:
    """The counts as plain data."""
    sizes = {modality.name: modality.codebook_size for modality in _modalities(index)}
    usage = {
        f"{name} level {level}": code_usage(torch.from_numpy(np.concatenate(codes)[None].astype(np.int64)), sizes[name])
        for (name, level), codes in sorted(census.codes.items())
    }
    attributes = {
        name: dict(seen.most_common()) if len(seen) <= MOST_VALUES else {"(different values)": len(seen)}
        for name, seen in sorted(census.attributes.items())
    }
    lengths = {name: _spread(values) for name, values in census.lengths.items()}
    counts = {"samples_counted": census.rows, "fields": dict(census.fields), "captions": dict(sorted(census.captions.items()))}
    return {**counts, "attributes": attributes, "lengths": lengths, "code_usage": usage}


def _spread(values: Sequence[int | float]) -> dict[str, float]:
    """Least, quarters and most."""
    least, low, middle, high, most = np.quantile(np.asarray(values), [0, 0.25, 0.5, 0.75, 1]).tolist()
    return {"least": least, "quarter": low, "median": middle, "three_quarters": high, "most": most, "mean": float(np.mean(values))}


def _shards_html(index: Index) -> str:
    """Shards, bytes and tokens of each split."""
    lines = []
    for split, count in index.counts.items():
        entries = index.of(split)
        tokens: Counter[str] = Counter()
        for entry in entries:
            tokens.update(entry.tokens)
        size = sum(entry.bytes or 0 for entry in entries)
        said = ", ".join(f"{number:,} {name}" for name, number in sorted(tokens.items())) or "-"
        lines.append([text(split), str(len(entries)), f"{count:,}", f"{size / 2**20:.1f}", text(said)])
    return table(["split", "shards", "samples", "MiB", "tokens"], lines, last="text")


def _rejects_html(folder: Path) -> str:
    """Samples that the build left out, by reason.

    Raises:
        ValueError: If the list of them is damaged.
    """
    path = folder / REJECTS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if not lines:
        return "<p>No sample was rejected.</p>"
    try:
        reasons = Counter(str(json.loads(line)["reason"]) for line in lines)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); build the shards again") from error
    return f"<h2>{len(lines)} samples were rejected</h2>{bars(dict(reasons.most_common(MOST_REASONS)))}"


def _census_html(census: Mapping[str, Any]) -> str:
    """Tables of one split."""
    parts = [f"<p>{census['samples_counted']:,} samples counted.</p>"]
    if census["lengths"]:
        lines = [[text(name), *(f"{value:.4g}" for value in spread.values())] for name, spread in census["lengths"].items()]
        parts.append(table(["length", "least", "quarter", "median", "three quarters", "most", "mean"], lines))
    if census["code_usage"]:
        lines = [[text(name), f"{usage['used']:.1%}", f"{usage['perplexity']:.0f}"] for name, usage in census["code_usage"].items()]
        parts.append(table(["codes", "used", "perplexity"], lines))
    for name, counts in {"fields": census["fields"], "captions a sample": census["captions"], **census["attributes"]}.items():
        parts.append(f"<details><summary>{text(name)}</summary>{bars(counts)}</details>")
    return "".join(parts)


def show(rows: ShardRows, row: int, index: Index, tokenizers: Mapping[str, Tokenizer]) -> str:
    """One sample: its image, its wave with a player, its first caption."""
    meta, sizes, parts = rows.meta(row), rows.sizes(row), []
    if "png" in sizes:
        parts.append(image(Image.fromarray(np.asarray(rows.field(row, "png"))), 128))
    if "flac" in sizes:
        parts.append(waveform(mixed_down(np.asarray(rows.field(row, "flac")))[0]) + sound(rows.content(row, "flac")))
    for modality in _modalities(index):
        if modality.kind == "image" and modality.name in tokenizers and f"{modality.name}.npy" in sizes:
            array = rows.field(row, f"{modality.name}.npy")
            require_integers(array, modality.name, rows.key(row))
            codes = torch.from_numpy(array.astype(np.int64))
            parts.append(image(tokenizers[modality.name].decode([codes])[0], 128))
    captions = meta.get("captions", [])
    return figure("".join(parts), str(captions[0]) if captions else rows.key(row))
