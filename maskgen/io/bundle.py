"""A bundle: one folder with a config, safetensors weights and a hash of everything, so that a flipped byte is found at load."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from maskgen.io.files import file_sha256, write_atomic
from maskgen.io.names import file_name
from maskgen.io.schema import Plain, Record, Schema, Table, Text
from maskgen.io.shipped import find_path, model_folder, model_names

BUNDLE_FORMAT = 1
CONFIG_FILE = "bundle.json"
WEIGHTS_FILE = "weights.safetensors"
RECORD_KEYS = {"format", "kind", "config", "files", "fingerprint"}
RECORD = Record({"format": Plain(), "kind": Text(), "config": Table(Plain()), "files": Table(Text()), "fingerprint": Text()})


@dataclass(frozen=True)
class Bundle:
    """What `load_bundle` read.

    Args:
        kind: What the bundle holds, for example "image_tokenizer".
        config: Plain data to rebuild the object.
        tensors: Weights by name.
        fingerprint: sha256 over kind, config and file hashes; stored with shards and compared at load.
        folder: Where it was read from.
    """

    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    fingerprint: str
    folder: Path = field(compare=False)


def fingerprint_of(kind: str, config: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Hash that identifies a bundle: its kind, its config and the sha256 of its files."""
    text = json.dumps([kind, dict(config), dict(files)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save_bundle(
    folder: Path | str, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], files: Mapping[str, bytes] | None = None
) -> str:
    """Write a bundle; `bundle.json` comes last, so a folder that has it is complete.

    Args:
        folder: Made if missing; other files in it (a card) stay.
        kind: What it holds.
        config: Plain data for JSON.
        tensors: Weights by name; may be empty.
        files: Further files by name, hashed like the weights.

    Returns:
        The fingerprint.

    Raises:
        ValueError: If a file's name is not plain.
    """
    from safetensors.torch import save

    for name in files or ():
        file_name(name, "a bundle to write")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = dict(files or {})
    if tensors:
        contents[WEIGHTS_FILE] = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    for name, data in contents.items():
        write_atomic(folder / name, data)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}
    return _write_record(folder, kind, config, hashes)


def read_bundle_record(folder: Path | str) -> dict[str, Any]:
    """The parsed `bundle.json` of a folder, or of what ships with maskgen under that relative name.

    Raises:
        ValueError: If the folder is no bundle, or its `bundle.json` is damaged, of another format, or names a file outside of the folder.
    """
    path = find_path(folder) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"no bundle in {folder}: {CONFIG_FILE} is missing; give a folder written by maskgen or the name of a shipped model"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found_format = record["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is not the JSON that maskgen writes; copy the bundle again") from error
    if found_format != BUNDLE_FORMAT:
        raise ValueError(f"{path} has format {found_format}, this maskgen reads format {BUNDLE_FORMAT}; update maskgen")
    if set(record) != RECORD_KEYS:
        raise ValueError(f"{path} is damaged: its entries are not those that maskgen writes; copy the bundle again")
    RECORD.check(record, f"{path}: content")
    if fingerprint_of(record["kind"], record["config"], record["files"]) != record["fingerprint"]:
        raise ValueError(f"{path} is damaged: its content does not give the fingerprint that stands in it; copy the bundle again")
    for name in record["files"]:
        file_name(name, str(path))
    return dict(record)


def load_bundle(folder: Path | str, kind: str, schema: Schema | None = None) -> Bundle:
    """Read a bundle and check every byte of it.

    Args:
        folder: Folder with `bundle.json`, or the relative name of a shipped one, for example "tokenizers/text-bpe/bundle".
        kind: What is expected in it.
        schema: What its configuration may hold, checked before any other file of it is read; None takes any plain data of bounded size.

    Raises:
        ValueError: If the bundle is missing, of another kind, incomplete or damaged, or its configuration holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = find_path(folder)
    record = read_bundle_record(folder)
    if record["kind"] != kind:
        raise ValueError(f"{folder} holds a bundle of kind {record['kind']!r}, wanted {kind!r}")
    (schema or Plain()).check(record["config"], f"{folder}: config")
    for name, wanted in record["files"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"bundle {folder} is incomplete: {name} is missing; copy the bundle again")
        found = file_sha256(path)
        if found != wanted:
            raise ValueError(f"{path} is damaged: sha256 {found[:12]}…, {CONFIG_FILE} says {wanted[:12]}…; copy the bundle again")
    try:
        tensors = load((folder / WEIGHTS_FILE).read_bytes()) if WEIGHTS_FILE in record["files"] else {}
    except (SafetensorError, KeyError) as error:  # KeyError: a type of numbers that this torch has not
        raise ValueError(f"{folder / WEIGHTS_FILE} is no safetensors file ({error}); copy the bundle again, or export it anew") from error
    return Bundle(kind, record["config"], tensors, record["fingerprint"], folder)


def rewrite_config(folder: Path | str, kind: str, config: Mapping[str, Any]) -> str:
    """Give a bundle another config; its weights and files are checked and stay as they are.

    Args:
        folder: Folder of a whole bundle.
        kind: What is expected in it.
        config: Plain data for JSON.

    Returns:
        The new fingerprint.

    Raises:
        ValueError: If the bundle is missing, of another kind, incomplete or damaged.
    """
    load_bundle(folder, kind)
    hashes = read_bundle_record(folder)["files"]
    return _write_record(Path(folder), kind, config, hashes)


def _write_record(folder: Path, kind: str, config: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    """Write `bundle.json` and return the fingerprint."""
    fingerprint = fingerprint_of(kind, config, hashes)
    record = {"format": BUNDLE_FORMAT, "kind": kind, "config": dict(config), "files": dict(hashes), "fingerprint": fingerprint}
    write_atomic(folder / CONFIG_FILE, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
    return fingerprint


def find_model(name: Path | str) -> Path:
    """Folder of a model's bundle: a path, or the name of a model that ships with maskgen or is installed beside it.

    Raises:
        ValueError: If there is none.
        ImportError: If the model is a distribution of its own that is not installed.
    """
    folder = Path(name) if (Path(name) / CONFIG_FILE).is_file() else model_folder(name)
    if folder is None or not (folder / CONFIG_FILE).is_file():
        raise ValueError(
            f"there is no model {str(name)!r}: no such folder with a {CONFIG_FILE}, "
            f"and the models here are {', '.join(model_names()) or 'none'}"
        )
    return folder


def require_fingerprint(modality: str, found: str, wanted: str, model: str) -> None:
    """Refuse a tokenizer other than the one the model was trained with.

    Raises:
        ValueError: If they differ; names both and the commands that rebuild.
    """
    if found != wanted:
        raise ValueError(
            f"the {modality} tokenizer has fingerprint {found[:12]}…, {model} was trained with {wanted[:12]}…; "
            f"restore that tokenizer, or rebuild with this one: maskgen data tokenize, then maskgen fit"
        )
