"""`maskgen fit --estimate` and `--smoke`: what a configuration will cost, and two steps of it on small random shards."""

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from maskgen.data.loading.token_data import TokenData
from maskgen.data.shards.layout import read_layout, write_random_shards
from maskgen.io.files import write_atomic
from maskgen.training.modules.base import GeneratorModule
from maskgen.training.runtime.estimate import Estimate, estimated, fake_module

logger = logging.getLogger(__name__)

SMALL = {"dim": 64, "num_layers": 2, "num_heads": 2, "head_width": 32, "hidden_dim": 0}
"""Sizes of every transformer of a smoke run."""
SMOKE_STEPS, SMOKE_ROWS = 2, 2


class _Parsed(Exception):
    """Carries a parsed configuration out of LightningCLI."""


def rehearse(args: Sequence[str], run: Callable[[Sequence[str]], Any]) -> Any:
    """Estimate a training or run two steps of it, as the command line asks.

    Args:
        args: The command line from the verb on, with one of --estimate, --estimate-gb and --smoke.
        run: Runs a command line without them.

    Raises:
        ValueError: If the flags contradict each other, there is no configuration, or the shards are missing and have no layout.
    """
    rest, sizes, smoke = _flags(args)
    if rest[0] != "fit":
        raise ValueError(f"--estimate and --smoke belong to fit, got {rest[0]}")
    config = _config_of(rest)
    plain = yaml.safe_load(config.read_text(encoding="utf-8"))
    if smoke:
        _shrink(plain)
    else:
        plain["seed_everything"] = False
        _init_args(plain, "data").update(num_workers=0, check="size")
    with _with_shards(config, plain, always=smoke) as folder:
        if smoke:
            plain["trainer"]["default_root_dir"] = str(folder)
        changed = folder / config.name
        write_atomic(changed, yaml.safe_dump(plain, sort_keys=False).encode())
        swapped = [str(changed) if arg == str(config) else arg.replace(f"={config}", f"={changed}") for arg in rest]
        if smoke:
            return run(swapped)
        found = training_cost(swapped, sizes)
        sys.stdout.write(found.table + "\n")
        return found


def training_cost(args: Sequence[str], sizes_gb: Sequence[float] = ()) -> Estimate:
    """Cost of the training that a command line describes; its shards must exist."""
    from maskgen.training.runtime.lightning_cli import SurvivingCLI

    class Parsing(SurvivingCLI):
        """Stops after parsing."""

        def before_instantiate_classes(self) -> None:
            raise _Parsed(self)

    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    try:
        Parsing(args=list(args), parser_kwargs={"parser_mode": "yaml", "fit": {"parser_mode": "yaml", "exit_on_error": False}})
    except _Parsed as stop:
        cli: Any = stop.args[0]
    chosen = cli.config.fit
    trainer, callbacks = chosen.trainer, chosen.trainer.callbacks or []
    kept = [one.class_path.rpartition(".")[2] for one in (callbacks if isinstance(callbacks, list) else [callbacks])]
    precision, steps = str(trainer.precision or "32-true"), int(trainer.max_steps)
    trainer.callbacks, trainer.logger = None, False
    if "start" in chosen.model.init_args:
        chosen.model.init_args.start = None
    made: dict[str, Any] = {}

    def make() -> GeneratorModule[Any]:
        found = cli.parser.instantiate_classes(cli.config).fit
        made["data"] = found.data
        return found.model  # type: ignore[no-any-return]

    module, data = fake_module(make), made["data"]
    if not isinstance(data, TokenData) or not isinstance(module, GeneratorModule):
        raise ValueError(f"--estimate reads token shards (TokenData), got {type(data).__name__} and {type(module).__name__}")
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    precision = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}.get(precision, precision)
    found = estimated(module, batch, precision, steps, "EMAWeightAveraging" in kept, sizes_gb)
    return replace(found, flops=found.flops * int(trainer.accumulate_grad_batches or 1))


def _flags(args: Sequence[str]) -> tuple[list[str], list[float], bool]:
    """The command line without our flags, the sizes of memory that were named, and whether it is a smoke run."""
    rest, sizes, smoke, wants = list[str](), list[float](), False, False
    given = iter(args)
    for arg in given:
        flag, equals, value = arg.partition("=")
        if flag == "--estimate-gb":
            value = value if equals else next(given, "")
            try:
                sizes.append(float(value))
            except ValueError as error:
                raise ValueError(f"--estimate-gb takes a number of GB such as 24, got {value!r}") from error
        elif arg == "--smoke":
            smoke = True
        elif arg == "--estimate":
            wants = True
        else:
            rest.append(arg)
    if smoke and (wants or sizes):
        raise ValueError("--smoke trains and --estimate does not; give one of them")
    if any(size <= 0 for size in sizes):
        raise ValueError(f"--estimate-gb takes a positive number of GB, got {', '.join(f'{size:g}' for size in sizes)}")
    return rest, sizes, smoke


