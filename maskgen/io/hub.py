"""Resolving model names (folder, shipped or installed model, Hugging Face Hub repository) and uploading folders to the Hub."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maskgen.io.shipped import find_path, model_folder, model_names
from maskgen.io.weight_names import without_copies

logger = logging.getLogger(__name__)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""Pattern of a hub id, "owner/name"."""
FILES = ("*.safetensors", "*.json", "*.yaml", "*.yml", "*.txt", "*.jinja", "*.md", "*.xz", "LICENSE*", "NOTICE*")
"""Patterns of the files that are downloaded: weights, plain data and text (the phoneme lexicon is xz text). Never code; pickles only where
a published family has nothing else, by name."""
MODEL_FILES = ("bundle.json", "model_index.json", "config.json")
"""A folder with one of these files is a model. It takes precedence over a shipped model of the same name."""


def local_folder(
    name: Path | str,
    revision: str | None = None,
    also: Sequence[str] = (),
    *,
    local_files_only: bool = False,
    about: str = "",
) -> Path:
    """Return the folder of a model, after downloading it if the name is a hub id.

    Before a download one sentence is logged as a warning: the model, the number and size of the files, and `about`.

    Args:
        name: A folder, the name of a shipped or installed model, or a hub id "owner/name"; tried in this order.
        revision: Branch, tag or commit of a hub id; None takes its main branch.
        also: Patterns of further files to download.
        local_files_only: Take a hub id from the cache alone and ask no server.
        about: What else is known of a hub id: family, licence, memory.

    Returns:
        An existing folder. Downloads are stored in the cache of huggingface_hub and contain only files that match `FILES` or `also`,
        without second copies of weights (`without_copies`).

    Raises:
        ValueError: If there is no such model, a revision is given without a hub id, or the hub has no such repository or revision.
        ImportError: If the model is a distribution that isn't installed.
        OSError: If the hub cannot be reached and the model is not in the cache.
    """
    folder = present_folder(name)
    if folder is None and HUB_NAME.fullmatch(str(name)):
        return _download(str(name), revision, also, local_files_only, about)
    if folder is None:
        raise ValueError(
            f"there is no model {str(name)!r}: no such folder, the models here are {', '.join(model_names()) or 'none'}, "
            "and a hub id has the form owner/name"
        )
    if revision is not None:
        raise ValueError(f"revision {revision!r} was given for the local folder {folder}; only a hub id (owner/name) has revisions")
    return folder


def push_folder(
    folder: Path | str,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Upload a model with maskgen",
) -> str:
    """Upload a folder to a model repository on the hub and return the commit id. A missing repository is created.

    Args:
        folder: Folder to upload, with all its files.
        repo_id: "owner/name", or "name" for a repository in your own account.
        private: Whether a new repository is private. An existing repository keeps its visibility.
        token: Access token; None uses the one stored by `hf auth login`.
        commit_message: Title of the commit.

    Returns:
        The id of the commit.

    Raises:
        ValueError: If the folder is missing, the id is invalid, or the hub rejects the upload.
        OSError: If the hub cannot be reached.
    """
    from huggingface_hub import create_repo, upload_folder

    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is no folder; give the folder of a saved model")
    with _sentences(repo_id, None):
        made = create_repo(repo_id, private=private, token=token, exist_ok=True)
        return str(upload_folder(repo_id=made.repo_id, folder_path=folder, token=token, commit_message=commit_message).oid)


def present_folder(name: Path | str) -> Path | None:
    """Return the folder of a model that needs no download, or None.

    Args:
        name: A folder, or the name of a shipped or installed model.

    Raises:
        ImportError: If the model is a distribution that isn't installed.
    """
    path = Path(name)
    if any((path / file).is_file() for file in MODEL_FILES):
        return path
    known = model_folder(name)
    if known is not None:
        return known
    found = find_path(path)
    return found if found.is_dir() else None


