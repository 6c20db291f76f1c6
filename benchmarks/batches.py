"""32 prompts and 32 sentences in one call, next to one call each: seconds, and whether every row kept its bits.

uv run python benchmarks/batches.py                  # about 5 minutes on two cores
uv run python benchmarks/batches.py --rows 8 --only speech
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.pipelines.text_to_speech import TextToSpeechPipeline

SUBJECTS = ("a red heart", "a cat", "a house", "a woman firefighter", "a dog", "a blue car", "a tree", "an apple")
STYLES = ("flat", "3d", "noto", "color")
MODES = (("one call each", None), ("one call", None), ("one call, batch_invariant=True", True), ("one call, batch_invariant=False", False))


def prompts(rows: int) -> list[str]:
    """Captions of several lengths."""
    return [f"{SUBJECTS[row % len(SUBJECTS)]}, {STYLES[row // len(SUBJECTS) % len(STYLES)]} style" for row in range(rows)]


def sentences(rows: int) -> list[str]:
    """Sentences of several lengths."""
    return [f"This is sentence number {row}, and it speaks of {SUBJECTS[row % len(SUBJECTS)]}." for row in range(rows)]


Call = Callable[[Sequence[str], bool | None], Any]


def timed(call: Call, texts: Sequence[str], alone: bool, invariant: bool | None) -> tuple[float, list[Any]]:
    """Seconds of all texts (processor time with one thread, which other work disturbs less), and the log-probabilities of each row."""
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    outputs = [call([text], invariant) for text in texts] if alone else [call(texts, invariant)]
    elapsed_s = time.process_time() - started_cpu_s if torch.get_num_threads() == 1 else time.perf_counter() - started_s
    return elapsed_s, [row for output in outputs for row in getattr(output, "generation", output).log_probabilities]


def table(name: str, call: Call, texts: Sequence[str], repeats: int) -> None:
    """Print one row a mode: the least of the seconds of all repeats, which are interleaved."""
    call(texts[:1], None)
    best: dict[str, float] = {}
    rows: dict[str, list[Any]] = {}
    for _ in range(repeats):
        for mode, invariant in MODES:
            seconds, rows[mode] = timed(call, texts, mode == MODES[0][0], invariant)
            best[mode] = min(best.get(mode, seconds), seconds)
    print(f"\n{name}: {len(texts)} rows, {torch.get_num_threads()} threads")
    print("| mode | seconds | rows with the bits of one call each |\n| --- | --- | --- |")
    for mode, _ in MODES:
        same = sum(torch.equal(one, other) for one, other in zip(rows[mode], rows[MODES[0][0]], strict=True))
        print(f"| {mode} | {best[mode]:.1f} | {same} of {len(texts)} |")


def main() -> None:
    """Measure both media, with packed weights as the command line has them and without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, help="1 measures seconds of the processor (default: PyTorch's own)")
    parser.add_argument("--only", choices=("images", "speech"))
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for packed in (True, False):
        kind = "packed weights" if packed else "plain weights"
        for name, model, texts in (("images", "emoji-64", prompts(args.rows)), ("speech", "heart-16k", sentences(args.rows))):
            if args.only in (None, name):
                pipe: Any = Pipeline.from_pretrained(model)
                assert isinstance(pipe, TextToImagePipeline | TextToSpeechPipeline)
                pipe.set_progress_bar_config(disable=True)
                pipe = pipe.enable_packed_weights() if packed else pipe
                table(
                    f"{name}, {kind}", lambda rows, invariant, pipe=pipe: pipe(list(rows), batch_invariant=invariant), texts, args.repeats
                )


if __name__ == "__main__":
    main()
