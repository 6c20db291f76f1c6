"""The noise of another project's sampler in place of ours, to compare the codes of every step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from maskgen.sampling import base
from maskgen.tokens.batch import TokenBatch


def gumbel(uniform: Tensor) -> Tensor:
    return -((-(uniform.clamp(min=1e-20).log())).clamp(min=1e-20).log())


def fed(monkeypatch: pytest.MonkeyPatch, codes: Tensor, order: Tensor | None) -> Callable[..., Any]:
    """Let our sampler draw with the authors' noise; wraps a LogitsFn, which tells the cells that are drawn."""
    now: dict[str, Any] = {"step": -1}

    def draw(logits: Tensor, rows: Tensor, generators: Any, *, temperature: float, cut: Any) -> tuple[Tensor, Tensor]:
        noise = gumbel(codes[now["step"]])[now["cells"]]
        found = (logits + temperature * noise).argmax(dim=-1)
        return found, logits.log_softmax(dim=-1).gather(-1, found[:, None])[:, 0]

    def row_noise(cells: Tensor, generators: Any, noise: Any) -> Tensor:
        found = torch.zeros(cells.shape, dtype=torch.float64)
        assert order is not None
        found[:, -order.shape[-1] :] = gumbel(order[now["step"]])
        return found

    def wrapped(logits_fn: Any) -> Any:
        def called(batch: TokenBatch, cells: Tensor, segment: Any, progress: float) -> Tensor:
            now["step"], now["cells"] = now["step"] + 1, cells[:, -codes.shape[2] :]
            return logits_fn(batch, cells, segment, progress)

        return called

    monkeypatch.setattr(base, "draw", draw)
    monkeypatch.setattr(base, "row_noise", row_noise)
    return wrapped
