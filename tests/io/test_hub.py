"""The hub without a network: huggingface_hub's functions are replaced, or it is told to be offline."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from maskgen.io import hub
from maskgen.io.hub import local_folder, push_folder
from maskgen.io.shipped import shipped

RESPONSE: Any = SimpleNamespace(headers={}, request=None, status_code=404)
FORBIDDEN: Any = SimpleNamespace(headers={}, request=None, status_code=403)


def raising(error: Exception) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise error

    return call


def test_a_folder_and_a_shipped_name_need_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(AssertionError("no download is wanted")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert local_folder(tmp_path) == tmp_path
    assert local_folder("owner/name") == Path("owner/name")
    assert local_folder("emoji-64") == local_folder("models/emoji-64") == shipped("models") / "emoji-64"


def test_a_folder_without_a_model_does_not_hide_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji-64").mkdir()
    assert local_folder("emoji-64") == shipped("models") / "emoji-64"
    (tmp_path / "emoji-64" / "model_index.json").write_text("{}")
    assert local_folder("emoji-64") == Path("emoji-64")


def test_a_hub_id_is_downloaded_without_pickles_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def download(repo_id: str, **options: Any) -> str:
        calls.append((repo_id, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert local_folder("owner/name", "v1.0") == tmp_path
    [(repo_id, options)] = calls
    assert repo_id == "owner/name"
    assert options["revision"] == "v1.0"
    wanted = ["bundle.json", "weights.safetensors", "tokenizers/text/tokenizer.json", "tokenizers/phones/lexicon.xz", "README.md", "a.yaml"]
    refused = ["pytorch_model.bin", "model.pt", "model.pth", "x.ckpt", "x.pkl", "modeling.py", "x.msgpack", "x.h5", "x.so", "x.sh"]
    assert list(huggingface_hub.utils.filter_repo_objects(wanted + refused, allow_patterns=options["allow_patterns"])) == wanted


def test_a_revision_of_a_local_folder_is_refused(tmp_path: Path) -> None:
    for name in (tmp_path, "emoji-64"):
        with pytest.raises(ValueError, match=r"revision 'v1' was given for the local folder .* only a hub id"):
            local_folder(name, "v1")


@pytest.mark.parametrize("name", ["no-such-model", "a/b/c", "../nothing", "https://host/owner/name", ""])
def test_what_is_neither_folder_nor_name_nor_id_gets_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(AssertionError("no download is wanted")))
    if name == "":
        assert local_folder(name) == Path(".")
        return
    with pytest.raises(ValueError, match=r"there is no model .*emoji-64.*owner/name"):
        local_folder(name)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (errors.RepositoryNotFoundError("404", response=RESPONSE), ValueError, "no repository 'owner/name' that you may see"),
        (errors.GatedRepoError("401", response=RESPONSE), ValueError, "owner/name is gated: accept its terms"),
        (errors.RevisionNotFoundError("404", response=RESPONSE), ValueError, "owner/name has no revision 'v9'"),
        (errors.HFValidationError("bad"), ValueError, "is no hub id"),
        (errors.LocalEntryNotFoundError("none"), OSError, "owner/name at revision v9 is not in the cache, and the hub cannot be reached"),
        (errors.OfflineModeIsEnabled("offline"), OSError, "HF_HUB_OFFLINE is set"),
        (errors.HfHubHTTPError("500", response=RESPONSE), OSError, "the hub failed on owner/name"),
        (errors.HfHubHTTPError("403", response=FORBIDDEN), ValueError, "refuses access to owner/name"),
        (errors.HTTPError("connection refused"), OSError, "cannot be reached for owner/name"),
    ],
)
def test_errors_of_the_hub_are_one_sentence(error: Exception, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(error))
    with pytest.raises(kind, match=message) as caught:
        local_folder("owner/name", "v9")
    assert "\n" not in str(caught.value)
    assert "http" not in str(caught.value)


def test_offline_is_one_sentence_and_a_cached_model_is_found(tmp_path: Path) -> None:
    code = "from maskgen.io.hub import local_folder; print(local_folder('owner/name'))"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    missing = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert missing.stderr.strip().splitlines()[-1].startswith("OSError: owner/name is not in the cache, and the hub cannot be reached")
    cache = tmp_path / "models--owner--name"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (cache / "snapshots" / ("0" * 40) / "bundle.json").write_text("{}")
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert found.stdout.strip().endswith("snapshots/" + "0" * 40), found.stderr


def test_a_folder_is_sent_as_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def create(repo_id: str, **options: Any) -> Any:
        calls.append((repo_id, options))
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload(**options: Any) -> Any:
        calls.append(options)
        return SimpleNamespace(oid="c0ffee")

    monkeypatch.setattr(huggingface_hub, "create_repo", create)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload)
    assert push_folder(tmp_path, "hearts", private=True, token="t", commit_message="First") == "c0ffee"
    assert calls == [
        ("hearts", {"private": True, "token": "t", "exist_ok": True}),
        {"repo_id": "me/hearts", "folder_path": tmp_path, "token": "t", "commit_message": "First"},
    ]


def test_a_push_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        push_folder(tmp_path / "nothing", "owner/name")
    monkeypatch.setattr(huggingface_hub, "create_repo", raising(errors.HfHubHTTPError("403", response=FORBIDDEN)))
    with pytest.raises(ValueError, match="a token that may write"):
        push_folder(tmp_path, "owner/name")


def test_importing_the_module_does_not_import_huggingface_hub() -> None:
    code = "import sys, maskgen.io.hub; sys.exit('huggingface_hub' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
    assert "huggingface_hub" not in vars(hub)