def hub_file(repo_id: str, name: str, *, local_files_only: bool = False, about: str = "") -> Path:
    """Return one file of a hub repository, after downloading it if it isn't in the cache.

    Args:
        repo_id: "owner/name".
        name: Path of the file in the repository.
        local_files_only: Take it from the cache alone and ask no server.
        about: What the file is for, for the sentence before the download.

    Raises:
        ValueError: If there is no such repository that you may see.
        OSError: If the hub cannot be reached, or the repository has no such file.
    """
    from huggingface_hub import hf_hub_download

    with _sentences(repo_id, None):
        if not local_files_only:
            _announced(repo_id, None, [name], about)
        return Path(hf_hub_download(repo_id, name, local_files_only=local_files_only))


def cached_folder(repo_id: str, revision: str | None = None) -> Path | None:
    """Return the folder of a hub repository in the cache, asking no server; None if it isn't there.

    Args:
        repo_id: "owner/name".
        revision: Branch, tag or commit; None takes the main branch.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None


def _download(repo_id: str, revision: str | None, also: Sequence[str], local_files_only: bool, about: str) -> Path:
    """Download the wanted files of a hub repository and return their folder in the cache."""
    from huggingface_hub import snapshot_download

    with _sentences(repo_id, revision):
        patterns = [*FILES, *also]
        copies = [] if local_files_only else _announced(repo_id, revision, patterns, about)
        folder = snapshot_download(
            repo_id, revision=revision, allow_patterns=patterns, ignore_patterns=copies or None, local_files_only=local_files_only
        )
        return Path(folder)


def _announced(repo_id: str, revision: str | None, patterns: Sequence[str], about: str) -> list[str]:
    """Log what a download brings, unless everything is in the cache, and return the names of second copies, which are left out."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    found = _listed(repo_id, revision)
    if found is None:
        return []
    sizes = {one.rfilename: one.size or 0 for one in found.siblings or ()}
    names = list(filter_repo_objects(sizes, allow_patterns=list(patterns)))
    wanted = without_copies(names)
    absent = [name for name in wanted if not isinstance(try_to_load_from_cache(repo_id, name, revision=found.sha), str)]
    if absent:
        total_gb = sum(sizes[name] for name in absent) / 1e9
        size = f"{total_gb:.2f} GB" if total_gb >= 0.01 else f"{total_gb * 1000:.1f} MB"
        files = f"{len(absent)} file{'s' if len(absent) > 1 else ''}"
        # A warning, so that Python shows it where no logging was set up: this may be many GB.
        logger.warning("downloading %s: %s, %s%s", repo_id, files, size, about and f"; {about}")
    return [name for name in names if name not in set(wanted)]


def _listed(repo_id: str, revision: str | None) -> Any:
    """Files of a repository with their sizes; None if the hub does not tell, and the download then says why."""
    from huggingface_hub import errors, model_info

    try:
        return model_info(repo_id, revision=revision, files_metadata=True)
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.HTTPError):  # type: ignore[attr-defined]
        return None


@contextmanager
def _sentences(repo_id: str, revision: str | None) -> Iterator[None]:
    """Convert errors of huggingface_hub into one-sentence errors.

    Raises:
        ValueError: For what the caller can fix: the id, the revision or the access.
        OSError: If the hub cannot be reached, and for any other error response.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ValueError(f"{repo_id} is gated: accept its terms on the hub, then log in with: hf auth login") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"the hub has no repository {repo_id!r} that you may see; check the id, or log in with: hf auth login") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{repo_id} has no revision {revision!r}; give a branch, a tag or a commit of it") from error
    except errors.HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no hub id; wanted owner/name of letters, digits, -, _ and .") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        where = repo_id if revision is None else f"{repo_id} at revision {revision}"
        raise OSError(
            f"{where} is not in the cache, and the hub cannot be reached (no connection, or HF_HUB_OFFLINE is set); "
            "go online, or give a folder"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise ValueError(
                f"the hub refuses access to {repo_id} ({status}); log in with a token that may write: hf auth login"
            ) from error
        raise OSError(f"the hub failed on {repo_id} ({' '.join(str(error).split())}); try again") from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # from the HTTP client, whose name differs between versions
        raise OSError(f"the hub cannot be reached for {repo_id} ({' '.join(str(error).split())}); check the connection") from error
