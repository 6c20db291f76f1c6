"""Sharded weights: the same first values, folders of shards that survive and are exported, and one sentence for what can't be done."""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from builders.checkpoints import flip
from builders.networks import randomised
from builders.rank_runs import configuration_of
from builders.ranks import TOWERS, folders, in_ranks
from torch import Tensor, nn

from maskgen.cli.main import main
from maskgen.data.loading.token_spaces import merged_space
from maskgen.io.bundle import WEIGHTS_FILE
from maskgen.io.checkpoint import load_verified, previous_of
from maskgen.networks.deferred import deferring, fresh, materialise
from maskgen.networks.sharding import own_rows, shard
from maskgen.networks.towers import TowerTransformer
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokens.space import TokenSpace
from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO
from maskgen.training.runtime.shards_io import restore_interrupted

pytestmark = pytest.mark.forks


def in_group(run: Callable[[Any], None], ranks: int) -> None:
    """Call a function in forked ranks with a process group; it gets the mesh."""

    def started(rank: int) -> None:
        dist.init_process_group("gloo", world_size=ranks, rank=rank)
        run(dist.init_device_mesh("cpu", (ranks,)))

    in_ranks(started, ranks)


@pytest.mark.parametrize("kind", ["transformer", "tied", "merged", "towers"])
def test_deferred_weights_are_those_drawn_at_once_and_leave_chance_where_it_was(kind: str, tmp_path: Path) -> None:
    space, _ = merged_space(folders(tmp_path))

    def build() -> nn.Module:
        if kind == "towers":
            return TowerTransformer(TOWERS, space)
        config = TransformerConfig(dim=32, num_layers=2, num_heads=2, tie_head=kind == "tied", compress=2 if kind == "merged" else 1)
        return MaskTransformer(config, space.size, 5)

    torch.manual_seed(3)
    at_once, after = build(), torch.rand(1)
    torch.manual_seed(3)
    with deferring():
        later = fresh(build)
    assert torch.equal(torch.rand(1), after)
    assert all(weight.is_meta for weight in later.parameters())

    def sharded(mesh: Any) -> None:
        shard(later, mesh)
        for (name, have), want in zip(later.named_parameters(), at_once.parameters(), strict=True):
            assert torch.equal(have.full_tensor(), want), name  # type: ignore[attr-defined]

    in_group(sharded, 3)
    materialise(later)
    for (name, have), want in zip(later.named_parameters(), at_once.parameters(), strict=True):
        assert torch.equal(have, want), name


def test_a_folder_of_shards_is_exported_as_a_file_would_be(
    tmp_path: Path, tiny_text: TextTokenizer, tiny_image: ImageTokenizer, tiny_space: TokenSpace
) -> None:
    config = TransformerConfig(dim=32, num_layers=1, num_heads=2)
    network = MaskTransformer(config, tiny_space.size, 2)
    randomised(network, 0.3)
    made = {
        "kind": "masked_transformer",
        "space": tiny_space.to_dict(),
        "fingerprints": {"text": tiny_text.fingerprint, "image": tiny_image.fingerprint},
        "transformer": {**vars(config), "rope_split": list(config.rope_split)},
        "target": "image",
        "grid": [4, 4],
        "seen_grids": {},
    }
    state = {f"model.{name}": weight.detach() for name, weight in network.state_dict().items()}
    AtomicCheckpointIO().save_checkpoint({"state_dict": state, "maskgen": made}, tmp_path / "file.ckpt")

    def save(mesh: Any) -> None:
        shards = {name: own_rows(weight, mesh) for name, weight in state.items()}
        AtomicCheckpointIO().save_checkpoint({"state_dict": shards, "maskgen": made}, tmp_path / "folder.ckpt")

    in_group(save, 3)
    tiny_text.save(tmp_path / "text")
    tiny_image.save(tmp_path / "image")
    for name in ("file", "folder"):
        tokenizers = ["--text", str(tmp_path / "text"), "--image", str(tmp_path / "image")]
        main(["export", "model", str(tmp_path / f"{name}.ckpt"), "--out", str(tmp_path / name), *tokenizers])
    assert (tmp_path / "file" / WEIGHTS_FILE).read_bytes() == (tmp_path / "folder" / WEIGHTS_FILE).read_bytes()