def _config_of(args: Sequence[str]) -> Path:
    """The one configuration file of a command line."""
    named = [value for flag, value in pairwise(args) if flag in ("--config", "-c")]
    named += [arg.removeprefix("--config=") for arg in args if arg.startswith("--config=")]
    if len(named) != 1 or not Path(named[0]).is_file():
        raise ValueError(f"--estimate and --smoke take one configuration file, got {', '.join(named) or 'none'}; give --config FILE.yaml")
    return Path(named[0])


@contextmanager
def _with_shards(config: Path, plain: dict[str, Any], always: bool) -> Iterator[Path]:
    """A temporary folder, with random shards of the configuration's layout in place of its own where those are missing.

    Raises:
        ValueError: If shards are missing and there is no layout of them.
    """
    data = _init_args(plain, "data")
    parts = data.get("parts") or []
    named = [{"folder": parts}] if isinstance(parts, str) else [part.get("init_args") or part for part in parts]
    folders = sorted({str(part[key]) for part in named for key in ("folder", "join") if part.get(key)})
    missing = [folder for folder in folders if "://" in folder or not (Path(folder) / "index.json").is_file()]
    layouts = {folder: config.parent / "layouts" / f"{config.stem}.yaml" for folder in (folders if always else missing)}
    with tempfile.TemporaryDirectory() as temporary:
        for number, (folder, layout) in enumerate(layouts.items()):
            if not layout.is_file():
                raise ValueError(
                    f"{folder} holds no token shards and {layout} does not exist; build the shards, or write their layout there"
                )
            made = Path(temporary) / str(number)
            write_random_shards(made, read_layout(layout), _splits(data))
            logger.info("random shards with the layout of %s stand in for %s", layout.name, folder)
            for part in named:
                part.update({key: str(made) for key in ("folder", "join") if part.get(key) == folder})
            if isinstance(parts, str):
                data["parts"] = str(made)
        yield Path(temporary)


def _init_args(plain: dict[str, Any], part: str) -> dict[str, Any]:
    """Arguments of the model or the data of a configuration.

    Raises:
        ValueError: If there are none.
    """
    found = plain.get(part)
    inner = found.get("init_args") if isinstance(found, dict) else None
    if not isinstance(inner, dict):
        raise ValueError(f"--estimate and --smoke need {part}.init_args in the configuration; write class_path and init_args of the {part}")
    return inner


def _splits(data: Mapping[str, Any]) -> dict[str, int]:
    """Splits that the data reads, with a few samples each."""
    held_out = [split for split in data.get("validation_splits") or ["A"] if split != "train"]
    return {"train": max(16, int(data.get("batch_size", 64))), **dict.fromkeys(held_out, 4)}


def _shrink(plain: dict[str, Any]) -> None:
    """Make a configuration small enough for a CPU; says what changed."""
    model, data = _init_args(plain, "model"), _init_args(plain, "data")
    for transformer in _transformers(model.get("transformer") or {}):
        before = {key: transformer[key] for key in SMALL if key in transformer}
        transformer.update(SMALL)
        logger.info("smoke: transformer %s becomes %s", before, SMALL)
    data.update(batch_size=SMOKE_ROWS, global_batch=None, validation_rows=SMOKE_ROWS, num_workers=0)
    model.update(compile=False, warmup_steps=0)
    if model.pop("start", None) is not None:
        logger.info("smoke: random weights, not those of `start`")
    plain["trainer"] = {
        "max_steps": SMOKE_STEPS,
        "max_epochs": -1,
        "accelerator": "cpu",
        "devices": 1,
        "precision": "32-true",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 1,
        "val_check_interval": SMOKE_STEPS,
        "check_val_every_n_epoch": None,
        "limit_val_batches": 1,
    }
    logger.info(
        "smoke: %d steps and 1 validation on the CPU in float32, %d rows a batch, no compilation, callbacks, logger or checkpoints",
        SMOKE_STEPS,
        SMOKE_ROWS,
    )


def _transformers(found: Any) -> list[dict[str, Any]]:
    """Every configuration of a transformer in nested plain data."""
    if not isinstance(found, dict):
        return []
    inner = [one for value in found.values() for one in _transformers(value)]
    return [found, *inner] if "dim" in found or "num_layers" in found else inner
