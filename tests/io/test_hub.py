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
from maskgen.io.hub import cached_folder, hub_file, local_folder, push_folder
from maskgen.io.shipped import shipped
from maskgen.io.weight_names import without_copies

RESPONSE: Any = SimpleNamespace(headers={}, request=None, status_code=404)
FORBIDDEN: Any = SimpleNamespace(headers={}, request=None, status_code=403)


@pytest.fixture(autouse=True)
def no_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub tells nothing of a repository unless a test says what."""
    monkeypatch.setattr(huggingface_hub, "model_info", raising(errors.OfflineModeIsEnabled("offline")))


def listed(monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int]) -> list[Any]:
    """Let the hub list a repository; returns what it is asked."""
    asked: list[Any] = []

    def info(repo_id: str, **options: Any) -> Any:
        asked.append((repo_id, options))
        return SimpleNamespace(sha="0" * 40, siblings=[SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()])

    monkeypatch.setattr(huggingface_hub, "model_info", info)
    return asked


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


def test_before_a_download_one_sentence_says_what_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked, calls = (
        listed(monkeypatch, {"model.safetensors": 2_500_000_000, "config.json": 2000, "modeling.py": 9, "pytorch_model.bin": 7}),
        [],
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: calls.append((name, options)) or str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file, revision: None)
    assert local_folder("owner/name", "v1", ("*.bin",), about="a family, licence X") == tmp_path
    assert [record.message for record in caplog.records] == ["downloading owner/name: 2 files, 2.50 GB; a family, licence X"]
    assert asked == [("owner/name", {"revision": "v1", "files_metadata": True})]
    [(_, options)] = calls
    assert (options["revision"], options["local_files_only"]) == ("v1", False)
    assert options["ignore_patterns"] == ["pytorch_model.bin"]
    cached = {"config.json": str(tmp_path / "config.json")}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file, revision: cached.get(file))
    local_folder("owner/name")
    assert caplog.records[-1].message == "downloading owner/name: 1 file, 2.50 GB"
    cached["model.safetensors"] = str(tmp_path / "model.safetensors")
    local_folder("owner/name")
    assert len(caplog.records) == 2, "nothing is said of a model that is in the cache"


def test_one_file_of_a_repository_is_announced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listed(monkeypatch, {"codec.pt": 3_000_000, "other.pt": 5})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file, local_files_only: str(tmp_path / file))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file, revision: None)
    assert hub_file("owner/name", "codec.pt", about="the codec") == tmp_path / "codec.pt"
    assert [record.message for record in caplog.records] == ["downloading owner/name: 1 file, 3.0 MB; the codec"]


def test_local_files_only_asks_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(huggingface_hub, "model_info", raising(AssertionError("no server is to be asked")))
    calls: list[Any] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: calls.append(options) or str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file, **options: calls.append(options) or str(tmp_path / file))
    assert local_folder("owner/name", "v2", local_files_only=True) == tmp_path
    hub_file("owner/name", "codec.pt", local_files_only=True)
    assert [one["local_files_only"] for one in calls] == [True, True]
    assert calls[0]["revision"] == "v2"
    assert not caplog.records
    assert cached_folder("owner/name", "v3") == tmp_path
    assert calls[-1] == {"revision": "v3", "local_files_only": True}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(errors.LocalEntryNotFoundError("none")))
    assert cached_folder("owner/name") is None
    with pytest.raises(OSError, match="owner/name is not in the cache"):
        local_folder("owner/name", local_files_only=True)


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        (["transformer/model.safetensors", "transformer/model.fp16.safetensors", "vqvae/model.fp16.safetensors"], [1]),
        (["model.safetensors", "pytorch_model.bin", "model.bin", "codec.bin", "other/model.bin"], [1, 2]),
        (["m-00001-of-00002.safetensors", "m.fp16-00001-of-00001.safetensors", "m.safetensors.index.json"], [1]),
        (["m.safetensors.index.json", "m.safetensors.index.fp16.json", "m.non_ema.safetensors", "m.safetensors"], [1, 2]),
        (["model-00001-of-00002.safetensors", "pytorch_model-00001-of-00003.bin", "pytorch_model.bin.index.json"], [1, 2]),
        (["ImageNet_384_large.pth", "model.bf16.safetensors", "config.json", "fp16.json"], []),
    ],
)
def test_second_copies_of_weights_are_left_out_and_only_copies_stay(names: list[str], left_out: list[int]) -> None:
    assert without_copies(names) == [name for number, name in enumerate(names) if number not in left_out]


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
