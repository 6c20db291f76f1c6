"""Data-parallel training: any number of ranks gives the losses and weights of one rank with the same global batch."""

from pathlib import Path

import pytest
import torch
from builders.ranks import folders, launch, train

KINDS = {2: ["image", "any"], 4: ["image", "text_elbo", "hybrid", "any", "towers"]}
"""Ranks to the trainings that are compared."""


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_losses_and_weights_do_not_depend_on_the_number_of_ranks(ranks: int, tmp_path: Path) -> None:
    shards = folders(tmp_path / "shards")
    launch(KINDS[ranks], shards, ranks, tmp_path)
    for kind in KINDS[ranks]:
        alone, losses = train(kind, shards, 1, tmp_path)
        together = torch.load(tmp_path / f"{kind}.pt", weights_only=True)
        assert losses.keys() == together["losses"].keys(), kind
        assert any("step 4" in name for name in losses), kind
        for name, value in losses.items():
            assert together["losses"][name] == pytest.approx(value, rel=2e-6, abs=1e-7), (kind, name)
        # Muon rounds to bfloat16, which makes a difference in the last bit of a gradient larger.
        for name, weight in alone.state_dict().items():
            torch.testing.assert_close(together["weights"][name], weight, rtol=0.0, atol=2e-3, msg=f"{kind}: {name}")
