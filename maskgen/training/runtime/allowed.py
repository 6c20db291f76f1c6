"""What a `class_path` in a configuration may name: whole packages that run nothing of a file, and single classes of lightning."""

import re
from collections.abc import Sequence

PACKAGES = ("maskgen", "torch.optim", "torch.nn")
"""Packages of which a configuration may name any class."""
LIGHTNING = {
    "lightning.pytorch.callbacks.DeviceStatsMonitor": "device_stats_monitor",
    "lightning.pytorch.callbacks.EMAWeightAveraging": "weight_averaging",
    "lightning.pytorch.callbacks.EarlyStopping": "early_stopping",
    "lightning.pytorch.callbacks.GradientAccumulationScheduler": "gradient_accumulation_scheduler",
    "lightning.pytorch.callbacks.LearningRateMonitor": "lr_monitor",
    "lightning.pytorch.callbacks.ModelCheckpoint": "model_checkpoint",
    "lightning.pytorch.callbacks.ModelSummary": "model_summary",
    "lightning.pytorch.callbacks.RichModelSummary": "rich_model_summary",
    "lightning.pytorch.callbacks.RichProgressBar": "progress.rich_progress",
    "lightning.pytorch.callbacks.StochasticWeightAveraging": "stochastic_weight_avg",
    "lightning.pytorch.callbacks.TQDMProgressBar": "progress.tqdm_progress",
    "lightning.pytorch.callbacks.Timer": "timer",
    "lightning.pytorch.loggers.CSVLogger": "csv_logs",
    "lightning.pytorch.loggers.MLFlowLogger": "mlflow",
    "lightning.pytorch.loggers.TensorBoardLogger": "tensorboard",
    "lightning.pytorch.loggers.WandbLogger": "wandb",
    "lightning.pytorch.plugins.DoublePrecision": "precision.double",
    "lightning.pytorch.plugins.HalfPrecision": "precision.half",
    "lightning.pytorch.plugins.MixedPrecision": "precision.amp",
    "lightning.pytorch.profilers.PyTorchProfiler": "pytorch",
    "lightning.pytorch.profilers.SimpleProfiler": "simple",
    "lightning.pytorch.strategies.DDPStrategy": "ddp",
    "lightning.pytorch.strategies.SingleDeviceStrategy": "single_device",
}
"""Class to the module below its package that defines it. None of these reads a checkpoint, or calls what a configuration names."""


def allowed_paths(own: Sequence[str] = ()) -> list[str]:
    """Every path whose classes may be named, those that define a re-exported class included.

    Args:
        own: Packages of the user.
    """
    return [*PACKAGES, *(path for name in LIGHTNING for path in (name, _defined(name))), *own]


def described(refused: str, own: Sequence[str] = ()) -> str:
    """What may be named instead of a refused class, for a sentence to a reader.

    Args:
        refused: Path of the class; of lightning, the allowed classes of its kind are listed.
        own: Packages of the user.
    """
    kind = re.match(r"lightning\.pytorch\.(\w+)", refused)
    near = [name for name in LIGHTNING if kind is not None and name.startswith(f"{kind[0]}.")]
    listed = f"{near[0].rpartition('.')[0]} {', '.join(name.rpartition('.')[2] for name in near)}" if near else "lightning those"
    where = "" if near else " of maskgen/training/runtime/allowed.py"
    return f"{', '.join([*PACKAGES, *own])}, and of {listed}{where}"


def _defined(name: str) -> str:
    package, _, kind = name.rpartition(".")
    return f"{package}.{LIGHTNING[name]}.{kind}"
