"""Saving and loading bundles: folders with a config, safetensors weights and a hash of every file, verified at load."""

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
LARGEST_RECORD_BYTES = 2**20
RECORD_KEYS = {"format", "kind", "config", "files", "fingerprint"}
RECORD = Record({"format": Plain(), "kind": Text(), "config": Table(Plain()), "files": Table(Text()), "fingerprint": Text()})


@dataclass(frozen=True)
class Bundle:
    """Content of a bundle, as `load_bundle` returns it.

    Args:
        kind: What the bundle holds, for example "image_tokenizer".
        config: Plain data from which the object is rebuilt.
        tensors: Weights by name.
        fingerprint: sha256 over kind, config and file hashes. It is stored with shards and compared at load.
        folder: Folder that the bundle was read from.
    """

    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    fingerprint: str
    folder: Path = field(compare=False)


def fingerprint_of(kind: str, config: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Compute the hash that identifies a bundle from its kind, its config and the sha256 of its files."""
    text = json.dumps([kind, dict(config), dict(files)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save_bundle(
    folder: Path | str, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], files: Mapping[str, bytes] | None = None
) -> str:
    """Write a bundle and return its fingerprint. `bundle.json` is written last, so a folder that has it is complete.

    Args:
        folder: Created if missing. Other files in it, such as a model card, are kept.
        kind: What the bundle holds, for example "image_tokenizer".
        config: Data that JSON can represent.
        tensors: Weights by name; may be empty.
        files: Additional files by name, hashed like the weights.

    Returns:
        The fingerprint.

    Raises:
        ValueError: If a file name contains a path or is not portable.
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
    """Read the `bundle.json` of a folder, or of the bundle that ships with maskgen under that relative name.

    Raises:
        ValueError: If the folder isn't a bundle, or its `bundle.json` is damaged, has another format, or names a file outside the folder.
    """
    path = find_path(folder) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"no bundle in {folder}: {CONFIG_FILE} is missing; give a folder written by maskgen or the name of a shipped model"
        )
    if path.stat().st_size > LARGEST_RECORD_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, wanted at most {LARGEST_RECORD_BYTES}; copy the bundle again")
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
    """Load a bundle and verify the hash of every file.

    Args:
        folder: Folder with `bundle.json`, or the relative name of a shipped one, for example "tokenizers/text-bpe/bundle".
        kind: Expected kind of the bundle.
        schema: Schema of the config, checked before any other file is read; None accepts any plain data of bounded size.

    Raises:
        ValueError: If the bundle is missing, of another kind, incomplete or damaged, or its config doesn't match the schema.
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
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that this torch doesn't have
        raise ValueError(f"{folder / WEIGHTS_FILE} is no safetensors file ({error}); copy the bundle again, or export it anew") from error
    return Bundle(kind, record["config"], tensors, record["fingerprint"], folder)


def rewrite_config(folder: Path | str, kind: str, config: Mapping[str, Any]) -> str:
    """Replace the config of a bundle. Its weights and files are verified and stay unchanged.

    Args:
        folder: Folder of a complete bundle.
        kind: Expected kind of the bundle.
        config: Data that JSON can represent.

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
    """Return the folder of a model's bundle, given a path or the name of a shipped or installed model.

    Raises:
        ValueError: If there is no such model.
        ImportError: If the model is a separate distribution that isn't installed.
    """
    folder = Path(name) if (Path(name) / CONFIG_FILE).is_file() else model_folder(name)
    if folder is None or not (folder / CONFIG_FILE).is_file():
        raise ValueError(
            f"there is no model {str(name)!r}: no such folder with a {CONFIG_FILE}, "
            f"and the models here are {', '.join(model_names()) or 'none'}"
        )
    return folder


def require_fingerprint(modality: str, found: str, wanted: str, model: str) -> None:
    """Raise if a tokenizer isn't the one that the model was trained with.

    Raises:
        ValueError: If the fingerprints differ. The message names both and the commands that rebuild the tokenizer.
    """
    if found != wanted:
        raise ValueError(
            f"the {modality} tokenizer has fingerprint {found[:12]}…, {model} was trained with {wanted[:12]}…; "
            f"restore that tokenizer, or rebuild with this one: maskgen data tokenize, then maskgen fit"
        )
