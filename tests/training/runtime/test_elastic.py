"""A training whose rank is killed is started again by torchrun and ends as if nothing had happened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders.rank_runs import configuration_of
from builders.ranks import folders, in_ranks

from maskgen.io.checkpoint import load_verified
from maskgen.training.runtime.fit import run

pytestmark = pytest.mark.forks


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_torchrun_goes_on_after_a_killed_rank_and_ends_with_the_same_weights(strategy: str, tmp_path: Path) -> None:
    shards = folders(tmp_path / "shards")[0]
    options = {"strategy": strategy, "devices": 2}
    whole = configuration_of(tmp_path / "whole", shards, **options)
    in_ranks(lambda rank: run(["fit", "--config", str(whole)]), 2)

    killed = configuration_of(tmp_path / "killed", shards, kill_at=5, **options)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    fit = ["-m", "maskgen", "fit", "--config", str(killed), "--ckpt_path", "last", "--allow", "killer"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    ended = subprocess.run(
        [sys.executable, *launcher, *fit], cwd=tmp_path / "killed", env=environment, capture_output=True, text=True, timeout=280
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "exitcode: -9" in ended.stderr, ended.stderr[-3000:]
    found, wanted = (load_verified(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("killed", "whole"))
    assert found["global_step"] == wanted["global_step"] == 8
    for part in ("state_dict", "current_model_state"):
        for name, weight in wanted[part].items():
            assert torch.equal(found[part][name], weight), (part, name)
