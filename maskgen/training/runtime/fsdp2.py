"""Strategy `fsdp2`: each rank holds a part of every weight, gradient and optimizer state (FSDP2)."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from maskgen.networks.sharding import is_shard, own_rows, reshard, shard
from maskgen.training.modules.base import GeneratorModule
from maskgen.training.runtime.checkpoint_io import AtomicCheckpointIO


class FSDP2Strategy(ModelParallelStrategy):
    """Trains a generator whose weights are sharded over all ranks; its losses and checkpoints are those of one rank.

    Checkpoints are folders with a file a rank (`maskgen.io.sharded`). They resume on any number of ranks and with any strategy, and
    checkpoints of other strategies resume here. With precision bf16-mixed
    weights are gathered in bfloat16 and gradients reduced in float32.

    Args:
        timeout: Seconds after which a rank gives up waiting for another.

    Raises:
        ValueError: At the start of a run: if the module is not one of a generator, or compiles it.
    """

    def __init__(self, timeout: int = 1800) -> None:
        super().__init__(tensor_parallel_size=1, timeout=timedelta(seconds=timeout))
        self.checkpoint_io = AtomicCheckpointIO()
        self._devices: list[Any] = []
        """Where each average is kept, until it is made in shards."""

    def setup_environment(self) -> None:
        """Start the process group, in which all ranks are one axis; keep averages from copying the whole module."""
        for callback in _averages(self._module):
            self._devices.append(callback._device)
            callback._device = torch.device("meta")
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        """Shard the module's network, then create its optimizer and its averaged weights in shards."""
        assert self.accelerator is not None
        module = self._module
        self.accelerator.setup(trainer)
        mesh = self.device_mesh["data_parallel"]
        shard(_network_of(module), mesh, self._policy())
        self.model = self.precision_plugin.convert_module(module)
        self.model_to_device()
        if isinstance(self.checkpoint_io, AtomicCheckpointIO):
            self.checkpoint_io.mesh = mesh
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
            for callback, device in zip(_averages(module), self._devices, strict=True):
                callback._device = device
                weights = _weights_of(module, {})
                average = AveragedModel(weights, device=device or module.device, use_buffers=callback._use_buffers, **callback._kwargs)
                callback._average_model = average
        self.setup_precision_plugin()

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """A step after which every weight is a shard again, so that averaged weights can be swapped in and out."""
        output = super().validation_step(*args, **kwargs)
        reshard(self._module)
        return output

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The trainer restores the optimizer, as from any checkpoint."""
        return True

    lightning_module_state_dict = Strategy.lightning_module_state_dict
    load_model_state_dict = Strategy.load_model_state_dict
    optimizer_state = Strategy.optimizer_state
    load_optimizer_state_dict = Strategy.load_optimizer_state_dict

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a folder of shards; all ranks together, to rank 0's path."""
        self.checkpoint_io.save_checkpoint(checkpoint, self.broadcast(str(filepath)), storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint of any strategy; of its tensors each rank keeps its part."""
        read = self.checkpoint_io.load_checkpoint(Path(self.broadcast(str(checkpoint_path))))
        mesh, own = self.device_mesh["data_parallel"], self._module.state_dict()
        for key in ("state_dict", "current_model_state"):
            if key in read:
                read[key] = {name: own_rows(value, mesh) if _wants(own, name, value) else value for name, value in read[key].items()}
        if "optimizer_states" in read:
            read["optimizer_states"] = _in_shards(read["optimizer_states"], mesh)
        return read

    @property
    def _module(self) -> L.LightningModule:
        """The module that is trained."""
        assert self.lightning_module is not None
        return self.lightning_module

    def _policy(self) -> Any:
        """Precision of what ranks exchange."""
        from torch.distributed.fsdp import MixedPrecisionPolicy

        if self.precision_plugin.precision == "bf16-mixed":
            return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        return MixedPrecisionPolicy()


def _network_of(module: L.LightningModule) -> nn.Module:
    """The network to shard.

    Raises:
        ValueError: If there is none, or it is compiled.
    """
    if not isinstance(module, GeneratorModule):
        raise ValueError(f"strategy fsdp2 shards the network of a generator, and {type(module).__name__} trains something else; take ddp")
    if module.is_compiled:
        raise ValueError("compile is true, but strategy fsdp2 shards the blocks that would be compiled; set compile to false, or take ddp")
    network: nn.Module = module.model
    return network


def _wants(own: Mapping[str, Tensor], name: str, value: Tensor) -> bool:
    """Whether a whole tensor of a checkpoint belongs to a weight in shards."""
    return name in own and is_shard(own[name]) and not is_shard(value)


def _in_shards(state: Any, mesh: Any) -> Any:
    """The state of optimizers with every tensor in shards that has an axis: there is one for each weight, of its shape."""
    if isinstance(state, Mapping):
        return {key: _in_shards(value, mesh) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_in_shards(value, mesh) for value in state)
    return own_rows(state, mesh) if isinstance(state, Tensor) and state.ndim and not is_shard(state) else state


def _averages(module: L.LightningModule) -> list[WeightAveraging]:
    """The callbacks that average a module's weights."""
    callbacks: list[Any] = module.trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, WeightAveraging)]


def _weights_of(module: nn.Module, known: dict[int, Any]) -> nn.Module:
    """Copies of all weights and buffers under the same names, in modules that compute nothing: sharded modules can't be copied."""
    if id(module) in known:
        found: nn.Module = known[id(module)]
        return found
    known[id(module)] = copy = nn.Module()
    for name, weight in module._parameters.items():
        if weight is not None and id(weight) not in known:
            known[id(weight)] = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
        copy.register_parameter(name, None if weight is None else known[id(weight)])
    for name, buffer in module._buffers.items():
        persistent = name not in module._non_persistent_buffers_set
        copy.register_buffer(name, None if buffer is None else buffer.detach().clone(), persistent=persistent)
    for name, child in module.named_children():
        copy.add_module(name, _weights_of(child, known))
    return copy
