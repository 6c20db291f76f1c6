"""Networks in shards: every rank holds a part of each weight, and a block's weights are whole only while it runs (FSDP2)."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from maskgen.networks.deferred import materialise
from maskgen.networks.towers import TowerTransformer


def shard(network: nn.Module, mesh: Any, policy: Any = None) -> None:
    """Share the weights of a network out over ranks, in place: each block on its own, and everything else together.

    What is outside of the blocks (embeddings, head, last norm) stays whole from the forward to the end of the backward pass, because
    `logits` reads the head after the forward pass.

    Args:
        network: `MaskTransformer`, `TowerTransformer`, an adapted or a published network. Weights on the meta device get their values here.
        mesh: DeviceMesh of one axis.
        policy: torch's MixedPrecisionPolicy, for the gathered weights and the reduced gradients; None keeps the precision of the weights.

    Raises:
        ValueError: If the network has bridges: a rank without a cell that crosses one would not run it.

    Source: torch.distributed.fsdp.fully_shard (FSDP2).
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    if isinstance(network, TowerTransformer) and len(network.bridges):
        raise ValueError("a network with bridges can't be sharded: a rank whose rows cross none would not run it; take strategy ddp")
    chosen = policy or MixedPrecisionPolicy()
    for block in sharded_parts(network):
        fully_shard(block, mesh=mesh, mp_policy=chosen)
    if isinstance(network, TowerTransformer):
        for block in sharded_parts(network):
            for method in ("enter", "leave"):
                register_fsdp_forward_method(block, method)
    fully_shard(network, mesh=mesh, mp_policy=chosen)
    materialise(network, mesh.device_type if mesh.device_type == "cpu" else "cuda")


def sharded_parts(network: nn.Module) -> Iterator[nn.Module]:
    """The repeated parts of a network: what the outermost lists of modules consist of."""
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            yield from (one for one in child if any(True for _ in one.parameters()))
        else:
            yield from sharded_parts(child)


def is_shard(tensor: Tensor) -> bool:
    """Whether each rank has a part of this tensor."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor; all of it where it is not sharded."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def reshard(module: nn.Module) -> None:
    """Make every sharded weight of a module a shard again; a validation leaves those outside of the blocks whole."""
    from torch.distributed.fsdp import FSDPModule

    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def own_rows(whole: Tensor, mesh: Any) -> Tensor:
    """A whole tensor as one of which each rank keeps its rows, as `shard` does with weights.

    Args:
        whole: The same on every rank; it has at least one axis.
        mesh: DeviceMesh of one axis.
    """
    from torch.distributed.tensor import DTensor, Shard

    share = -(-whole.shape[0] // mesh.size())
    start = min(mesh.get_local_rank() * share, whole.shape[0])
    own = whole[start : start + share].clone().to(mesh.device_type)
    placed: Tensor = DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.contiguous().stride())
    return placed
