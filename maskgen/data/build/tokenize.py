"""Turns raw shards into token shards: every picture and caption is encoded once, ahead of training."""

from collections.abc import Callable, Mapping
from pathlib import Path

from maskgen.data.build.engine import run_build
from maskgen.data.build.plan import plan_tokens
from maskgen.data.build.token_shards import BATCH_SIZE, token_output
from maskgen.data.build.workers import Runner, in_process
from maskgen.data.shards.manifest import Index
from maskgen.tokenizers.base import Tokenizer

REBUILD = "maskgen data tokenize --config RECIPE"


def require_same_fingerprints(index: Index, tokenizers: Mapping[str, Tokenizer], command: str = REBUILD) -> None:
    """Refuses token shards that other tokenizers made.

    Args:
        index: Index of token shards.
        tokenizers: Modality name to the tokenizer about to be used.
        command: What rebuilds the shards.

    Raises:
        ValueError: If a modality is missing or its fingerprint differs; names both fingerprints and the command.
    """
    for name, tokenizer in tokenizers.items():
        found = index.fingerprints.get(name)
        if found != tokenizer.fingerprint:
            raise ValueError(
                f"the shards' {name} codes were made with tokenizer {found}, this run has {tokenizer.fingerprint}; rebuild them: {command}"
            )


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
    """Writes token shards and their index; a build that was killed goes on where it stopped and ends with the same bytes.

    Args:
        raw_folder: Raw shards with index.json.
        out: Folder to write.
        tokenizers: Modality name to tokenizer or its folder, in the order of the token space; kinds text, image and audio.
        batch_size: Samples encoded at once.
        report: Called with the samples of each shard when it is done.
        runner: What runs the jobs; several processes want folders, not tokenizers.
        restart: Removes the shards of another build that lie in `out`.
        device: Where the networks run.

    Returns:
        The index, as written.

    Raises:
        ValueError: If raw shards are damaged or `out` holds another build.
    """
    return run_build(plan_tokens(raw_folder, token_output(tokenizers, batch_size, device)), out, runner, restart, report)
