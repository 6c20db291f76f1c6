"""Training of a bridge: what is paired, what is learned, what stays, and the bundle that it becomes."""

import json
import random
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from builders.any_to_any import TOWERS, write_any
from builders.command_line import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from maskgen.cli.main import main
from maskgen.io.checkpoint import read_checkpoint
from maskgen.networks.bridges import BRIDGE_KIND, Bridge
from maskgen.networks.towers import TowerTransformer
from maskgen.pipelines.any_to_any import AnyToAnyPipeline
from maskgen.pipelines.base import Pipeline
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, TokenSpace
from maskgen.training.modules.base import mixed_seed
from maskgen.training.modules.bridges import BridgeModule
from maskgen.training.modules.pairs import common_subsequence, moved

SCALE = 40.0
"""Of what the reading tower's attention adds, so that its guesses depend on it."""
BRIDGE = Bridge(modalities=["transcript"], hidden_dim=16)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_text: TextTokenizer, tiny_image: ImageTokenizer) -> Path:
    folder = write_any(tmp_path_factory.mktemp("joined") / "bundle", tiny_text, tiny_image, TOWERS)
    (folder / "specialists.json").write_text("{}")
    return folder


def module(bundle: Path, **options: Any) -> BridgeModule:
    given: dict[str, Any] = {"reader": "pictures", "bridge": BRIDGE, "partner": "text", "beside": ["audio"], "max_steps": 60, "lr": 1e-2}
    return BridgeModule(str(bundle), **(given | options))


def rows(space: TokenSpace, count: int = 8, seed: int = 0) -> TokenBatch:
    """Captions, and transcripts that say them in slots, with words before and empty slots between; the end of a text is no word."""
    draws, size = random.Random(seed), space.segment("text", 0).size
    end = space.modality("text").end
    words = [code for code in range(2, size) if code != end]
    samples = []
    for _ in range(count):
        said = draws.sample(words, 3)
        slots = [draws.choice(words), *said, end, end]
        slots[4:4] = [end]
        audio = [[draws.randrange(8) for _ in range(14)] for _ in range(3)]
        samples.append(
            {
                "text": torch.tensor([[*said, end]]),
                "transcript": torch.tensor([slots]),
                "audio": torch.tensor(audio),
                "image": torch.zeros(2, 4, 4, dtype=torch.long),
            }
        )
    return pack(samples, space)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 3), max_size=7), st.lists(st.integers(0, 3), max_size=7))
def test_common_subsequences_are_the_longest(left: list[int], right: list[int]) -> None:
    found = common_subsequence(left, right)
    assert all(left[i] == right[j] for i, j in found)
    assert all(a < b and c < d for (a, c), (b, d) in pairwise(found))
    subsets = {tuple(left[i] for i in range(len(left)) if mask >> i & 1) for mask in range(1 << len(left))}

    def inside(some: tuple[int, ...]) -> bool:
        rest = iter(right)
        return all(one in rest for one in some)

    assert len(found) == max(len(some) for some in subsets if inside(some))
    assert len(found) >= sum(block.size for block in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks())


def test_of_equal_words_those_are_paired_that_stand_beside_other_pairs() -> None:
    this, picture, article, red, heart = range(5)
    assert common_subsequence([this, article, picture, article, red, heart], [article, red, heart]) == [(3, 0), (4, 1), (5, 2)]
    assert common_subsequence([article, red, heart, article], [article, red]) == [(0, 0), (1, 1)]
    assert common_subsequence([this, article, article], [article]) == [(2, 0)]
    assert common_subsequence([article, red, article, this, red], [article, red]) == [(0, 0), (1, 1)]


def test_cells_move_to_a_space_of_another_order(bundle: Path) -> None:
    space = module(bundle).space
    other = TokenSpace([space.modality(name) for name in ("image", "transcript", "text", "audio")])
    batch = rows(other)
    found, wanted = moved(batch, other, space), rows(space)
    for name in ("image", "transcript", "text", "audio"):
        for row in range(len(batch)):
            assert cells(found, space, name, row).equal(cells(wanted, space, name, row))


def cells(batch: TokenBatch, space: TokenSpace, name: str, row: int) -> torch.Tensor:
    """Ids of a modality in a row."""
    return batch.ids[row][batch.cells(space.index(name))[row]]


def test_a_word_is_paired_with_the_same_word_and_nothing_else(bundle: Path) -> None:
    made = module(bundle)
    batch = rows(made.space)
    pairs = made.solution.pairs(batch)
    assert len(pairs.row) == 3 * len(batch)
    heard = batch.ids[pairs.row, pairs.crossing, 0] - made.space.segment("transcript", 0).offset
    written = batch.ids[pairs.row, pairs.partner, 0] - made.space.segment("text", 0).offset
    assert heard.equal(written)
    assert not bool((written == made.space.modality("text").end).any())


