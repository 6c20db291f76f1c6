"""No configuration makes a training read a checkpoint that runs code: each route into one is tried with a file that would leave a trace."""

import http.server
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders.mixed_shards import write_both

from maskgen.cli.main import main

ASYNC = "lightning.pytorch.plugins.io.AsyncCheckpointIO"
PLUGIN = {"plugins": [{"class_path": ASYNC}]}
STRATEGY = {
    "strategy": {
        "class_path": "lightning.pytorch.strategies.SingleDeviceStrategy",
        "init_args": {"device": "cpu", "checkpoint_io": {"class_path": ASYNC}},
    }
}
OWN = """
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from lightning.pytorch.strategies import SingleDeviceStrategy
from maskgen.training.modules.masked import MaskedTokenModule
from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO

class Tested(MaskedTokenModule):
    def test_step(self, batch, number):
        pass

class Reader(TorchCheckpointIO):
    pass

class Looser(AtomicCheckpointIO):
    def load_checkpoint(self, path, map_location=None, weights_only=None):
        import torch
        return torch.load(path, weights_only=False)

class Wrapper(AsyncCheckpointIO):
    def __init__(self) -> None:
        super().__init__(AtomicCheckpointIO())

class Carrier(SingleDeviceStrategy):
    def __init__(self) -> None:
        super().__init__("cpu", checkpoint_io=Reader())

class Loader(SingleDeviceStrategy):
    def __init__(self) -> None:
        super().__init__("cpu")

    def load_checkpoint(self, checkpoint_path, weights_only=None):
        import torch
        return torch.load(checkpoint_path, weights_only=False)
"""


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return open, (str(self.trace), "w")


@pytest.fixture(autouse=True)
def process_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command line sets up floating point for the whole process, and imports stay; later tests want it as it was."""
    monkeypatch.setattr(sys, "argv", ["maskgen"])
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision(precision)
    sys.modules.pop("my_package", None)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with token shards, a package of the user, and the hostile checkpoint under every name that is looked for."""
    write_both(tmp_path / "tokens")
    (tmp_path / "my_package.py").write_text(OWN)
    hostile = {"state_dict": {}, "canary": Canary(tmp_path / "canary"), "pytorch-lightning_version": "2.6.0", "global_step": 1, "epoch": 0}
    for name in ("evil.ckpt", "checkpoints/last.ckpt", "root/hpc_ckpt_1.ckpt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save(hostile, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def address(here: Path) -> Iterator[str]:
    """The working folder over HTTP."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(here))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def refused(here: Path, capsys: pytest.CaptureFixture[str], verb: str, trainer: dict[str, Any], **given: Any) -> str:
    """The sentence on stderr of a run that must fail before anything is unpickled."""
    keep = {"dirpath": str(here / "checkpoints"), "save_last": True, "monitor": None}
    config = {
        "model": {
            "class_path": "my_package.Tested",
            "init_args": {"transformer": {"dim": 16, "num_layers": 1, "num_heads": 2}, "warmup_steps": 1},
        },
        "data": {
            "class_path": "maskgen.data.loading.token_data.TokenData",
            "init_args": {"parts": [{"folder": "tokens/pictures"}], "batch_size": 2},
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "max_epochs": -1,
            "logger": False,
            "enable_progress_bar": False,
            "default_root_dir": str(here / "root"),
            "callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": keep}],
            **trainer,
        },
        **given,
    }
    (here / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as stop:
        main([verb, "--config", "config.yaml", "--allow", "my_package"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert not (here / "canary").exists(), "the checkpoint ran code"
    assert stop.value.code == 2
    assert said.startswith("maskgen: error: "), said
    return said


def test_the_canary_sings_when_unpickled(here: Path) -> None:
    torch.load(here / "evil.ckpt", weights_only=False)
    assert (here / "canary").exists()


ROUTES = ("file", "http", "last", "hpc")
VERBS = ("fit", "validate", "test")


def route_of(name: str, here: Path, address: str) -> str:
    """The value of ckpt_path."""
    return {"file": str(here / "evil.ckpt"), "http": f"{address}/evil.ckpt"}.get(name, name)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("route", ROUTES)
def test_a_reader_of_lightning_is_refused(here: Path, address: str, capsys: pytest.CaptureFixture[str], route: str, verb: str) -> None:
    path = route_of(route, here, address)
    for trainer in (PLUGIN, STRATEGY) if verb == "fit" else (PLUGIN,):
        said = refused(here, capsys, verb, trainer=trainer, ckpt_path=path, weights_only=False)
        assert ASYNC in said
        assert "not allowed" in said


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("route", ROUTES)
def test_our_reader_runs_nothing(here: Path, address: str, capsys: pytest.CaptureFixture[str], route: str, verb: str) -> None:
    path = route_of(route, here, address)
    said = refused(here, capsys, verb, trainer={}, ckpt_path=path)
    assert ("is not a local file" if route == "http" else "holds more than weights") in said
    said = refused(here, capsys, verb, trainer={}, ckpt_path=path, weights_only=False)
    assert "weights_only" in said
    assert "leave it out" in said


def test_a_checkpoint_that_a_cluster_left_is_read_by_our_reader(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NTASKS": "1", "JOB_NAME": "training", "NTASKS_PER_NODE": "1", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert "holds more than weights" in refused(here, capsys, "fit", trainer={"devices": 1, "num_nodes": 1})


@pytest.mark.parametrize("own", ["Reader", "Looser", "Wrapper"])
def test_a_reader_of_the_user_is_refused(here: Path, capsys: pytest.CaptureFixture[str], own: str) -> None:
    plugin = {"plugins": [{"class_path": f"my_package.{own}"}]}
    said = refused(here, capsys, "fit", trainer=plugin, ckpt_path=str(here / "checkpoints"))
    assert f"{own} is configured as the checkpoint reader" in said


@pytest.mark.parametrize("own", ["Carrier", "Loader"])
def test_a_strategy_that_reads_on_its_own_is_refused(here: Path, capsys: pytest.CaptureFixture[str], own: str) -> None:
    strategy = {"strategy": {"class_path": f"my_package.{own}"}, "accelerator": "auto"}
    said = refused(here, capsys, "fit", trainer=strategy, ckpt_path="last")
    assert ("Reader is configured as the checkpoint reader" if own == "Carrier" else "Loader reads checkpoints on its own") in said


@pytest.mark.parametrize(
    "path",
    [
        ASYNC,
        "lightning.pytorch.plugins.AsyncCheckpointIO",
        "lightning.pytorch.plugins.TorchCheckpointIO",
        "lightning.pytorch.strategies.FSDPStrategy",
        "lightning.pytorch.strategies.DeepSpeedStrategy",
        "lightning.pytorch.callbacks.LambdaCallback",
        "lightning.pytorch.demos.mnist_datamodule.MNISTDataModule",
    ],
)
def test_classes_of_lightning_are_named_one_by_one(here: Path, capsys: pytest.CaptureFixture[str], path: str) -> None:
    key = "strategy" if "strategies" in path else "callbacks" if "callbacks" in path else "plugins"
    value = {"class_path": path}
    said = refused(here, capsys, "fit", trainer={key: value if key == "strategy" else [value]})
    assert f"class_path {path} is not allowed" in said
    allowed = ("DDPStrategy", "ModelCheckpoint", "MixedPrecision", "maskgen/training/runtime/allowed.py")
    assert any(name in said for name in allowed)
    assert "--allow" not in said
