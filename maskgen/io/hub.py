"""Models by name: a folder, a shipped or installed model, or a repository on the Hugging Face hub; and folders sent to the hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskgen.io.shipped import find_path, model_folder, model_names

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""owner/name."""
FILES = ("*.safetensors", "*.json", "*.yaml", "*.yml", "*.txt", "*.md", "*.xz", "LICENSE*", "NOTICE*")
"""What is downloaded: weights, plain data and texts (the phonemes' lexicon is text in xz). Never a pickle, never code."""
MODEL_FILES = ("bundle.json", "model_index.json", "config.json")
"""A folder with one of these is a model, even if a shipped model has its name."""


def local_folder(name: Path | str, revision: str | None = None) -> Path:
    """Folder of a model, downloaded first where the name is a hub id.

    Args:
        name: A folder, the name of a shipped or installed model, or a hub id "owner/name"; looked up in this order.
        revision: Branch, tag or commit of a hub id; None is its main branch.

    Returns:
        An existing folder. A download lies in the cache of huggingface_hub, and holds the files that match `FILES` alone.

    Raises:
        ValueError: If nothing has that name, a revision is given for what is no hub id, or the hub has no such repository or revision.
        ImportError: If the model is a distribution that is not installed.
        OSError: If the hub cannot be reached and the model is not in the cache.
    """
    folder = _present(name)
    if folder is None and HUB_NAME.fullmatch(str(name)):
        return _download(str(name), revision)
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
    """Send a folder to a model repository on the hub, made if missing.

    Args:
        folder: What is uploaded, whole.
        repo_id: "owner/name", or "name" for a repository of your own.
        private: Whether a new repository is private; one that exists keeps what it is.
        token: Access token; None takes the one that `hf auth login` stored.
        commit_message: Title of the commit.

    Returns:
        The id of the commit.

    Raises:
        ValueError: If the folder is missing, the id is no hub id, or the hub refuses.
        OSError: If the hub cannot be reached.
    """
    from huggingface_hub import create_repo, upload_folder

    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is no folder; give the folder of a saved model")
    with _sentences(repo_id, None):
        made = create_repo(repo_id, private=private, token=token, exist_ok=True)
        return str(upload_folder(repo_id=made.repo_id, folder_path=folder, token=token, commit_message=commit_message).oid)


def _present(name: Path | str) -> Path | None:
    """The folder of a model that needs no download, or None."""
    path = Path(name)
    if any((path / file).is_file() for file in MODEL_FILES):
        return path
    known = model_folder(name)
    if known is not None:
        return known
    found = find_path(path)
    return found if found.is_dir() else None


def _download(repo_id: str, revision: str | None) -> Path:
    """The files of a hub repository that match `FILES`, in the cache."""
    from huggingface_hub import snapshot_download

    with _sentences(repo_id, revision):
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(FILES)))


@contextmanager
def _sentences(repo_id: str, revision: str | None) -> Iterator[None]:
    """Errors of huggingface_hub as one sentence each.

    Raises:
        ValueError: For what the caller can mend: the id, the revision, the access.
        OSError: For a hub that cannot be reached, and any other answer of it.
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
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # of the HTTP client below, whose name differs between versions
        raise OSError(f"the hub cannot be reached for {repo_id} ({' '.join(str(error).split())}); check the connection") from error