class Rows(L.LightningDataModule):
    """The same batch again and again."""

    def __init__(self, batch: TokenBatch) -> None:
        super().__init__()
        self.batch = batch

    def train_dataloader(self) -> Any:
        return DataLoader([self.batch] * 400, batch_size=None)


@pytest.fixture(scope="module")
def trained(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BridgeModule, Path, list[dict[str, float]]]:
    """A module after the closed solution and some steps, its checkpoint, and its errors before, between and after."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = module(bundle, ridge_batches=4)
    batch, found = rows(made.space, 24), []

    def measured() -> None:
        with torch.no_grad():
            errors = made.solution.errors(batch, 1.0, torch.Generator().manual_seed(0)) or {}
        found.append({name: float(torch.stack(parts).mean()) for name, parts in errors.items()})

    measured()
    made.solution.solve([batch] * 4)
    measured()
    folder = tmp_path_factory.mktemp("run")
    trainer = L.Trainer(
        max_steps=60, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu"
    )
    trainer.fit(made, datamodule=Rows(batch))
    trainer.save_checkpoint(folder / "last.ckpt")
    measured()
    return made, folder / "last.ckpt", found


def test_the_closed_solution_and_the_steps_bring_keys_and_values_near_and_tell_who_has_a_partner(
    trained: tuple[BridgeModule, Path, list[dict[str, float]]],
) -> None:
    before, solved, after = trained[2]
    assert solved["keys"] < 0.6 * before["keys"]
    assert solved["values"] < 0.6 * before["values"]
    assert after["values"] < 0.7 * solved["values"]
    assert after["keys"] < 0.7 * solved["keys"]
    assert after["presence"] < 0.5 * solved["presence"]


def test_validation_judges_the_bridge_beside_the_partners_and_nothing(
    bundle: Path, trained: tuple[BridgeModule, Path, list[dict[str, float]]]
) -> None:
    made, checkpoint, _ = trained
    found = {}
    for name, path in (("trained", checkpoint), ("untrained", None)):
        one = module(bundle, judged="image")
        batch = DataLoader([rows(made.space, 24)], batch_size=None)
        trainer = L.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
        [found[name]] = trainer.validate(one, batch, ckpt_path=path, weights_only=False, verbose=False)
    kept = {key: value for key, value in found["trained"].items() if "nothing" in key or "partners" in key}
    assert kept == pytest.approx({key: found["untrained"][key] for key in kept}, abs=1e-4)
    for level in (0, 1):
        nothing, partners, over = (
            found["trained"][f"val/loss_image_level{level}_{way}"] for way in ("from_nothing", "from_partners", "over_bridge")
        )
        assert found["untrained"][f"val/loss_image_level{level}_over_bridge"] == pytest.approx(nothing, abs=1e-4)
        assert abs(over - partners) < 0.5 * abs(nothing - partners)


def attentive(bundle: Path, **options: Any) -> BridgeModule:
    """A module whose reading tower, untrained as it is, says of pictures what depends on what it sees."""
    made = module(bundle, judged="image", ridge_batches=4, **options)
    with torch.no_grad():
        for block in made.network.tower("pictures").blocks:
            block.attention.out.weight.mul_(SCALE)
    return made


def test_what_is_said_over_the_bridge_comes_near_to_what_is_said_from_the_partners(bundle: Path) -> None:
    """Both losses are one sum; the divergence alone teaches the bridge, and no gradient reaches the towers."""
    made, plain, closed = attentive(bundle, judged_weight=2.0), attentive(bundle), attentive(bundle)
    batch = rows(made.space, 16)
    made.solution.solve([batch] * 4)
    with torch.no_grad():
        plain.network.load_state_dict(made.network.state_dict())
        made.data_space = plain.data_space = made.space
        both, alone = (one.training_step(batch, 0) for one in (made, plain))
        generator = torch.Generator().manual_seed(mixed_seed(0, 0, 0))
        plain.solution.errors(batch, plain.known_share, generator)
        before = made.divergence(batch, generator)
        unseen = closed.divergence(batch, torch.Generator().manual_seed(0))
    assert both is not None
    assert alone is not None
    assert float(unseen) > 1e-3, "nothing is told over a closed bridge, which is not what the partners tell"
    assert float(before) > 1e-4
    torch.testing.assert_close(both, alone + 2.0 * before)
    optimizer = made.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        group["lr"] = 3e-3
    for step in range(40):
        optimizer.zero_grad()
        made.divergence(batch, torch.Generator().manual_seed(step)).backward()
        optimizer.step()
    assert all(weight.grad is None for weight in made.network.towers.parameters())
    judged = torch.Generator().manual_seed(mixed_seed(0, 0, 0))
    made.solution.errors(batch, plain.known_share, judged)
    assert float(made.divergence(batch, judged)) < 0.6 * float(before)


def test_the_towers_stay_and_only_the_bridge_is_kept(
    bundle: Path, trained: tuple[BridgeModule, Path, list[dict[str, float]]], tmp_path: Path
) -> None:
    made, checkpoint, _ = trained
    held = read_checkpoint(checkpoint, BRIDGE_KIND)["state_dict"]
    assert held
    assert all(name.startswith("network.bridges.pictures.") for name in held)
    main(["export", "bridge", str(checkpoint), "--model", str(bundle), "--out", str(tmp_path / "joined")])
    new, old = Pipeline.from_pretrained(tmp_path / "joined"), Pipeline.from_pretrained(bundle)
    ours, theirs = new.model.state_dict(), old.model.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())
    assert set(ours) - set(theirs) == {name.removeprefix("network.") for name in held}
    for name, tensor in made.network.bridges.state_dict().items():
        torch.testing.assert_close(ours[f"bridges.{name}"], tensor, atol=2e-3, rtol=2e-3)
    assert isinstance(new.model, TowerTransformer)
    assert AnyToAnyPipeline.from_pretrained(tmp_path / "joined").crosses
    assert not AnyToAnyPipeline.from_pretrained(bundle).crosses
    assert json.loads((tmp_path / "joined/specialists.json").read_text()) == {}


def test_a_training_goes_on_from_its_checkpoint_and_from_its_model(
    bundle: Path, trained: tuple[BridgeModule, Path, list[dict[str, float]]], tmp_path: Path
) -> None:
    made, checkpoint, _ = trained
    again = module(bundle, max_steps=61)
    trainer = L.Trainer(
        max_steps=61, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu"
    )
    trainer.fit(again, datamodule=Rows(rows(made.space, 24)), ckpt_path=checkpoint, weights_only=False)
    assert trainer.global_step == 61
    wanted = made.network.translation("pictures", 0).linear.weight.detach()
    assert float((again.network.translation("pictures", 0).linear.weight.detach() - wanted).abs().max()) < 0.05
    main(["export", "bridge", str(checkpoint), "--model", str(bundle), "--out", str(tmp_path / "joined")])
    further = module(tmp_path / "joined")
    assert further.started
    torch.testing.assert_close(further.network.translation("pictures", 0).linear.weight, wanted, atol=2e-3, rtol=2e-3)


def test_what_does_not_fit_is_refused(
    bundle: Path,
    tiny_bundle: Path,
    trained: tuple[BridgeModule, Path, list[dict[str, float]]],
    tmp_path: Path,
    tiny_text: TextTokenizer,
    tiny_image: ImageTokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for options, message in (
        ({"partner": "audio"}, "are modalities of pictures"),
        ({"partner": "image"}, "do not share their codes"),
        ({"judged": "audio"}, "are modalities of pictures .*, got text and audio"),
        ({"beside": ["text"]}, "other modalities of speech"),
        ({"known_share": 1.5}, "known_share"),
        ({"judged_weight": 1.0}, "needs judged"),
    ):
        with pytest.raises(ValueError, match=message):
            module(bundle, **options)
    with pytest.raises(ValueError, match="no towers"):
        module(tiny_bundle)
    other = write_any(tmp_path / "other", tiny_text, tiny_image, TOWERS)
    pipeline = Pipeline.from_pretrained(other)
    next(pipeline.model.parameters()).data.add_(1.0)
    pipeline.save_pretrained(tmp_path / "moved")
    checkpoint = str(trained[1])
    assert "another model" in refused(
        capsys, "export", "bridge", checkpoint, "--model", str(tmp_path / "moved"), "--out", str(tmp_path / "x")
    )
    assert "holds a model" in refused(capsys, "export", "bridge", checkpoint, "--model", str(bundle), "--out", str(bundle))


def trainer_of(steps: int = 1) -> L.Trainer:
    return L.Trainer(
        max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu"
    )


@pytest.mark.parametrize("ridge_batches", [0, 2])
def test_a_training_opens_its_bridge_before_the_first_step(
    bundle: Path, trained: tuple[BridgeModule, Path, list[dict[str, float]]], ridge_batches: int
) -> None:
    """Solved, or at least half open, from where steps can move it; one that was trained stays as it was."""
    batch, new, solved = rows(module(bundle).space, 24), module(bundle, ridge_batches=ridge_batches, lr=0.0), module(bundle)
    solved.load_state_dict(new.state_dict())
    trainer_of().fit(new, datamodule=Rows(batch))
    if ridge_batches:
        solved.solution.solve([batch] * ridge_batches)
        assert all(tensor.equal(new.state_dict()[name]) for name, tensor in solved.state_dict().items())
    else:
        assert float(new.network.translation("pictures", 0).presence.bias) == 0.0
        closed, opened = (one.solution.errors(batch, 1.0, torch.Generator().manual_seed(0)) for one in (solved, new))
        assert closed is not None
        assert opened is not None
        assert float(torch.stack(opened["presence"]).max()) < 1.0 < float(torch.stack(closed["presence"]).min())
    further = module(bundle, ridge_batches=ridge_batches, lr=0.0)
    trainer_of(61).fit(further, datamodule=Rows(batch), ckpt_path=trained[1], weights_only=False)
    kept = trained[0].network.bridges.state_dict()
    assert all(tensor.equal(kept[name]) for name, tensor in further.network.bridges.state_dict().items())


def test_the_same_bridge_written_as_list_and_as_tuple_is_one(
    bundle: Path, trained: tuple[BridgeModule, Path, list[dict[str, float]]], tmp_path: Path
) -> None:
    assert Bridge(modalities=["transcript"]) == Bridge(modalities=("transcript",))
    main(["export", "bridge", str(trained[1]), "--model", str(bundle), "--out", str(tmp_path / "joined")])
    assert module(tmp_path / "joined", bridge=Bridge(modalities=("transcript",), hidden_dim=16)).started
    assert not module(tmp_path / "joined", bridge=Bridge(modalities=["transcript"], hidden_dim=8)).started


def test_a_checkpoint_of_another_bridge_is_refused(bundle: Path, trained: tuple[BridgeModule, Path, list[dict[str, float]]]) -> None:
    other = module(bundle, bridge=Bridge(modalities=["transcript"], hidden_dim=8), max_steps=61)
    with pytest.raises(ValueError, match="is of another bridge than this training"):
        trainer_of(61).fit(other, datamodule=Rows(rows(other.space)), ckpt_path=trained[1], weights_only=False)


def test_batches_without_a_pair_or_with_one_code_are_left_out_and_cannot_be_solved(bundle: Path) -> None:
    made = module(bundle)
    batch, alike = rows(made.space, 2), rows(made.space, 2)
    text, slot = (batch.cells(made.space.index(name)) for name in ("text", "transcript"))
    end = made.space.modality("text").end
    assert end is not None
    for one, written, heard in ((batch, 2, 4), (alike, 3, 3)):
        for name, chosen, code in (("text", text, written), ("transcript", slot, heard)):
            offset = made.space.segment(name, 0).offset
            ids = one.ids[chosen, 0]
            one.ids[chosen, 0] = torch.where(ids == end + offset, ids, torch.full_like(ids, code + offset))
    assert len(made.solution.pairs(alike).row) > 2
    assert made.solution.errors(alike, 1.0, torch.Generator()) is None
    made.data_space = made.space
    assert made.training_step(batch, 0) is None
    for batches in ([batch], []):
        with pytest.raises(ValueError, match="no cell of transcript has the code of a cell of text"):
            made.solution.solve(batches)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_known_share_says_how_often_all_that_crosses_is_known(bundle: Path, share: float) -> None:
    made = module(bundle)
    batch = rows(made.space, 64)
    masked = made.solution._masked(batch, share, torch.Generator().manual_seed(0))
    crossing = batch.cells(made.space.index("transcript"))
    assert masked.ids[~crossing].equal(batch.ids[~crossing])
    assert float((masked.ids[crossing][:, 0] == MASK).float().mean()) == pytest.approx((1 - share) / 2, abs=0.08)


@pytest.mark.parametrize("name", ["text", "image"])
def test_data_from_another_tokenizer_is_refused(bundle: Path, name: str) -> None:
    made = module(bundle, judged="image")
    other = Rows(rows(made.space))
    other.space = made.space  # type: ignore[attr-defined]
    other.fingerprints = {**made.fingerprints, name: "another"}  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=f"needs {name} from the model's own tokenizer"):
        trainer_of().fit(made, datamodule=other)


def test_data_without_the_partner_is_refused(bundle: Path) -> None:
    made = module(bundle)
    short = Rows(rows(made.space))
    short.space = TokenSpace([made.space.modality("transcript"), made.space.modality("audio")])  # type: ignore[attr-defined]
    short.fingerprints = made.fingerprints  # type: ignore[attr-defined]
    trainer = L.Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    with pytest.raises(ValueError, match="needs text from the model's own tokenizer"):
        trainer.fit(made, datamodule=short)
