"""Arguments of `maskgen tune` and `maskgen compare`: the task to score, the model, the judge, and a progress bar."""

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.options import add_machine, pipeline_of
from maskgen.data.corpora.demo import EMOJI_RAW, SPEECH_RAW

if TYPE_CHECKING:
    from maskgen.decoding.settings import GenerationSettings
    from maskgen.evaluation.tuning.tasks import TaskScorer
    from maskgen.pipelines.base import Pipeline

REPORTED = ("A", "B")
"""Splits with published scores. Settings chosen on them would make those scores too good."""
JUDGE_SEEDS = (0, 1, 2)
DECODING = 2
"""Version of the decoding itself: 2 packs weights on a CPU and gives the frequency sampler a critic where there is one."""
NETWORKS = ("critic", "shortcut", "durations")
"""Folders of further networks inside a bundle."""


@dataclass(frozen=True, kw_only=True)
class TaskDefaults:
    """Defaults of a task.

    Args:
        modality: Modality that the model generates.
        kind: Pipeline class that generates it.
        model: Shipped model.
        raw: Shards of the demo corpus that the model was trained on.
        split: Held-out split without published scores.
        rows: Number of its rows.
    """

    modality: str
    kind: str
    model: str
    raw: Path
    split: str
    rows: int


TARGETS = {
    "image": TaskDefaults(modality="image", kind="TextToImagePipeline", model="emoji-64", raw=EMOJI_RAW, split="C", rows=200),
    "audio": TaskDefaults(modality="audio", kind="TextToSpeechPipeline", model="heart-16k", raw=SPEECH_RAW, split="test", rows=40),
    "text": TaskDefaults(modality="text", kind="Pipeline", model="any-64", raw=EMOJI_RAW, split="C", rows=200),
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model whose settings are tried, and the rows on which they are scored.

    Args:
        pipeline: The model.
        folder: Its bundle.
        modality: Modality that it generates.
        own: The bundle's settings for it.
        num_levels: Levels of the modality.
        raw: Folder of shards.
        split: Held-out split of them.
        rows: Number of rows.
    """

    pipeline: "Pipeline"
    folder: Path
    modality: str
    own: "GenerationSettings"
    num_levels: int
    raw: Path
    split: str
    rows: int


def add_task(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the arguments that define the task.

    Args:
        parser: Parser of a verb.
        out: Default of `--out`.
    """
    parser.add_argument(
        "--target", choices=tuple(TARGETS), default="image", help="task: what is generated and judged (default: %(default)s)"
    )
    parser.add_argument("--model", help=f"folder or shipped name (default: {_listed('model')})")
    add_machine(parser)
    parser.add_argument(
        "--rows", type=int, metavar="R", help=f"held-out rows, chosen by the hash of their keys (default: {_listed('rows')})"
    )
    parser.add_argument("--split", help=f"held-out split (default: {_listed('split')})")
    parser.add_argument("--force-split", action="store_true", help=f"allow {' and '.join(REPORTED)}, whose scores are published")
    parser.add_argument("--raw", type=Path, help=f"shards with the split (default, the demo corpora: {_listed('raw')})")
    parser.add_argument("--seed", type=int, default=0, help="with its key, the seed of each row (default: %(default)s)")
    cache = Path("~/.cache/maskgen/evaluators").expanduser()
    parser.add_argument("--cache", type=Path, default=cache, help="folder of trained evaluators and their findings (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path(out), help="output folder; trials already in it are not run again (default: %(default)s)"
    )


def _listed(field: str) -> str:
    """The defaults of all tasks, for a help text."""
    return ", ".join(f"{name} {getattr(target, field)}" for name, target in TARGETS.items())


def subject_of(args: argparse.Namespace) -> Subject:
    """Load the model that the arguments name; called before the judge is trained, so that wrong arguments fail early.

    Raises:
        ValueError: If the split's scores are published, or the model does not generate the target.
    """
    from maskgen.io.bundle import find_model

    target = TARGETS[args.target]
    split, rows = args.split or target.split, target.rows if args.rows is None else args.rows
    _check(rows, split, args.force_split, target)
    folder = find_model(args.model or target.model)
    pipeline = pipeline_of(args, target.kind, default=target.model)
    if target.modality not in pipeline.settings:
        made = ", ".join(sorted(pipeline.settings)) or "nothing"
        raise ValueError(f"{folder} generates {made}, not {target.modality}; give another --model or --target")
    own, num_levels = pipeline.settings_of(target.modality), len(pipeline.space.of(target.modality))
    raw = args.raw or target.raw
    return Subject(
        pipeline=pipeline, folder=folder, modality=target.modality, own=own, num_levels=num_levels, raw=raw, split=split, rows=rows
    )


def task_of(args: argparse.Namespace, subject: Subject) -> "tuple[TaskScorer, dict[str, Any]]":
    """The scorer of the task that the arguments name, and the facts that its scores depend on besides the settings.

    Raises:
        ValueError: If shards or the split are missing.
        ImportError: If a judge's package is missing.
    """
    from maskgen.io.files import file_sha256

    scorer = _SCORERS[args.target](args, subject)
    facts = {"model": _model_digest(subject.folder), "target": args.target, "split": subject.split, "decoding": DECODING}
    facts |= {"rows": file_sha256(subject.raw / "index.json")[:16], "seed": args.seed, "judge": scorer.judge}
    return scorer, {**facts, "device": args.device, "dtype": args.dtype, "int8": args.int8, "compile": args.compile}


def _check(rows: int, split: str, force_split: bool, target: TaskDefaults) -> None:
    """Refuse a task that cannot or should not be scored, before anything is loaded."""
    if rows < 1:
        raise ValueError(f"--rows must be at least 1, got {rows}")
    if split in REPORTED and not force_split:
        raise ValueError(
            f"split {split} is one of {' and '.join(REPORTED)}, whose scores are published; settings chosen on it would flatter them; "
            f"take --split {target.split}, or say --force-split"
        )


def _image_task(args: argparse.Namespace, subject: Subject) -> "TaskScorer":
    """Images of held-out captions, judged by retrieval."""
    from maskgen.evaluation.image.corpus import read_corpus
    from maskgen.evaluation.tuning.judges import retrieval_judge
    from maskgen.evaluation.tuning.tasks import ImageTask

    pipeline: Any = subject.pipeline
    corpora = read_corpus(subject.raw)
    held_out = sorted(corpora.keys() - {"train"})
    if subject.split not in held_out:
        raise ValueError(
            f"{subject.raw} has no held-out split {subject.split!r}; give --split {' or '.join(held_out) or 'of other shards'}"
        )
    chosen = sorted(corpora[subject.split].rows, key=lambda row: row.hash)[: subject.rows]
    judge = retrieval_judge(corpora, JUDGE_SEEDS, args.cache)

    def draw(captions: Any, seeds: Any, settings: "GenerationSettings") -> Any:
        return pipeline.generate([pipeline.text_codes(caption) for caption in captions], "image", seeds, settings)

    return ImageTask(chosen, draw, judge, args.seed)


def _speech_task(args: argparse.Namespace, subject: Subject) -> "TaskScorer":
    """Speech of held-out sentences, generated one by one and transcribed by Whisper base."""
    from statistics import fmean

    from maskgen.evaluation.own import require_fields
    from maskgen.evaluation.tuning.judges import whisper_listener
    from maskgen.evaluation.tuning.tasks import Sentence, SpeechTake, SpeechTask, held_out_rows, passes_of

    voice: Any = subject.pipeline
    rows = held_out_rows(subject.raw, subject.split, subject.rows)
    require_fields([meta for _, meta in rows], ("captions", "speaker"), subject.raw, "maskgen evaluate speech FOLDER")
    sentences = [Sentence(key=key, text=meta["captions"][0], speaker=meta["speaker"]) for key, meta in rows]

    def speak(row: Sentence, seed: int, settings: "GenerationSettings") -> SpeechTake:
        said = voice(row.text, speaker=row.speaker, seed=seed, settings=settings)
        passes = passes_of(said.generation.model_calls, len(said.sentences[0]))
        return SpeechTake(wave=said.audio[0], passes=fmean(passes), elapsed_s=said.elapsed_s)

    return SpeechTask(sentences, speak, whisper_listener(args.cache), args.seed)


def _text_task(args: argparse.Namespace, subject: Subject) -> "TaskScorer":
    """Held-out texts with half of their cells unknown."""
    from maskgen.evaluation.own import require_fields
    from maskgen.evaluation.tuning.tasks import TextTask, held_out_rows

    rows, pipeline = held_out_rows(subject.raw, subject.split, subject.rows), subject.pipeline
    require_fields([meta for _, meta in rows], ("captions",), subject.raw, "maskgen evaluate text --shards FOLDER")
    codes = pipeline.tokenizers["text"].encode([meta["captions"][0] for _, meta in rows])
    texts = list(zip((key for key, _ in rows), codes, strict=True))
    return TextTask(texts, lambda known, seeds, settings: pipeline.generate(known, "text", seeds, settings), args.seed)


_SCORERS = {"image": _image_task, "audio": _speech_task, "text": _text_task}


def _model_digest(folder: Path) -> str:
    """Hash of a model and its further networks, without its generation settings: new settings don't make it another model."""
    from maskgen.io.bundle import read_bundle_record

    record = read_bundle_record(folder)
    config = {name: value for name, value in record["config"].items() if name != "generation"}
    beside = {part.name: read_bundle_record(part)["files"] for part in sorted(folder.iterdir()) if part.name in NETWORKS}
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
