"""62 written forms ("-3 kg", "10am-5pm"), two held-out ones of each of 31 classes, spoken by heart-16k and transcribed by Whisper base.

uv run --extra speech-eval python benchmarks/written_forms.py        # about 3 minutes on two cores

Each form is spoken twice: as it is written, and as the words that people say for it. The second is what voice and judge cost by themselves;
what the first adds to it is the front end's. Of several accepted readings the one with the fewest errors counts.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

from maskgen.evaluation.speech.asr import text_errors, whisper_base
from maskgen.evaluation.speech.scores import counted_error_rate
from maskgen.pipelines.base import Pipeline

TABLE = Path(__file__).parents[1] / "tests" / "phonetics" / "written_forms.tsv"


def chosen(table: Path, a_class: int) -> list[dict[str, str]]:
    """The first held-out forms of each class."""
    classes: dict[str, list[dict[str, str]]] = defaultdict(list)
    with table.open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["half"] == "held":
                classes[row["class"]].append(row)
    return [row for rows in classes.values() for row in rows[:a_class]]


def main() -> None:
    """Print the word error rates with 95 % intervals as JSON, and the worst forms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE, help="forms with class, half, written and spoken (default: %(default)s)")
    parser.add_argument("--per-class", type=int, default=2, help="forms of each class (default: %(default)s)")
    options = parser.parse_args()
    voice, hear = Pipeline.from_pretrained("heart-16k"), whisper_base()
    voice.set_progress_bar_config(disable=True)
    counts: dict[str, list[tuple[int, int]]] = {"written": [], "words": []}
    for row in chosen(options.table, options.per_class):
        readings = row["spoken"].split(" | ")
        heard = {}
        for name, text in (("written", row["written"]), ("words", readings[0])):
            heard[name] = hear(voice(text, seed=0).audio[0])
            errors = min((text_errors(reading, heard[name]) for reading in readings), key=lambda one: one.word_edits / one.words)
            counts[name].append((errors.word_edits, errors.words))
        if counts["written"][-1][0] > counts["words"][-1][0]:
            print(f"{row['class']}: {row['written']!r} heard as {heard['written']!r}, its words as {heard['words']!r}", flush=True)
    found = {name: counted_error_rate([edits for edits, _ in rows], [words for _, words in rows]) for name, rows in counts.items()}
    print(json.dumps({"forms": len(counts["written"]), **found}, indent=2))


if __name__ == "__main__":
    main()
