"""Any number of ranks, data-parallel or with sharded weights, gives the rows, losses and weights of one rank with the same global batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders.ranks import STEPS, Training, checkpoint, folders, in_ranks, launch, train
from torch import Tensor, nn

from maskgen.networks.sharding import own_rows
from maskgen.training.modules.sharded_muon import ShardedMuon

pytestmark = pytest.mark.forks
EVERY = {"image", "text_elbo", "hybrid", "any", "towers"}


def require_same_training(found: list[dict[str, Any]], wanted: dict[str, Any], name: str, from_step: int = 1) -> None:
    """Rows exactly; losses, gradient norms and validation to float32 rounding; weights as far as Muon, in bfloat16, lets them."""
    steps = range(from_step, STEPS + 1)
    for step in steps:
        assert [row for rank in found for row in rank["rows"][step]] == wanted["rows"][step], (name, step)
    first_only = "_level" if from_step > 1 else "never"  # logged at the first step alone
    losses = {key: value for key, value in wanted["losses"].items() if int(key.rpartition(" ")[2]) in steps and first_only not in key}
    assert any(key.endswith(f"step {STEPS}") for key in losses), name
    for rank in found:
        assert rank["losses"].keys() == losses.keys(), name
        for key, value in losses.items():
            rounding = 2e-6 if "loss" in key else 1e-4  # a norm follows the weights
            assert rank["losses"][key] == pytest.approx(value, rel=rounding, abs=1e-7), (name, key)
    assert found[0]["validation"].keys() == wanted["validation"].keys(), name
    assert found[0]["validation"], name
    for key, value in wanted["validation"].items():
        assert found[0]["validation"][key] == pytest.approx(value, rel=2e-5, abs=1e-6), (name, key)
    have, want = checkpoint(found[0]), checkpoint(wanted)
    for part in ("state_dict", "current_model_state"):
        assert have[part].keys() == want[part].keys()
        for key, weight in want[part].items():
            torch.testing.assert_close(have[part][key], weight, rtol=0.0, atol=2e-3, msg=f"{name}: {part} {key}")


def require_bits(have: Any, want: Any, place: str) -> None:
    """Every tensor and number alike to the last bit."""
    if isinstance(want, dict):
        assert have.keys() == want.keys(), place
        for key in want:
            require_bits(have[key], want[key], f"{place}/{key}")
    elif isinstance(want, (list, tuple)):
        for number, (one, other) in enumerate(zip(have, want, strict=True)):
            require_bits(one, other, f"{place}/{number}")
    elif isinstance(want, Tensor):
        assert torch.equal(have, want), place
    else:
        assert have == want, place


STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers")


def test_two_ranks_train_and_resume_as_one(tmp_path: Path) -> None:
    shards = folders(tmp_path / "shards")
    alone = train(Training("image", name="alone"), shards, 1, tmp_path)
    skipped = train(Training("image", name="alone-skipped", broken=3), shards, 1, tmp_path)
    mixed = train(Training("any", name="alone-any"), shards, 1, tmp_path)
    half, file = str(tmp_path / "fsdp2" / "step=2.ckpt"), str(tmp_path / "alone" / "step=2.ckpt")
    found = launch(
        [
            Training("image", "ddp", "ddp"),
            Training("any", "ddp", "ddp-any"),
            Training("image", "fsdp2", "fsdp2"),
            Training("image", "fsdp2", "fsdp2-skipped", broken=3),
            Training("image", "fsdp2", "fsdp2-resumed", resume=half),
            Training("image", "ddp", "ddp-from-fsdp2", resume=half),
            Training("image", "fsdp2", "fsdp2-from-one", resume=file),
        ],
        shards,
        2,
        tmp_path,
    )
    for name in ("ddp", "fsdp2"):
        require_same_training(found[name], alone, name)
    require_same_training(found["ddp-any"], mixed, "any")
    require_same_training(found["fsdp2-skipped"], skipped, "skipped")
    for name in ("ddp-from-fsdp2", "fsdp2-from-one"):
        require_same_training(found[name], alone, name, from_step=3)
    whole, resumed = checkpoint(found["fsdp2"][0]), checkpoint(found["fsdp2-resumed"][0])
    for state in STATES:
        require_bits(resumed[state], whole[state], state)
    require_same_training([train(Training("image", name="one-from-fsdp2", resume=half), shards, 1, tmp_path)], alone, "2 to 1", from_step=3)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("kind", sorted(EVERY))
def test_every_training_is_the_same_on_more_ranks(kind: str, ranks: int, tmp_path: Path) -> None:
    shards = folders(tmp_path / "shards")
    alone = train(Training(kind, name="alone"), shards, 1, tmp_path)
    file = str(tmp_path / "alone" / "step=2.ckpt")
    found = launch(
        [Training(kind, "ddp", "ddp"), Training(kind, "fsdp2", "fsdp2"), Training(kind, "fsdp2", "from-one", resume=file)],
        shards,
        ranks,
        tmp_path,
    )
    require_same_training(found["ddp"], alone, "ddp")
    require_same_training(found["fsdp2"], alone, "fsdp2")
    require_same_training(found["from-one"], alone, "from one", from_step=3)
    half = str(tmp_path / "fsdp2" / "step=2.ckpt")
    onward = launch([Training(kind, "fsdp2", "to-two", resume=half)], shards, 2, tmp_path)
    require_same_training(onward["to-two"], alone, "to two", from_step=3)
    require_same_training([train(Training(kind, name="to-one", resume=half), shards, 1, tmp_path)], alone, "to one", from_step=3)


def test_muon_over_shards_is_muon_to_the_last_bit() -> None:
    shapes = [(8, 4), (5, 3), (1, 6), (4, 8), (7, 7)]  # rows that ranks can't share evenly, one row, and a last round that is not full
    draw = torch.Generator().manual_seed(0)
    weights, gradients = ([torch.randn(shape, generator=draw) for shape in shapes] for _ in range(2))

    def updated(place: Any, kind: Any) -> list[Tensor]:
        matrices = [nn.Parameter(place(weight)) for weight in weights]
        optimizer = kind(matrices, lr=0.1, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        for step in range(3):
            for number, (matrix, gradient) in enumerate(zip(matrices, gradients, strict=True)):
                matrix.grad = None if number == step else place(gradient * (step + 1))
            optimizer.step()
        return [matrix.detach() for matrix in matrices]

    wanted = updated(torch.clone, torch.optim.Muon)

    def run(rank: int) -> None:
        torch.distributed.init_process_group("gloo", world_size=3, rank=rank)
        mesh = torch.distributed.init_device_mesh("cpu", (3,))
        found = updated(lambda whole: own_rows(whole, mesh), ShardedMuon)
        for number, (have, want) in enumerate(zip(found, wanted, strict=True)):
            assert torch.equal(have.full_tensor(), want), number  # type: ignore[attr-defined]

    in_ranks(run, 3)
