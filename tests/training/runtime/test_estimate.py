"""What `maskgen fit --estimate` says before a training is what the training takes; `--smoke` runs every configuration of real size."""

import dataclasses
import importlib
from pathlib import Path

import pytest
import torch
import yaml
from builders.command_line import refused
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from maskgen.cli.main import main
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace
from maskgen.training.modules.objective import chunked_cross_entropy
from maskgen.training.modules.optim import MuonAdamW, split_parameters
from maskgen.training.runtime.estimate import Estimate, largest_batch, step_flops
from maskgen.training.runtime.fit import run
from maskgen.training.runtime.traced_memory import StepShape, optimizer_bytes, step_memory

ROOT = Path(__file__).parents[3]
SCALE = sorted(ROOT.glob("configs/scale/*.yaml"))
SPACE = TokenSpace([Modality(name="image", kind="image", num_levels=1, codebook_size=64)])
SEGMENT = SPACE.segment("image", 0)
SMALL = TransformerConfig(dim=64, num_layers=3, num_heads=2)


def shape_of(rows: int, precision: str = "32-true") -> StepShape:
    return StepShape(rows, 16, 1, {SEGMENT: 8 * rows}, False, precision)


def one_loss(rows: int) -> tuple[MaskTransformer, Tensor, int]:
    """A network, its loss on a batch, and the bytes that its forward pass keeps beside weights."""
    model = MaskTransformer(SMALL, SPACE.size, 1)
    batch: TokenBatch = pack([{"image": torch.zeros(1, 4, 4, dtype=torch.long)}] * rows, SPACE)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model(batch)
    places = torch.zeros(8 * rows, dtype=torch.long)
    loss, _ = chunked_cross_entropy(model.logits, hidden.flatten(0, 1)[places], places, SEGMENT)
    return model, loss.sum(), sum(kept.values())


def test_activations_and_states_and_operations_are_those_of_a_real_step() -> None:
    model, loss, kept = one_loss(8)
    found = step_memory(SMALL, SPACE.size, 1, shape_of(8), "none")
    assert found.activations == pytest.approx(kept, rel=0.1)
    with FlopCounterMode(display=False) as counted:
        again, other, _ = one_loss(8)
        other.backward()
    assert step_flops(SMALL, shape_of(8), "none") == pytest.approx(counted.get_total_flops(), rel=0.02)
    loss.backward()
    optimizer = MuonAdamW(*split_parameters(model))
    optimizer.step()
    states = sum(
        tensor.nbytes for one in optimizer.inner for state in one.state.values() for tensor in state.values() if isinstance(tensor, Tensor)
    )
    assert optimizer_bytes([MuonAdamW(*split_parameters(again))], list(again.parameters())) == states


def test_recomputation_and_half_precision_keep_less_and_memory_grows_with_the_rows() -> None:
    kept = {what: step_memory(SMALL, SPACE.size, 1, shape_of(8), what).activations for what in ("none", "elementwise", "blocks")}  # type: ignore[arg-type]
    assert kept["blocks"] < kept["elementwise"] < kept["none"]
    more = step_memory(SMALL, SPACE.size, 1, shape_of(8).of(16), "none").activations
    assert more == pytest.approx(2 * kept["none"], rel=0.05)
    mixed = step_memory(SMALL, SPACE.size, 1, shape_of(64, "bf16-mixed"), "none").activations
    assert mixed < 0.9 * step_memory(SMALL, SPACE.size, 1, shape_of(64), "none").activations


def test_the_largest_batch_fits_and_one_row_more_or_so_does_not() -> None:
    def peak(rows: int) -> int:
        return 100 + 7 * rows

    assert largest_batch(peak, 900.0) in (113, 114)
    assert largest_batch(peak, 106.0) == 0
    assert largest_batch(peak, 107.0) == 1


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    """A configuration of 7 billion weights, and the layout of shards that do not exist."""
    plain = yaml.safe_load((ROOT / "configs/scale/class_to_image_256.yaml").read_text())
    plain["model"]["init_args"]["transformer"] = {"dim": 4096, "num_layers": 35, "num_heads": 32}
    plain["data"]["init_args"]["batch_size"] = 4
    (tmp_path / "huge.yaml").write_text(yaml.safe_dump(plain))
    (tmp_path / "layouts").mkdir()
    (tmp_path / "layouts/huge.yaml").write_text((ROOT / "configs/scale/layouts/class_to_image_256.yaml").read_text())
    return tmp_path / "huge.yaml"


def test_seven_billion_weights_are_estimated_without_their_memory(huge: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(["fit", "--config", str(huge), "--estimate", "--estimate-gb", "80", "--estimate-gb=141"])
    assert isinstance(found, Estimate)
    assert 6.9e9 < found.parameters < 7.5e9
    assert found.weights == 4 * found.parameters
    assert found.average == found.weights
    assert 4 * found.parameters < found.optimizer < 5 * found.parameters
    assert 16 * found.parameters < found.fixed + found.step.peak(found.weights)
    assert (found.largest[80.0], found.largest[141.0] > 0) == (0, True)
    assert "none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--estimate-gb", "much"], "takes a number of GB"),
        (["--estimate-gb", "-1"], "a positive number"),
        (["--estimate", "--smoke"], "give one of them"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags: list[str], said: str, huge: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(capsys, "fit", "--config", huge, *flags)


def test_missing_shards_without_a_layout_are_named(huge: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (huge.parent / "layouts/huge.yaml").unlink()
    assert "data/imagenet/build/tokens" in refused(capsys, "fit", "--config", huge, "--estimate")


@pytest.mark.slow
@pytest.mark.parametrize("path", SCALE, ids=lambda path: path.stem)
def test_the_header_of_a_configuration_of_real_size_quotes_its_estimate(path: Path) -> None:
    found = run(["fit", "--config", str(path), "--estimate"])
    assert f"# Estimate: {found.headline}\n" in path.read_text()
    assert found.peak < 80e9, "it fits an H100"


@pytest.mark.parametrize("path", [pytest.param(one, marks=[pytest.mark.slow] if one.stem != "text" else []) for one in SCALE], ids=str)
def test_a_configuration_of_real_size_runs_two_steps(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", str(path), "--smoke"])
    assert not list(tmp_path.iterdir()), "a smoke run leaves nothing behind"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["activations", "recomputed, 1,088 cells", "weights"])
def test_estimates_are_near_the_memory_of_a_real_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    assert importlib.import_module("memory_estimate").compared(name)["ratio"] == pytest.approx(1, abs=0.15)


def test_an_estimate_adds_up() -> None:
    step = step_memory(SMALL, SPACE.size, 1, shape_of(2), "none")
    found = Estimate(10, 40, 60, 40, step, {}, 2, 100, 5e12, {24.0: 3})
    assert found.peak == 140 + step.peak(40) >= 180 + step.activations
    assert found.hours(8) == pytest.approx(5e14 / (8 * 0.4 * 989e12) / 3600)
    assert "largest batch in 24 GB: 3" in found.table
    assert found.headline in dataclasses.replace(found).table
