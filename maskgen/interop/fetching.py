"""From a model's name to its folder: a hub id is downloaded, after one sentence on what comes."""

from pathlib import Path

from maskgen.interop.catalogue import commercial_use, published_record
from maskgen.interop.families import families, hub_patterns
from maskgen.io.hub import local_folder
from maskgen.io.memory import machine_memory_bytes


def fetched(name: Path | str, revision: str | None = None, variant: str = "", *, local_files_only: bool = False) -> Path:
    """The folder of a model, after downloading it if the name is a hub id; see `maskgen.io.hub.local_folder`.

    Args:
        name: Shipped name, folder, or hub id.
        revision: Branch, tag or commit of a hub id.
        variant: Which of several published models of a repository.
        local_files_only: Take a hub id from the cache alone and ask no server.

    Raises:
        ValueError: If there is no such model, variant or revision.
        ImportError: If the model is a distribution that isn't installed.
        OSError: If the hub cannot be reached and the model is not in the cache.
    """
    also = hub_patterns(name, variant)
    return local_folder(name, revision, also, local_files_only=local_files_only, about=told(name, variant))


def told(name: Path | str, variant: str = "") -> str:
    """What a user is told of a published model before its download; "" if the hub id belongs to no family.

    Args:
        name: Hub id.
        variant: Which of several models.
    """
    family = next((one for one in families() if str(name) in one.hub_ids), None)
    if family is None:
        return ""
    record = published_record(family, str(name), variant if variant in family.variants else "")
    found = machine_memory_bytes()
    assert record.float32_gb is not None, "a published model has a number of parameters"
    has = "" if found is None else f", this machine has {found / 1e9:.1f} GB"
    if found is not None and record.float32_gb * 1e9 > found:
        has += f", too little (bfloat16 takes {record.bfloat16_gb:.1f} GB)"
    limits = ", no commercial use" if commercial_use(family) == "no" else ""
    weights = f"{family.name}, weights licensed {family.weights_licence}{limits}"
    return f"{weights}; on a CPU in float32 they take {record.float32_gb:.1f} GB of memory{has}"
