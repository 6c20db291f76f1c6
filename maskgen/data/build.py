"""Turns raw shards into token shards: every picture and caption is encoded once, ahead of training."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress

from maskgen.batch import Codes
from maskgen.data.manifest import Index, ShardEntry, read_index, write_index
from maskgen.data.shards import Sample, check_shard, json_bytes, npy_bytes, read_split_shard, write_shard
from maskgen.space import TokenSpace
from maskgen.tokenizers.base import Tokenizer

logger = logging.getLogger(__name__)
REBUILD = "maskgen data tokenize --config RECIPE"
PROGRESS_FILE = "progress.json"
Row = tuple[str, Sample]


def require_same_fingerprints(index: Index, tokenizers: Mapping[str, Tokenizer], command: str = REBUILD) -> None:
    """Refuses token shards that other tokenizers made.

    Args:
        index: Index of token shards.
        tokenizers: Modality name to the tokenizer about to be used.
        command: What rebuilds the shards.

    Raises:
        ValueError: If a modality is missing or its fingerprint differs; names both fingerprints and the command.
    """
    for name, tokenizer in tokenizers.items():
        found = index.fingerprints.get(name)
        if found != tokenizer.fingerprint:
            raise ValueError(
                f"the shards' {name} codes were made with tokenizer {found}, this run has {tokenizer.fingerprint}; rebuild them: {command}"
            )


def tokenize(
    raw_folder: Path,
    out: Path,
    tokenizers: Mapping[str, Tokenizer],
    batch_size: int = 64,
    report: Callable[[int], None] | None = None,
) -> Index:
    """Writes token shards and their index; a build that was killed goes on where it stopped and ends with the same bytes.

    Args:
        raw_folder: Raw shards with index.json.
        out: Folder to write.
        tokenizers: Modality name to tokenizer, in the order of the token space; kinds text and image.
        batch_size: Samples encoded at once.
        report: Called with the samples of each shard when it is done, in place of the progress bar.

    Returns:
        The index, as written.

    Raises:
        ValueError: If raw shards are damaged, or a codebook is too large for Int16.
    """
    raw = read_index(raw_folder)
    plan = _plan(raw, tokenizers)
    done = {entry.name: entry for entry in _finished(out, plan)}
    logger.info("tokenising %s into %s: %d of %d shards are done", raw_folder, out, len(done), len(raw.shards))
    (out / "index.json").unlink(missing_ok=True)
    with Progress(disable=report is not None) as bar:
        task = bar.add_task("tokenising", total=sum(raw.counts.values()))
        for entry in raw.shards:
            if entry.name not in done:
                done[entry.name] = write_shard(out / entry.name, entry.split, _token_samples(raw_folder, entry, tokenizers, batch_size))
                write_index(out, dataclasses.replace(plan, shards=tuple(done.values())), PROGRESS_FILE)
            (report or partial(bar.advance, task))(entry.count)
    index = dataclasses.replace(plan, shards=tuple(done[entry.name] for entry in raw.shards))
    write_index(out, index)
    (out / PROGRESS_FILE).unlink(missing_ok=True)
    logger.info("wrote %s: %s", out, index.counts)
    return index


def _token_samples(
    folder: Path, entry: ShardEntry, tokenizers: Mapping[str, Tokenizer], batch_size: int
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Encoded samples of one raw shard."""
    rows = list(read_split_shard(folder, entry))
    for start in range(0, len(rows), batch_size):
        yield from _encoded(rows[start : start + batch_size], tokenizers)


def _plan(raw: Index, tokenizers: Mapping[str, Tokenizer]) -> Index:
    """The index to come, without its shards; it also names the raw shards by sha256."""
    for name, tokenizer in tokenizers.items():
        if tokenizer.kind not in ENCODERS:
            raise ValueError(f"modality {name!r} has kind {tokenizer.kind!r}; raw shards hold {' and '.join(ENCODERS)}")
        if tokenizer.codebook_size > 2**15:
            raise ValueError(f"modality {name!r} has {tokenizer.codebook_size} codes a level; shards hold Int16, at most {2**15}")
    space = TokenSpace([tokenizer.modality(name) for name, tokenizer in tokenizers.items()])
    return Index(
        kind="tokens",
        shards=(),
        space=space.to_dict(),
        fingerprints={name: tokenizer.fingerprint for name, tokenizer in tokenizers.items()},
        about={**raw.about, "raw_sha256": {entry.name: entry.sha256 for entry in raw.shards}},
    )


def _finished(out: Path, plan: Index) -> Iterator[ShardEntry]:
    """Shards of an earlier build of the same plan that are whole."""
    names = [name for name in (PROGRESS_FILE, "index.json") if (out / name).is_file()]
    earlier = read_index(out, names[0]) if names else plan
    if dataclasses.replace(earlier, shards=()) != plan:
        logger.warning("%s holds shards of other tokenizers or pictures; all are built again", out)
        return
    for entry in earlier.shards:
        try:
            check_shard(out, entry)
        except ValueError as error:
            logger.warning("%s", error)
        else:
            yield entry


def _encoded(rows: Sequence[Row], tokenizers: Mapping[str, Tokenizer]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members of each row: one npy a modality, and the json as it was."""
    arrays = {name: ENCODERS[tokenizer.kind](rows, tokenizer) for name, tokenizer in tokenizers.items()}
    for number, (key, sample) in enumerate(rows):
        members: dict[str, bytes] = {f"{name}.npy": npy_bytes(found[number]) for name, found in arrays.items()}
        yield key, {**members, "json": json_bytes(sample["json"])}


def _images(rows: Sequence[Row], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Int16 [level rows columns] of each picture."""
    with torch.inference_mode():
        codes = tokenizer.encode([Image.fromarray(sample["png"]) for _, sample in rows])
    return [grid.cpu().numpy().astype(np.int16) for grid in codes]


def _captions(rows: Sequence[Row], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Int16 [alternatives longest] of each row's captions, -1 after the end of each."""
    texts: list[list[Any]] = [sample["json"]["captions"] for _, sample in rows]
    codes = iter(tokenizer.encode([text for row in texts for text in row]))
    return [padded([next(codes) for _ in row]) for row in texts]


def padded(captions: Sequence[Codes]) -> np.ndarray:
    """Captions [1, n] of several lengths as one Int16 array, -1 after the end of each."""
    array = np.full((len(captions), max(codes.shape[1] for codes in captions)), -1, dtype=np.int16)
    for row, codes in zip(array, captions, strict=True):
        row[: codes.shape[1]] = codes[0].numpy()
    return array


ENCODERS: Mapping[str, Callable[[Sequence[Row], Tokenizer], list[np.ndarray]]] = {"text": _captions, "image": _images}
