"""Resolving model names (folder, shipped or installed model, Hugging Face Hub repository) and uploading folders to the Hub."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from maskgen.io.shipped import find_path, model_folder, model_names

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""Pattern of a hub id, "owner/name"."""
FILES = ("*.safetensors", "*.json", "*.yaml", "*.yml", "*.txt", "*.jinja", "*.md", "*.xz", "LICENSE*", "NOTICE*")
"""Patterns of the files that are downloaded: weights, plain data and text (the phoneme lexicon is xz text). Never code; pickles only where
a published family has nothing else, by name."""
MODEL_FILES = ("bundle.json", "model_index.json", "config.json")
"""A folder with one of these files is a model. It takes precedence over a shipped model of the same name."""


def local_folder(name: Path | str, revision: str | None = None, also: Sequence[str] = ()) -> Path:
    """Return the folder of a model, after downloading it if the name is a hub id.

    Args:
        name: A folder, the name of a shipped or installed model, or a hub id "owner/name"; tried in this order.
        revision: Branch, tag or commit of a hub id; None takes its main branch.
        also: Patterns of further files to download.

    Returns:
        An existing folder. Downloads are stored in the cache of huggingface_hub and contain only files that match `FILES` or `also`.

    Raises:
        ValueError: If there is no such model, a revision is given without a hub id, or the hub has no such repository or revision.
        ImportError: If the model is a distribution that isn't installed.
        OSError: If the hub cannot be reached and the model is not in the cache.
    """
    folder = _present(name)
    if folder is None and HUB_NAME.fullmatch(str(name)):
        return _download(str(name), revision, also)
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


def _present(name: Path | str) -> Path | None:
    """Return the folder of a model that needs no download, or None."""
    path = Path(name)
    if any((path / file).is_file() for file in MODEL_FILES):
        return path
    known = model_folder(name)
    if known is not None:
        return known
    found = find_path(path)
    return found if found.is_dir() else None


def hub_file(repo_id: str, name: str) -> Path:
    """Return one file of a hub repository, after downloading it if it isn't in the cache.

    Raises:
        ValueError: If there is no such repository that you may see.
        OSError: If the hub cannot be reached, or the repository has no such file.
    """
    from huggingface_hub import hf_hub_download

    with _sentences(repo_id, None):
        return Path(hf_hub_download(repo_id, name))


def _download(repo_id: str, revision: str | None, also: Sequence[str]) -> Path:
    """Download the files of a hub repository that match `FILES` or `also` and return their folder in the cache."""
    from huggingface_hub import snapshot_download

    with _sentences(repo_id, revision):
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=[*FILES, *also]))


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
