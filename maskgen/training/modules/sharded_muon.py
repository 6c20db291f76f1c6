"""Muon over sharded weights: each matrix is orthogonalised whole on one rank, and the ranks share the matrices among them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz


class ShardedMuon(torch.optim.Muon):
    """`torch.optim.Muon` for weights of which every rank has some rows (FSDP2); the same updates to the last bit for the same gradients.

    Momentum stays in shards. Per round, one matrix a rank: the ranks exchange the bfloat16 updates so that each has one matrix whole, run
    Newton-Schulz on it, and send the rows back. A step sends each matrix twice in bfloat16, and each rank orthogonalises its share.

    Source: Muon, arXiv:2502.16982 (distributed Muon). Differs: matrices go round by size, and are not gathered on every rank.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; all ranks call it together."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            # Matrices of one size share a round, so that no rank waits for another's larger one.
            matrices.sort(key=lambda matrix: (matrix.numel(), matrix.shape[0]))
            if matrices:
                size = matrices[0].device_mesh.size()
                for first in range(0, len(matrices), size):
                    self._round(matrices[first : first + size], group)
        return loss

    def _round(self, matrices: Sequence[Any], group: dict[str, Any]) -> None:
        """Update at most one matrix a rank."""
        updates = [self._momentum(matrix, group) for matrix in matrices]
        rank, mesh = matrices[0].device_mesh.get_local_rank(), matrices[0].device_mesh
        plan = Exchange.of(matrices, mesh)
        gathered = plan.to_owners(updates)
        if rank < len(matrices):
            whole = gathered.view(matrices[rank].shape)
            gathered = _zeropower_via_newtonschulz(whole, group["ns_coefficients"], group["ns_steps"], group["eps"]).contiguous().flatten()
        for matrix, update in zip(matrices, plan.to_shards(gathered), strict=False):
            own, rate = matrix.to_local(), _adjust_lr(group["lr"], group["adjust_lr_fn"], matrix.shape)
            own.mul_(1 - group["lr"] * group["weight_decay"])
            own.add_(update.view(own.shape), alpha=-rate)

    def _momentum(self, matrix: Any, group: dict[str, Any]) -> Tensor:
        """This rank's rows of the momentum update, in bfloat16."""
        state, gradient = self.state[matrix], matrix.grad
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        own, buffer = gradient.to_local(), state["momentum_buffer"].to_local()
        buffer.lerp_(own, 1 - group["momentum"])
        update = own.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
        half: Tensor = update.bfloat16()
        return half


class Exchange(NamedTuple):
    """Which rows go where: matrix i is whole on rank i, and every rank has its rows of each matrix."""

    group: Any
    mine: list[int]
    """Numbers of each matrix that this rank has, 0 for the ranks without one."""
    theirs: list[int]
    """Numbers of this rank's matrix that each rank has."""

    @classmethod
    def of(cls, matrices: Sequence[Any], mesh: Any) -> "Exchange":
        """For at most one matrix a rank, sharded by rows as torch.chunk does."""
        rank, size = mesh.get_local_rank(), mesh.size()
        mine = [matrix.to_local().numel() for matrix in matrices] + [0] * (size - len(matrices))
        theirs = [0] * size
        if rank < len(matrices):
            rows, columns = matrices[rank].shape
            share = -(-rows // size)
            theirs = [max(0, min(share, rows - other * share)) * columns for other in range(size)]
        return cls(mesh.get_group(), mine, theirs)

    def to_owners(self, shards: Sequence[Tensor]) -> Tensor:
        """This rank's whole matrix, flat."""
        return self._sent(torch.cat([one.flatten() for one in shards]), self.mine, self.theirs)

    def to_shards(self, whole: Tensor) -> tuple[Tensor, ...]:
        """This rank's rows of every matrix, flat."""
        return torch.split(self._sent(whole, self.theirs, self.mine), self.mine)

    def _sent(self, flat: Tensor, given: list[int], taken: list[int]) -> Tensor:
        """One exchange among all ranks."""
        received = flat.new_empty(sum(taken))
        dist.all_to_all_single(received, flat, taken, given, group=self.group)
        return received
