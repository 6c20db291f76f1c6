"""What `maskgen tune` and `maskgen compare` share: the rows of a task, the model that makes them, the judge, and a progress bar."""

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.options import add_machine, pipeline_of

if TYPE_CHECKING:
    from maskgen.decoding.settings import GenerationSettings
    from maskgen.evaluation.tuning.tasks import TaskScorer
    from maskgen.pipelines.base import Pipeline

REPORTED = ("A", "B")
"""Splits whose scores are published: settings that were chosen on them would flatter the models."""
JUDGE_SEEDS = (0, 1, 2)
DECODING = 2
"""Version of what a setting means: 2 packs weights on a CPU, and gives the frequency order a critic where there is one."""
BESIDE = ("critic", "shortcut", "durations")
"""Folders of trained networks beside a model."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A task's defaults.

    Args:
        modality: What the model generates.
        model: Shipped model.
        raw: Folder of shards with the rows.
        split: Held-out split on which no scores are published.
        rows: Rows of it.
    """

    modality: str
    model: str
    raw: str
    split: str
    rows: int


TARGETS = {
    "image": Target(modality="image", model="emoji-64", raw="data/emoji/build/raw", split="C", rows=200),
    "speech": Target(modality="audio", model="heart-16k", raw="data/speech/build/raw", split="test", rows=40),
    "text": Target(modality="text", model="any-64", raw="data/emoji/build/raw", split="C", rows=200),
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model whose settings are tried.

    Args:
        pipeline: The model.
        folder: Its bundle.
        modality: What is generated.
        own: The bundle's setting of it.
        num_levels: Its levels.
    """

    pipeline: "Pipeline"
    folder: Path
    modality: str
    own: "GenerationSettings"
    num_levels: int


def add_task(parser: argparse.ArgumentParser, out: str) -> None:
    """Arguments that say what is scored."""
    parser.add_argument("--target", choices=tuple(TARGETS), default="image", help="what is generated and judged (default: %(default)s)")
    parser.add_argument("--model", help="folder or shipped name (default: emoji-64 for image, heart-16k for speech, any-64 for text)")
    add_machine(parser)
    parser.add_argument("--rows", type=int, metavar="R", help="held-out rows, by the hash of their keys (default: 200, speech 40)")
    parser.add_argument("--split", help="held-out split (default: C for image and text, test for speech)")
    parser.add_argument("--force-split", action="store_true", help=f"allow {' and '.join(REPORTED)}, whose scores are published")
    parser.add_argument("--raw", type=Path, help="shards of the split (default: those of data/emoji or data/speech)")
    parser.add_argument("--seed", type=int, default=0, help="with a row's key, its seed (default: %(default)s)")
    cache = Path("~/.cache/maskgen/evaluators").expanduser()
    parser.add_argument("--cache", type=Path, default=cache, help="trained evaluators and what they found (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of what is written; found there, nothing is run twice")


def subject_of(args: argparse.Namespace) -> Subject:
    """The model that the arguments name; comes before the judge, so that wrong arguments are found early.

    Raises:
        ValueError: If the split's scores are published, or the model does not generate the target.
    """
    from maskgen.io.bundle import find_model

    target = TARGETS[args.target]
    args.model, args.split, args.raw = args.model or target.model, args.split or target.split, args.raw or Path(target.raw)
    args.rows = target.rows if args.rows is None else args.rows
    _check(args, target)
    folder = find_model(args.model)
    pipeline = pipeline_of(args)
    if target.modality not in pipeline.settings:
        made = ", ".join(sorted(pipeline.settings)) or "nothing"
        raise ValueError(f"{folder} generates {made}, not {target.modality}; give another --model or --target")
    own, num_levels = pipeline.settings_of(target.modality), len(pipeline.space.of(target.modality))
    return Subject(pipeline=pipeline, folder=folder, modality=target.modality, own=own, num_levels=num_levels)


def task_of(args: argparse.Namespace, subject: Subject) -> "tuple[TaskScorer, dict[str, Any]]":
    """Rows and judge of the task that the arguments name, and what the scores depend on besides the settings.

    Raises:
        ValueError: If shards or the split are missing.
        ImportError: If a judge's package is missing.
    """
    from maskgen.io.files import file_sha256

    scorer = _SCORERS[args.target](args, subject.pipeline)
    facts = {"model": _model_digest(subject.folder), "target": args.target, "split": args.split, "decoding": DECODING}
    facts |= {"rows": file_sha256(args.raw / "index.json")[:16], "seed": args.seed, "judge": scorer.judge}
    return scorer, {**facts, "device": args.device, "dtype": args.dtype, "int8": args.int8, "compile": args.compile}


def _check(args: argparse.Namespace, target: Target) -> None:
    """Refuse what cannot or should not be scored, before anything is loaded."""
    if args.rows < 1:
        raise ValueError(f"--rows must be at least 1, got {args.rows}")
    if args.split in REPORTED and not args.force_split:
        raise ValueError(
            f"split {args.split} is one of {' and '.join(REPORTED)}, whose scores are published; settings chosen on it would flatter them; "
            f"take --split {target.split}, or say --force-split"
        )


def _image_task(args: argparse.Namespace, pipeline: "Pipeline") -> "TaskScorer":
    """Held-out captions, drawn and judged by retrieval."""
    from maskgen.evaluation.image.corpus import read_corpus
    from maskgen.evaluation.tuning.judges import retrieval_judge
    from maskgen.evaluation.tuning.tasks import ImageTask

    corpora = read_corpus(args.raw)
    if args.split not in corpora.keys() - {"train"}:
        raise ValueError(f"found no held-out split {args.split!r} in {args.raw}, there are {', '.join(sorted(corpora.keys() - {'train'}))}")
    chosen = sorted(corpora[args.split].rows, key=lambda row: row.hash)[: args.rows]
    judge = retrieval_judge(corpora, JUDGE_SEEDS, args.cache)

    def draw(captions: Any, seeds: Any, settings: "GenerationSettings") -> Any:
        return pipeline.generate([pipeline.text_codes(caption) for caption in captions], "image", seeds, settings)

    return ImageTask(chosen, draw, judge, args.seed)


def _speech_task(args: argparse.Namespace, pipeline: "Pipeline") -> "TaskScorer":
    """Held-out sentences, said one by one and heard by Whisper base."""
    from statistics import fmean

    from maskgen.cli.generate_speech import voice_of
    from maskgen.evaluation.tuning.judges import whisper_listener
    from maskgen.evaluation.tuning.tasks import Sentence, SpeechTask, Spoken, held_out_rows, passes_of

    voice = voice_of(args)
    sentences = [
        Sentence(key=key, text=meta["captions"][0], speaker=meta["speaker"]) for key, meta in held_out_rows(args.raw, args.split, args.rows)
    ]

    def speak(row: Sentence, seed: int, settings: "GenerationSettings") -> Spoken:
        said = voice(row.text, speaker=row.speaker, seed=seed, settings=settings)
        passes = passes_of(said.generation.passes, len(said.sentences))
        return Spoken(wave=said.waves[0], passes=fmean(passes), elapsed_s=said.elapsed_s)

    return SpeechTask(sentences, speak, whisper_listener(args.cache), args.seed)


def _text_task(args: argparse.Namespace, pipeline: "Pipeline") -> "TaskScorer":
    """Held-out texts, half of their cells unknown."""
    from maskgen.evaluation.tuning.tasks import TextTask, held_out_rows

    found = held_out_rows(args.raw, args.split, args.rows)
    codes = pipeline.tokenizers["text"].encode([meta["captions"][0] for _, meta in found])
    texts = list(zip((key for key, _ in found), codes, strict=True))
    return TextTask(texts, lambda known, seeds, settings: pipeline.generate(known, "text", seeds, settings), args.seed)


_SCORERS = {"image": _image_task, "speech": _speech_task, "text": _text_task}


def _model_digest(folder: Path) -> str:
    """Hash of a model and of the networks beside it, without its decode settings: applying new ones does not make it another model."""
    from maskgen.io.bundle import read_record

    record = read_record(folder)
    config = {name: value for name, value in record["config"].items() if name != "generation"}
    beside = {part.name: read_record(part)["files"] for part in sorted(folder.iterdir()) if part.name in BESIDE}
    return hashlib.sha256(json.dumps([config, record["files"], beside], sort_keys=True).encode()).hexdigest()[:16]


class TrialBar:
    """A progress bar over trials, on a terminal only."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self.bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task("", total=None)

    def __enter__(self) -> "TrialBar":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        self.bar.update(self.task, completed=done, total=total, description=what)
