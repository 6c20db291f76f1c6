"""Learning-rate law and the joined optimizer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.training.modules.optim import MuonAdamW, split_parameters, warmup_cosine


def test_warmup_cosine_at_its_landmarks() -> None:
    factor = warmup_cosine(10, 110, floor=0.1)
    assert [factor(step) for step in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]
    assert factor(60) == pytest.approx(0.55)
    assert [factor(step) for step in (110, 10_000)] == pytest.approx([0.1, 0.1])
    assert warmup_cosine(0, 5)(0) == 1.0


@given(warmup=st.integers(0, 50), rest=st.integers(1, 200), floor=st.floats(0, 1))
def test_the_rate_never_leaves_its_range_and_never_rises_after_the_warmup(warmup: int, rest: int, floor: float) -> None:
    factor = warmup_cosine(warmup, warmup + rest, floor)
    values = [factor(step) for step in range(warmup + rest + 5)]
    assert all(0 < value <= 1 + 1e-12 or floor == 0 for value in values)
    assert values[:warmup] == sorted(values[:warmup])
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    assert math.isclose(values[-1], floor, abs_tol=1e-12)


@pytest.mark.parametrize(("warmup", "steps"), [(5, 5), (-1, 5), (9, 3)])
def test_a_warmup_that_does_not_fit_is_refused(warmup: int, steps: int) -> None:
    with pytest.raises(ValueError, match="warmup_steps"):
        warmup_cosine(warmup, steps)


@pytest.mark.parametrize("tie", [True, False])
def test_the_split_takes_each_parameter_once_and_only_hidden_matrices_to_muon(tie: bool) -> None:
    model = MaskTransformer(TransformerConfig(dim=32, num_layers=2, num_heads=2, tie_head=tie), 20, 2)
    matrices, others = split_parameters(model)
    assert sorted(map(id, [*matrices, *others])) == sorted({id(parameter) for parameter in model.parameters()})
    assert len(matrices) == 2 * 4
    assert all(matrix.ndim == 2 for matrix in matrices)
    assert any(parameter is model.embed.weight for parameter in others)


def test_frozen_parameters_are_not_trained() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert [len(part) for part in split_parameters(model)] == [1, 1]


def _problem(seed: int = 0) -> tuple[nn.Module, MuonAdamW, torch.optim.lr_scheduler.LambdaLR]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = MuonAdamW(*split_parameters(model), lr=0.05)
    return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(2, 20))


def _steps(model: nn.Module, optimizer: MuonAdamW, scheduler: torch.optim.lr_scheduler.LambdaLR, numbers: range) -> None:
    for number in numbers:
        data = torch.randn(16, 4, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        (model(data) - data[:, :3].sin()).square().mean().backward()
        optimizer.step()
        scheduler.step()


def test_a_restored_optimizer_goes_on_as_if_never_stopped() -> None:
    model, optimizer, scheduler = _problem()
    _steps(model, optimizer, scheduler, range(5))
    saved = [{name: value.clone() for name, value in model.state_dict().items()}, optimizer.state_dict(), scheduler.state_dict()]
    saved[1:] = torch.load(_through_file(saved[1:]), weights_only=True)
    _steps(model, optimizer, scheduler, range(5, 9))
    other, other_optimizer, other_scheduler = _problem(seed=9)
    for part, state in zip((other, other_optimizer, other_scheduler), saved, strict=True):
        part.load_state_dict(state)
    _steps(other, other_optimizer, other_scheduler, range(5, 9))
    assert other_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(other.parameters(), model.parameters(), strict=True))


def _through_file(value: object) -> "object":
    import io

    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return buffer


def test_the_schedule_reaches_both_optimizers_and_every_parameter_moves() -> None:
    model, optimizer, scheduler = _problem()
    before = [parameter.clone() for parameter in model.parameters()]
    _steps(model, optimizer, scheduler, range(1))
    assert [inner.param_groups[0]["lr"] for inner in optimizer.inner] == [0.05, 0.05]
    _steps(model, optimizer, scheduler, range(1, 20))
    assert [inner.param_groups[0]["lr"] for inner in optimizer.inner] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert not any(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_a_closure_is_run_with_gradients_and_its_loss_given_back() -> None:
    model, optimizer, _ = _problem()

    def closure() -> torch.Tensor:
        loss = model(torch.ones(1, 4)).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert float(optimizer.step(closure)) == pytest.approx(float(optimizer.step(closure)), abs=10)
    assert all(parameter.grad is not None for parameter in model.parameters())
