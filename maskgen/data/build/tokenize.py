"""Turns raw shards into token shards: every sample is encoded once, before training."""

from collections.abc import Callable, Mapping
from pathlib import Path

from maskgen.data.build.engine import run_build
from maskgen.data.build.plan import plan_tokens
from maskgen.data.build.token_shards import BATCH_SIZE, token_output
from maskgen.data.build.workers import Runner, in_process
from maskgen.data.shards.manifest import Index
from maskgen.tokenizers.base import Tokenizer

REBUILD = "maskgen data tokenize --config RECIPE"


def tokenize(
    raw_folder: Path,
    out: Path,
    tokenizers: Mapping[str, Path | Tokenizer],
    batch_size: int = BATCH_SIZE,
    report: Callable[[int], None] | None = None,
    runner: Runner = in_process,
    restart: bool = False,
    device: str = "cpu",
) -> Index:
    """Write token shards and their index; an interrupted run is resumed and ends with the same bytes.

    Args:
        raw_folder: Raw shards with index.json.
        out: Output folder.
        tokenizers: Modality name to tokenizer or its folder, in the order of the token space; kinds text, image and audio.
        batch_size: Samples per batch.
        report: Called with the number of samples of each finished shard.
        runner: Runs the jobs; several processes need folders, not tokenizers.
        restart: Delete the shards of another build in `out`.
        device: Device of the networks.

    Returns:
        The index, as written.

    Raises:
        ValueError: If raw shards are damaged or `out` holds another build.
    """
    return run_build(plan_tokens(raw_folder, token_output(tokenizers, batch_size, device)), out, runner, restart, report)