def saved(target: Path, *numbers: int) -> None:
    """Checkpoints with shards under one name, one after another."""

    def save(mesh: Any) -> None:
        for number in numbers:
            content = {"global_step": number, "state_dict": {"weight": own_rows(torch.full((5, 3), float(number)), mesh)}}
            AtomicCheckpointIO().save_checkpoint(content, target)

    in_group(save, 2)


def step_of(target: Path) -> int:
    read = AtomicCheckpointIO().load_checkpoint(target)
    assert torch.equal(read["state_dict"]["weight"], torch.full((5, 3), float(read["global_step"])))
    return int(read["global_step"])


def test_the_checkpoint_before_replaces_a_damaged_one_and_files_and_folders_replace_each_other(tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    saved(last, 1, 2, 3)
    assert step_of(last) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "last.previous.ckpt"]
    shards = sorted(last.glob("*.safetensors"))
    flip(shards[1], -1)
    assert step_of(last) == 2
    shards[0].unlink()
    with pytest.raises(ValueError, match=rf"lacks {shards[0].name}; copy the whole folder again"):
        load_verified(last)
    (last / "sha256sums").write_text("0  ../../elsewhere\n")
    with pytest.raises(ValueError, match=r"names '\.\./\.\./elsewhere'"):
        load_verified(last)
    for number in (4, 5):  # a run on one rank goes on under the same name
        content = {"global_step": number, "state_dict": {"weight": torch.full((5, 3), float(number))}}
        AtomicCheckpointIO().save_checkpoint(content, last)
        assert step_of(last) == number
    assert step_of(previous_of(last)) == 4
    saved(last, 6)
    assert (step_of(last), step_of(previous_of(last))) == (6, 5)
    saved(last, 7)
    last.rename(tmp_path / "gone")  # killed between the two renames of a save
    restore_interrupted(tmp_path)
    assert step_of(last) == 6
    AtomicCheckpointIO().remove_checkpoint(last)
    assert not last.exists()


def test_what_cannot_be_sharded_or_resumed_gets_one_sentence(tmp_path: Path) -> None:
    shards = folders(tmp_path / "shards")[0]
    options: dict[str, Any] = {"strategy": "fsdp2", "devices": 1, "max_steps": 2}
    plain = configuration_of(tmp_path / "run", shards, **options)
    whole = ["fit", "--config", str(plain)]
    checkpoint = str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    other = yaml.safe_load(plain.read_text())
    other["model"]["init_args"]["transformer"]["dim"] = 16
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))

    def refuse(name: str, *args: str) -> None:
        with contextlib.redirect_stderr(io.StringIO()) as stderr, pytest.raises(SystemExit) as stop:
            main([*args])
        assert stop.value.code == 2, stderr.getvalue()
        (tmp_path / name).write_text(next(line for line in stderr.getvalue().splitlines() if line.startswith("maskgen: error: ")))

    def run(rank: int) -> None:
        os.chdir(tmp_path)
        main(whole)
        refuse("compiled", *whole, "--model.compile", "true", "--ckpt_path", checkpoint)
        refuse("other", "fit", "--config", "other.yaml", "--ckpt_path", checkpoint)
        (shard,) = Path(checkpoint).glob("*.safetensors")
        shard.rename(tmp_path / "moved")
        refuse("missing", *whole, "--ckpt_path", checkpoint)

    in_ranks(run, 1)
    said = {name: (tmp_path / name).read_text() for name in ("compiled", "other", "missing")}
    assert "compile is true, but strategy fsdp2 shards the blocks" in said["compiled"]
    assert "the checkpoint is of another model: model.blocks.0" in said["other"]
    assert "lacks shard-00001-model-00001-of-00001.safetensors" in said["missing"]


def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path: Path) -> None:
    plain = configuration_of(tmp_path / "run", folders(tmp_path / "shards")[0], strategy="fsdp2", devices=3, max_steps=2)

    def run(rank: int) -> None:
        with contextlib.redirect_stderr(io.StringIO()) as stderr, pytest.raises(SystemExit):
            main(["fit", "--config", str(plain)])
        assert "global_batch is 8, which 3 processes can't share evenly; take a multiple of 3" in stderr.getvalue(), stderr.getvalue()

    in_ranks(run, 3)


def test_rows_of_each_rank_make_up_the_whole() -> None:
    def run(mesh: Any) -> None:
        for rows in range(1, 8):
            whole = torch.arange(rows * 2.0).view(rows, 2)
            found: Any = own_rows(whole, mesh)
            assert torch.equal(found.full_tensor(), whole)
            assert isinstance(found, Tensor)

    in_group(run, 3)
